#!/usr/bin/env bash
# Make a virtual environment with earnest and its development tools in it, every version pinned by constraints.txt.
# Usage: infra/setup.sh [VENV]
set -euo pipefail
venv=${1:-.venv}
cd "$(dirname "$0")/.."

python=""
for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
  if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
     "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "setup: no Python from 3.11 to 3.13 found; install python3 and python3-venv, or name one with PYTHON=..." >&2
  exit 1
fi

if ! "$python" -c 'import ensurepip' 2>/dev/null; then  # Debian keeps venv in a package of its own
  minor=$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
  echo "setup: installing python$minor-venv"
  as_root=""
  [ "$(id -u)" -eq 0 ] || as_root=sudo
  $as_root apt-get -qq update
  $as_root apt-get -qq install -y "python$minor-venv" >/dev/null
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
echo "setup: installing into $venv (torch first; some minutes the first time)"
"$venv/bin/pip" install -q -c constraints.txt torch hatchling editables 2> >(grep -v 'is ignored: it is neither' >&2)
"$venv/bin/pip" install -q -c constraints.txt --no-build-isolation -e '.[dev]' 2> >(grep -v 'is ignored: it is neither' >&2)
