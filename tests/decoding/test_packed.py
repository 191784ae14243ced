"""Rows behind a shared trunk get the logits that the model gives them whole, and nothing is copied for them."""

from dataclasses import replace

import pytest
import torch

from decoding.test_lean import FLOAT32_ROUNDING, SHAPES, UNKNOWN, random_model, texts, whole
from earnest.decoding import lean_pass, packed
from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.forward import CausalForward
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.decoding.lean_pass import TOLERANCE
from earnest.decoding.packed import LEAST_TRUNK, Branch, PackedForward, forward_for
from evaluation.tiny_models import MakeModel

LENGTHS = (5, 1, 12)
"""What three rows read behind their trunk."""


def three_texts(shared: int) -> list[list[int]]:
    """Texts that begin with the same tokens."""
    trunk, *tails = texts(4, shared)
    return [trunk + tail[:length] for tail, length in zip(tails, LENGTHS, strict=True)]


def largest_error(forward: PackedForward, model: torch.nn.Module, shared: int, first: int) -> float:
    """The texts' ends, read in two pieces behind what they share, against the model; relative to the largest logit."""
    read = three_texts(shared)
    past = forward.extend([read[0][:shared]], None)[1]
    assert past is not None
    past = past.rows([0, 0, 0])
    assert (past.shared == shared) == (shared >= LEAST_TRUNK)
    error = scale = 0.0
    for begin, end in ((0, first), (first, max(LENGTHS))):
        pieces = {n: text[shared:][begin:end] for n, text in enumerate(read) if len(text) > shared + begin}
        past = past if len(pieces) == len(read) else past.rows(list(pieces))
        hidden, past = forward.extend(list(pieces.values()), past)
        assert past is not None
        for row, (number, piece) in zip(hidden, pieces.items(), strict=True):
            wanted = whole(model, read[number])[shared + begin : shared + begin + len(piece)]
            found = forward.logits(row[: len(piece)])
            error, scale = max(error, float((found - wanted).abs().max())), max(scale, float(wanted.abs().max()))
    return error / scale


@pytest.mark.parametrize("shape", SHAPES)
def test_texts_behind_a_trunk_get_the_models_logits(shape: str) -> None:
    model = random_model(*SHAPES[shape])
    assert largest_error(PackedForward(model, 256), model, shared=100, first=1) < FLOAT32_ROUNDING


@pytest.mark.parametrize(("shared", "first"), [(7, 1), (LEAST_TRUNK, 4)])
def test_so_they_do_behind_any_length_of_it(shared: int, first: int) -> None:
    model = random_model("Llama", {})
    assert largest_error(PackedForward(model, 256), model, shared, first) < FLOAT32_ROUNDING


