"""CONTRIBUTING's recipes are followed to the letter in a copy, and what they make is held to every contract."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
HEAD = re.compile(r"# (\S+?)(?:, (before|in) (\w+))?")
FUTURE = "from __future__ import annotations\n"
COPIED = ("pyproject.toml", "tests/conftest.py", "tests/compression", "tests/evaluation", "docs/reference")


def steps() -> list[tuple[str, str | None, str, str]]:
    """The file of each block of code, where in it the code goes, beside which name, and the code."""
    found = []
    for indent, block in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        head, _, code = textwrap.dedent(indent + block[len(indent) :]).partition("\n")
        match = HEAD.fullmatch(head)
        assert match, head
        found.append((match[1], match[2], match[3] or "", code))
    return found


def follow(copy: Path, file: str, where: str | None, name: str, code: str) -> None:
    path = copy / file
    if where is None:
        assert not path.exists()
        path.write_text(code, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    imports = "".join(line for line in code.splitlines(keepends=True) if line.startswith(("from ", "import ")))
    rest = code.removeprefix(imports)
    (line,) = re.findall(rf"^{name}\b.*[\[{{]\n", text, re.MULTILINE)
    text = text.replace(line, f"{rest}\n\n{line}" if where == "before" else line + textwrap.indent(rest, "    "))
    path.write_text(text.replace(FUTURE, f"{FUTURE}\n{imports}", 1), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the recipes' method and task in it."""
    folder = tmp_path_factory.mktemp("copy")
    nano = ROOT / "platform/earnest/models/nano"
    shutil.copytree(ROOT / "platform", folder / "platform", ignore=shutil.ignore_patterns("nano", "__pycache__"))
    (folder / "platform/earnest/models/nano").symlink_to(nano)
    for name in COPIED:
        (folder / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    for step in steps():
        follow(folder, *step)
    return folder


def run(copy: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{copy / 'platform'}:{copy}"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def earnest(copy: Path, *arguments: str) -> str:
    return run(copy, sys.executable, "-c", "from earnest.cli import main; main()", *arguments)


def test_the_recipes_name_files_that_are_there() -> None:
    found = steps()
    assert len(found) == 8
    assert all((ROOT / file).is_file() for file, where, _, _ in found if where)


@pytest.mark.slow
def test_a_method_made_by_the_recipe_compresses_at_any_sparsity(copy: Path, tmp_path: Path) -> None:
    for asked in (("--sparsity", "0.3"), ("--pattern", "2:4")):
        out = tmp_path / asked[1].replace(":", "-")
        said = earnest(copy, "compress", "nano:small", "--method", "row_magnitude", *asked, "--out", str(out))
        assert "reloads bit for bit" in said
    manifest = json.loads((tmp_path / "0.3" / "manifest.json").read_text())
    for tensor in manifest["tensors"]:
        rows, cols = tensor["shape"]
        assert tensor["zeros"] == rows * (3 * cols // 10)
    assert "row_magnitude" in earnest(copy, "compress", "--help")


@pytest.mark.slow
def test_a_task_made_by_the_recipe_is_evaluated_and_refuses_what_all_refuse(copy: Path, tmp_path: Path) -> None:
    data, scores = tmp_path / "test.jsonl", tmp_path / "scores.json"
    rows = [{"question": f"Is {n} even?", "answer": "no" if n % 2 else "yes", "domain": "parity"} for n in range(4)]
    data.write_text("".join(json.dumps({**row, "frequency": 1}) + "\n" for row in rows))
    asked = ("evaluate", "nano:small", "--task", "yes_no", "--data", str(data))
    earnest(copy, *asked, "--json", str(scores), "--out", str(tmp_path / "samples.parquet"))
    found = json.loads(scores.read_text())
    assert (found["asked"], found["headline"], list(found["groups"]["domain"])) == (4, "exact_match", ["parity"])
    data.write_text("".join(json.dumps({**row, "frequency": "often"}) + "\n" for row in rows))
    with pytest.raises(AssertionError, match="row 0: frequency is 'often'; give how often the fact is mentioned"):
        earnest(copy, *asked)


@pytest.mark.slow
def test_what_the_recipes_make_is_held_to_the_contracts(copy: Path) -> None:
    files = ("tests/compression/test_contract.py", "tests/evaluation/test_contract.py")
    said = run(
        copy,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *files,
        "-k",
        "row_magnitude or yes_no or file or whole",
    )
    assert "[100%]" in said
