"""What steps alone take is told by making the very same steps again, once each."""

from collections.abc import Sequence

import torch

from allowed import RecordedEngine, Steps
from earnest.decoding.encoding import encode
from earnest.models.loading import load
from earnest.models.source import resolve
from setting import PROXY


class Decoder:
    vocabulary = 7

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> torch.Tensor:
        self.asked.append((rows, starts, tokens, last))
        return torch.zeros(1, 7)


def test_recorded_steps_are_made_again_in_order_and_only_once() -> None:
    steps, decoders = Steps(), [Decoder(), Decoder()]
    recorded = [steps.recorded(decoder) for decoder in decoders]
    recorded[0].read([0], [0], [(1, 2)], last=True)
    recorded[1].read([0], [2], [(3,)])
    assert recorded[0].vocabulary == 7
    assert steps.again().wall > 0
    steps.again()
    assert decoders[0].asked == [([0], [0], [(1, 2)], True)] * 2
    assert decoders[1].asked == [([0], [2], [(3,)], False)] * 2


def test_steps_alone_leave_the_pasts_of_texts_as_they_were() -> None:
    models = {name: load(resolve(f"nano:{name}"), dtype="float32") for name in ("large", "small-tuned", "small")}
    engine = RecordedEngine(models, 1)
    prompts = [tuple(ids) for ids in encode(models["large"].tokenizer, ["Mira Voss was born in"])]
    first, _ = engine.measured(lambda one: one.one_by_one(prompts, PROXY, 12))
    second, _ = engine.measured(lambda one: one.one_by_one(prompts, PROXY, 12))
    assert first.texts == second.texts
