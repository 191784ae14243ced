"""Build the nano family: world, tokenizer, three base models, two tuned ones, and a manifest that pins every file.

Each model is written when it is done, beside the digest of all that decides it; a finished model is not trained again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from earnest.almanac.corpus import FINAL, PHASES, document_stream
from earnest.almanac.packing import rows_digest, training_rows
from earnest.almanac.recipe import Recipe, Size
from earnest.almanac.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from earnest.almanac.training import OnStep, Trained, build_model, next_token_batches, save_model, train
from earnest.almanac.tuning import tuning_batches
from earnest.almanac.world import World

log = logging.getLogger(__name__)
DONE, ROWS = "trained.json", "rows.safetensors"


def build_family(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train whatever of the family `out` lacks, two processes at a time, write `out`/manifest.json and return it."""
    world = World.build(recipe.world.seed, recipe.world.people)
    prepare(recipe, world, out)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        sizes = sorted(recipe.models, key=("large", "small", "medium").index)  # the longest first, alone on its core
        for line in [pool.submit(train_size, recipe, out, size) for size in sizes]:
            line.result()
    return write_manifest(recipe, world, out)


def train_size(recipe: Recipe, out: Path, size: Size) -> None:
    """One base model and, where the recipe asks for it, its tuned twin, on one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    disable_progress_bar()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_base(recipe, out, size)
    if size in recipe.tuning.sizes:
        train_tuned(recipe, out, size)


def train_base(recipe: Recipe, out: Path, size: Size) -> None:
    """Pretrain `size` on the corpus into `out`/`size`, unless that is done."""
    rows = load_file(out / "work" / ROWS)["rows"]
    decides = _digest(
        [recipe.models[size].model_dump(), recipe.training.model_dump(exclude={"snapshot"}), rows_digest(rows)]
    )
    if _is_done(out / size, decides):
        return
    tokenizer = load_tokenizer(out / "work")
    model = build_model(recipe.models[size], tokenizer.get_vocab_size())
    batches = next_token_batches(rows, recipe.training.rows)
    trained = train(
        model, batches, recipe.training.steps, recipe.training.optimiser, _snapshots(model, recipe, out, size)
    )
    _publish(model, tokenizer, trained, decides, out, size)


def train_tuned(recipe: Recipe, out: Path, size: Size) -> None:
    """Tune the finished base model of `size` into `out`/`size`-tuned, unless that is done."""
    name = f"{size}-tuned"
    decides = _digest(
        [_file_digest(out / size / "model.safetensors"), recipe.tuning.model_dump(), recipe.world.model_dump()]
    )
    if _is_done(out / name, decides):
        return
    world, tokenizer = World.build(recipe.world.seed, recipe.world.people), load_tokenizer(out / "work")
    model = LlamaForCausalLM.from_pretrained(out / size, dtype=torch.float32)
    batches = tuning_batches(world, tokenizer, recipe.training, recipe.tuning)
    trained = train(model, batches, recipe.tuning.steps, recipe.tuning.optimiser)
    _publish(model, tokenizer, trained, decides, out, name)


def write_manifest(recipe: Recipe, world: World, out: Path) -> dict[str, Any]:
    """Pin the recipe, the world, the training rows and every shipped file of `out` in manifest.json."""
    folders = sorted(p.parent for p in out.glob(f"*/{DONE}") if p.parent.name != "work")
    files = sorted(f for folder in folders for f in folder.iterdir() if f.name != DONE)
    manifest = {
        "recipe": recipe.model_dump(mode="json"),
        "world_digest": world.digest(),
        "rows_digest": rows_digest(load_file(out / "work" / ROWS)["rows"]),
        "files": {f.relative_to(out).as_posix(): _file_digest(f) for f in files},
        "training": {folder.name: json.loads((folder / DONE).read_text())["training"] for folder in folders},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def learn_tokenizer(recipe: Recipe, world: World) -> Tokenizer:
    """The family's tokenizer, learnt on documents of the final mix."""
    spec = recipe.tokenizer
    return train_tokenizer(list(islice(document_stream(world, FINAL, spec.seed), spec.documents)), spec.vocabulary)


def prepare(recipe: Recipe, world: World, out: Path) -> None:
    """Write tokenizer and training rows into `out`/work, unless the same recipe has done so."""
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    decides = _digest(
        [
            recipe.world.model_dump(),
            recipe.tokenizer.model_dump(),
            recipe.training.model_dump(exclude={"snapshot", "optimiser"}),
            {name: asdict(phase) for name, phase in PHASES.items()},
        ]
    )
    if _is_done(work, decides):
        return
    tokenizer = learn_tokenizer(recipe, world)
    save_tokenizer(tokenizer, work, max(m.context for m in recipe.models.values()))
    save_file({"rows": training_rows(world, tokenizer, recipe.training)}, work / ROWS)
    (work / DONE).write_text(json.dumps({"decided_by": decides}))


def _publish(
    model: LlamaForCausalLM, tokenizer: Tokenizer, trained: Trained, decides: str, out: Path, name: str
) -> None:
    """Write a finished model under its name at once; what it was before is gone."""
    draft = out / "work" / f"{name}.draft"
    save_model(model, draft)
    save_tokenizer(tokenizer, draft, model.config.max_position_embeddings)
    record = {"parameters": sum(p.numel() for p in model.parameters()), **asdict(trained)}
    (draft / DONE).write_text(json.dumps({"decided_by": decides, "training": record}))
    shutil.rmtree(out / name, ignore_errors=True)
    draft.rename(out / name)
    shutil.rmtree(out / "work" / f"{name}.snapshot", ignore_errors=True)
    log.info("%s done: %s", name, record)


def _snapshots(model: LlamaForCausalLM, recipe: Recipe, out: Path, name: str) -> OnStep:
    """Every `snapshot` steps: log the mean loss and save the unfinished model, so that a failing run shows early."""
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step % recipe.training.snapshot == 0:
            log.info("%s step %d of %d: loss %.4f", name, step, recipe.training.steps, sum(losses) / len(losses))
            losses.clear()
            save_model(model, out / "work" / f"{name}.snapshot")

    return on_step


def _is_done(folder: Path, decides: str) -> bool:
    record = folder / DONE
    return record.exists() and json.loads(record.read_text())["decided_by"] == decides


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
