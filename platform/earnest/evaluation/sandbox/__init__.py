"""Where code that a model wrote is run: a process of its own behind walls, with limits, and nothing to reach outside.

`run` runs one program, `run_all` several at once; `walls` says what this machine can build. The guest may read what
everybody on the machine may read (or its user, who need not be root), but it has no way to tell anyone.
"""

from earnest.evaluation.sandbox.host import Limits, Outcome, Walls, run, run_all, walls

__all__ = ["Limits", "Outcome", "Walls", "run", "run_all", "walls"]
