"""Two subjects on the same samples: what changed, what is shown, and what more samples would decide."""
