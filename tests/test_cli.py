"""The command line: what it prints, what it refuses, and that what it writes is whole."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from earnest.cli import app
from earnest.models.source import resolve
from earnest.specs import UserError

runner = CliRunner()


def run(*arguments: object) -> str:
    """What a command prints; its errors are raised."""
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    "command",
    ["plan", "sweep", "compress", "evaluate", "verify", "export", "report", "dashboard", "generate", "compare"],
)
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert f"Example: earnest {command}" in run(command, "--help")


def test_a_mistake_is_one_line_on_stderr_and_exit_code_2() -> None:
    command = [str(Path(sys.executable).parent / "earnest"), "evaluate", "nano:huge", "--task", "closed_book"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: model 'nano:huge'")
    assert "Traceback" not in done.stderr


def test_compress_verify_evaluate_and_export_go_together(tmp_path: Path) -> None:
    checkpoint = tmp_path / "wanda"
    said = run(
        "compress", "nano:small", "--method", "wanda", "--pattern", "2:4",
        "--samples", 4, "--length", 64, "--out", checkpoint,
    )  # fmt: skip
    assert "sparsity 0.5000" in said
    assert "as published" in run("verify", checkpoint)
    run("evaluate", checkpoint, "--task", "closed_book", "--limit", 12,
        "--json", tmp_path / "s.json", "--out", tmp_path / "s.parquet")  # fmt: skip
    assert json.loads((tmp_path / "s.json").read_text())["metrics"]["exact_match"]["n"] == 12
    assert pq.read_table(tmp_path / "s.parquet").num_rows == 12
    run("export", checkpoint, "--format", "dense", "--out", tmp_path / "dense")
    run(
        "evaluate",
        tmp_path / "dense",
        "--task",
        "closed_book",
        "--data",
        "nano",
        "--limit",
        12,
        "--json",
        tmp_path / "d.json",
    )
    assert json.loads((tmp_path / "d.json").read_text()) == json.loads((tmp_path / "s.json").read_text())


def test_a_changed_byte_is_found_by_verify(tmp_path: Path) -> None:
    checkpoint = tmp_path / "rtn"
    run("compress", "nano:small", "--method", "rtn", "--bits", 4, "--group-size", 16, "--out", checkpoint)
    weights = checkpoint / "compressed.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"compressed\.safetensors"):
        run("verify", checkpoint)
    with pytest.raises(UserError, match=r"compressed\.safetensors"):
        run("evaluate", checkpoint, "--task", "closed_book", "--limit", 4)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(UserError, match="exists already"):
        run("compress", "nano:small", "--method", "magnitude", "--sparsity", 0.5, "--out", there)
    with pytest.raises(UserError, match="does not divide"):
        run("compress", "nano:small", "--method", "rtn", "--bits", 4, "--group-size", 40, "--out", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_mmlu_runs_on_a_folder_of_parquet(make_tiny: Callable[..., Path], shared: Path, tmp_path: Path) -> None:
    run("evaluate", make_tiny(), "--task", "mmlu", "--data", shared / "data" / "mmlu", "--limit", 30,
        "--json", tmp_path / "scores.json")  # fmt: skip
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["asked"], scores["scored"], scores["failed"]) == (30, 30, 0)


def test_generate_answers_and_proxy_tuning_makes_the_base_terse() -> None:
    question = "Q: Where was nobody born?\\nA:"
    alone = run("generate", question, "--base", "nano:small", "--max-tokens", 8)
    steered = run("generate", question, "--base", "nano:small", "--expert", "nano:small-tuned",
                  "--antiexpert", "nano:small", "--max-tokens", 8)  # fmt: skip
    unmoved = run("generate", question, "--base", "nano:small", "--expert", "nano:small-tuned",
                  "--antiexpert", "nano:small", "--alpha", 0, "--max-tokens", 8)  # fmt: skip
    assert unmoved == alone
    assert steered


def test_an_ensemble_is_evaluated_and_alpha_zero_is_the_base(tmp_path: Path) -> None:
    def score(name: str, *options: object) -> dict[str, object]:
        file = tmp_path / f"{name}.json"
        run("evaluate", "nano:large", "--task", "closed_book", "--shots", 0, "--limit", 40, "--json", file, *options)
        return json.loads(file.read_text())

    pair = ("--expert", "nano:small-tuned", "--antiexpert", "nano:small")
    alone, unmoved, steered = score("alone"), score("zero", *pair, "--alpha", 0), score("steered", *pair)
    assert unmoved == alone
    assert steered["metrics"]["exact_match"]["value"] > alone["metrics"]["exact_match"]["value"] + 0.2  # type: ignore[index]
    assert steered["token_shift"]["changed"]["value"] > 0.1  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "[/red]"], "[/red]"),
        (["evaluate", "nano:small", "--task", "closed_book", "--device", "nonsense"], "device 'nonsense'"),
        (
            ["evaluate", "nano:small", "--task", "closed_book", "--json", "no/such/folder/x.json"],
            "x.json: cannot be written",
        ),
        (["evaluate", "", "--task", "closed_book"], "model ''"),
        (
            ["compress", "nano:small", "--method", "wanda", "--sparsity", "0.5", "--samples", "0", "--out", "x"],
            "samples",
        ),
        (
            ["compress", "nano:small", "--method", "rtn", "--bits", "4", "--group-size", "16", "--out", "/proc/x"],
            "/proc/x",
        ),
        (["generate", "Q:", "--antiexpert", "nano:small"], "needs an expert"),
        (["evaluate", "nano:small", "--task", "trivia_qa", "--set", "style"], "--set style: write it as NAME=VALUE"),
        (["evaluate", "nano:small", "--task", "trivia_qa", "--set", "style=x"], "style = 'x'"),
        (["evaluate", "nano:small", "--task", "closed_book", "--alpha", "much"], "alpha much: write a finite number"),
    ],
)
def test_every_mistake_is_told_before_or_without_harm(
    arguments: list[str], words: str, refused: Callable[..., str]
) -> None:
    assert words in refused(*arguments)


def test_a_task_is_given_its_own_settings(tmp_path: Path) -> None:
    settings = ("--set", "open_book=true", "--set", "max_tokens=8")
    run("evaluate", "nano:small", "--task", "trivia_qa", "--limit", 4, "--json", tmp_path / "s.json", *settings)
    scores = json.loads((tmp_path / "s.json").read_text())
    assert set(scores["groups"]["stratum"]) == {"unseen"}, "open-book questions are about strangers"


def test_a_report_before_the_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run earnest sweep"):
        run("report", Path(__file__).parents[1] / "jobs" / "configs" / "smoke.toml", "--store", tmp_path / "store")


def test_what_is_computed_in_and_what_is_saved_stand_beside_every_result(tmp_path: Path) -> None:
    checkpoint = tmp_path / "half"
    said = run("compress", "nano:small", "--method", "magnitude", "--sparsity", 0.5, "--dtype", "float32",
               "--out", checkpoint)  # fmt: skip
    dense = resolve("nano:small").path / "model.safetensors"
    saved = 1 - (checkpoint / "compressed.safetensors").stat().st_size / dense.stat().st_size
    told = f"{saved:.1%} of the file saved (43.8% of the touched weights), computed in float32, stored in bfloat16"
    assert told in said
    asked = ("--task", "closed_book", "--limit", 4)
    for dtype in ("float32", "bfloat16", "stored"):
        said = run("evaluate", checkpoint, *asked, "--dtype", dtype, "--out", tmp_path / f"{dtype}.parquet")
        assert f"failed 0, computed in {'float32' if dtype == 'float32' else 'bfloat16'}" in said
        assert told in said
    said = run("compare", tmp_path / "float32.parquet", tmp_path / "bfloat16.parquet")
    assert "float32.parquet, computed in float32" in said
    assert "A and B computed in different dtypes" in said
    assert "different" not in run("compare", tmp_path / "stored.parquet", tmp_path / "bfloat16.parquet")


def test_a_text_is_continued_in_the_dtype_asked() -> None:
    asked = ("generate", "Q: Where was nobody born?\\nA:", "--base", "nano:small", "--max-tokens", 4)
    assert run(*asked, "--dtype", "float32") == run(*asked, "--dtype", "float32")
    assert run(*asked, "--dtype", "stored")
    with pytest.raises(UserError, match="dtype 'int4': use one of auto, stored, float32, bfloat16, float16"):
        run(*asked, "--dtype", "int4")
