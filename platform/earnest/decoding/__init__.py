"""Next-token distributions: passes over a growing past, sampling, batched and speculative generation, the ensemble."""
