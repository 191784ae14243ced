#!/usr/bin/env bash
# Make a virtual environment with lm-eval in it, the peer of `make bench-eval`; every version pinned by lm_eval.txt.
# Usage: infra/lm_eval.sh [VENV]
set -euo pipefail
venv=${1:-.venv-lm-eval}
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
echo "lm-eval: installing into $venv (some minutes the first time)"
"$venv/bin/pip" install -q -c infra/lm_eval.txt torch transformers 'lm-eval[hf]' \
  2> >(grep -v 'is ignored: it is neither' >&2)
