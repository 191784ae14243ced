"""Next-token distributions: forward passes over a growing past, batched generation, the ensemble."""
