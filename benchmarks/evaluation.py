"""Seconds of an evaluation against lm-eval's: the same model, the same questions, the same answers, one run.

    make bench-eval       or   python benchmarks/evaluation.py [--json FILE] [--repeat N]
    a busy machine             python benchmarks/evaluation.py --clock cpu

lm-eval runs its HF model in an environment of its own (`infra/lm_eval.sh`), in the same run, on the same device and
one thread like ours, in turn with ours. It gets the batch size that was its fastest of several on some of the
questions. Prompts, texts and likeliest options must be equal, log-likelihoods within 0.001 nats. Seconds go from the
questions on disk to the scores; models are loaded before. Tokens forwarded count padding where it is computed.

Where there is a CUDA device, a random model of Llama's shapes is read there, too: see `gpu_evaluation`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import torch

from earnest.evaluation.run import Evaluation, evaluate
from earnest.evaluation.tokenised import forget
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from earnest.specs import read_task
from exams import Exam, agree, exams
from gpu_evaluation import on_gpu
from rows import Row, parser, report, row

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parent / ".venv-lm-eval" / "bin" / "python"
NAMES = ("mmlu", "closed_book", "gsm8k")
TUNED_ON = 4
"""Questions of each task of the peer that its batch size is chosen by."""


class Peer:
    """lm-eval in a process of its own."""

    def __init__(self, folder: Path, asked: Sequence[Exam]) -> None:
        named = {exam.name: {"model": exam.model, "tasks": list(exam.peer)} for exam in asked}
        work = {"threads": 1, "exams": named}
        (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
        self._log = (folder / "lm_eval.log").open("w", encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [PYTHON, HERE / "lm_eval_peer.py", folder / "work.json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, env=environment | {"HF_HOME": str(folder / "hf")},
        )  # fmt: skip

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def run(self, exam: Exam, batch: int, limit: int | None = None) -> dict[str, Any]:
        """One evaluation."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"task": exam.name, "batch": batch, "limit": limit}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("lm-eval ended:\n" + Path(self._log.name).read_text(encoding="utf-8")[-2000:])
        found: dict[str, Any] = json.loads(line)
        return found

    def best_batch(self, exam: Exam, clock: str) -> int:
        """The fastest of the exam's batch sizes on some questions; a first run is not counted."""
        self.run(exam, exam.batches[0], 1)
        return min(exam.batches, key=lambda batch: float(self.run(exam, batch, TUNED_ON)[clock]))


def main() -> None:
    """Ask every exam of both and report."""
    options = _options()
    torch.set_num_threads(1)
    rows: list[Row] = []
    if PYTHON.is_file():
        with tempfile.TemporaryDirectory() as folder:
            rows += against_lm_eval(Path(folder), options.only, options.repeat, options.clock)
    else:
        print(f"{PYTHON} is absent: no peer; infra/lm_eval.sh makes it")
    if torch.cuda.is_available():
        rows += on_gpu(options.repeat)
    report(rows, "Evaluation of nano:large, float32, one thread", "lm-eval", options.json)


def against_lm_eval(folder: Path, names: Sequence[str], repeat: int, clock: str) -> Iterator[Row]:
    """Each exam, ours and the peer's in turn."""
    asked = [exam for exam in exams(folder) if exam.task["task"] in names]
    with Peer(folder, asked) as peer:
        for exam in asked:
            yield from _measured(exam, load(resolve(exam.model)), peer, repeat, clock)


def _measured(exam: Exam, loaded: LoadedModel, peer: Peer, repeat: int, clock: str) -> Iterator[Row]:
    batch = peer.best_batch(exam, clock)
    _ours(exam, loaded)
    ours, theirs = [], []
    for _ in range(repeat):
        seconds, found = _ours(exam, loaded)
        answered = peer.run(exam, batch)
        agree(exam, found.samples, answered["prompts"], answered["answers"])
        ours.append((seconds[clock], found.scores.tokens_forwarded))
        theirs.append((answered[clock], answered["tokens"]))
    work = f"{exam.name}, n={found.samples.num_rows}, lm-eval's batch {batch}"
    yield row(work, [float(s) for s, _ in ours], [s for s, _ in theirs])
    yield row(f"{exam.name}: tokens forwarded", [t for _, t in ours], [t for _, t in theirs], "tokens")


def _ours(exam: Exam, loaded: LoadedModel) -> tuple[dict[str, float], Evaluation]:
    forget()  # a worker tokenises a prompt once; here every run is the first
    wall, cpu = time.perf_counter(), time.process_time()
    found = evaluate(loaded, read_task(dict(exam.task)), exam.data)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}, found


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where other work runs, too")
    options.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="exams (default: all)")
    return options.parse_args()


if __name__ == "__main__":
    main()
