"""Tiny models for the tests of this room: random ones, and the one that lm-eval was run on."""

from evaluation.tiny_llama import parity, tiny_llama
from evaluation.tiny_models import make_model, tokenizer

__all__ = ["make_model", "parity", "tiny_llama", "tokenizer"]
