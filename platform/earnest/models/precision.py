"""In which dtype a model computes, and in which it is stored.

A CPU without bfloat16 units rounds and widens in software: its matrix products take several times as long as in
float32. So `auto` computes in float32 on a CPU, the stored weights widened without loss, unless the CPU has such units
and a measurement shows them clearly faster. The measurement is made once per CPU model and kept in the user's cache,
so that a choice does not change from run to run. Accelerators compute in the stored dtype.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from earnest.models.inspection import tensor_headers
from earnest.specs.dtypes import Auto

HEADER_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' names

FASTER = 1.5  # bfloat16 must be so many times as fast in every product of the probe
ROWS, WIDTH = (1, 16, 128), 2048  # one token, a batch's step, a prompt; weights larger than the inner caches
TURNS = 7
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # hide units that the CPU has


def stored_dtype(folder: Path) -> str:
    """The dtype that most bytes of a model's safetensors files are in; float32 where they hold none of torch's floats.

    Headers alone are read. What config.json says is not asked: it is often that of the training.
    """
    sizes: Counter[str] = Counter()
    for _, entry in tensor_headers(folder):
        begin, end = entry["data_offsets"]
        sizes[HEADER_DTYPES.get(entry["dtype"], "")] += end - begin
    del sizes[""]
    return max(sizes, key=lambda name: sizes[name]) if sizes else "float32"


def auto_on(device: str) -> Auto:
    """What `auto` means on a torch device."""
    if device.partition(":")[0] != "cpu":
        return "stored"
    return "bfloat16" if bfloat16_pays() else "float32"


def helper_dtype(device: str) -> str:
    """What a model that a task needs beside its subject computes in: float32 on every CPU, else as it is stored."""
    return "float32" if device.partition(":")[0] == "cpu" else "stored"


def bfloat16_pays() -> bool:
    """Whether bfloat16 is clearly faster than float32 on this CPU; measured once per CPU model and user.

    Where the answer cannot be kept it is no: a choice that may differ in the next run is worse than a slower one.
    """
    cpu = cpu_traits()
    if not has_bfloat16_units(cpu["flags"]):
        return False
    key = " | ".join([cpu["name"], *(f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ)])
    file = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "earnest" / "bfloat16.json"
    known = _read(file)
    if key not in known:
        known[key] = min(_speed_ratios())
        if not _keep(file, known):
            return False
    return known[key] >= FASTER


def cpu_traits(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The CPU's name and its features, as Linux tells them; both empty where nobody tells."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"name": "", "flags": ""}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    arm = " ".join(fields.get(name, "") for name in ("CPU implementer", "CPU part", "CPU variant"))
    return {"name": fields.get("model name") or arm, "flags": fields.get("flags") or fields.get("Features", "")}


def has_bfloat16_units(flags: str) -> bool:
    """Whether a CPU with these features multiplies bfloat16 in hardware (x86: AVX-512 or AMX; Arm: bf16)."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def _speed_ratios() -> list[float]:
    """Seconds in float32 over those in bfloat16, per number of rows; the best of several turns, taken in turn."""
    import torch

    dtypes = (torch.float32, torch.bfloat16)
    weights = [torch.randn(WIDTH, WIDTH).to(dtype) for dtype in dtypes]
    ratios = []
    for rows in ROWS:
        inputs = [torch.randn(rows, WIDTH).to(dtype) for dtype in dtypes]
        best = [float("inf"), float("inf")]
        for _ in range(TURNS):
            for which, (x, weight) in enumerate(zip(inputs, weights, strict=True)):
                began = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                best[which] = min(best[which], time.perf_counter() - began)
        ratios.append(best[0] / best[1])
    return ratios


def _read(file: Path) -> dict[str, float]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(ratio) for name, ratio in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep(file: Path, known: Mapping[str, float]) -> bool:
    """Write the measured ratios; whether that succeeded."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writing = file.with_suffix(f".{os.getpid()}")
        writing.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        writing.replace(file)
    except OSError:
        return False
    return True
