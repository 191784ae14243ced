"""Run a small sweep on a Ray of this process's own, as a user's command does; a test kills it half-way.

Usage: python sweep_here.py STORE TRACE SECONDS_PER_STEP [SECONDS_WITHOUT_A_HEAD]. Prints what ran as JSON when it ends.
"""

import json
import os
import sys
from pathlib import Path

from cluster.plans import Traced, small_sweep
from earnest.cluster import head
from earnest.ending import ended_by_signals
from earnest.store import Store

store, trace, sleep, *lost = sys.argv[1:]
if lost:
    head.LOST_S = float(lost[0])
with ended_by_signals():
    outcome = Traced(Store(store), Path(trace)).run(small_sweep(methods=2, tasks=3, sleep=sleep), attempts=2)
token = Path.home() / ".ray" / "auth_token"
print(
    json.dumps(
        {
            "done": sorted(outcome.done),
            "cached": sorted(outcome.cached),
            "mode": os.environ["RAY_AUTH_MODE"],
            "token_left_behind": token.exists(),
        }
    )
)
