"""What a folder holds, told from its names, its config and the headers of its files before any weight is read.

Whatever is no causal language model in safetensors is refused here, with what it is and what to do about it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from earnest.pointers import POINTER, is_pointer
from earnest.specs import UserError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_HEADER = 100 << 20  # bytes, safetensors' own limit
# What transformers reads a quantised folder with: the method in its config -> the package, as it is imported.
READERS: Mapping[str, tuple[str, str]] = {
    "aqlm": ("aqlm", "aqlm"),
    "auto-round": ("auto-round", "auto_round"),
    "awq": ("gptqmodel", "gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed-tensors", "compressed_tensors"),
    "eetq": ("eetq", "eetq"),
    "fbgemm_fp8": ("fbgemm-gpu", "fbgemm_gpu"),
    "gptq": ("gptqmodel optimum", "gptqmodel"),
    "higgs": ("flute-kernel", "flute"),
    "hqq": ("hqq", "hqq"),
    "mxfp4": ("kernels", "kernels"),
    "quanto": ("optimum-quanto", "optimum.quanto"),
    "quark": ("amd-quark", "quark"),
    "sinq": ("sinq", "sinq"),
    "spqr": ("spqr_quant", "spqr_quant"),
    "torchao": ("torchao", "torchao"),
    "vptq": ("vptq", "vptq"),
}
GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "CausalLM", "ForImageTextToText")


def check_folder(name: str, path: Path) -> None:
    """See that a folder holds a model's config and safetensors.

    Raises:
        UserError: it holds something else; the message says what, and the remedy.
    """
    if (path / ADAPTER).is_file():
        _refuse_adapter(name, path)
    if not (path / CONFIG).is_file():
        raise UserError(
            f"model {name}: {path} holds no config.json{_instead(path)}; name a folder saved by save_pretrained"
        )
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"model {name}: {path} holds no *.safetensors{_instead(path)}; pickled weights are not loaded, "
            "convert them first"
        )


def _instead(path: Path) -> str:
    """What else lies there that may be meant."""
    for suffix, kind in (
        (".gguf", "GGUF"),
        (".bin", "pickled weights"),
        (".pt", "pickled weights"),
        (".pth", "pickled weights"),
    ):
        found = next(iter(sorted(path.glob(f"*{suffix}"))), None)
        if found is not None:
            return f" but {found.name} ({kind})"
    inner = next((folder.name for folder in sorted(path.iterdir()) if (folder / CONFIG).is_file()), None)
    return "" if inner is None else f", but its folder {inner} does"


def _refuse_adapter(name: str, path: Path) -> None:
    base = _json_of(name, path / ADAPTER).get("base_model_name_or_path") or "its base"
    merge = "merge it (peft's merge_and_unload, then save_pretrained) and name the merged folder"
    if not (path / CONFIG).is_file():
        raise UserError(f"model {name}: {path} is an adapter of {base}, not a model; {merge}")
    raise UserError(
        f"model {name}: {path} holds an adapter of {base} beside its weights, and which is meant is not clear\n"
        f"move {ADAPTER} elsewhere for the weights alone, or {merge}"
    )


def check_config(name: str, path: Path) -> None:
    """See that a folder's config is that of a causal language model which can be read here.

    Raises:
        UserError: it is an encoder, an encoder and decoder, a classifier, or quantised in a way that is not read here.
    """
    config = _json_of(name, path / CONFIG)
    kind = str(config.get("model_type") or "of an unknown type")
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"model {name}: {kind} is an encoder with a decoder; only decoders that continue a text are compressed and "
            "evaluated, use a model such as llama, qwen or gemma"
        )
    made = [str(each) for each in config.get("architectures") or ()]
    if made and not any(each.endswith(GENERATES) for each in made):
        raise UserError(
            f"model {name}: {made[0]} does not continue texts; use a causal language model ({kind} may have one, "
            "saved as ...ForCausalLM)"
        )
    if config.get("auto_map") and not _known(kind):
        code = ", ".join(sorted({str(each).partition(".")[0] + ".py" for each in config["auto_map"].values()}))
        raise UserError(
            f"model {name}: {kind} is defined by code of its own ({code}), which is not run; use a family that "
            "transformers knows"
        )
    _check_quantised(name, config.get("quantization_config") or config.get("compression_config"))


def _known(kind: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def _check_quantised(name: str, quantised: Mapping[str, Any] | None) -> None:
    """See that what reads a quantised folder is installed."""
    if not quantised:
        return
    method = str(quantised.get("quant_method", "")).lower()
    method = method or (
        "bitsandbytes" if any(key.startswith(("load_in", "_load_in")) for key in quantised) else "an unknown way"
    )
    package, module = READERS.get(method, ("", ""))
    if package and not _installed(module):
        raise UserError(
            f"model {name}: its weights are quantised ({method}), which needs the package {package} to be read\n"
            f"pip install {package}, or name the model that it was made from"
        )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of "optimum.quanto" the package "optimum"
        return False


def quantised_as(config: Any) -> str:
    """In which way a loaded model's weights were quantised by others; "" if they were not."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return ""
    method = found.get("quant_method") if isinstance(found, Mapping) else getattr(found, "quant_method", "")
    return str(getattr(method, "value", method) or "an unknown way")


