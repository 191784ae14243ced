"""Load a causal language model and prove what was loaded.

Only safetensors, no remote code, every key accounted for, and a tokenizer that fits the vocabulary. The rest of the
house asks `LoadedModel` and does not touch transformers' loading again.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from safetensors import SafetensorError
from torch import Tensor

from earnest.models.blocks import text_config
from earnest.models.inspection import check_config, check_weights, open_tensors, quantised_as
from earnest.models.precision import auto_on, stored_dtype
from earnest.models.proofs import check_reads, check_tied
from earnest.models.source import Source
from earnest.specs import Chat, UserError
from earnest.specs.dtypes import compute_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass
class LoadedModel:
    """A model in memory, its tokenizer, and the digest of the weights that it was loaded from.

    `chat` says in which form it is asked to write; None for plain text. `stored` is the dtype of the files that it came
    from, which what is compressed is stored in again; None where it is the one in memory.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str
    folder: Path
    chat: Chat | None = None
    stored: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights in memory, which is computed in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype that the weights are stored in."""
        return self.stored or self.dtype

    @property
    def max_length(self) -> int:
        """The longest input, in tokens, that the model was made for."""
        config = text_config(self.model.config)
        return int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 2048))

    @property
    def vocabulary(self) -> int:
        """How many rows the output head has, padding rows included."""
        return int(self.model.get_output_embeddings().weight.shape[0])


def load(source: Source, *, device: str = "cpu", dtype: str = "auto") -> LoadedModel:
    """Load a model and its tokenizer from a folder.

    Args:
        source: what `resolve` found.
        device: a torch device.
        dtype: what to compute in: float32, bfloat16, float16, `stored` for that of the files, or `auto`, which is
            float32 on a CPU unless bfloat16 is clearly faster there, and the stored one elsewhere.

    Raises:
        UserError: a file is corrupted, a key is missing or unexpected, or tokenizer and model do not fit.
    """
    check_device(device)
    kind = auto_class(source.name, checked_config(source))
    stored = stored_dtype(source.path)
    computed = DTYPES[dtype_on(device, dtype, stored)]
    tokenizer = load_tokenizer(source.path, source.name)  # before the weights: beside them it would take more at once
    model, report = pretrained(kind, source, computed)
    check_keys(source.name, report)
    check_vocabulary(source.name, model.get_input_embeddings().weight.shape[0], tokenizer)
    model.to(device).eval().requires_grad_(False)
    loaded = LoadedModel(model, tokenizer, source.name, source.digest, source.path, stored=DTYPES[stored])
    check_reads(source.name, model, loaded.max_length)
    return_freed_memory()  # of the files' tensors in their own dtype
    return loaded


def pretrained(kind: Any, source: Source, dtype: torch.dtype) -> tuple[Any, Mapping[str, Any]]:
    """A model of a folder by one of transformers' Auto classes, and which keys were missing or left over.

    Raises:
        UserError: the folder holds no such model, or a file is corrupted.
    """
    _say_nothing()
    try:
        model, report = _widened(kind, source, dtype) or kind.from_pretrained(
            source.path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise UserError(f"model {source.name}: a safetensors file in {source.path} is corrupted ({error})") from error
    except (ValueError, KeyError, OSError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
        raise UserError(f"model {source.name}: {source.path} cannot be loaded ({reason})") from error
    return model, report


def _widened(kind: Any, source: Source, dtype: torch.dtype) -> tuple[Any, Mapping[str, Any]] | None:
    """The same of files in another dtype, read tensor by tensor: mapped, they would stay in memory beside the model.

    None where the files' dtype is the model's own, which is mapped and not copied, or they are read in a way of others.
    """
    config = read_config(source)
    made = kind._model_mapping.get(type(config), None)
    if DTYPES[stored_dtype(source.path)] == dtype or quantised_as(config) or not isinstance(made, type):
        return None
    with open_tensors(source.path) as holds:
        state = {name: file.get_slice(name) for name, file in holds.items()}
        model, report = made.from_pretrained(  # type: ignore[attr-defined]
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    _read_generation_config(model, source.path)
    return model, report


def _read_generation_config(model: Any, folder: Path) -> None:
    """Give a model the folder's generation config, if there is one: it names the tokens that end a text."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def build(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    name: str,
    digest: str,
    device: str = "cpu",
    dtype: torch.dtype,
    stored: torch.dtype | None = None,
) -> LoadedModel:
    """A model from a folder's config and tokenizer and weights that are not in its files, with the same proofs.

    Args:
        folder: holds config.json and the tokenizer.
        state: every parameter by its name, asked for one at a time; a tied output head may be absent.
        name: what it is called.
        digest: of its weights.
        device: a torch device.
        dtype: what to compute in.
        stored: the dtype of the files that the weights came from.

    Raises:
        UserError: a key is missing or unexpected, or tokenizer and model do not fit.
    """
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    check_device(device)
    _say_nothing()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with no_init_weights():  # memory without values, but with true buffers such as RoPE's frequencies
        model = auto_class(name, config).from_config(config, dtype=dtype)
        if dtype != torch.float32:
            _copy_buffers(auto_class(name, config).from_config(config, dtype=torch.float32), model)
    wanted = set(model.state_dict())
    report = {
        "missing_keys": sorted(wanted - set(state) - _tied_keys(model)),
        "unexpected_keys": sorted(set(state) - wanted),
    }
    check_keys(name, report)
    _fill(model, state, name)
    model.tie_weights()
    _read_generation_config(model, folder)
    tokenizer = load_tokenizer(folder, name)
    check_vocabulary(name, model.get_input_embeddings().weight.shape[0], tokenizer)
    model.to(device).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, name, digest, folder, stored=stored)


