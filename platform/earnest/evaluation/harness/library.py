"""lm-eval, where it is installed: an optional extra that is imported when a benchmark is asked for."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from functools import lru_cache
from importlib.metadata import version

from earnest.specs import UserError

TEMPLATES = 1024


def need_lm_eval(benchmark: str) -> str:
    """See that lm-eval is there, and give its version.

    Metrics that it would fetch from the hub as code are not fetched, unless the user has set HF_EVALUATE_OFFLINE=0.
    Its loggers tell of errors alone, for the rest is for the authors of benchmarks; bars are drawn on terminals alone.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"lm_eval:{benchmark}: needs lm-eval; install it with: pip install 'earnest[lm-eval]'")
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    _keep_templates()
    return version("lm_eval")


def _keep_templates() -> None:
    """Compile each of lm-eval's templates once, and not for every document: that was four fifths of its time."""
    from lm_eval.utils import env

    if not hasattr(env.from_string, "cache_info"):
        env.from_string = lru_cache(maxsize=TEMPLATES)(env.from_string)
