"""MLflow traces of sampled requests: the one serve module that knows MLflow.

Requests hand over a finished `Told` and go on; a thread writes it. Where MLflow is slow or gone, traces are dropped and
counted, never requests.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
from dataclasses import dataclass
from typing import Any

from serve.config import Traces

log = logging.getLogger(__name__)

WAITING = 256
CLOSING_S = 5.0


@dataclass(frozen=True)
class Told:
    """One request as a trace shows it: never the key, only its name."""

    route: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    attributes: dict[str, Any]
    failed: str | None
    began_ns: int
    ended_ns: int


class Tracer:
    """Writes traces in a thread of its own, which starts with the first one."""

    def __init__(self, traces: Traces, replica: str) -> None:
        self._traces, self._replica = traces, replica
        self._queue: queue.Queue[Told | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._experiment: str | None = None
        self.dropped = 0
        self._warned = False

    def draws(self, rate: float) -> bool:
        """Whether this request is among those that are traced."""
        return rate > 0 and random.random() < rate

    def offer(self, told: Told) -> None:
        """Take a trace, or drop it where too many wait."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(told)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for some seconds at most."""
        if self._thread is None:
            return
        try:
            self._queue.put(None, timeout=CLOSING_S)
        except queue.Full:
            return
        self._thread.join(CLOSING_S)

    def _work(self) -> None:
        # A tracking server that is down must be noticed in seconds; MLflow's own patience is minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        while (told := self._queue.get()) is not None:
            try:
                self._write(told)
            # Whatever it is, requests and later traces go on.
            except Exception as error:  # noqa: BLE001
                self.dropped += 1
                if not self._warned:  # the message may name a URI with its password
                    log.warning("traces: %s cannot be written (%s)", self._traces.experiment, type(error).__name__)
                self._warned = True

    def _write(self, told: Told) -> None:
        import mlflow

        span = mlflow.start_span_no_context(
            told.route,
            span_type="LLM",
            inputs=told.inputs,
            attributes=told.attributes,
            tags={"replica": self._replica} if self._replica else None,
            experiment_id=self._experiment_id(),
            start_time_ns=told.began_ns,
        )
        status = "OK" if told.failed is None else "ERROR"
        outputs = told.outputs if told.failed is None else {**told.outputs, "error": told.failed}
        span.end(outputs=outputs, status=status, end_time_ns=told.ended_ns)

    def _experiment_id(self) -> str:
        """The experiment's id, once for all: made by whoever comes first."""
        if self._experiment is None:
            import mlflow

            if self._traces.uri is not None:
                mlflow.set_tracking_uri(self._traces.uri)
            name = self._traces.experiment
            found = mlflow.get_experiment_by_name(name)
            try:
                self._experiment = found.experiment_id if found else mlflow.create_experiment(name)
            except mlflow.MlflowException:  # another replica was faster
                self._experiment = mlflow.get_experiment_by_name(name).experiment_id
        return self._experiment
