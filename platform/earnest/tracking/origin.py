"""Where a run comes from: the command, and the commit of the code that ran, in the tags that MLflow shows as source."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import earnest


def origin_tags(config: Path | None) -> dict[str, str]:
    """Source, kind of source, version, and the commit of the checkout that earnest or the sweep's file lies in.

    `GIT_COMMIT`, which build systems set, stands for a commit where there is no checkout: in an image, or in the
    working folder of a submitted job.
    """
    commit = _commit(Path(earnest.__file__).parent) or (config and _commit(config.absolute().parent))
    commit = commit or os.environ.get("GIT_COMMIT")
    return {
        "mlflow.source.type": "JOB" if in_submitted_job() else "LOCAL",
        "mlflow.source.name": f"earnest sweep {config}" if config else "earnest",
        "earnest.version": earnest.__version__,
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def in_submitted_job() -> bool:
    """Whether `ray job submit` started this process, in a working folder that is thrown away."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _commit(folder: Path) -> str | None:
    """The commit that a folder is checked out at; None where it is no part of a checkout, or git is not there."""
    # A package that is merely installed below a checkout (.venv/…) is ignored there: its files are not in that commit.
    try:
        tracked = _git(folder, "ls-files", "--error-unmatch", ".")
        return _git(folder, "rev-parse", "HEAD") if tracked else None
    except OSError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    # Only this program's own words are in the command.
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.stdout.strip() if done.returncode == 0 else None
