"""Start the served ensemble.

    serve run serve.app:build config=serve/configs/nano.toml      on the Ray that it finds, or one for this machine
    python -m serve.app serve/configs/nano.toml [--port PORT]     with host and port of the config; Ctrl-C ends it

All that can be checked is checked before anything is deployed. A config without keys gets one, made at random for
this run and printed, when it is started in the second way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import TypeAdapter

from earnest.ending import ended_by_signals
from earnest.models.inspected import InspectedModel
from earnest.preflight import check_model
from earnest.specs import Spec, UserError, validated
from serve import access, front
from serve.config import Config, read_config
from serve.operate import announce, operate
from serve.starting import start_ahead_of_serve_run, with_free_port

if TYPE_CHECKING:
    from ray.serve import Application

DEFAULT = "serve/configs/nano.toml"


class Arguments(Spec):
    """What `serve run serve.app:build` takes, as name=value."""

    config: str = DEFAULT


class Refused(click.ClickException):
    """A user's mistake, as Ray Serve's command line shows it: one line, no traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Say what, the rule and the remedy."""
        click.echo(f"error: {self.message}", file=file or sys.stderr)


def build(args: dict[str, str]) -> Application:
    """The application for `serve run`, `serve deploy` and KubeRay.

    Raises:
        Refused: unknown arguments, a bad config, one without keys that is not `keyless`, a model that is missing,
            vocabularies that differ.
    """
    from serve.deployments import graph

    front.wanted()
    try:
        arguments = validated(TypeAdapter(Arguments), args, "serve.app:build")
        config = _locked(checked(read_config(Path(arguments.config))))
        if (direct := start_ahead_of_serve_run(config)) is not None:
            announce(direct)
        return graph(direct or config, direct=direct is not None)
    except UserError as error:
        raise Refused(str(error)) from None


def _locked(config: Config) -> Config:
    """The config, if it has keys or says that none are meant: what was locked is not opened by a mistake."""
    if not config.keys and not config.keyless:
        raise UserError(
            "keys: there is none, so that any process of this machine is served; add one (python -m serve.keys new "
            "NAME), or say keyless = true"
        )
    return config


def checked(config: Config) -> Config:
    """The config with its folders named from the root, as replicas elsewhere need them, once all of it is there.

    Raises:
        UserError: a model or template is missing or damaged, or the models have different vocabularies.
    """
    from serve.prompts import Prompts

    for model in config.models.values():
        check_model(InspectedModel.of(model.source))
    Prompts(config)
    models = {
        name: model.model_copy(
            update={"source": _from_root(model.source), "chat_template": _from_root(model.chat_template)}
        )
        for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def _from_root(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a config until interrupted."""
    options = _options(arguments)
    front.wanted()
    try:
        config = read_config(options.config)
        if options.port is not None:
            config = validated(TypeAdapter(Config), {**config.model_dump(), "port": options.port}, "--port")
        with access.followed():
            operate(options.config, with_free_port(checked(config)))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serve.app", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, nargs="?", default=Path(DEFAULT), help=f"TOML file (default: {DEFAULT})")
    parser.add_argument("--port", type=int, help="instead of the config's")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with ended_by_signals():
        sys.exit(main())
