"""The main job: run a sweep on the cluster that it is submitted to, or here.

    ray job submit --working-dir . -- python jobs/sweep.py jobs/configs/llama.toml --store /shared/earnest
    python jobs/sweep.py jobs/configs/demo.toml

Exits 0 when every cell is finished, 1 when a step was set aside, 2 for a mistake in the configuration, 3 when the runs
could not be sent to MLflow and the sweep says `required = true`.
"""

import sys

from earnest.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "sweep")
    main()
