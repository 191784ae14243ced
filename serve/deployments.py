"""The deployments of the Serve graph: gateways (HTTP) in front of one ensemble, which places its models.

Ray Serve starts them, watches them and replaces them. What passes between them for each token does not pass through
it: a gateway reaches the ensemble by a socket (`ensemble_client`), and clients reach a gateway by its own port where
the graph is `direct`, through Serve's proxies otherwise. Only this module and `spread` know Ray.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from earnest.decoding.batcher import Gauges
from earnest.specs import UserError
from serve.access import begin as begin_to_log
from serve.colocated import colocated
from serve.config import Config, Settings
from serve.ensemble import Ensemble
from serve.ensemble_client import EnsembleClient
from serve.ensemble_server import EnsembleServer, Place
from serve.gateway import make_app
from serve.http_server import HttpServer
from serve.seam import EnsembleLostError
from serve.spread import spread

log = logging.getLogger("ray.serve")

UNDER_WAY = 64  # requests that a gateway answers at once before Serve starts another one
MOST_UNDER_WAY = 10_000  # the batch itself says when it is full, in OpenAI's shape; Serve never should
HEALTH_PERIOD_S = 2
PROXIED_ITEMS_PER_S = 500.0  # each costs Serve's proxy and the gateway a millisecond, which decoding would have used
LEAST_CPUS = 0.1
GRACE_S = 10  # beyond the longest request, for a running stream to end whole


def graph(config: Config, settings: Settings | None = None, *, direct: bool = False) -> Application:
    """Gateways -> ensemble, as the config says.

    Deployed again with the same config and other settings, the replicas go on and take the settings over.

    Args:
        config: a checked config.
        settings: what differs from it and may change while requests run.
        direct: gateways listen on the config's host and port themselves, all on one machine and as many as
            `gateways.least`; otherwise Serve's proxies do, and Serve scales the gateways.
    """
    # Without a version of ours, `serve.run` takes whatever it is given for new code and replaces all replicas.
    version = blake2b(config.model_dump_json().encode(), digest_size=8).hexdigest()
    patience = {
        "version": version,
        "_internal": True,
        "max_ongoing_requests": MOST_UNDER_WAY,
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": config.limits.timeout_s + GRACE_S,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    # `serve.deployment` makes deployments of both classes, which the type checker does not see.
    ensemble = EnsembleReplica.options(**patience, **_resources(config)).bind(config, version)  # type: ignore[attr-defined]
    gateway = Gateway.options(  # type: ignore[attr-defined]
        **patience,
        **(_fixed(config) if direct else _scaled(config)),
        ray_actor_options={"num_cpus": config.gateways.cpus},
        user_config=(settings or Settings()).model_dump(mode="json"),
    )
    return gateway.bind(config, version, ensemble, direct)


def _fixed(config: Config) -> dict[str, Any]:
    return {"num_replicas": config.gateways.least}


def _scaled(config: Config) -> dict[str, Any]:
    autoscaling = {
        "min_replicas": config.gateways.least,
        "max_replicas": config.gateways.most,
        "target_ongoing_requests": UNDER_WAY,
    }
    return {"autoscaling_config": autoscaling}


def _resources(config: Config) -> dict[str, Any]:
    """What Ray keeps for the ensemble's replica: all of its models' share, or a bundle for itself and for each."""
    models = config.models.values()
    if config.placement == "colocated":
        cpus, gpus = sum(model.cpus for model in models), sum(model.gpus for model in models)
        return {"ray_actor_options": {"num_cpus": _grantable(cpus), "num_gpus": _grantable(gpus)}}
    bundles = [{"CPU": max(model.cpus, LEAST_CPUS), "GPU": model.gpus} for model in models]
    own = {"CPU": LEAST_CPUS}
    return {
        "ray_actor_options": {"num_cpus": LEAST_CPUS},
        "placement_group_bundles": [own, *({k: v for k, v in bundle.items() if v} for bundle in bundles)],
        "placement_group_strategy": config.strategy,
    }


def _grantable(amount: float) -> float:
    """Ray grants ten-thousandths of one, but only whole ones above that."""
    return round(amount, 4) if amount <= 1 else math.ceil(amount)


@serve.deployment(name="ensemble")
class EnsembleReplica:
    """The ensemble in a replica; health checks fail when a model or the decoding is lost, and Serve replaces it."""

    def __init__(self, config: Config, version: str) -> None:
        self._config = config
        self._placed = (spread if config.placement == "spread" else colocated)(config)  # its processes live as long
        self._ensemble = Ensemble(self._placed, config.batch)
        self._server = EnsembleServer(self._ensemble, version)

    def place(self, node: str) -> Place:
        """Where gateways on a node find the ensemble."""
        here = ray.get_runtime_context().get_node_id() == node
        return self._server.place(None if here else ray.util.get_node_ip_address())

    async def gauges(self) -> Gauges:
        """See `Ensemble.gauges`; for operators."""
        return await self._ensemble.gauges()

    def check_health(self) -> None:
        """Raise where nothing can be decoded any more."""
        self._ensemble.check_health()

    def __del__(self) -> None:
        """Serve's way to say that this is the end: running streams are decoded first."""
        if hasattr(self, "_server"):
            self._server.drain(self._config.limits.timeout_s + GRACE_S / 2)
            self._ensemble.close()


