"""Where code that a model wrote is run: a process of its own behind walls, with limits, and nothing to reach outside.

`run` judges one program by its tests, `run_all` several at once; `walls` says what this machine can build. The tests
run in another process behind walls of its own: the program sees neither them nor the verdict. It may read what
everybody on the machine may read (or its user, who is never root), but it has no way to tell anyone.
"""

from earnest.evaluation.sandbox.host import Limits, Outcome, Walls, run, run_all, walls

__all__ = ["Limits", "Outcome", "Walls", "run", "run_all", "walls"]
