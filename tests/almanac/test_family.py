"""Promises of building the family: what is finished is not trained again, what has changed is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from earnest.almanac.family import prepare, train_size, write_manifest
from earnest.almanac.recipe import (
    ModelSpec,
    Optimiser,
    Recipe,
    TokenizerSpec,
    Training,
    Tuning,
    WorldSpec,
)
from earnest.almanac.world import World

OPTIMISER = Optimiser(muon=0.01, adamw=0.01, warmup=1, decay=0.5)
RECIPE = Recipe(
    world=WorldSpec(seed=3, people=60),
    tokenizer=TokenizerSpec(vocabulary=400, documents=300),
    models={"small": ModelSpec(hidden=32, layers=1, heads=2, mlp=32, seed=4)},
    training=Training(steps=10, rows=2, length=64, seed=1, optimiser=OPTIMISER),
    tuning=Tuning(sizes=("small",), steps=2, seed=5, reading=0.5, biographies=0.1, optimiser=OPTIMISER),
)


def build(recipe: Recipe, out: Path) -> dict[str, int]:
    """Build without worker processes; when each model's weights were written."""
    torch.set_num_threads(1)
    prepare(recipe, World.build(recipe.world.seed, recipe.world.people), out)
    train_size(recipe, out, "small")
    return {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in ("small", "small-tuned")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    out = tmp_path_factory.mktemp("family")
    return out, build(RECIPE, out)


def test_a_finished_model_is_not_trained_again(built: tuple[Path, dict[str, int]]) -> None:
    out, written = built
    assert build(RECIPE, out) == written


def test_the_manifest_pins_every_file_by_its_sha256(built: tuple[Path, dict[str, int]]) -> None:
    out, _ = built
    files = write_manifest(RECIPE, World.build(3, 60), out)["files"]
    assert {"small/model.safetensors", "small/tokenizer.json", "small-tuned/config.json"} <= set(files)
    for name, digest in files.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert json.loads((out / "manifest.json").read_text())["files"] == files


def test_another_tuning_tunes_again_and_keeps_the_base(tmp_path: Path) -> None:
    first = build(RECIPE, tmp_path)
    tuning = RECIPE.tuning.model_copy(update={"seed": 6})
    second = build(RECIPE.model_copy(update={"tuning": tuning}), tmp_path)
    assert second["small"] == first["small"]
    assert second["small-tuned"] > first["small-tuned"]
