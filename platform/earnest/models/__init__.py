"""Load a causal language model and prove what was loaded; walk its blocks; the embedded nano family."""
