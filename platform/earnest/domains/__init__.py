"""Where a compressed model lost what it knew, and what goes with it.

Reads what a sweep's steps left in the store: differences by domain and stratum (`changes`), the reasons that the
literature gives (`reasons`), and the share that each decoder block gives back (`blocks`).
"""
