"""How a model that was tuned for conversations is asked."""

from __future__ import annotations

from typing import Literal

# Llama 2's own form as proxy-tuning writes it, or the template that the model's tokenizer has.
Chat = Literal["llama2", "template"]