@pytest.mark.parametrize("keys", [2, 6])
@pytest.mark.parametrize("window", [1, 3, 10, 60, 101, 105, 111, 200])
def test_so_they_do_where_windows_hide_some_of_it(window: int, keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("Mistral", {"sliding_window": window, "num_key_value_heads": keys})
    assert largest_error(PackedForward(model, 256), model, shared=100, first=4) < FLOAT32_ROUNDING
    assert largest_error(PackedForward(model, 256), model, shared=7, first=1) < FLOAT32_ROUNDING
    monkeypatch.setattr(packed, "CPU_READING", 6)
    monkeypatch.setattr(lean_pass, "PIECE", 2)
    assert largest_error(PackedForward(model, 256), model, shared=100, first=2) < FLOAT32_ROUNDING


@pytest.mark.parametrize("piece", [4, 256])
@pytest.mark.parametrize("window", [1, 30, 60])
def test_whole_texts_are_read_within_windows(window: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that leave the window by a token, and by far, beside one that does not."""
    monkeypatch.setattr(lean_pass, "PIECE", piece)
    model = random_model("Mistral", {"sliding_window": window})
    read = [text[:length] for text, length in zip(texts(3, 80), (window + 1, 80, 5), strict=True)]
    for some in (read, read[:1]):
        hidden, _ = PackedForward(model, 256).extend(some, None, keep=False)
        for row, text in zip(hidden, some, strict=True):
            found, wanted = PackedForward(model, 256).logits(row[: len(text)]), whole(model, text)
            assert float((found - wanted).abs().max()) < FLOAT32_ROUNDING * float(wanted.abs().max())


@pytest.mark.parametrize("shape", ["Mistral with a window", "Qwen2, some layers with a window"])
def test_what_is_written_beyond_a_window_is_what_transformers_writes(make_model: MakeModel, shape: str) -> None:
    """Prompts of every length around the window, alone, in company, and behind a shared beginning."""
    model = random_model(*SHAPES[shape])
    model.generation_config.eos_token_id = None
    distribution = ModelDistribution(replace(make_model(), model=model))
    distribution.ends = frozenset()
    assert isinstance(distribution.forward, PackedForward)
    (begin,) = texts(1, 40)
    for prompts in ([begin[:5]], [begin[:n] for n in range(1, 20)], [begin[:30] + tail for tail in texts(4, 3)]):
        made = continue_prompts(distribution, [Prompt(tuple(text), (), 12) for text in prompts], 20_000)
        for text, one in zip(prompts, made, strict=True):
            ids = torch.tensor([text])
            wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
            assert list(one.ids) == wanted[0, len(text) :].tolist()


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_window_that_is_seen_otherwise_is_read_by_transformers(monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    model = random_model("Mistral", {"sliding_window": 100})
    assert isinstance(forward_for(model, 256), PackedForward)
    monkeypatch.setattr(lean_pass, "layer_windows", lambda model: [model.config.sliding_window + wrong] * 3)
    assert isinstance(forward_for(model, 256), CausalForward)


@pytest.mark.parametrize(("family", "changes"), [("Llama", {}), ("Mistral", {"sliding_window": 40})])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_no_further_than_the_model_does(
    dtype: torch.dtype, family: str, changes: dict[str, object]
) -> None:
    model = random_model(family, changes).to(dtype)
    assert largest_error(PackedForward(model, 256), model, 100, first=1) < TOLERANCE[dtype]


def test_a_trunk_may_grow_by_what_a_row_has_read() -> None:
    model = random_model("Llama", {})
    forward = PackedForward(model, 256)
    (text,) = texts(1, 150)
    past = Branch(None, None, (0,))
    for begin, end in ((0, 70), (70, 100), (100, 140)):
        _, past = forward.extend([text[begin:end]] * len(past.lengths), past)
        assert past is not None
        past = past.rows([0] * 3)
    assert (past.shared, past.lengths) == (140, (0, 0, 0))
    hidden, _ = forward.extend([text[140:]] * 3, past, keep=False)
    wanted = whole(model, text)[140:]
    assert float((forward.logits(hidden[2]) - wanted).abs().max()) < FLOAT32_ROUNDING * float(wanted.abs().max())


def test_what_rows_share_is_held_once() -> None:
    forward = PackedForward(random_model("Llama", {}), 256)
    _, past = forward.extend([texts(1, 100)[0]], None)
    assert past is not None
    assert past.store is not None
    shared = past.rows([0] * 50)
    assert shared.store is None
    assert shared.trunk is not None
    assert shared.trunk.untyped_storage().data_ptr() == past.store.untyped_storage().data_ptr()


@pytest.mark.parametrize("shape", UNKNOWN)
def test_other_models_are_read_by_transformers(shape: str) -> None:
    assert isinstance(forward_for(random_model(*UNKNOWN[shape]), 256), CausalForward)


def test_a_model_whose_logits_are_not_what_its_shape_says_is_read_by_transformers() -> None:
    model = random_model("Llama", {})
    assert isinstance(forward_for(model, 256), PackedForward)
    plain = model.model.layers[1].mlp.forward
    model.model.layers[1].mlp.forward = lambda x: 2 * plain(x)
    assert isinstance(forward_for(model, 256), CausalForward)


def test_a_model_that_is_listened_to_is_read_by_transformers() -> None:
    model = random_model("Llama", {})
    heard: list[torch.Size] = []
    hook = model.model.layers[0].register_forward_hook(lambda _module, _inputs, output: heard.append(output.shape))
    assert isinstance(forward_for(model, 256), CausalForward)
    hook.remove()
    assert isinstance(forward_for(model, 256), PackedForward)


@pytest.mark.parametrize("shared", [7, 100])
def test_rows_that_are_read_some_at_a_time_get_the_models_logits(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CPU_READING", 6)  # the third row by itself
    model = random_model("Llama", {})
    assert largest_error(PackedForward(model, 256), model, shared, first=2) < FLOAT32_ROUNDING
    rows = [text[:40] for text in three_texts(40)]
    hidden, past = PackedForward(model, 256).extend(rows, None, keep=False)
    assert past is None
    assert hidden.shape[:2] == (3, 40)
