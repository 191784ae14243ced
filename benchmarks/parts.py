"""Wall seconds of the demo's parts: compress by method, evaluate by task, scheduling per step.

    make bench            or   python benchmarks/parts.py [--json FILE] [--repeat N]

Peers in the same run: PyTorch's own pruning for what it offers, transformers' generate and plain batched forwards
(32 rows at a time, nothing shared) for the tasks, bare Ray tasks for the scheduling. One thread, nano:large.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

import torch

from earnest.almanac import questions
from earnest.almanac.corpus import corpus_text
from earnest.almanac.world import World
from earnest.compression.calibration import calibration_ids
from earnest.compression.walk import compress
from earnest.evaluation.run import evaluate
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from earnest.specs import RTN, AnyMethod, AnyTask, Calibration, Pruning, read_method, read_task
from rows import Row, parser, report, row, seconds

BATCH = 32
METHODS: tuple[dict[str, object], ...] = (
    {"method": "random", "sparsity": 0.5},
    {"method": "magnitude", "sparsity": 0.5},
    {"method": "wanda", "sparsity": 0.5},
    {"method": "sparsegpt", "sparsity": 0.5},
    {"method": "rtn", "bits": 4, "group_size": 32},
    {"method": "gptq", "bits": 4, "group_size": 32},
)
TASKS: tuple[dict[str, object], ...] = (
    {"task": "closed_book", "limit": 300},
    {"task": "open_book", "limit": 300},
    {"task": "multiple_choice", "limit": 300},
    {"task": "summarisation", "limit": 150},
    {"task": "biography", "limit": 100},
    {"task": "perplexity", "limit": 400, "length": 128},
)
STEPS = 100


def main() -> None:
    """Measure all parts and report."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    rows = [*compressions(options.repeat), *evaluations(options.repeat), *scheduling(options.repeat)]
    report(rows, "Parts of the demo, nano:large, one thread", "peer", options.json)


def compressions(repeat: int) -> Iterator[Row]:
    """Each method on a freshly loaded model; loading is outside the clock."""
    source = resolve("nano:large")
    ids = calibration_ids(Calibration(length=128), "nano", load(source).tokenizer)
    for fields in METHODS:
        method = read_method(fields)
        ours = fresh(lambda m, method=method: compress(m, method, ids if method.needs_calibration else None), repeat)
        peer = pytorch_pruning(method)
        yield row(f"compress {fields['method']} {method.nominal}", ours, peer and fresh(peer, repeat))


def fresh(work: Callable[[LoadedModel], object], repeat: int) -> list[float]:
    """Seconds of `work` on a model that is loaded anew for every run."""
    loaded = [load(resolve("nano:large")) for _ in range(repeat + 1)]
    return seconds(lambda: work(loaded.pop()), repeat)


def pytorch_pruning(method: AnyMethod) -> Callable[[LoadedModel], object] | None:
    """torch.nn.utils.prune on every linear layer of the blocks, where it has the method."""
    from torch.nn.utils import prune

    rule = {"random": prune.random_unstructured, "magnitude": prune.l1_unstructured}.get(method.method)
    if rule is None or isinstance(method, RTN) or not isinstance(method, Pruning):
        return None

    def work(loaded: LoadedModel) -> None:
        for module in loaded.model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                rule(module, "weight", amount=method.pattern.sparsity)
                prune.remove(module, "weight")

    return work


def evaluations(repeat: int) -> Iterator[Row]:
    """Each task whole, against the same questions asked through transformers in plain batches."""
    loaded = load(resolve("nano:large"))
    for fields in TASKS:
        task = read_task(fields)
        ours = seconds(lambda task=task: evaluate(loaded, task, "nano"), repeat)
        yield row(f"evaluate {task.label} n={task.limit}", ours, seconds(plain(loaded, task), repeat))


def plain(loaded: LoadedModel, task: AnyTask) -> Callable[[], object]:
    """The same questions without sharing and sorting: left-padded generate, or one forward per option or window."""
    world, n = World.shipped(), task.limit or 0
    match task.task:
        case "closed_book":
            return lambda: generate(loaded, [q.prompt for q in questions.closed_book(world, n, 0)], 24)
        case "open_book":
            return lambda: generate(loaded, [q.prompt for q in questions.open_book(world, n, 0)], 24)
        case "summarisation":
            return lambda: generate(loaded, [q.prompt for q in questions.summaries(world, n, 0)], 64)
        case "biography":
            return lambda: generate(loaded, [q.prompt for q in questions.biographies(world, n, 0)], 128)
        case "multiple_choice":
            asked = questions.multiple_choice(world, n, 0)
            return lambda: forward(loaded, [f"{q.prompt} {choice}" for q in asked for choice in q.choices])
        case _:
            return lambda: forward(loaded, corpus_text(world, n, 0))


@torch.inference_mode()
def generate(loaded: LoadedModel, prompts: list[str], tokens: int) -> None:
    """Transformers' greedy generate, 32 prompts at a time, all ending at a newline."""
    loaded.tokenizer.padding_side = "left"
    for start in range(0, len(prompts), BATCH):
        batch = loaded.tokenizer(prompts[start : start + BATCH], return_tensors="pt", padding=True)
        loaded.model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=tokens,
            do_sample=False, stop_strings=["\n"], tokenizer=loaded.tokenizer,
        )  # fmt: skip


@torch.inference_mode()
def forward(loaded: LoadedModel, texts: list[str]) -> None:
    """Log-probabilities of every token, 32 texts at a time."""
    loaded.tokenizer.padding_side = "right"
    for start in range(0, len(texts), BATCH):
        batch = loaded.tokenizer(texts[start : start + BATCH], return_tensors="pt", padding=True)
        logits = loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits.float().log_softmax(-1)


def scheduling(repeat: int) -> Iterator[Row]:
    """Milliseconds per step of a plan of idle steps, and of bare Ray tasks, on one local Ray."""
    import ray

    from earnest.cluster.driver import run_plan
    from earnest.plan import Plan, Step
    from earnest.records import digest
    from earnest.specs import Cluster
    from earnest.store import Store

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    address = ray.get_runtime_context().gcs_address

    def ours() -> None:
        specs = [{"n": number} for number in range(STEPS)]
        steps = {digest(s): Step("evaluate", digest(s), s, location={"model_name": "m"}, label="idle") for s in specs}
        with tempfile.TemporaryDirectory() as folder:
            done = run_plan(Plan("idle", steps, ()), Store(folder), Cluster(), address=address, runner="idle_step:run")
        assert len(done.done) == STEPS

    @ray.remote
    def nothing() -> None:
        return None

    taken = [1000 * s / STEPS for s in seconds(ours, repeat)]
    bare = [1000 * s / STEPS for s in seconds(lambda: ray.get([nothing.remote() for _ in range(STEPS)]), repeat)]
    ray.shutdown()
    yield row(f"schedule a step (plan of {STEPS}, workers' start included)", taken, bare, "ms")


if __name__ == "__main__":
    main()
