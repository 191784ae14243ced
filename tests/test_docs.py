"""The reference pages: every key that a user may write is described, and the schemas accept what ships."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["sweep", "serve"])
def test_every_key_is_described(pages: ModuleType, name: str) -> None:
    kinds = pages.models(pages.SCHEMAS[name])
    assert [
        f"{of.__name__}.{field}" for of in kinds for field in of.model_fields if not pages.description(of, field)
    ] == []


@pytest.mark.parametrize("name", ["commands", "sweep", "serve", "methods", "tasks"])
def test_tables_have_no_empty_cell_where_something_is_told(pages: ModuleType, name: str) -> None:
    rows = [line for line in pages.TABLES[name]().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []


SHIPPED = [
    *(("serve", path) for path in sorted((ROOT / "serve" / "configs").glob("*.toml"))),
    *(("sweep", path) for path in sorted((ROOT / "jobs" / "configs").glob("*.toml")) if path.stem != "nano"),
]


@pytest.mark.parametrize(("name", "config"), SHIPPED, ids=lambda value: getattr(value, "stem", value))
def test_the_schema_accepts_what_ships(pages: ModuleType, name: str, config: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(tomllib.loads(config.read_text(encoding="utf-8")), pages.schema(pages.SCHEMAS[name]))


def test_the_schema_refuses_an_unknown_key(pages: ModuleType) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError, match="modle"):
        jsonschema.validate({"modle": "nano:large"}, pages.schema(pages.SCHEMAS["sweep"]))
