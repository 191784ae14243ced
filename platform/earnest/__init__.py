"""earnest: what compression really cost a language model, and whether small tuned models can win it back."""

__version__ = "0.1.0"
