"""lm-eval as a peer, in an environment of its own: runs what it is told, one JSON line each way.

    .venv-lm-eval/bin/python benchmarks/lm_eval_peer.py WORK.json

WORK.json says how many threads, and names exams: a model's folder and tasks as lm-eval's own configs, where `shipped`
is a file of lm-eval's that `changes` are laid over (local data). Each line on standard input asks for an exam with a
batch size and perhaps a limit; the answer holds prompts, what was answered, seconds on the wall and on the processor,
and the tokens forwarded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import lm_eval
import torch
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

FEWSHOT_SEED = 1234


class Peer:
    """Models under lm-eval's own hands."""

    def __init__(self, work: dict[str, Any]) -> None:
        torch.set_num_threads(work["threads"])
        self.tasks = {
            name: [ConfigurableTask(config=config(one)) for one in exam["tasks"]]
            for name, exam in work["exams"].items()
        }
        folders = {name: exam["model"] for name, exam in work["exams"].items()}
        loaded = {folder: self._load(folder) for folder in set(folders.values())}
        self.lms = {name: loaded[folder] for name, folder in folders.items()}
        self.forwarded = 0

    def _load(self, folder: str) -> HFLM:
        lm = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1)
        lm.model.register_forward_pre_hook(self._count, with_kwargs=True)
        return lm

    def _count(self, _module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.forwarded += (inputs[0] if inputs else named["input_ids"]).numel()

    def run(self, task: str, batch: int, limit: int | None) -> dict[str, Any]:
        """One evaluation, from the questions in memory to its scores."""
        lm = self.lms[task]
        lm.batch_size_per_gpu, self.forwarded = batch, 0
        tasks = {one.config.task: one for one in self.tasks[task]}
        for one in tasks.values():
            one.set_fewshot_seed(seed=FEWSHOT_SEED)  # as its own command line does before every run
        wall, cpu = time.perf_counter(), time.process_time()
        found = evaluate(lm, tasks, limit=limit, bootstrap_iters=0, log_samples=True, verbosity="ERROR")
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        # A task with several filters lists every question once for each.
        once = {(name, sample["doc_id"]): sample for name in tasks for sample in found["samples"][name]}
        samples = [once[key] for key in sorted(once)]
        return {
            **seconds,
            "tokens": self.forwarded,
            "prompts": [sample["arguments"][0][0] for sample in samples],
            "answers": [answer(sample) for sample in samples],
        }


def answer(sample: dict[str, Any]) -> Any:
    """The text that was written, or the log-likelihoods of the options."""
    responses = [response[0] for response in sample["resps"]]
    return responses[0] if isinstance(responses[0], str) else [value for value, _ in responses]


def config(task: dict[str, Any]) -> dict[str, Any]:
    """A task's config: one of lm-eval's own files with what it includes, and changes over it."""
    found: dict[str, Any] = {}
    if task.get("shipped"):
        path = Path(lm_eval.__file__).parent / "tasks" / task["shipped"]
        found = yaml.safe_load(path.read_text())
        if "include" in found:
            found = {**yaml.safe_load((path.parent / found.pop("include")).read_text()), **found}
    return {**found, **task["changes"]}


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever lm-eval prints is no answer
    peer = Peer(json.loads(Path(sys.argv[1]).read_text()))
    for line in sys.stdin:
        answers.write(json.dumps(peer.run(**json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
