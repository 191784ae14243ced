"""Promises of the repository itself: names that hide nothing, configs that parse, tables that are complete."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel

from earnest.specs import METHODS, TASKS, read_sweep

ROOT = Path(__file__).parents[1]
PROBE = "import platform; assert platform.system(), platform; import earnest; print(platform.__file__)"


def test_platform_is_never_a_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("how", [["-c", PROBE], ["-m", "pytest", "--version"]])
def test_the_standard_library_is_found_from_the_root(how: list[str]) -> None:
    subprocess.run([sys.executable, *how], cwd=ROOT, check=True, capture_output=True)


def test_the_standard_library_is_found_with_the_root_on_the_path() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert str(ROOT) not in done.stdout


@pytest.mark.parametrize("config", sorted((ROOT / "jobs" / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_config_parses(config: Path) -> None:
    if config.stem.startswith("nano"):
        from earnest.almanac.recipe import load_recipe

        load_recipe(config)
    else:
        read_sweep(config)


@pytest.mark.parametrize(("kind", "specs"), [("method", METHODS), ("task", TASKS)])
def test_every_method_and_task_stands_in_its_table(kind: str, specs: Sequence[type[BaseModel]]) -> None:
    page = (ROOT / "docs" / "reference" / f"{kind}s.md").read_text(encoding="utf-8")
    names = [spec.model_fields[kind].default for spec in specs]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def test_the_version_is_said_once() -> None:
    import tomllib

    import earnest

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == earnest.__version__


def test_no_file_names_a_registry_host() -> None:
    hosts = ("pypi" + ".org", "files.python" + "hosted", "deb." + "debian", "registry." + "npmjs")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    texts = [ROOT / name for name in tracked if not name.endswith((".safetensors", ".parquet", ".png"))]
    named = [path for path in texts if path.is_file() and any(h in path.read_text(errors="ignore") for h in hosts)]
    assert named == []
