"""lm-eval's tiny Llama, with the tokenizer's own <s> or without it, and what lm-eval found with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from earnest.models.loading import LoadedModel, load
from earnest.models.source import Source

TOLERANCE = 2e-4


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    return shared / "parity/evaluation"


@pytest.fixture(scope="session", params=["bos", "nobos"])
def tiny_llama(request: pytest.FixtureRequest, parity: Path) -> LoadedModel:
    model = load(Source("tiny", parity / "tiny_llama", "0"))
    if request.param == "nobos":
        from tokenizers.processors import TemplateProcessing

        model.tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    model.name = request.param
    return model


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
