"""Members of a running batch: rows are read in any company, drafts leave no trace, and mistakes are named."""

from collections.abc import Callable

import pytest
import torch

from earnest.decoding.local import LocalMember
from earnest.decoding.members import Wanted
from earnest.decoding.sampling import GREEDY, Sampling
from earnest.models.loading import LoadedModel
from evaluation.tiny_models import VOCABULARY, MakeModel

FAMILIES = ["Llama", "GPT2", "Mistral", "Gemma2", "GPTNeo", "Mpt", "Bloom", "Mamba"]
"""One that our own pass reads; some that transformers reads into our store, with windows and positions that they count
in ways of their own; and one whose past cannot be kept."""


def texts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    numbers = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count, length), generator=numbers).tolist()


def whole(loaded: LoadedModel, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(torch.tensor([text])).logits[0].float()


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_any_length_and_order_get_what_the_model_gives_each_of_them_alone(
    make_model: MakeModel, family: str
) -> None:
    loaded = make_model(family)
    member = LocalMember("m", loaded, rows=6, slots=64)
    first, second, third = texts(3, 40)
    member.read([4, 0, 3], [0, 0, 0], [first[:11], second[:30], third[:1]])
    found = member.read([3, 4, 0], [1, 11, 30], [third[1:9], first[11:12], second[30:35]]).result()
    same(found, torch.cat([whole(loaded, third)[1:9], whole(loaded, first)[11:12], whole(loaded, second)[30:35]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_logits_after_each_last_token_come_when_only_they_are_asked_for(
    make_model: MakeModel, family: str
) -> None:
    loaded = make_model(family)
    member = LocalMember("m", loaded, rows=3, slots=64)
    first, second = texts(2, 20)
    found = member.read([2, 1], [0, 0], [first[:20], second[:7]], last=True).result()
    same(found, torch.stack([whole(loaded, first)[19], whole(loaded, second)[6]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_read_behind_the_start_leaves_no_trace(make_model: MakeModel, family: str) -> None:
    member = LocalMember("m", make_model(family), rows=2, slots=64)
    text, wrong = texts(2, 30)
    member.read([0], [0], [text[:10]])
    member.read([1], [0], [text[:10]])
    member.read([0], [10], [wrong[:20]])
    again = [member.read([row], [10], [text[10:13]]).result() for row in (0, 1)]
    assert torch.equal(*again)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copied_prefix_is_read_on_from_as_if_it_had_been_read_there(make_model: MakeModel, family: str) -> None:
    loaded = make_model(family)
    member = LocalMember("m", loaded, rows=3, slots=64)
    text, other = texts(2, 30)
    member.read([0], [0], [text[:20]])
    member.read([2], [0], [other])
    member.copy(0, 2, 15)
    same(member.read([2], [15], [text[15:18]]).result(), whole(loaded, text)[15:18])
    same(member.read([0], [20], [text[20:22]]).result(), whole(loaded, text)[20:22])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_greedy_draft_is_what_the_model_itself_would_write(make_model: MakeModel, family: str) -> None:
    loaded = make_model(family)
    member = LocalMember("m", loaded, rows=4, slots=64)
    prompts, counts = texts(3, 9), [4, 0, 4]
    member.read([3, 1, 0], [0] * 3, [prompt[:-1] for prompt in prompts])
    wanted = [Wanted(n, GREEDY, (), (prompt[-1],)) for n, prompt in zip(counts, prompts, strict=True)]
    drafted = member.draft([3, 1, 0], [8] * 3, wanted).result()
    assert drafted.logits.shape == (5 + 1 + 5, VOCABULARY)
    logits = torch.split(drafted.logits, [5, 1, 5])
    for row, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        text = list(prompt)
        for token in drafted.tokens[row]:
            assert token == int(whole(loaded, text)[-1].argmax())
            text.append(token)
        assert len(drafted.tokens[row]) == count
        same(logits[row], whole(loaded, text)[8:])


def test_a_sampled_draft_depends_on_seed_and_place_and_not_on_company(make_model: MakeModel) -> None:
    member = LocalMember("m", make_model(), rows=4, slots=64)
    prompt = texts(1, 9)[0]

    def drafted(rows: list[int], seeds: list[int]) -> tuple[tuple[int, ...], ...]:
        member.read(rows, [0] * len(rows), [prompt[:-1]] * len(rows))
        settings = [Sampling(temperature=2.0, seed=seed, logprobs=2) for seed in seeds]
        wanted = [Wanted(6, setting, (), (prompt[-1],)) for setting in settings]
        return member.draft(rows, [8] * len(rows), wanted).result().tokens

    together = drafted([0, 1, 2, 3], [7, 8, 9, 7])
    assert together[0] == together[3]
    assert len({*together}) == 3
    assert drafted([2], [9])[0] == together[2]


def test_a_row_of_logits_that_are_not_numbers_spoils_no_later_text(make_model: MakeModel) -> None:
    loaded = make_model()
    member = LocalMember("m", loaded, rows=2, slots=64)
    text, other = texts(2, 30)
    embedding = loaded.model.get_input_embeddings().weight.data
    kept = embedding[text[5]].clone()
    embedding[text[5]] = torch.nan
    drafted = member.draft([0], [0], [Wanted(3, GREEDY, (), (text[5],))]).result()
    member.read([0], [0], [text])
    embedding[text[5]] = kept
    assert drafted.tokens == ((),)
    found = member.read([0, 1], [0, 0], [text[:2], other]).result()
    same(found[:2], whole(loaded, text)[:2])


def test_a_row_takes_the_memory_that_its_keys_and_values_take(make_model: MakeModel) -> None:
    per_slot = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, bytes
    assert LocalMember("m", make_model(), rows=2, slots=63).row_bytes == 64 * per_slot


@pytest.mark.parametrize(
    ("rows", "starts", "tokens", "complaint"),
    [
        ([2], [0], [[1]], "row 2 is not there; it has rows 0 to 1"),
        ([0, 0], [0, 0], [[1], [1]], "each only once"),
        ([], [], [], "at least one row"),
        ([0], [60], [[1] * 5], "5 tokens from position 60 on do not fit row 0; .* 64 slots"),
        ([0], [3], [[]], "0 tokens from position 3 on"),
        ([0], [-1], [[1]], "1 tokens from position -1 on"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_rule(
    make_model: MakeModel, rows: list[int], starts: list[int], tokens: list[list[int]], complaint: str
) -> None:
    member = LocalMember("m", make_model(), rows=2, slots=64)
    with pytest.raises(ValueError, match=complaint):
        member.read(rows, starts, tokens)


def test_more_slots_than_the_model_was_made_for_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="slots = 129, but the model was made for texts of 1 to 128 tokens"):
        LocalMember("m", make_model(), rows=2, slots=129)


def test_the_kind_says_who_runs_the_model(make_model: MakeModel) -> None:
    kinds = {family: LocalMember("m", make_model(family), rows=2, slots=32).kind for family in ("Llama", "Gemma2")}
    assert kinds == {"Llama": "lean", "Gemma2": "transformers"}


def test_the_fallback_gives_what_our_own_pass_gives(nano: Callable[[str], LoadedModel]) -> None:
    from earnest.decoding.fallback import RereadDecoder, StoredDecoder
    from earnest.decoding.forward import CausalForward
    from earnest.decoding.lean import LeanDecoder

    model = nano("small").model
    first, second = texts(2, 40, seed=3)
    answers = []
    forward = CausalForward(model)
    for decoder in (LeanDecoder(model, 5, 64), StoredDecoder(forward, 5, 64), RereadDecoder(forward, 5, 64)):
        decoder.read([4, 1], [0, 0], [first[:20], second[:33]])
        answers.append(decoder.read([1, 4], [33, 20], [second[33:35], first[20:22]]))
    same(answers[0], answers[1])
    same(answers[0], answers[2])
