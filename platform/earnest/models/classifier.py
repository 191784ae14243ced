"""Load a sequence classifier, such as one that tells toxic text, and ask it what it takes texts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from earnest.models.loading import check_device, check_keys, load_tokenizer, pretrained
from earnest.models.source import Source
from earnest.specs import UserError

BATCH = 32


@dataclass(frozen=True)
class Classifier:
    """A classifier in memory with its tokenizer; `max_length` is the longest text, in tokens, that it reads."""

    model: Any
    tokenizer: Any
    name: str
    max_length: int

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return int(self.model.config.num_labels)

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """What it takes each text for: [texts, classes], float32 on the CPU; and which texts were too long to be read
        whole.
        """
        whole = self.tokenizer(list(texts), verbose=False)["input_ids"]
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        rows = [ids or [self.tokenizer.eos_token_id or 0] for ids in rows]  # an empty text without special tokens
        found = torch.empty(len(rows), self.classes)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        # Without a padding token texts cannot share a batch.
        padding = self.tokenizer.pad_token_id
        size = 1 if padding is None else BATCH
        for begin in range(0, len(order), size):
            some = order[begin : begin + size]
            ids = pad_sequence([torch.tensor(rows[i]) for i in some], True, padding or 0)  # [batch, longest]
            read = pad_sequence([torch.ones(len(rows[i]), dtype=torch.int64) for i in some], True)
            device = self.model.device
            logits = self.model(input_ids=ids.to(device), attention_mask=read.to(device)).logits  # [batch, classes]
            found[some] = logits.float().softmax(-1).cpu()
        return found, [len(long) > len(read) for long, read in zip(whole, rows, strict=True)]


def load_classifier(source: Source, device: str = "cpu") -> Classifier:
    """Load a sequence classifier in float32 from a folder's safetensors.

    Raises:
        UserError: the folder holds no classifier, its head is missing (it would be random), or a file is corrupted.
    """
    from transformers import AutoModelForSequenceClassification

    check_device(device)
    model, report = pretrained(AutoModelForSequenceClassification, source, torch.float32)
    # What a folder holds beyond the classifier, such as an unused pooler, does no harm.
    check_keys(source.name, report, ("missing_keys", "mismatched_keys"))
    tokenizer = load_tokenizer(source.path, source.name)
    length = min(tokenizer.model_max_length, int(getattr(model.config, "max_position_embeddings", 512)))
    if model.config.num_labels < 2:
        raise UserError(f"classifier {source.name}: has {model.config.num_labels} class; name one that has at least 2")
    return Classifier(model.to(device).eval().requires_grad_(False), tokenizer, source.name, length)
