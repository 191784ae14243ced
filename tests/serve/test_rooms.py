"""The rooms of serve: who knows MLflow, who knows Ray, and that the library knows nothing of serving."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "serve"


def imported(path: Path) -> Iterator[str]:
    """The top-level names of all modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_one_module_knows_mlflow() -> None:
    assert [path.name for path in sorted(SERVE.rglob("*.py")) if "mlflow" in imported(path)] == ["traces.py"]


def test_the_http_side_does_not_know_ray() -> None:
    http = ("gateway", "guard", "turns", "running", "orders", "asked", "answers", "replies", "prompts", "metrics")
    assert [name for name in http if "ray" in imported(SERVE / f"{name}.py")] == []


def test_the_library_does_not_know_serving() -> None:
    library = (ROOT / "platform" / "earnest").rglob("*.py")
    assert [path for path in library if "serve" in imported(path)] == []
