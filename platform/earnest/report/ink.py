"""How the figures look: a restrained style, and colours that follow the page from light to dark.

Figures are drawn once, in light colours. In an SVG on the page each of these colours becomes a CSS variable; a file
of its own for dark pages gets the dark colours instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from earnest.palette import Ink, ink

TEXT, MUTED, LINE, PAPER = (
    Ink("#1d2127", "#e8eaee"),
    Ink("#666c77", "#a2a9b5"),
    Ink("#d9dce2", "#383d47"),
    Ink("#fdfdfc", "#15181d"),
)
BAND = Ink("#eef1ee", "#1f2723")
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": TEXT.light,
    "axes.edgecolor": LINE.light,
    "axes.labelcolor": MUTED.light,
    "axes.labelsize": 9,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE.light,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "figure.facecolor": PAPER.light,
    "svg.fonttype": "none",
    "axes.unicode_minus": True,
}


def title(axes: Axes, text: str, below: str = "") -> None:
    """A panel's title at the left, with a muted line below it."""
    axes.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=TEXT.light, pad=22 if below else 8)
    if below:
        axes.annotate(
            below, (0, 1), xytext=(0, 8), textcoords="offset points", xycoords="axes fraction", va="bottom",
            fontsize=8.5, color=MUTED.light,
        )  # fmt: skip


def save(figure: Figure, path: Path, methods: Iterable[str]) -> str:
    """Write a figure as SVG, as SVG for dark pages and as PNG; return the SVG for a page, with CSS variables.

    Args:
        figure: what to write.
        path: where, without suffix.
        methods: whose colours are in it.
    """
    names = list(methods)
    figure.savefig(path.with_suffix(".png"), dpi=160)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    light = path.with_suffix(".svg").read_text(encoding="utf-8")
    path.with_name(f"{path.name}-dark.svg").write_text(_recoloured(light, _dark(names)), encoding="utf-8")
    inline = light[light.index("<svg") :]
    inline = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', inline, count=1)
    return _recoloured(inline, _variables(names)).strip()


def _dark(methods: Iterable[str]) -> dict[str, str]:
    inks = [TEXT, MUTED, LINE, PAPER, BAND, *(ink(method) for method in methods)]
    return {each.light: each.dark for each in inks}


def _variables(methods: Iterable[str]) -> dict[str, str]:
    fixed = {TEXT: "text", MUTED: "muted", LINE: "line", PAPER: "paper", BAND: "band"}
    named = {each.light: f"var(--{name})" for each, name in fixed.items()}
    return {**named, **{ink(method).light: f"var(--m-{method})" for method in methods}}


def _recoloured(svg: str, colours: dict[str, str]) -> str:
    pattern = re.compile("|".join(map(re.escape, colours)))
    return pattern.sub(lambda match: colours[match.group()], svg)
