"""Tokens are of the kind that their text says, and the parts of a mean add up to it."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from earnest.almanac.language import biography
from earnest.evaluation.nano import shipped_world
from earnest.evaluation.run import evaluate
from earnest.evaluation.token_kinds import form_of, parts, position_bucket, told_by
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.records import Part, Scores
from earnest.specs import Perplexity


@pytest.mark.parametrize(
    ("before", "piece", "form"),
    [
        ("The", " Vien", "word begins"), (" Vien", "na", "word goes on"), ("na", ".", "punctuation"),
        (" in", " 19", "digits"), ("19", "29", "digits"), (".", "\n", "white space"), ("", "The", "word begins"),
        (".", "", "other"), (" caf", "\ufffd", "other"), ("(", "a", "word begins"), ("19", "th", "word goes on"),
    ],
)  # fmt: skip
def test_a_token_has_a_form(before: str, piece: str, form: str) -> None:
    assert form_of(piece, before) == form


def test_positions_fall_into_growing_buckets() -> None:
    asked = (1, 16, 17, 64, 65, 4096, 4097)
    assert [position_bucket(read) for read in asked] == [
        "1 to 16", "1 to 16", "17 to 64", "17 to 64", "65 to 256", "1025 to 4096", "4097 and more",
    ]  # fmt: skip


def test_a_value_is_knowledge_once_and_a_copy_after_that() -> None:
    import random

    world = shipped_world()
    person = world.people[0]
    text = biography(person, random.Random(0)) + f" {person.facts['city']}\n"
    tokenizer = load(resolve("nano:small"), device="cpu", dtype="float32").tokenizer
    kinds = told_by(tokenizer, [text], world)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    said = {
        kind: "".join(tokenizer.decode([t]) for t, k in zip(ids, kinds, strict=True) if k == kind) for kind in kinds
    }
    assert sorted(said["value"].split()) == sorted(person.facts.values())
    assert said["value again"].split() == [person.facts["city"]]
    assert set(said["name"].split()) == set(person.name.split())


def test_a_broken_window_is_left_out_of_every_part() -> None:
    values = np.array([1.0, 2.0, np.inf, 4.0])
    found = parts(values, np.array([0, 0, 1, 1]), {"form": ["digits", "other", "digits", "other"]})
    assert {name: (part.tokens, part.mean.value) for name, part in found["form"].items()} == {
        "digits": (1, 1.0), "other": (1, 2.0),
    }  # fmt: skip


@pytest.mark.slow
def test_the_parts_of_kl_and_of_nats_add_up_to_the_whole(tmp_path: Path) -> None:
    task = Perplexity(limit=30, length=64, kl_bytes=4 * 1536 * 500)
    dense = evaluate(load(resolve("nano:medium"), device="cpu", dtype="float32"), task, "nano")
    assert dense.reference is not None
    save_file(dense.reference, tmp_path / "reference.safetensors")
    subject = load(resolve("nano:small"), device="cpu", dtype="float32")
    scores = evaluate(subject, task, "nano", tmp_path / "reference.safetensors").scores
    whole = {
        "kl_to_dense": scores.metrics["kl_to_dense"].value,
        "nats_per_token": float(np.log(scores.metrics["token_perplexity"].value)),
    }
    assert scores.breakdowns.keys() == whole.keys()
    for metric, groupings in scores.breakdowns.items():
        assert groupings.keys() == {"position", "form", "told"}
        for found in groupings.values():
            assert weighted(found) == pytest.approx(whole[metric], rel=1e-9)
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
    told = scores.breakdowns["kl_to_dense"]["told"]
    assert told["value"].mean.value > told["grammar"].mean.value


def weighted(found: dict[str, Part]) -> float:
    return sum(part.mean.value * part.tokens for part in found.values()) / sum(part.tokens for part in found.values())
