"""Tiny random models, and the nano family in float32, for the tests of this room."""

from collections.abc import Callable

import pytest

from earnest.almanac.questions import zero_shot
from earnest.almanac.world import World
from earnest.decoding.encoding import encode
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from evaluation.tiny_models import make_model, tokenizer

__all__ = ["make_model", "nano", "short_prompts", "tokenizer"]


@pytest.fixture(scope="session")
def nano() -> Callable[[str], LoadedModel]:
    """A member of the nano family in float32, loaded once."""
    loaded: dict[str, LoadedModel] = {}

    def member(name: str) -> LoadedModel:
        if name not in loaded:
            loaded[name] = load(resolve(f"nano:{name}"), dtype="float32")
        return loaded[name]

    return member


@pytest.fixture(scope="session")
def short_prompts(nano: Callable[[str], LoadedModel]) -> list[tuple[int, ...]]:
    """The tokens of 300 different zero-shot questions about the invented world."""
    texts = dict.fromkeys(question.prompt for question in zero_shot(World.shipped(), 400, seed=5))
    return [tuple(ids) for ids in encode(nano("large").tokenizer, list(texts)[:300])]
