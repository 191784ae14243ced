"""No text depends on its company, however a model counts positions, sees windows or changes with the text's length."""

import logging

import pytest
import torch

from earnest.decoding import independence
from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.forward import CausalForward
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.decoding.independence import way_for
from earnest.decoding.local import LocalMember
from earnest.decoding.members import Wanted
from earnest.decoding.rope import RopeSwitches, rope_switches
from earnest.decoding.sampling import GREEDY
from earnest.models.loading import LoadedModel
from evaluation.tiny_models import VOCABULARY, MakeModel

WAYS = {
    "GPT2": "masked", "OPT": "masked", "Mistral": "masked", "Gemma2": "masked", "Gemma3Text": "masked",
    "GptOss": "masked", "Mpt": "masked", "Phi3": "masked", "GPTNeo": "aligned", "Bloom": "aligned",
    "Falcon": "aligned", "Mamba": "whole",
}  # fmt: skip
"""Their windows are of 8 tokens, and Phi-3's rope changes beyond 32."""


def texts(lengths: list[int], shared: int = 0) -> list[list[int]]:
    """Random texts that begin alike."""
    numbers = torch.Generator().manual_seed(4)
    begin, *rows = (torch.randint(3, VOCABULARY, (n,), generator=numbers).tolist() for n in (shared, *lengths))
    return [begin + row for row in rows]


@torch.inference_mode()
def after(loaded: LoadedModel, text: list[int]) -> torch.Tensor:
    """The logits after a text that the model reads whole and alone."""
    return loaded.model(torch.tensor([text]), use_cache=False).logits[0, -1].float()


def naive(loaded: LoadedModel, text: list[int], count: int) -> tuple[int, ...]:
    """The greedy continuation by whole texts, one at a time."""
    read = list(text)
    for _ in range(count):
        read.append(int(after(loaded, read).argmax()))
    return tuple(read[len(text) :])


@pytest.mark.parametrize("family", WAYS)
def test_texts_written_together_are_those_written_alone(make_model: MakeModel, family: str) -> None:
    """They share a beginning, differ in length, and cross windows and switches while they are written."""
    loaded = make_model(family)
    prompts = texts([1, 3, 6, 11, 12, 25], shared=18)
    loaded.model.generation_config.eos_token_id = None
    distribution = ModelDistribution(loaded)
    distribution.ends = frozenset()
    found = continue_prompts(distribution, [Prompt(tuple(text), (), 8) for text in prompts], 20_000)
    assert [one.ids for one in found] == [naive(loaded, text, 8) for text in prompts]


@pytest.mark.parametrize("family", WAYS)
def test_each_model_is_read_in_the_fastest_way_that_is_exact(make_model: MakeModel, family: str) -> None:
    assert CausalForward(make_model(family).model).way == WAYS[family]


@pytest.mark.parametrize("family", ["Phi3", "GPTNeo", "Mistral", "Gemma3Text"])
def test_rows_of_a_batch_get_what_they_get_alone_beyond_a_switch_or_a_window_too(
    make_model: MakeModel, family: str
) -> None:
    """Pieces cross the switch at 32 in company, a proposal beyond it is refused, and a beginning is taken over."""
    loaded = make_model(family)
    member = LocalMember("m", loaded, rows=3, slots=64)
    first, second = texts([40, 40])
    member.read([2, 0], [0, 0], [first[:29], second[:12]], last=True)
    logits = member.read([0, 2], [12, 29], [second[12:13], first[29:36]]).result()
    wanted = [after(loaded, second[:13]), *(after(loaded, first[:n]) for n in range(30, 37))]
    torch.testing.assert_close(logits, torch.stack(wanted), rtol=1e-4, atol=1e-3)
    member.copy(2, 1, 20)
    found = member.read([2, 1], [30, 20], [second[:1], second[:1]]).result()
    wanted = [after(loaded, first[:30] + second[:1]), after(loaded, first[:20] + second[:1])]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", ["Phi3", "Mistral", "Gemma3Text"])
def test_a_draft_across_a_switch_or_a_window_is_what_the_model_writes(make_model: MakeModel, family: str) -> None:
    loaded = make_model(family)
    member = LocalMember("m", loaded, rows=2, slots=64)
    (text,) = texts([30])
    member.read([1], [0], [text[:-1]], last=True)
    drafted = member.draft([1], [29], [Wanted(6, GREEDY, (), (text[-1],))]).result()
    assert drafted.tokens[0] == naive(loaded, text, 6)


@pytest.mark.parametrize("family", ["GptOss", "Gemma2", "Gemma3Text"])
def test_windows_are_proved_once_and_then_each_token_is_read_once(make_model: MakeModel, family: str) -> None:
    """The text crosses the window of 8 while it is read and while it is written."""
    loaded, read = make_model(family), list[int]()
    first = continue_prompts(ModelDistribution(loaded), [Prompt((3, 4, 5), (), 6)], 20_000)
    first_layer = loaded.model.get_decoder().layers[0]
    first_layer.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    for text in texts([3, 20]):
        read.clear()
        (made,) = continue_prompts(ModelDistribution(loaded), [Prompt(tuple(text), (), 12)], 20_000)
        assert read == [len(text)] + [1] * (len(made.ids) - (made.finish == "length"))
    assert first == continue_prompts(ModelDistribution(loaded), [Prompt((3, 4, 5), (), 6)], 20_000)


