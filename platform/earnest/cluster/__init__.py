"""The cluster: pinned workers, a scheduling policy, and the loop that carries a plan out. Only this room knows Ray.

`driver.run_plan` is the way in. Ray reads part of its settings when it is imported, so the modules that import it
(`actors`, `crew`, `loop`) are themselves imported late, after `session` has settled the environment.
"""
