"""Steps of fixed shape give what plain steps give, and touch nothing else; captured, they are faster."""

import time
from collections.abc import Callable

import pytest
import torch

from earnest.decoding import captured
from earnest.decoding.captured import CapturedDecoder
from earnest.decoding.lean import LeanDecoder
from earnest.decoding.local import LocalMember
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from evaluation.tiny_models import VOCABULARY, MakeModel

Read = tuple[list[int], list[int], list[list[int]], bool]


def reads(count: int = 12) -> list[Read]:
    """Reads of eight rows: prompts, ragged steps, single tokens, some of rows in a row and some not."""
    numbers = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(VOCABULARY, (length,), generator=numbers).tolist()

    every = list(range(8))
    asked: list[Read] = [(every, [0] * 8, [tokens(10 + 3 * row) for row in every], True)]
    for number in range(count):
        rows = [every, [0, 1, 2], [6, 1, 3], [5]][number % 4]
        asked.append((rows, [8 + 2 * row for row in rows], [tokens(1 + (row + number) % 5) for row in rows], False))
    return [*asked, (every, [20] * 8, [tokens(1)] * 8, True)]


def agree(one: LeanDecoder | CapturedDecoder, other: LeanDecoder | CapturedDecoder, tolerance: float) -> None:
    for rows, starts, tokens, last in reads():
        found, wanted = (decoder.read(rows, starts, tokens, last) for decoder in (one, other))
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("family", ["Llama", "Mistral"])  # the latter with a window
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}])
def test_steps_of_fixed_shape_give_what_plain_steps_give(
    make_model: MakeModel, family: str, changes: dict[str, int]
) -> None:
    model = make_model(family, **changes).model
    agree(CapturedDecoder(LeanDecoder(model, 8, 100)), LeanDecoder(model, 8, 100), 1e-4)


def test_a_step_of_fixed_shape_changes_only_the_slots_that_it_reads_into(make_model: MakeModel) -> None:
    decoder = CapturedDecoder(LeanDecoder(make_model().model, 8, 100))
    store = decoder.plain.store
    store.normal_()
    before = store.clone()
    decoder.read([0, 1, 2], [7, 50, 97], [[5, 6, 7], [8], [9, 10, 11]])
    decoder.read([6, 4], [0, 99], [[5, 6], [7]])
    changed = (store != before).any(-1).any(2).any(0)[:, :-1].nonzero().tolist()  # [row, slot]
    assert changed == [[0, 7], [0, 8], [0, 9], [1, 50], [2, 97], [2, 98], [2, 99], [4, 99], [6, 0], [6, 1]]


def test_only_the_steps_used_last_are_kept(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "MOST_GRAPHS", 2)
    decoder = CapturedDecoder(LeanDecoder(make_model().model, 8, 100))
    for length in (1, 2, 1, 3):
        assert decoder.read([0], [0], [[5] * length]).shape[0] == length
    assert [width for _, width, _, _ in decoder._steps] == [1, 4]


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_captured_steps_give_what_plain_steps_give(make_model: MakeModel, dtype: str, tolerance: float) -> None:
    model = make_model().model.to("cuda", getattr(torch, dtype))
    agree(CapturedDecoder(LeanDecoder(model, 8, 100)), LeanDecoder(model, 8, 100), tolerance)


@pytest.mark.gpu
def test_a_member_on_a_gpu_is_captured_and_true_to_the_model_on_the_cpu(nano: Callable[[str], LoadedModel]) -> None:
    there = LocalMember("m", load(resolve("nano:large"), device="cuda", dtype="float32"), rows=4, slots=128)
    here = LocalMember("m", nano("large"), rows=4, slots=128)
    assert isinstance(there._decoder, CapturedDecoder)
    text = list(range(5, 45))
    for start, stop in ((0, 30), (30, 35), (35, 36)):
        found, wanted = (member.read([0], [start], [text[start:stop]]).result().cpu() for member in (there, here))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.gpu
def test_captured_steps_are_faster(nano: Callable[[str], LoadedModel]) -> None:
    model = load(resolve("nano:large"), device="cuda", dtype="float32").model

    def seconds(decoder: LeanDecoder | CapturedDecoder) -> float:
        times = []
        for _ in range(50):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            decoder.read([0], [40], [[7]])
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return sorted(times)[len(times) // 2]

    plain = LeanDecoder(model, 4, 128)
    assert seconds(CapturedDecoder(plain)) < seconds(plain) / 2
