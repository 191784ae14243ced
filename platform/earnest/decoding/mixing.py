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
            lead: its logits [rows, positions, head].
            pairs: experts' and antiexperts' logits [rows, positions, their head].
            alphas: for each row one per pair.

        Returns:
            Logits [rows, positions, width] in float32, and alphas [rows, positions or 1, pairs].
        """
        wide = [(self._widened(expert), self._widened(antiexpert)) for expert, antiexpert in pairs]
        fixed = [[0.0 if alpha == ADAPTIVE else alpha for alpha in row] for row in alphas]
        used = torch.tensor(fixed, dtype=torch.float32, device=lead.device).view(len(alphas), 1, len(pairs))
        mixed = self._steered(self._widened(lead), wide, used)
        for adapting, rows in self._adapting(alphas).items():
            used = used.repeat(1, lead.shape[1], 1) if used.shape[1] < lead.shape[1] else used
            place = torch.tensor(rows, device=lead.device)
            mine = [(wide[number][0][place], wide[number][1][place]) for number in adapting]
            found = adaptive_alphas(mixed[place], *zip(*mine, strict=True))
            used[place[:, None], :, torch.tensor(adapting, device=lead.device)] = found.transpose(1, 2)
            mixed[place] = self._steered(mixed[place], mine, found)
        return mixed, used

    def _widened(self, logits: Tensor) -> Tensor:
        """Float32 logits [..., width]; what a narrower head lacks is 0 here."""
        missing = self.width - logits.shape[-1]
        logits = logits.float()
        return torch.nn.functional.pad(logits, (0, missing)) if missing else logits

    def _steered(self, lead: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], alphas: Tensor) -> Tensor:
        for number, (expert, antiexpert) in enumerate(pairs):
            lead = lead + alphas[..., number, None] * (expert - antiexpert)
        return lead if self._all_mean_something else lead.masked_fill(self.meaningless.to(lead.device), -torch.inf)

    @staticmethod
    def _adapting(alphas: Sequence[Sequence[Alpha]]) -> dict[tuple[int, ...], list[int]]:
        """Rows by the places of their adaptive pairs; rows without any are left out."""
        found: dict[tuple[int, ...], list[int]] = {}
        for row, mine in enumerate(alphas):
            places = tuple(number for number, alpha in enumerate(mine) if alpha == ADAPTIVE)
            if places:
                found.setdefault(places, []).append(row)
        return found