def test_the_probe_reads_each_text_alone_once(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that is not narrowed is tried below and at its length: two texts each."""
    alone: list[int] = []
    plain = independence._alone
    monkeypatch.setattr(independence, "_alone", lambda forward, text: alone.append(len(text)) or plain(forward, text))
    assert CausalForward(make_model("Mistral", sliding_window=16).model).way == "masked"
    assert len(alone) == len(set(alone)) == 4


def test_of_a_large_vocabulary_the_probe_compares_a_sample(make_model: MakeModel) -> None:
    """The whole head is asked once, on some tokens, whether logits are what it makes of hidden states."""
    loaded, positions = make_model("Gemma3Text", vocab_size=30_000), list[int]()
    loaded.model.lm_head.register_forward_pre_hook(lambda _, given: positions.append(given[0].shape[:-1].numel()))
    forward = CausalForward(loaded.model)
    assert forward.way == "masked"
    assert sum(positions) <= 20


def test_a_sample_of_the_vocabulary_differs_as_all_of_it_does(make_model: MakeModel) -> None:
    forward = CausalForward(make_model("Llama", vocab_size=30_000).model)
    hidden, _ = forward.extend(texts([40]), None, keep=False)
    other = hidden + 1e-3 * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    whole, some = (
        independence._distance(read(other[0]), read(hidden[0])) for read in (forward.logits, forward.sampled_logits)
    )
    assert forward.sampled_logits(hidden[0]).shape[-1] < 9_000
    assert abs(some / whole - 1) < 0.1


def test_longer_windows_are_narrowed_for_the_probe_and_left_as_they_were(make_model: MakeModel) -> None:
    loaded = make_model("Gemma3Text", sliding_window=4096)
    assert CausalForward(loaded.model).way == "masked"
    assert loaded.model.config.sliding_window == 4096
    assert {layer.self_attn.sliding_window for layer in loaded.model.model.layers} == {4096, None}


def test_a_way_that_mixes_texts_up_is_not_taken(make_model: MakeModel) -> None:
    """A model that adds something for every row that it reads beside another."""
    loaded = make_model("GPT2")
    plain = loaded.model.transformer.forward

    def mixing(*args: object, **kwargs: object) -> object:
        found = plain(*args, **kwargs)
        found.last_hidden_state += 0.1 * (len(found.last_hidden_state) - 1)
        return found

    loaded.model.transformer.forward = mixing
    forward = CausalForward(loaded.model)
    assert forward.way == "alone"
    rows = texts([9, 5])
    hidden, _ = forward.extend(rows, None, keep=False)
    for row, text in zip(hidden, rows, strict=True):
        torch.testing.assert_close(forward.logits(row[len(text) - 1 :])[0], after(loaded, text), rtol=1e-4, atol=1e-3)


def test_what_is_slower_for_being_exact_is_said_once(make_model: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    loaded = make_model("Mamba")
    with caplog.at_level(logging.WARNING):
        way_for(loaded.model, lambda way: CausalForward(loaded.model, way))
        way_for(loaded.model, lambda way: CausalForward(loaded.model, way))
    assert [record.getMessage() for record in caplog.records] == [
        "MambaForCausalLM keeps no past that can be shared; texts are read whole at every token: slower, and exact"
    ]


def test_switches_divide_lengths_into_sides() -> None:
    switches = RopeSwitches((32,), growing=40)
    assert switches.side(1) == switches.side(32) != switches.side(33) == switches.side(40)
    assert len({switches.side(length) for length in range(40, 50)}) == 10
    assert [*switches.runs(30, 12)] == [2, 8, 1, 1]
    assert [*RopeSwitches().runs(5, 7)] == [7]


def test_a_dynamic_rope_reads_each_text_as_if_it_had_seen_no_longer_one(make_model: MakeModel) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    fresh, used = (make_model("Llama", max_position_embeddings=24, rope_parameters=rope) for _ in range(2))
    assert rope_switches(used.model) == RopeSwitches(growing=24)
    forward = CausalForward(used.model)
    long, short = texts([50, 30])
    forward.extend([long], None, keep=False)
    hidden, past = forward.extend([short[:26], short[:10]], None)
    assert past is not None
    hidden, _ = forward.extend([short[26:], short[10:27]], past)
    for row, text in enumerate((short, short[:27])):
        found = forward.logits(hidden[row, : len(text) - (26, 10)[row]])[-1]
        torch.testing.assert_close(found, after(fresh, text), rtol=1e-4, atol=1e-3)
        fresh = make_model("Llama", max_position_embeddings=24, rope_parameters=rope)
