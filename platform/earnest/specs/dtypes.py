"""The dtypes that a user may ask a model to compute in, and what `auto` comes to."""

from __future__ import annotations

from typing import Literal, get_args

from earnest.specs.frame import UserError

Dtype = Literal["auto", "stored", "float32", "bfloat16", "float16"]
"""`stored` is that of the weights' files; `auto` is float32 on a CPU (bfloat16 where that is clearly faster there and
the weights are stored so), and the stored dtype on an accelerator.
"""
ASKED: tuple[str, ...] = get_args(Dtype)
Auto = Literal["float32", "bfloat16", "stored"]
"""What `auto` means: float32; bfloat16 where the weights are stored so, else float32; or the stored dtype."""
AUTOS: tuple[Auto, ...] = get_args(Auto)


def compute_dtype(asked: str, stored: str, auto: Auto) -> str:
    """The name of the dtype that a model computes in.

    >>> compute_dtype("auto", "bfloat16", "float32"), compute_dtype("auto", "float16", "stored")
    ('float32', 'float16')

    Args:
        asked: auto, stored, or a dtype's name.
        stored: the dtype of the weights' files.
        auto: what `auto` means where the model runs.

    Raises:
        UserError: `asked` is none of these.
    """
    if asked not in ASKED:
        raise UserError(f"dtype {asked!r}: use one of {', '.join(ASKED)}")
    if asked == "stored" or (asked == "auto" and auto in ("stored", stored)):
        return stored
    return "float32" if asked == "auto" else asked
