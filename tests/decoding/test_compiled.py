"""Compiled kernels are torch's arithmetic, keep what is not finite, and are used where they pay."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decoding.test_lean import FLOAT32_ROUNDING, random_model, texts, whole
from earnest.decoding import compiled
from earnest.decoding.compiled import CompiledDecoder, compiles
from earnest.decoding.kernels import exponentials
from earnest.decoding.lean import LeanDecoder
from earnest.decoding.local import LocalMember, decoder_for
from earnest.models.loading import LoadedModel


def exp(x: Tensor) -> Tensor:
    found = x.clone()
    exponentials(found.numpy(), torch.empty(len(x), dtype=torch.int32).numpy())
    return found


def test_exponentials_are_true_to_the_last_bits_wherever_float32_holds_them() -> None:
    x = torch.linspace(-87, 88, 200_001)
    assert float((exp(x).double() / x.double().exp() - 1).abs().max()) < 5e-7


def test_an_exponential_of_no_number_is_none_and_of_too_large_a_one_stays_large() -> None:
    found = exp(torch.tensor([torch.nan, -torch.inf, -1000.0, 0.0, 1000.0]))
    assert found[0].isnan()
    assert float(found[1]) == float(found[2]) < 1e-37
    assert float(found[3]) == 1
    assert float(found[4]) > 1e38


@pytest.mark.parametrize("name", ["large", "small"])
def test_a_nano_models_cached_steps_round_no_worse_than_those_of_transformers(
    nano: Callable[[str], LoadedModel], name: str
) -> None:
    model = nano(name).model
    exact = deepcopy(model).double()
    decoder = CompiledDecoder(LeanDecoder(model, 4, 64))
    ours, theirs = torch.zeros(()), torch.zeros(())
    for text in texts(6, 40, 1500):
        decoder.read([3], [0], [text[:30]])
        with torch.inference_mode():
            wanted = exact(torch.tensor([text]), use_cache=False).logits[0]
            past = model(torch.tensor([text[:30]]), use_cache=True).past_key_values
            for position in range(30, 40):
                token = text[position : position + 1]
                found = model(torch.tensor([token]), past_key_values=past).logits[0]
                theirs = theirs.maximum((found - wanted[position]).abs().max())
                ours = ours.maximum((decoder.read([3], [position], [token]) - wanted[position]).abs().max())
    assert float(ours) < 1.5 * float(theirs)


def test_a_step_that_sees_much_is_left_to_the_plain_pass_and_both_share_one_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model("Qwen3", {})
    text = texts(1, 60)[0]
    wanted = whole(model, text)
    decoder = CompiledDecoder(LeanDecoder(model, 2, 64))
    plain: list[int] = []
    read = decoder.plain.read
    monkeypatch.setattr(decoder.plain, "read", lambda *asked: plain.append(asked[1][0]) or read(*asked))
    monkeypatch.setattr(compiled, "MOST_SEEN", 30 * 40)
    pieces = [(0, 30), (30, 40), (40, 60)]  # 900, 400 and 1,200 scores a head
    found = torch.cat([decoder.read([1], [start], [text[start:stop]]) for start, stop in pieces])
    assert plain == []
    monkeypatch.setattr(compiled, "MOST_SEEN", 30 * 40 - 1)
    decoder.clear(1, 0)
    again = torch.cat([decoder.read([1], [start], [text[start:stop]]) for start, stop in pieces])
    assert plain == [40]
    for logits in (found, again):
        assert float((logits - wanted).abs().max()) < FLOAT32_ROUNDING * float(wanted.abs().max())


def test_steps_of_many_sizes_do_not_disturb_each_other() -> None:
    model = random_model("Llama", {})
    text = texts(1, 40)[0]
    decoder = CompiledDecoder(LeanDecoder(model, 1, 64))
    kept = decoder.read([0], [0], [text[:3]])
    as_read = kept.clone()
    for start, stop in ((3, 30), (30, 31), (31, 33), (33, 40)):  # a longer step than before makes room anew
        decoder.read([0], [start], [text[start:stop]])
    assert torch.equal(kept, as_read)


def test_only_the_last_logits_of_each_row_are_given_where_they_are_asked_for() -> None:
    model = random_model("Llama", {})
    first, second = texts(2, 12)
    decoder = CompiledDecoder(LeanDecoder(model, 2, 64))
    every = decoder.read([0, 1], [0, 0], [first, second[:5]])
    last = decoder.read([0, 1], [0, 0], [first, second[:5]], last=True)
    torch.testing.assert_close(last, every[[11, 16]], rtol=0, atol=1e-5)


def test_a_row_that_breaks_the_model_breaks_no_other_and_can_be_used_again() -> None:
    model = random_model("Llama", {})
    model.model.embed_tokens.weight[7] = torch.nan
    member = LocalMember("m", LoadedModel(model, None, "m", "", Path()), rows=2, slots=32)
    assert isinstance(member._decoder, CompiledDecoder)
    text = [token for token in texts(1, 20)[0] if token != 7]
    logits = member.read([0, 1], [0, 0], [[3, 7, 4], text]).result()
    assert logits[1:3].isnan().all()
    torch.testing.assert_close(logits[3:], whole(model, text), rtol=0, atol=1e-4)
    again = member.read([0], [0], [text]).result()
    torch.testing.assert_close(again, whole(model, text), rtol=0, atol=1e-4)


@pytest.mark.parametrize("token", [-1, 700])
def test_a_token_that_is_not_in_the_vocabulary_is_refused(token: int) -> None:
    decoder = CompiledDecoder(LeanDecoder(random_model("Llama", {}), 1, 8))
    with pytest.raises(IndexError, match="not in the vocabulary"):
        decoder.read([0], [0], [[3, token]])


def test_narrow_float32_models_on_a_cpu_are_compiled_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = random_model("Llama", {})
    assert isinstance(decoder_for(narrow, 2, 32), CompiledDecoder)
    assert not compiles(LeanDecoder(random_model("Llama", {}).to(torch.bfloat16), 2, 32))
    monkeypatch.setattr(compiled, "MOST_HIDDEN", 59)
    assert isinstance(decoder_for(narrow, 2, 32), LeanDecoder)


def test_without_the_compiler_the_plain_pass_reads_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda _: None)
    assert isinstance(decoder_for(random_model("Llama", {}), 2, 32), LeanDecoder)


def test_a_compiler_that_fails_is_said_and_the_plain_pass_reads_everything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(CompiledDecoder, "_hidden", full)
    assert isinstance(decoder_for(random_model("Llama", {}), 2, 32), LeanDecoder)
    assert "CompiledDecoder cannot be used, decoding goes on without (OSError: no space left" in caplog.text
