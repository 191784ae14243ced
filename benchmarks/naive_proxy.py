"""The peer: proxy-tuning as the paper's own code does it (Liu et al. 2024, arXiv 2401.08565), written by us.

Three transformers models, each with transformers' own growing cache, one token at a time, logits combined, greedy.
Several prompts are one static batch, padded on the left, which goes on until the last of them has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from earnest.models.loading import LoadedModel


class NaiveProxy:
    """base + alpha * (expert - antiexpert), three full forward passes per token. Texts end before their first newline.

    Args:
        models: base, expert and antiexpert; or the base alone, which is then decoded in the same plain way.
        alpha: how strongly the pair steers.
    """

    def __init__(self, models: Sequence[LoadedModel], alpha: float = 1.0) -> None:
        self._models, self._alpha = [loaded.model for loaded in models], alpha
        self._tokenizer = models[0].tokenizer
        self._pad = int(self._tokenizer.pad_token_id)
        ends = [self._tokenizer.eos_token_id, *range(len(self._tokenizer))]
        self._ends = torch.tensor([t for n, t in enumerate(ends) if n == 0 or "\n" in self._tokenizer.decode([t])])

    @torch.inference_mode()
    def texts(self, prompts: Sequence[Sequence[int]], most: int) -> tuple[list[str], int]:
        """Greedy continuations of token ids, of at most `most` tokens each; and how many tokens they have."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (longest - len(row)) + list(row) for row in prompts])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        caches = [None] * len(self._models)
        going = torch.ones(len(prompts), dtype=torch.bool)
        written: list[Tensor] = []
        while bool(going.any()) and len(written) < most:
            outs = [
                model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
                for model, cache in zip(self._models, caches, strict=True)
            ]
            caches = [out.past_key_values for out in outs]
            base, *pair = (out.logits[:, -1].float() for out in outs)
            token = (base + self._alpha * (pair[0] - pair[1]) if pair else base).argmax(-1)
            written.append(token.where(going, self._pad))
            going &= ~torch.isin(token, self._ends)
            ids, positions = written[-1][:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], -1)
        return self._read(torch.stack(written, 1))

    def _read(self, tokens: Tensor) -> tuple[list[str], int]:
        """The texts of rows of tokens [rows, longest], and how many tokens are theirs, the newline included."""
        texts = [text.split("\n")[0] for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        return texts, int((tokens != self._pad).sum())
