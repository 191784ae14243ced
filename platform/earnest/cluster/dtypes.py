"""What the dtype `auto` means on the workers that a sweep would have now."""

from __future__ import annotations

import os

from earnest.cluster.session import connected
from earnest.models.precision import auto_on
from earnest.specs import Cluster
from earnest.specs.dtypes import Auto


def auto_of_workers(spec: Cluster, address: str | None) -> Auto:
    """One answer for all workers: the stored dtype on GPUs, and on CPUs what this machine's computes best in.

    A cluster's CPUs may be of several kinds, and are not looked at: there it is float32, which all compute well in.

    Args:
        spec: the workers that are asked for.
        address: of a Ray cluster; None for that of the submitted job, or one of this machine.

    Raises:
        UserError: no cluster at the address.
    """
    elsewhere = bool(address or os.environ.get("RAY_ADDRESS"))
    gpus = spec.gpus_per_worker
    if gpus or (gpus is None and (_cluster_has_gpus(address) if elsewhere else _machine_has_gpus())):
        return "stored"
    return "float32" if elsewhere else auto_on("cpu")


def _machine_has_gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def _cluster_has_gpus(address: str | None) -> bool:
    with connected(address):
        from earnest.cluster.capacity import living_nodes

        return any(node.gpus for node in living_nodes())
