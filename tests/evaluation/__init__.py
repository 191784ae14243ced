"""A package by name, because `benchmarks/` has an `evaluation` too."""
