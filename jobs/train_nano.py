"""Train the nano family from its seeds: python jobs/train_nano.py jobs/configs/nano.toml --out DIR (two cores, under an hour)."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from earnest.almanac.family import build_family
from earnest.almanac.recipe import load_recipe


def main() -> None:
    """Read the command line and build the family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="the family's recipe in TOML, such as jobs/configs/nano.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models; what is finished there is not trained again")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    build_family(load_recipe(args.recipe), args.out)


if __name__ == "__main__":
    main()
