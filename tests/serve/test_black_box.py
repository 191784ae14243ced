"""Our own server plays the black box: a client that holds only the small pair steers the large model behind it."""

from collections.abc import Callable

import pytest

from earnest.almanac.questions import zero_shot
from earnest.almanac.world import World
from earnest.decoding.black_box import BlackBox
from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve


@pytest.fixture(scope="module")
def nano() -> Callable[[str], LoadedModel]:
    return lambda name: load(resolve(f"nano:{name}"), dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize(("top_k", "share"), [(5, 0.8), (20, 0.98)])
def test_answers_agree_with_the_exact_ensemble(
    url: str, nano: Callable[[str], LoadedModel], top_k: int, share: float
) -> None:
    base, expert, anti = (nano(name) for name in ("large", "small-tuned", "small"))
    texts = list(dict.fromkeys(question.prompt for question in zero_shot(World.shipped(), 120, seed=5)))[:100]
    prompts = [Prompt(tuple(ids), ("\n",), 16) for ids in encode(base.tokenizer, texts)]
    exact = continue_prompts(Ensemble(base, expert, anti), prompts, 20_000)
    box = BlackBox(f"{url}/v1", "large", expert.tokenizer, top_k=top_k)
    told = continue_prompts(Ensemble.of(box, [Pair(expert, anti)]), prompts, 20_000)
    assert sum(one.text == other.text for one, other in zip(exact, told, strict=True)) >= share * len(prompts)
    assert box.tally.unclear == 0
    assert box.tally.mean_missing < 0.1


@pytest.mark.slow
def test_a_text_that_the_base_ends_alone_is_told_so(url: str, nano: Callable[[str], LoadedModel]) -> None:
    """A biography ends with the end token, of whose step the server tells nothing at first."""
    base = nano("large")
    (ids,) = encode(base.tokenizer, ["Tell me about Mirko Talen."])
    prompt = Prompt(tuple(ids), (), 120)
    (exact,) = continue_prompts(Ensemble.of(base, []), [prompt], 20_000)
    box = BlackBox(f"{url}/v1", "large", base.tokenizer, top_k=5)
    (told,) = continue_prompts(Ensemble.of(box, []), [prompt], 20_000)
    assert (exact.finish, told) == ("end", exact)
    assert box.tally.requests > box.tally.answers
