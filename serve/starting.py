"""Starting Ray Serve: without its proxies where gateways listen themselves."""

from __future__ import annotations

import click

from serve.config import Config


def start(config: Config) -> bool:
    """Start Serve on the Ray that is connected; whether the graph is direct (see `deployments.graph`)."""
    import ray
    from ray import serve

    one_machine = len([node for node in ray.nodes() if node["Alive"]]) == 1
    direct = config.gateways.ingress == "direct" and one_machine
    if direct:
        serve.start(proxy_location="Disabled")
    else:
        serve.start(http_options={"host": config.host, "port": config.port})
    return direct and not serve.status().proxies  # Serve may have been there before


def start_ahead_of_serve_run(config: Config) -> bool:
    """Do what `serve run` does once it has the application, but without proxies; whether the graph is direct.

    `serve run` connects to Ray and starts Serve unless that is done. Nothing is done where it is not `serve run` that
    asks, or where it was told how to.
    """
    import ray

    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run" or config.gateways.ingress == "proxy" or ray.is_initialized():
        return False
    told = context.params
    if told["runtime_env"] or told["runtime_env_json"] or told["working_dir"] or told["route_prefix"] != "/":
        return False
    ray.init(address=told["address"], namespace="serve")
    return start(config)
