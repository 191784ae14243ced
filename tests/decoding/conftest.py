"""Tiny random models for the tests of this room."""

from evaluation.tiny_models import make_model, tokenizer

__all__ = ["make_model", "tokenizer"]
