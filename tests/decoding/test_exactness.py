"""An ensemble writes token for token what a naive loop writes: whole passes of every model for each token."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from earnest.almanac.questions import biographies
from earnest.almanac.world import World
from earnest.compression import checkpoint, produce
from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.fusion import adaptive_alphas
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from earnest.specs import read_method

END = 2
Nano = Callable[[str], LoadedModel]


@torch.inference_mode()
def naive_loop(
    base: LoadedModel, pairs: Sequence[Pair], prompts: Sequence[tuple[int, ...]], steps: int
) -> list[tuple[int, ...]]:
    """Plain transformers without a cache, prompts of one length together."""
    by_length = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    found: dict[int, tuple[int, ...]] = {}
    for length, numbers in by_length.items():
        rows = torch.tensor([prompts[number] for number in numbers])
        for _ in range(steps):
            rows = torch.cat([rows, combined(base, pairs, rows).argmax(-1, keepdim=True)], dim=1)
        for number, row in zip(numbers, rows[:, length:].tolist(), strict=True):
            found[number] = tuple(row[: row.index(END)] if END in row else row)
    return [found[number] for number in range(len(prompts))]


def combined(base: LoadedModel, pairs: Sequence[Pair], rows: torch.Tensor) -> torch.Tensor:
    """base + sum of alpha * (expert - antiexpert) after `rows`; at most the last pair may be adaptive."""

    def last(model: LoadedModel) -> torch.Tensor:
        return model.model(rows, use_cache=False, logits_to_keep=1).logits[:, -1].float()

    logits = last(base)
    for pair in pairs:
        expert, anti = last(pair.expert), last(pair.antiexpert or base)
        alpha = adaptive_alphas(logits, [expert], [anti]) if pair.alpha == "adaptive" else pair.alpha
        logits = logits + alpha * (expert - anti)
    return logits


def assert_exact(base: LoadedModel, pairs: Sequence[Pair], prompts: Sequence[tuple[int, ...]], steps: int) -> None:
    found = continue_prompts(Ensemble.of(base, pairs), [Prompt(ids, (), steps) for ids in prompts], 20_000)
    assert [generation.ids for generation in found] == naive_loop(base, pairs, prompts, steps)
    assert len({generation.ids for generation in found}) > len(prompts) / 10


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.6, 2.0, "adaptive"])
def test_at_every_alpha(nano: Nano, short_prompts, alpha) -> None:
    assert_exact(nano("large"), [Pair(nano("small-tuned"), nano("small"), alpha)], short_prompts, 8)


@pytest.mark.slow
@pytest.mark.parametrize("last", [0.5, "adaptive"])
def test_with_several_pairs_one_of_them_without_an_antiexpert(nano: Nano, short_prompts, last) -> None:
    pairs = [
        Pair(nano("large-tuned"), None, 0.4),
        Pair(nano("small-tuned"), nano("large-tuned"), -0.2),
        Pair(nano("small-tuned"), nano("small"), last),
    ]
    assert_exact(nano("large"), pairs, short_prompts[:60], 10)


@pytest.mark.slow
def test_without_an_antiexpert(nano: Nano, short_prompts) -> None:
    assert_exact(nano("large"), [Pair(nano("large-tuned"), None, 0.6)], short_prompts[:60], 10)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, "adaptive"])
def test_over_long_texts(nano: Nano, alpha) -> None:
    prompts = encode(nano("large").tokenizer, [one.prompt for one in biographies(World.shipped(), 10, seed=3)])
    assert_exact(nano("large"), [Pair(nano("small-tuned"), nano("small"), alpha)], [tuple(ids) for ids in prompts], 80)


def compressed(name: str, folder: Path, **method: object) -> LoadedModel:
    """A member of the nano family, compressed, saved and read again."""
    loaded = load(resolve(f"nano:{name}"), dtype="float32")
    produce.compress_to_folder(loaded, read_method(method), None, folder)
    return checkpoint.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, "adaptive"])
@pytest.mark.parametrize(
    "method", [{"method": "magnitude", "sparsity": 0.5}, {"method": "rtn", "bits": 4, "group_size": 32}]
)
def test_with_a_compressed_base_and_expert(nano: Nano, short_prompts, tmp_path: Path, method, alpha) -> None:
    base = compressed("large", tmp_path / "base", **method)
    expert = compressed("small-tuned", tmp_path / "expert", method="rtn", bits=8, group_size=16)
    assert_exact(base, [Pair(expert, nano("small"), alpha)], short_prompts[:60], 10)


@torch.inference_mode()
def test_alpha_zero_is_the_base_bit_for_bit_in_every_position(nano: Nano, short_prompts) -> None:
    """Also where other rows of the batch are longer, and while reading ahead."""
    base = nano("large")
    ensemble = Ensemble.of(base, [Pair(nano("small-tuned"), nano("small"), 0.0), Pair(nano("large-tuned"), None, 0.0)])
    rows, ahead = short_prompts[:40], [[20 + row, 30, 40][: 1 + row % 3] for row in range(40)]
    steered, alone = ensemble.open(rows), ModelDistribution(base).open(rows)
    assert torch.equal(steered.logits, alone.logits)
    found, expected = steered.read(ahead), alone.read(ahead)
    assert all(torch.equal(found[row, : len(more)], expected[row, : len(more)]) for row, more in enumerate(ahead))
    assert [member.tokens_forwarded for member in ensemble.members[1:]] == [0, 0, 0]
