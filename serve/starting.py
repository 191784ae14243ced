"""Starting Ray Serve: without its proxies where gateways listen themselves."""

from __future__ import annotations

import os
import socket

import click

from earnest.cluster.session import STARTED_HERE
from earnest.specs import UserError
from serve.config import LOOPBACK, Config


def start(config: Config) -> bool:
    """Start Serve on the Ray that is connected; whether the graph is direct (see `deployments.graph`)."""
    import ray
    from ray import serve

    one_machine = len([node for node in ray.nodes() if node["Alive"]]) == 1
    direct = config.gateways.ingress == "direct" and one_machine
    location = {"proxy_location": "Disabled"} if direct else {}
    serve.start(http_options={"host": config.host, "port": config.port}, **location)
    return direct and not serve.status().proxies  # Serve may have been there before


def start_ahead_of_serve_run(config: Config) -> Config | None:
    """Do what `serve run` does once it has the application, but without proxies; the config of a graph that is direct.

    `serve run` connects to Ray and starts Serve unless that is done. Nothing is done where it is not `serve run` that
    asks, or where it was told how to.
    """
    import ray
    from ray.serve.scripts import run

    context = click.get_current_context(silent=True)
    if context is None or context.command is not run or config.gateways.ingress == "proxy" or ray.is_initialized():
        return None
    told = context.params
    if told["runtime_env"] or told["runtime_env_json"] or told["working_dir"] or told["route_prefix"] != "/":
        return None
    for name, value in STARTED_HERE.items():  # read by a Ray that is started here, not by one that runs
        os.environ.setdefault(name, value)
    ray.init(address=told["address"], namespace="serve")
    return with_free_port(config) if start(config) else None


def with_free_port(config: Config) -> Config:
    """The config's port, or one that is free where it is taken and nobody but this machine is served.

    Raises:
        UserError: there is none.
    """
    for port in (config.port, *((0,) if config.host in LOOPBACK else ())):
        with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.host, port))
            except OSError:
                continue
            return config.model_copy(update={"port": probe.getsockname()[1]})
    raise UserError(f"port {config.port} of {config.host} cannot be had; set another one in the config, or --port")