@serve.deployment(name="gateway")
@serve.ingress()
class Gateway:
    """The HTTP side in a replica, which listens itself where the graph is direct."""

    def __init__(self, config: Config, version: str, ensemble: DeploymentHandle, direct: bool) -> None:
        async def find() -> Place:
            with _translated():
                place: Place = await ensemble.place.remote(ray.get_runtime_context().get_node_id())
            return place

        self._config, self._direct, self._configured = config, direct, False
        self._settings: dict[str, Any] = {}
        client = EnsembleClient(find, version, math.inf if direct else PROXIED_ITEMS_PER_S)
        replica = serve.get_replica_context().replica_tag
        begin_to_log()
        self._app = make_app(config, client, replica=replica, started=client.look)
        self._http: HttpServer | None = None

    def __serve_build_asgi_app__(self) -> Any:
        # Serve runs what it gets on an event loop of its own; a graph that is direct has no proxies that would ask.
        return Starlette() if self._direct else _Hearing(self._app)

    def reconfigure(self, settings: dict[str, Any]) -> None:
        """Take other `config.Settings` while requests run; those that do not fit are logged, and nothing changes.

        Raises:
            UserError: the first settings do not fit, so that this replica never answers.
        """
        try:
            self._app.state.configure(self._config.with_settings(settings))
            self._settings = settings
        except UserError as error:
            if not self._configured:
                raise
            log.error("%s; nothing was taken over", error)  # noqa: TRY400
        self._configured = True
        if self._direct and self._http is None:  # nobody is answered before the first settings, which may bring keys
            self._http = HttpServer(self._app, self._config.host, self._config.port)

    def check_health(self) -> None:
        """Raise where the port of its own answers no more."""
        if self._http is not None:
            self._http.check_health()

    def __del__(self) -> None:
        """Serve's way to say that this is the end: answers under way are sent first, new requests are refused."""
        if (http := getattr(self, "_http", None)) is not None:
            self._app.state.configure(self._config.with_settings({**self._settings, "draining": True}))
            http.stop(self._config.limits.timeout_s + GRACE_S / 2)


class _Hearing:
    """An app under Serve's proxies: where Ray cancels what would tell of the client, the client has left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            try:
                return await receive()
            except (RayError, KeyError):  # the proxy has forgotten the request
                return {"type": "http.disconnect"}

        await self._app(scope, received, send)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Ray's errors as those of the seam."""
    try:
        yield
    except TaskCancelledError:
        raise
    except RayTaskError as error:
        raise EnsembleLostError(f"the ensemble failed ({type(error.cause).__name__})") from error
    except (RayError, RayServeException) as error:
        raise EnsembleLostError(f"the ensemble cannot be reached ({type(error).__name__})") from error
