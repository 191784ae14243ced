"""The deployments of the Serve graph: gateways (HTTP) in front of one ensemble, which places its models.

Only this module and `spread` know Ray. What the deployments do is in `gateway` and `ensemble`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Iterator
from hashlib import blake2b
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from earnest.decoding.batcher import Gauges
from earnest.decoding.requests import Chunk, QueueFullError, Request
from earnest.specs import UserError
from serve.colocated import colocated
from serve.config import Config, Settings
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.seam import EnsembleCard, EnsembleLostError
from serve.spread import spread

log = logging.getLogger("ray.serve")

UNDER_WAY = 64  # requests that a gateway answers at once before Serve starts another one
MOST_UNDER_WAY = 10_000  # the batch itself says when it is full, in OpenAI's shape; Serve never should
HEALTH_PERIOD_S = 2
ITEMS_PER_S = 500.0  # each wakes this replica, a gateway and Serve's proxy; more would take the decoding's time
LEAST_CPUS = 0.1
GRACE_S = 10  # beyond the longest request, for a running stream to end whole


def graph(config: Config, settings: Settings | None = None) -> Application:
    """Gateways -> ensemble, as the config says.

    Deployed again with the same config and other settings, the replicas go on and take the settings over.
    """
    # Without a version of ours, `serve.run` takes whatever it is given for new code and replaces all replicas.
    version = {"version": blake2b(config.model_dump_json().encode(), digest_size=8).hexdigest(), "_internal": True}
    patience = {
        "max_ongoing_requests": MOST_UNDER_WAY,
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": config.limits.timeout_s + GRACE_S,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    # `serve.deployment` makes deployments of both classes, which the type checker does not see.
    ensemble = EnsembleReplica.options(**patience, **_resources(config), **version).bind(config)  # type: ignore[attr-defined]
    gateway = Gateway.options(  # type: ignore[attr-defined]
        **patience,
        ray_actor_options={"num_cpus": config.gateways.cpus},
        autoscaling_config={
            "min_replicas": config.gateways.least,
            "max_replicas": config.gateways.most,
            "target_ongoing_requests": UNDER_WAY,
        },
        user_config=(settings or Settings()).model_dump(mode="json"),
        **version,
    )
    return gateway.bind(config, ensemble)


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

    def __init__(self, config: Config) -> None:
        self._placed = (spread if config.placement == "spread" else colocated)(config)
        self._ensemble = Ensemble(self._placed, config.batch, ITEMS_PER_S)

    async def stream(self, request: Request) -> AsyncGenerator[list[Chunk], None]:
        """See `Ensemble.stream`."""
        async with contextlib.aclosing(self._ensemble.stream(request)) as chunks:
            async for some in chunks:
                yield some

    async def describe(self) -> EnsembleCard:
        """See `Ensemble.describe`."""
        return await self._ensemble.describe()

    async def gauges(self) -> Gauges:
        """See `Ensemble.gauges`."""
        return await self._ensemble.gauges()

    def check_health(self) -> None:
        """Raise where nothing can be decoded any more."""
        self._ensemble.check_health()

    def __del__(self) -> None:
        """Serve's way to say that all streams have ended."""
        if hasattr(self, "_ensemble"):
            self._ensemble.close()


@serve.deployment(name="gateway")
@serve.ingress()
class Gateway:
    """The HTTP side in a replica."""

    def __init__(self, config: Config, ensemble: DeploymentHandle) -> None:
        self._config, self._configured = config, False
        self._app = make_app(config, Remote(ensemble), replica=serve.get_replica_context().replica_tag)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    def reconfigure(self, settings: dict[str, Any]) -> None:
        """Take other `config.Settings` while requests run; those that do not fit are logged, and nothing changes.

        Raises:
            UserError: the first settings do not fit, so that this replica never answers.
        """
        try:
            self._app.state.configure(self._config.with_settings(settings))
        except UserError as error:
            if not self._configured:
                raise
            log.error("%s; nothing was taken over", error)  # noqa: TRY400
        self._configured = True


class Remote:
    """The ensemble's deployment as a `seam.EnsembleHandle`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def stream(self, request: Request) -> AsyncGenerator[list[Chunk], None]:
        """See `Ensemble.stream`; closing it cancels the request in the replica."""
        with _translated():
            responses = self._streaming.stream.remote(request)
            try:
                async for chunks in responses:
                    yield chunks
            finally:
                responses.cancel()

    async def describe(self) -> EnsembleCard:
        """See `Ensemble.describe`."""
        with _translated():
            card: EnsembleCard = await self._handle.describe.remote()
        return card

    async def gauges(self) -> Gauges:
        """See `Ensemble.gauges`."""
        with _translated():
            gauges: Gauges = await self._handle.gauges.remote()
        return gauges


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Ray's errors as those of the seam."""
    try:
        yield
    except TaskCancelledError:
        raise
    except RayTaskError as error:
        if isinstance(error.cause, QueueFullError | EnsembleLostError | ValueError):
            raise error.cause from None
        raise EnsembleLostError(f"the ensemble failed ({type(error.cause).__name__})") from error
    except (RayError, RayServeException) as error:
        raise EnsembleLostError(f"the ensemble cannot be reached ({type(error).__name__})") from error
