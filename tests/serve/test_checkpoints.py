"""A compressed checkpoint is served like a model: as base, expert or antiexpert."""

import asyncio
from pathlib import Path

import pytest
import torch
from serve.app import checked
from serve.colocated import colocated
from serve.config import Batch, Config, Model
from serve.ensemble import Ensemble

from earnest.compression import checkpoint
from earnest.compression.produce import compress_to_folder
from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble as PlainLoop
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.decoding.requests import Mixture, Request, Steering
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.specs import read_method


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano:small at 4 bits."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small-4"
    folder.mkdir()
    loaded = load(resolve("nano:small"), dtype="float32")
    compress_to_folder(loaded, read_method({"method": "rtn", "bits": 4, "group_size": 16}), None, folder)
    return folder


def test_a_checkpoint_is_a_base_like_any_other(config: Config, squeezed: Path) -> None:
    models = {"base": Model(source=str(squeezed), dtype="float32", chat_template="plain")}
    models |= {name: config.models[name] for name in ("small-tuned", "small")}
    served = checked(Config(models=models, base="base", batch=Batch(rows=2, context=64)))
    base, expert, anti = (
        checkpoint.load(squeezed),
        *(load(resolve(f"nano:{n}"), dtype="float32") for n in ("small-tuned", "small")),
    )
    prompt = tuple(encode(base.tokenizer, ["Q: Where was "])[0])
    (expected,) = continue_prompts(PlainLoop(base, expert, anti), [Prompt(prompt, (), 16)], 1000)
    threads = torch.get_num_threads()
    ensemble = Ensemble(colocated(served), served.batch)
    request = Request(prompt, Mixture("base", (Steering("small-tuned", "small"),)), max_tokens=16)

    async def text() -> str:
        return "".join([chunk.text async for chunks in ensemble.stream(request) for chunk in chunks])

    assert asyncio.run(text()) == expected.text
    ensemble.close()
    torch.set_num_threads(threads)
