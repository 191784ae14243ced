"""Train the nano family from its seeds, measure it with the product's own evaluation, and write its model cards.

    python jobs/train_nano.py jobs/configs/nano.toml --out nano

Two cores, under an hour. What is finished in --out is not trained again.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from earnest.almanac.family import build_family
from earnest.almanac.recipe import load_recipe
from earnest.cards import measure_family, write_cards
from earnest.ending import ended_by_signals


def main() -> None:
    """Read the command line, build the family and measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="the family's recipe in TOML, such as jobs/configs/nano.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models, the manifest and the cards")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    build_family(load_recipe(options.recipe), options.out)
    write_cards(options.out, measure_family(options.out, logging.getLogger(__name__).info))


if __name__ == "__main__":
    with ended_by_signals():
        main()
