"""Proxy-tuning over a sweep: bases, dense and compressed, steered by small tuned models, on every task.

    ray job submit --working-dir . -- python jobs/proxy_tuning.py jobs/configs/proxy_llama.toml --store /shared/earnest
    python jobs/proxy_tuning.py jobs/configs/proxy_nano.toml

The same driver as jobs/sweep.py; a configuration without `[[proxy]]` entries runs as it does there. Exits 0 when every
cell is finished, 1 when a step was set aside, 2 for a mistake in the configuration.
"""

import sys

from earnest.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "sweep")
    main()
