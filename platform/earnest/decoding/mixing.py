"""Members' logits meet: lead + sum of alpha * (expert - antiexpert), in float32, before anything else acts on them.

Liu et al. 2024, arXiv 2401.08565, equation 1. Heads may differ in width by padding rows: what is no token, or no row of
some member's head, is -inf and never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from earnest.decoding.fusion import adaptive_alphas
from earnest.specs import ADAPTIVE, Alpha


class Mixer:
    """Combines logits over one vocabulary that some heads share.

    Args:
        tokenizer: knows which ids are tokens.
        widths: how wide the heads are.
    """

    def __init__(self, tokenizer: Any, widths: Sequence[int]) -> None:
        tokens = torch.tensor(sorted(tokenizer.get_vocab().values()))
        self.width = max(widths)
        self.meaningless = torch.ones(self.width, dtype=torch.bool)
        self.meaningless[tokens[tokens < min(widths)]] = False
        self._all_mean_something = not bool(self.meaningless.any())

    def mix(
        self, lead: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], alphas: Sequence[Sequence[Alpha]]
    ) -> tuple[Tensor, Tensor]:
        """The combination, and how strongly each pair steered.

        Adaptive pairs steer what comes of the lead and the pairs whose alpha is fixed.

        Args:
            lead: its logits [..., head].
            pairs: experts' and antiexperts' logits [..., their head].
            alphas: per pair one for each row of logits [rows, head], or a single one for all. A pair is adaptive for
                all rows or for none.

        Returns:
            Logits [..., width] in float32, and alphas [..., pairs].
        """
        wide = [(self._widened(expert), self._widened(antiexpert)) for expert, antiexpert in pairs]
        used = torch.zeros(*lead.shape[:-1], len(pairs), device=lead.device)
        mixed = self._widened(lead)
        adaptive = [number for number, of in enumerate(alphas) if ADAPTIVE in of]
        for number, of in enumerate(alphas):
            if number not in adaptive:
                used[..., number] = torch.tensor(of, dtype=torch.float32, device=lead.device)
                mixed = self._steered(mixed, wide[number], used[..., number])
        mixed = self._masked(mixed)
        if adaptive:
            used[..., adaptive] = adaptive_alphas(mixed, *zip(*(wide[number] for number in adaptive), strict=True))
            for number in adaptive:
                mixed = self._steered(mixed, wide[number], used[..., number])
            mixed = self._masked(mixed)
        return mixed, used

    @staticmethod
    def _steered(lead: Tensor, pair: tuple[Tensor, Tensor], alpha: Tensor) -> Tensor:
        expert, antiexpert = pair
        return torch.addcmul(lead, expert - antiexpert, alpha[..., None])

    def _masked(self, logits: Tensor) -> Tensor:
        return (
            logits if self._all_mean_something else logits.masked_fill(self.meaningless.to(logits.device), -torch.inf)
        )

    def _widened(self, logits: Tensor) -> Tensor:
        """Float32 logits [..., width]; what a narrower head lacks is 0 here."""
        missing = self.width - logits.shape[-1]
        logits = logits.float()
        return torch.nn.functional.pad(logits, (0, missing)) if missing else logits
