"""Tokens per second of proxy-tuned decoding: against the paper's way, against the base alone, and where it pays.

    make bench-serve      or   python benchmarks/proxy_decode.py [--json FILE] [--repeat N] [--only PART ...]
    a busy machine             python benchmarks/proxy_decode.py --clock cpu
    on a GPU                   python benchmarks/proxy_decode.py --gpu

nano:large + nano:small-tuned - nano:small in float32, greedy where nothing else is said. All contestants take turns at
the same prompts, every repetition has others, and texts that must be equal are compared. The parts:

    peers      one text and several at a time, against three transformers models as the paper's own code runs them
    threads    the same with two threads; only if asked for: threads that wait for each other want an idle machine
    pays       tasks, alphas, temperatures and experts, against the base alone in the same engine
    steps      each model's cached step, and the loop against its steps alone
    spread     each model in a process of its own, against all in one
    gateway    the gateway over the same engine: what it adds, time to first token under load, texts unchanged
    ray        the same through the whole graph on Ray Serve
    predicted  13B and 70B bases on an H200 by bytes moved, at the acceptance measured here
"""

from __future__ import annotations

import argparse
import os
from itertools import chain

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from against_peers import peers, peers_on_two_threads
from forecast import predicted, steps
from gpu_steps import on_gpu
from rows import parser, report
from serving import gateway, ray_serve, spread
from setting import Setting
from where_it_pays import pays

PARTS = {
    "peers": peers, "threads": peers_on_two_threads, "pays": pays, "steps": steps, "spread": spread, "gateway": gateway,
    "ray": ray_serve, "predicted": predicted,
}  # fmt: skip
USUAL = [name for name in PARTS if name != "threads"]


def main() -> None:
    """Measure the chosen parts and report."""
    options = _options()
    torch.set_num_threads(1)
    if options.gpu:
        report(list(on_gpu(options.repeat)), "Random weights on this GPU, bfloat16", "peer", options.json)
        return
    setting = Setting(options.repeat, options.texts, options.clock)
    rows = list(chain.from_iterable(PARTS[name](setting) for name in options.only))
    report(rows, "Proxy-tuned decoding, nano family, float32", "peer", options.json)


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.set_defaults(repeat=4)
    options.add_argument("--texts", type=int, default=8, help="prompts of each repetition, and texts at a time")
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where other work runs, too")
    options.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: all)"
    )
    options.add_argument("--gpu", action="store_true", help="measure random weights of Llama-2's shapes on CUDA")
    return options.parse_args()


if __name__ == "__main__":
    main()
