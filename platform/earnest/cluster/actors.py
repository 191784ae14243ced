"""The workers: long-lived actors, each pinned to its GPUs or a CPU, that run steps one after the other.

A worker proves which device it owns when it starts, answers with summaries only, and says on a thread of its own how
far the running step is, so that a driver can look without waiting.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import ray

from earnest.cluster.events import Device
from earnest.plan import COMPRESS, EVALUATE, Kind, Step
from earnest.store import CorruptOutputError, Store

if TYPE_CHECKING:
    from earnest.steps import StepSummary

Runner = Callable[[Step, Store, str, Callable[[str], None]], "StepSummary"]


class Worker:
    """What Compressors and Evaluators have in common.

    Args:
        store: the root of the store.
        runner: "module:function" that runs a step; imported at start, so that a ready worker is ready.
        cpus: how many CPUs Ray reserved for this worker.

    Raises:
        RuntimeError: the device is not the one that Ray says it gave.
    """

    kind: ClassVar[Kind]

    def __init__(self, store: str, runner: str, cpus: float) -> None:
        gpus = claim_gpus()
        limit_threads(cpus)
        self._device = describe_device(gpus, cpus)
        self._run: Runner = find_runner(runner)
        self._store = Store(store)
        self._leases = self._store.leases()
        self._note = ""
        use_threads(cpus)

    def device(self) -> Device:
        """The device that this worker owns."""
        return self._device

    def run(self, step: Step, name: str) -> StepSummary:
        """Run one step; its output lies in the store afterwards.

        That this run of it began is noted under `name` first: the driver asks when it lost the worker.

        Raises:
            CorruptOutputError: an output that the step needs is corrupt. It is discarded, so that it is made again.
            Exception: whatever the step raises.
        """
        if step.kind != self.kind:
            raise ValueError(f"a {type(self).__name__} was given the step {step.label!r}, which is a {step.kind} step")
        self._note = ""
        self._leases.note_begun(step.digest, name)
        try:
            return self._run(step, self._store, self._device.kind, self._take_note)
        except CorruptOutputError as error:
            if error.digest in step.needs:
                self._store.discard(error.kind, error.digest)
            raise
        finally:
            self._free_memory()

    def note(self) -> str:
        """What the running step last said about its progress."""
        return self._note

    def _take_note(self, note: str) -> None:
        self._note = note

    def _free_memory(self) -> None:
        if self._device.kind == "cuda":
            import torch

            gc.collect()
            torch.cuda.empty_cache()


class Compressor(Worker):
    """Runs compress steps."""

    kind = COMPRESS


class Evaluator(Worker):
    """Runs evaluate steps; the subject it evaluated last stays loaded for the next step on the same one."""

    kind = EVALUATE


ACTORS: dict[Kind, type[Worker]] = {COMPRESS: Compressor, EVALUATE: Evaluator}


def claim_gpus() -> tuple[str, ...]:
    """The ids of the GPUs that Ray gave this worker; from now on the process sees these and no other.

    Raises:
        RuntimeError: CUDA_VISIBLE_DEVICES says otherwise.
    """
    ids = tuple(str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids()["GPU"])
    if not ids:
        # Ray leaves the variable unset for a worker without GPUs, which would then see them all.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return ids
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible != ",".join(ids):
        raise RuntimeError(
            f"Ray gave this worker GPU {','.join(ids)} but CUDA_VISIBLE_DEVICES is {visible!r}; "
            "unset RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES where the cluster is started"
        )
    return ids


def limit_threads(cpus: float) -> None:
    """Have libraries that are loaded from now on use the worker's CPUs and no more."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(max(1, int(cpus)))
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if cpus >= 2 else "false"


def use_threads(cpus: float) -> None:
    """Hold torch to the worker's CPUs, where the runner has loaded torch."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(max(1, int(cpus)))


def describe_device(gpus: tuple[str, ...], cpus: float) -> Device:
    """What this worker computes on. GPUs that CUDA does not answer for are reported, and the CPU computes.

    Raises:
        RuntimeError: CUDA answers, but not for as many GPUs as Ray gave.
    """
    kind, name, memory = ("cpu", "CPU", _node_memory()) if not gpus else _cuda_or_cpu(gpus)
    context = ray.get_runtime_context()
    return Device(
        node=context.get_node_id(),
        ip=ray.util.get_node_ip_address(),
        hostname=socket.gethostname(),
        pid=os.getpid(),
        kind=kind,
        gpus=gpus,
        name=name,
        memory_bytes=memory,
        cpus=cpus,
    )


def _cuda_or_cpu(gpus: tuple[str, ...]) -> tuple[str, str, int]:
    import torch

    if not torch.cuda.is_available():
        return "cpu", "CPU", _node_memory()
    count = torch.cuda.device_count()
    if count != len(gpus):
        raise RuntimeError(f"Ray gave this worker GPU {','.join(gpus)} but CUDA answers for {count} devices")
    memory = sum(torch.cuda.get_device_properties(index).total_memory for index in range(count))
    return "cuda", torch.cuda.get_device_name(0), memory


def _node_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def find_runner(path: str) -> Runner:
    """The function that "module:function" names."""
    module, _, name = path.partition(":")
    runner: Runner = getattr(importlib.import_module(module), name)
    return runner
