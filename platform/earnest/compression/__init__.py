"""Compression: one file per method, the block-by-block walk, calibration, and checkpoints that say what they are."""
