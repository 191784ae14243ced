"""Which of the papers' claims hold on finished sweeps: writes the page of findings from their samples.

    python jobs/findings.py jobs/claims/nano.toml                        # writes docs/results/findings.md
    python jobs/findings.py jobs/claims/nano.toml --store /shared/earnest --out findings.md

Exits 0 when the page is written, whatever holds; 2 for a mistake, such as a sweep that is not finished.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from earnest.compare.claims import read_claims, rule
from earnest.compare.findings import page
from earnest.ending import ended_by_signals
from earnest.specs import UserError
from earnest.sweep import prepare


def main() -> int:
    """Read the arguments, test the claims, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", type=Path, help="a file of claims; jobs/claims holds one")
    parser.add_argument("--store", help="where the sweeps' results lie, by default as their configurations say")
    parser.add_argument("--out", type=Path, default=Path("docs/results/findings.md"))
    arguments = parser.parse_args()
    try:
        written = write(arguments.claims, arguments.store, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(written)
    return 0


def write(claims: Path, store: str | None, out: Path) -> Path:
    """Write the page of a file of claims. Raises UserError where a sweep is missing or not finished."""
    asked = read_claims(claims)
    prepared = [prepare(claims.parent / sweep, store=store, writable=False) for sweep in asked.sweeps]
    ruled = rule(asked.claims, {one.sweep.name: (one.plan, one.store) for one in prepared})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(asked, ruled, str(claims)), encoding="utf-8")
    return out


if __name__ == "__main__":
    with ended_by_signals():
        sys.exit(main())
