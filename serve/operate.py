"""A served ensemble from its start to Ctrl-C: deploy it, say where it answers, take what changes in its file."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from pathlib import Path

from earnest.cluster.session import connected
from earnest.ending import interrupt
from earnest.specs import UserError
from serve.config import Config, Key, Settings, read_config
from serve.keys import digest, new_key
from serve.starting import start

LOOK_S = 1.0


def operate(file: Path, config: Config) -> None:
    """Serve `config`, which was read from `file`, until interrupted.

    Without keys it gets one, made here and printed; only its hash goes on. What `config.Settings` holds may change in
    the file meanwhile.

    Raises:
        UserError: the cluster has less than the models need, or the deployment failed.
    """
    key, began, seen = None if config.keys else new_key(), read_config(file), _changed_at(file)
    config = config.model_copy(update={"keys": (*config.keys, *_made(key)), "keyless": False})
    with connected(None):
        from ray import serve

        _check_resources(config)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        direct = start(config)
        for one in (signal.SIGINT, signal.SIGTERM):  # Ray's own handlers would not let running answers end
            signal.signal(one, interrupt)
        try:
            _deploy(config, _settings(config), direct)
            announce(config, key)
            while True:
                time.sleep(LOOK_S)
                if (now := _changed_at(file)) not in (None, seen):
                    seen = now
                    _say(_taken_over(file, began, config, key, direct))
        except KeyboardInterrupt:
            _say("ending: running answers are finished first; Ctrl-C again ends them too")
            with contextlib.suppress(KeyboardInterrupt):
                _drain(config.name)
        finally:
            serve.shutdown()


def _made(key: str | None) -> tuple[Key, ...]:
    """The key that was made here, for the deployed config itself, so that new replicas ask for it."""
    return () if key is None else (Key(name="demo", sha256=digest(key), metrics=True),)


def _changed_at(file: Path) -> int | None:
    """When a file was changed last, in ns; None while there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _settings(config: Config, key: str | None = None) -> Settings:
    """All that may change while requests run, and the key that was made here."""
    return Settings(
        alphas={name: pair.alpha for name, pair in config.pairs.items()},
        default_pair=config.default_pair,
        limits=config.limits,
        keys=(*config.keys, *_made(key)),
        draining=config.draining,
        trace_rate=config.traces.rate,
    )


def _check_resources(config: Config) -> None:
    """Serve would wait for ever for what no node has."""
    import ray

    there = ray.cluster_resources()
    for what, wanted in (
        ("GPU", sum(model.gpus for model in config.models.values())),
        ("CPU", sum(model.cpus for model in config.models.values()) + config.gateways.cpus * config.gateways.least),
    ):
        if wanted > there.get(what, 0):
            raise UserError(
                f"the models ask for {wanted:g} {what}s, the cluster has {there.get(what, 0):g}; "
                f"lower {what.lower()}s of [models.NAME], or join a cluster with RAY_ADDRESS"
            )


def _deploy(config: Config, settings: Settings, direct: bool) -> None:
    from ray import serve

    from serve.deployments import graph

    try:
        serve.run(graph(config, settings, direct=direct), name=config.name, route_prefix="/")
    except RuntimeError as error:
        raise UserError(f"the ensemble could not be deployed: {_why(config.name) or error}") from error


def _why(name: str) -> str:
    """What ended the replica of a deployment that failed: the last line of its traceback; "" where there is none."""
    from ray import serve

    app = serve.status().applications.get(name)
    failed = [one.message for one in app.deployments.values() if "Error: " in one.message] if app else []
    return failed[0].strip().splitlines()[-1].rpartition("UserError: ")[2] if failed else ""


def _drain(name: str) -> None:
    """Let running answers end; `serve.shutdown` alone would take the way out from them first."""
    from ray import serve

    while name in serve.status().applications:
        with contextlib.suppress(TimeoutError):  # of a minute; replicas themselves may take `timeout_s` and some more
            serve.delete(name)


def announce(config: Config, key: str | None = None) -> None:
    """Say where the ensemble answers, and the key that was made for it."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    sys.stdout.write(f"{config.name} answers at http://{host}:{config.port}\n")
    if key is not None:
        sys.stdout.write(f"key: {key}\n")
        sys.stdout.write(f"the page, with the key: http://{host}:{config.port}/#key={key}\n")
    sys.stdout.flush()


def _taken_over(file: Path, began: Config, config: Config, key: str | None, direct: bool = False) -> str:
    try:
        changed = read_config(file)
        settings = _settings(changed)
        if began.with_settings(settings.model_dump()) != changed:
            return f"{file} changed in what takes a restart; nothing of it was taken over"
        settings = _settings(changed, key)
        config.with_settings(settings.model_dump())
        _deploy(config, settings, direct)
    except UserError as error:
        return f"error: {error}\nnothing was taken over"
    return f"{file} was taken over"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
