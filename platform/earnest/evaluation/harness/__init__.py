"""lm-eval's benchmarks on our engine: found and opened, answered, and their metrics with intervals.

Nothing else in the library needs lm-eval, and nothing of it is imported before a benchmark is asked for.
"""
