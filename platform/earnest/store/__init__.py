"""Step outputs by digest, on a path or a bucket, and who makes which of them now."""

from earnest.store.inspection import RUN_FILE, STEP_FILE, CorruptOutputError, sha256_of
from earnest.store.leases import Leases
from earnest.store.outputs import FAILED, PREFIX, Store

__all__ = ["FAILED", "PREFIX", "RUN_FILE", "STEP_FILE", "CorruptOutputError", "Leases", "Store", "sha256_of"]
