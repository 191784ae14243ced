"""The page of findings: which claims hold on a family of models, with every number computed from the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

from earnest.compare.claims import ClaimsFile, Ruled, Ruling, Tested
from earnest.report.intervals import signed_interval
from earnest.report.survey import figure_text, percent_change, spoken
from earnest.report.verdicts import worth
from earnest.statistics.versus import Versus

ABOUT = """\
# Which of the papers' claims hold on {family}

Each claim stands as tests in `{claims}`, and `python jobs/findings.py {claims}` writes this page from the samples of
{sweeps}. {tests} comparisons are paired by sample and judged as one family: *falls*, *rises* (worse, better by more
than 5 %, relative), *matches* (within 5 %) and *no worse* (matches or rises) are said only where shown; a wrong one
of a kind anywhere on the page happens at most 5 % of the time (Holm). p is of no change at all (McNemar's exact test
for right and wrong, sign flips elsewhere; Holm). Intervals are of 95 %. A claim is **held** where all of its tests
are shown, **not held** where one is refuted, and otherwise **not decided**: then n says about how many samples would
decide."""
WIDTH = 118
PAPERS = "[{0}](https://arxiv.org/abs/{1})"
EXPECTED = {"worse": "falls", "better": "rises", "kept": "matches or no worse"}


def page(claims: ClaimsFile, ruled: Sequence[Ruled], name: str) -> str:
    """The whole page as Markdown; `name` is the file of claims as a reader would type it."""
    return "\n".join(_lines(claims, ruled, name)) + "\n"


def _lines(claims: ClaimsFile, ruled: Sequence[Ruled], name: str) -> Iterator[str]:
    tests = sum(tested.versus is not None for one in ruled for tested in one.tested)
    sweeps = " and ".join(f"`{one.rpartition('/')[2]}`" for one in claims.sweeps)
    title, _, about = ABOUT.partition("\n\n")
    yield title.format(family=claims.family) + "\n"
    yield fill(about.format(claims=name, sweeps=sweeps, tests=tests), WIDTH, break_on_hyphens=False)
    yield "\n| claim | on these models | tests shown, refuted, open |"
    yield "|---|---|---|"
    for one in ruled:
        counts = ", ".join(str(_count(one, ruling)) for ruling in ("held", "not held", "not decided"))
        yield f"| {one.claim.title} | **{one.ruling}** | {counts} |"
    for one in ruled:
        yield from _claim(one)


def _count(one: Ruled, ruling: Ruling) -> int:
    return sum(tested.ruling == ruling for tested in one.tested)


def _claim(one: Ruled) -> Iterator[str]:
    paper = PAPERS.format(one.claim.paper, one.claim.paper.removeprefix("arXiv "))
    yield f"\n## {one.claim.title}: {one.ruling}\n\n{one.claim.says} ({paper})"
    compared = [tested for tested in one.tested if tested.versus is not None]
    if compared:
        yield "\n| task | n | A | B | A − B | relative | p | said | found |"
        yield "|---|---|---|---|---|---|---|---|---|"
        yield from (_row(tested, tested.versus) for tested in compared if tested.versus is not None)
    for tested in one.tested:
        if tested.versus is None:
            yield _gap(tested)


def _row(tested: Tested, row: Versus) -> str:
    one = tested.prediction
    task = spoken(one.task) + (f", {spoken(row.headline)}" if one.metric else "")
    p = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    units = "n" if row.units == row.samples else "clusters"
    count = f"{row.samples:,}" if row.units == row.samples else f"{row.samples:,} in {row.units:,}"
    count += worth(row.units, row.effective)
    found = row.verdict + (f", needs {units} ≈ {row.needed:,}" if row.needed else "")
    found = found if tested.ruling == "held" else f"**{found}**"
    return (
        f"| {task} | {count} | {one.a} {figure_text(row.a, row.headline)} "
        f"| {one.b} {figure_text(row.b, row.headline)} | {signed_interval(row.difference, row.headline)} "
        f"| {percent_change(row.relative)} | {p} | {EXPECTED[one.expect]} | {found} |"
    )


def _gap(tested: Tested) -> str:
    one, closed = tested.prediction, tested.closed
    way = f"{spoken(one.task).capitalize()}, gap closed between {one.b} and {one.target} by {one.a}: "
    if closed is None or closed.low is None or closed.high is None:
        return f"\n{way}no gap is shown, so none is closed."
    share, low, high = (f"{100 * value:.1f}" for value in (closed.value, closed.low, closed.high))
    return (
        f"\n{way}{share} % [{low}, {high}] (n = {closed.n:,}, limits of a quotient); at least {100 * one.least:.0f} %: "
        f"{tested.ruling}."
    )
