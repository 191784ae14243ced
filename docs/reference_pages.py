"""A hook of mkdocs: tables of commands and configuration fields are written from the code when pages are built.

A page asks for one by a line `<!-- generated: NAME -->`, with NAME a key of `TABLES`. JSON schemas for editors are
written beside the pages. A field's description is the docstring below it, its own or that of the class it comes from:
they are read from the source, because reading them at run time would slow every command.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from serve.config import Batch, Config, Gateways, Key, Limits, Model, Pair, Settings, Traces
from typer.main import get_command

from earnest.cli import app
from earnest.specs import METHODS, TASKS
from earnest.specs.ensembles import Proxy
from earnest.specs.harness import LMEval
from earnest.specs.localise import Localise
from earnest.specs.methods import Method, Pruning
from earnest.specs.sweeps import GRID_KEYS, Calibration, Cluster, Noise, Sequential, Sweep, Tracking

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Mkdocs' event: the page's text with each mark in it replaced by its table."""
    return MARK.sub(lambda mark: TABLES[mark[1]](), markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Mkdocs' event: write the schemas where the site is."""
    folder = Path(config["site_dir"]) / "schema"
    folder.mkdir(exist_ok=True)
    for name, of in SCHEMAS.items():
        (folder / f"{name}.json").write_text(json.dumps(schema(of), indent=1), encoding="utf-8")


def schema(of: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of what a user writes, every field described."""
    written = of.model_json_schema()
    for name, described in {of.__name__: written, **written.get("$defs", {})}.items():
        if name in (known := {model.__name__: model for model in models(of)}):
            for field, about in described.get("properties", {}).items():
                about.setdefault("description", description(known[name], field))
            _accept_grids(known[name], described)
    return written


def _accept_grids(of: type[BaseModel], described: dict[str, Any]) -> None:
    """What validators read before pydantic does: lists as grids, sparsity for a pattern, one alpha for a list."""
    fields = described.get("properties", {})
    if issubclass(of, Pruning):
        fields["sparsity"] = {"type": "number", "description": "Share of the weights that become zero, in (0, 1)."}
        fields["pattern"] = {"type": "string", "description": description(of, "pattern")}
        described["required"] = [key for key in described["required"] if key != "pattern"]
    if issubclass(of, Method):
        for key in set(GRID_KEYS) & set(fields):
            fields[key] = {"anyOf": [one := fields[key], {"type": "array", "items": one}]}
    if issubclass(of, Proxy):
        fields["alpha"] = {"anyOf": [fields["alpha"], fields["alpha"]["items"]]}
    if issubclass(of, LMEval):
        fields["task"] = {"type": "string"}


@cache
def models(of: type[BaseModel]) -> tuple[type[BaseModel], ...]:
    """A model and all that its fields are made of."""
    inner = [kind for field in of.model_fields.values() for kind in _models_in(field.annotation)]
    return tuple(dict.fromkeys([of, *(deeper for kind in inner for deeper in models(kind))]))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for argument in typing.get_args(annotation) for kind in _models_in(argument)]


def description(of: type[BaseModel], field: str) -> str:
    """What a field is for: its own description, or the docstring below it in the first class that has one."""
    written = of.model_fields[field].description
    below = (_below_fields(inspect.getmodule(base)).get((base.__name__, field)) for base in of.__mro__[:-2])
    return written or next(filter(None, below), COMMON.get(field, ""))


@cache
def _below_fields(module: ModuleType | None) -> dict[tuple[str, str], str]:
    assert module is not None
    return {
        (of.name, field.target.id): str(text.value.value)
        for of in ast.parse(inspect.getsource(module)).body
        if isinstance(of, ast.ClassDef)
        for field, text in zip(of.body, of.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def commands() -> str:
    """Every command: what it does, its arguments and options, as `--help` tells them."""
    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    rows = [
        (f"`{_spelled(parameter)}`", _default_of_option(parameter), getattr(parameter, "help", None) or "")
        for parameter in command.params
        if parameter.name != "help"
    ]
    about, _, example = (command.help or "").partition("\b")
    shown = f"\n\n```sh\n{example.strip()}\n```" if example.strip() else ""
    return f"## earnest {name}\n\n{' '.join(about.split())}{shown}\n\n" + _table(("option", "default", "what"), rows)


def _spelled(parameter: Any) -> str:
    return str(parameter.name).upper() if isinstance(parameter, typer.core.TyperArgument) else ", ".join(parameter.opts)


def _default_of_option(parameter: Any) -> str:
    default = parameter.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    return f"`{default}`" if plain else ""


def sections(entries: Iterable[tuple[str, type[BaseModel]]]) -> str:
    """One heading and one table of fields per model of a configuration file."""
    return "\n\n".join(f"## {heading}\n\n{_about(of)}\n\n{_fields(of)}" for heading, of in entries)


def _about(of: type[BaseModel]) -> str:
    return "\n".join(line.strip() for line in (of.__doc__ or "").strip().splitlines())


def _fields(of: type[BaseModel]) -> str:
    rows = [
        (f"`{name}`", f"`{_type(field.annotation)}`", _default(field), description(of, name))
        for name, field in of.model_fields.items()
    ]
    return _table(("key", "type", "default", "what"), rows)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments if argument is not type(None)))
    if origin is typing.Literal:
        return " or ".join(f'"{value}"' for value in arguments)
    if origin is not None:
        kind = "list" if origin in (tuple, list) else "table"
        return f"{kind} of {_type(arguments[-1] if arguments[-1] is not Ellipsis else arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "bool": "true or false", "int": "whole number", "float": "number"}.get(
        annotation.__name__, annotation.__name__
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default in ((), "") or isinstance(default, BaseModel | dict):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{list(default) if isinstance(default, tuple) else default}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines)


SWEEP_SECTIONS = (
    ("Top level", Sweep),
    ("[calibration]", Calibration),
    ("[[proxy]]", Proxy),
    ("[[localise]]", Localise),
    ("[sequential]", Sequential),
    ("[noise]", Noise),
    ("[cluster]", Cluster),
    ("[tracking]", Tracking),
)
SERVE_SECTIONS = (
    ("Top level", Config),
    ("[models.NAME]", Model),
    ("[pairs.NAME]", Pair),
    ("[batch]", Batch),
    ("[gateways]", Gateways),
    ("[limits]", Limits),
    ("[[keys]]", Key),
    ("[traces]", Traces),
    ("What may change while requests run", Settings),
)
COMMON = {
    "method": "Its name.",
    "task": "Its name.",
    "judge": "Its kind.",
    "kind": "Its kind.",
    "shots": "Demonstrations before each question.",
    "max_tokens": "Tokens of an answer at most; the style's own by default where it is empty.",
}
SCHEMAS: dict[str, type[BaseModel]] = {"sweep": Sweep, "serve": Config}
TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "sweep": lambda: sections(SWEEP_SECTIONS),
    "serve": lambda: sections(SERVE_SECTIONS),
    "methods": lambda: sections((f"`{of.model_fields['method'].default}`", of) for of in METHODS),
    "tasks": lambda: sections((f"`{of.model_fields['task'].default}`", of) for of in TASKS),
}
