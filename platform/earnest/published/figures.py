"""Published figures: what they are of, where they are from, and in what they differ from ours.

Files of this folder are named in a sweep as `published = "proxy_tuning"`; a user's own as a path to a TOML file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter

from earnest.specs import Spec, UserError, read_toml

HERE = Path(__file__).parent


class Figures(Spec):
    """Figures of one task and metric of ours, by subject.

    A subject is written as "Llama-2-13b-hf", "Llama-2-13b-hf + chat α 1" or "vicuna-7b-v1.3 magnitude 20%": a model's
    folder or hub id by its last part, how it is compressed, what steers it. Shares are 0..1, points a judge's. `how`
    says whether the figures were read where they are published, or recomputed from published outcomes.
    """

    task: str
    metric: str
    n: int | None = Field(default=None, ge=1)
    how: Literal["read", "recomputed"]
    source: str
    note: str = ""
    scale: Literal["share", "points"] = "share"
    values: dict[str, float] = Field(min_length=1)


class Published(Spec):
    """A paper's figures."""

    paper: str
    figures: tuple[Figures, ...] = Field(min_length=1)


def read_published(name: str) -> Published:
    """Published figures by the name of a shipped file, or from a path.

    Raises:
        UserError: there is no such file, or it breaks a rule.
    """
    shipped = HERE / f"{name}.toml"
    if "/" not in name and shipped.is_file():
        return read_toml(shipped, TypeAdapter(Published), "file")
    if not name.endswith(".toml"):
        names = ", ".join(sorted(path.stem for path in HERE.glob("*.toml")))
        raise UserError(f"published {name!r}: shipped are {names}; or name a .toml file of your own")
    return read_toml(Path(name).expanduser(), TypeAdapter(Published), "file of published figures")
