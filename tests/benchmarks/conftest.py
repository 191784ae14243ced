"""The benchmarks are programs that find their modules beside them; so do their tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