@torch.no_grad()
def _fill(model: Any, state: Mapping[str, Tensor], name: str) -> None:
    """Copy tensors into the model one by one: `state` may read each from a file when it is asked for."""
    places = model.state_dict()
    for key in state:
        tensor = state[key]
        if tensor.shape != places[key].shape:
            raise UserError(
                f"model {name}: {key} is stored as {tuple(tensor.shape)} and config.json asks for "
                f"{tuple(places[key].shape)}; they do not belong together"
            )
        places[key].copy_(tensor)


def _copy_buffers(exact: Any, model: Any) -> None:
    """Give a model the buffers that no file holds as float32 computes them, which is how transformers loads it."""
    stored = set(model.state_dict())
    for name, buffer in exact.named_buffers():
        if name not in stored:
            module, _, key = name.rpartition(".")
            setattr(model.get_submodule(module), key, buffer)


def return_freed_memory() -> None:
    """Give the system what this process has freed; glibc keeps what other threads than the asking one had allocated."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def skeleton_of(name: str, config: Any) -> Any:
    """The modules that a config describes, without memory."""
    with torch.device("meta"):
        return auto_class(name, config).from_config(config)


def auto_class(name: str, config: Any) -> Any:
    """The class of transformers that loads a model: a causal one, or of text and images, whose text part is one.

    Raises:
        UserError: there is none for the config.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in kind._model_mapping:
            return kind
    raise UserError(
        f"model {name}: transformers knows no causal language model of type {config.model_type}; "
        "use a decoder such as llama, qwen or gemma"
    )


def checked_config(source: Source) -> Any:
    """The config of a folder whose config and headers are those of a causal model in whole files.

    Raises:
        UserError: they are not.
    """
    check_config(source.name, source.path)
    check_weights(source.name, source.path)
    config = read_config(source)
    check_tied(source.name, source.path, config)
    return config


def read_config(source: Source) -> Any:
    """The model's config. Raises UserError where it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.path, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"model {source.name}: {source.path / 'config.json'} cannot be read ({reason})") from error


def dtype_on(device: str, asked: str, stored: str) -> str:
    """The name of the dtype that a model stored in one computes in on a device. Raises UserError for unknown names."""
    return compute_dtype(asked, stored, auto_on(device) if asked == "auto" else "stored")


def name_of_dtype(dtype: torch.dtype) -> str:
    """As in "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def check_device(name: str) -> None:
    """Raise UserError unless tensors can be put on the device."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: use cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device {name!r}: this machine has {count} CUDA devices; use cpu or one that is there")
    if device.type == "meta":
        raise UserError("device 'meta': has no memory; use cpu, cuda or cuda:N")


def _say_nothing() -> None:
    """Keep transformers' progress bars and load tables out of our output: what they say is checked here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _tied_keys(model: Any) -> set[str]:
    if not getattr(model.config, "tie_word_embeddings", False):
        return set()
    tied = getattr(model, "_tied_weights_keys", None) or ()
    return set(tied)


KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def check_keys(name: str, report: Mapping[str, Any], kinds: Sequence[str] = KEYS) -> None:
    """Raise UserError where a loading report names a key of one of these `kinds`."""
    for kind in kinds:
        keys = sorted(str(key) for key in report.get(kind) or ())
        if keys:
            words = kind.replace("_", " ")
            raise UserError(
                f"model {name}: {len(keys)} {words}, the first is {keys[0]}; "
                "the weights and config.json do not belong together"
            )


def load_tokenizer(folder: Path, name: str) -> Any:
    """The folder's tokenizer. Raises UserError where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # for a damaged file, tokenizers raises Exception itself
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(f"model {name}: {folder} holds no tokenizer that can be loaded ({reason})") from error
    if getattr(tokenizer, "is_fast", False):
        for copy in ("_vocab", "_merges"):  # of what the tokenizer proper has: 170 MB of 262144 tokens
            vars(tokenizer).pop(copy, None)
        return_freed_memory()
    return tokenizer


def check_vocabulary(name: str, rows: int, tokenizer: Any) -> None:
    """Raise UserError unless every token of the tokenizer has one of the `rows` of the embeddings."""
    tokens = len(tokenizer)
    if tokens > rows:
        raise UserError(
            f"model {name}: the tokenizer has {tokens} tokens but the model only {rows} embeddings; "
            "they do not belong together"
        )