def weight_files(path: Path) -> list[Path]:
    """The files of a folder's weights: those that the index names, or model.safetensors, or all safetensors there
    are.
    """
    if (path / INDEX).is_file():
        placed = _json_of(str(path), path / INDEX).get("weight_map") or {}
        return [path / name for name in sorted(set(map(str, placed.values())))]
    return [path / SINGLE] if (path / SINGLE).is_file() else sorted(path.glob("*.safetensors"))


def check_weights(name: str, path: Path) -> None:
    """See that every file of weights is whole, by its header and its length, and that none is missing.

    Raises:
        UserError: one is damaged, a pointer to a file, or missing; the message names it.
    """
    for file in weight_files(path):
        reason = _damage(file) if file.is_file() else f"is missing ({INDEX} names it)"
        if reason:
            raise UserError(f"model {name}: {file} {reason}; fetch it again")


def _damage(file: Path) -> str:
    """What is wrong with a safetensors file; "" if nothing shows."""
    return _header_of(file)[1]


def _header_of(file: Path) -> tuple[Mapping[str, Any], str]:
    """The tensors that a safetensors file's header tells of, by name, and what is wrong with the file; read once."""
    stat = file.stat()
    return _read_header(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=512)
def _read_header(file: Path, there: int, _changed: int) -> tuple[Mapping[str, Any], str]:
    with file.open("rb") as content:
        begin = content.read(max(8, len(POINTER)))
        if is_pointer(begin):
            return {}, "is a Git LFS pointer, not the weights themselves (git lfs pull)"
        length = int.from_bytes(begin[:8], "little")
        if len(begin) < 8 or length > min(LARGEST_HEADER, there - 8):
            return {}, f"is corrupted: {there} bytes do not hold its header"
        content.seek(8)
        try:
            tensors = {key: entry for key, entry in json.loads(content.read(length)).items() if key != "__metadata__"}
            wanted = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return {}, "is corrupted: its header cannot be read"
    return tensors, "" if there == wanted else f"is corrupted: {there} bytes, and its header tells of {wanted}"


def tensor_headers(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tensors of a folder's weights by name: `dtype`, `shape` and `data_offsets`; damaged files have none."""
    for file in filter(Path.is_file, weight_files(path)):
        yield from _header_of(file)[0].items()


@contextmanager
def open_tensors(path: Path) -> Iterator[dict[str, Any]]:
    """The open file that holds each tensor of a folder's weights, by the tensor's name.

    Tensors are read into memory of their own: pages of a mapped file would count until its last tensor is gone.
    """
    from safetensors import safe_open

    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, framework="pt", backend="pread")) for file in weight_files(path)]
        yield {key: file for file in files for key in file.keys()}  # noqa: SIM118 -- such a file is no mapping


def _json_of(name: str, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"model {name}: {file} cannot be read ({str(error)[:200]}); fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"model {name}: {file} holds {type(found).__name__}, not an object; fetch it again")
    return found
