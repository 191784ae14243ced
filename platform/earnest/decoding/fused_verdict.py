"""What one pair's mixture writes behind proposals, without the mixture being written out (`verdict_kernels`).

For texts that are steered by one pair and take the likeliest token, or draw at a temperature, and ask for nothing more.
Others, other devices and a CPU without numba go through `mixing` and `sampling`, which choose the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earnest.decoding.fusion import MOST, STEPS
from earnest.decoding.members import stretches
from earnest.decoding.mixing import Mixer
from earnest.decoding.noise import choice_kernels, key_of
from earnest.decoding.sampling import NO_TOKEN
from earnest.decoding.texts import Text
from earnest.specs import ADAPTIVE

Part = tuple[Tensor, Mapping[Text, slice]]
"""A member's logits [positions, vocabulary], and which of them are whose."""
Settings = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]


class FusedVerdict:
    """Judges by kernels what they can; `mixer` says what a combination is wide, and what in it is no token."""

    def __init__(self, mixer: Mixer) -> None:
        self._width, self._none = mixer.width, mixer.meaningless.numpy()
        self._known: tuple[list[Text], Settings] = [], (np.empty(0, np.float32), np.empty(0, np.bool_), np.empty(0))

    def tokens(
        self, texts: Sequence[Text], parts: Sequence[Part], proposals: Mapping[Text, tuple[int, ...]]
    ) -> list[list[int]] | None:
        """What is written behind each proposal of each text, `NO_TOKEN` behind the first wrong one; None: not here.

        Args:
            texts: mixed of the same members.
            parts: lead, expert and antiexpert.
            proposals: of each text.
        """
        able = all(text.fusible for text in texts) and all(self._readable(logits) for logits, _ in parts)
        kernels = _kernels(parts[0][0]) if able else None
        if kernels is None:
            return None
        counts, proposed = [], list[int]()
        for text in texts:
            counts.append(len(proposals[text]) + 1)
            proposed += proposals[text]
            proposed.append(NO_TOKEN)
        begins = [place[text].start for _, place in parts for text in texts]
        tokens = np.array([NO_TOKEN]).repeat(len(proposed))
        alphas, adapts, temperatures = self._settings_of(texts)
        kernels.judge(
            *[logits.numpy() for logits, _ in parts], np.array(begins).reshape(3, -1), np.array(counts),
            np.array(proposed), alphas, adapts, STEPS, MOST / STEPS, self._none, temperatures,
            _keys(texts, counts), tokens,
        )  # fmt: skip
        found = tokens.tolist()
        return [found[part] for part in stretches(counts)]

    def _settings_of(self, texts: Sequence[Text]) -> Settings:
        """Alphas, which of them adapt, and temperatures; the same texts often come again."""
        known, settings = self._known
        if known != texts:
            alphas = [text.mixture.steering[0].alpha for text in texts]
            settings = (
                np.array([0.0 if alpha == ADAPTIVE else alpha for alpha in alphas], np.float32),
                np.array([alpha == ADAPTIVE for alpha in alphas]),
                np.array([text.request.sampling.temperature for text in texts], np.float64),
            )
            self._known = [*texts], settings
        return settings

    def _readable(self, logits: Tensor) -> bool:
        return (
            logits.is_cpu
            and logits.dtype is torch.float32
            and logits.shape[1] == self._width
            and logits.is_contiguous()
        )


def _keys(texts: Sequence[Text], counts: Sequence[int]) -> NDArray[np.uint64]:
    """Of the noise of each place; where the likeliest token is taken, there is none."""
    keys: list[int] = []
    for text, count in zip(texts, counts, strict=True):
        sampling, first = text.request.sampling, len(text.row.ids)
        keys += [0] * count if sampling.greedy else [key_of(sampling.seed, first + number) for number in range(count)]
    return np.array(keys, np.int64).view(np.uint64)


def _kernels(logits: Tensor) -> ModuleType | None:
    """Those of this module, where `noise.choice_kernels` has any."""
    if choice_kernels(logits) is None:
        return None
    from earnest.decoding import verdict_kernels  # half a second, which who decodes nothing need not pay

    return verdict_kernels
