"""The product's own steps on workers: compress and evaluate a tiny Llama, and get what one process alone gets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.plans import Traced
from earnest.cluster.driver import run_plan
from earnest.data import resolve_data
from earnest.models.source import resolve
from earnest.plan import EVALUATE, Inputs, Plan, data_key
from earnest.planning import make_plan
from earnest.specs import Cluster, Sweep
from earnest.steps import SCORES_FILE, run_step
from earnest.store import Store

pytestmark = pytest.mark.slow

TEXT = "a model forgets what it was told . a table tells what a model forgets .\n" * 40


@pytest.fixture(autouse=True, scope="module")
def two_cpus(ensure_ray: Callable[[], None]) -> None:
    ensure_ray()


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokenizer knows the words of the text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *sorted(set(TEXT.split()))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tiny-llama")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plan(tiny_model: Path) -> Plan:
    """Dense, magnitude and 4 bits, each with its perplexity and the distance to the dense model."""
    text = tiny_model.parent / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    sweep = Sweep.model_validate(
        {
            "name": "tiny",
            "model": str(tiny_model),
            "compress": [{"method": "magnitude", "sparsity": 0.5}, {"method": "rtn", "bits": 4, "group_size": 32}],
            "tasks": [{"task": "perplexity", "data": str(text), "length": 32}],
        }
    )
    source, data = resolve(sweep.model), resolve_data(str(text), "test")
    inputs = Inputs(
        models={sweep.model: (str(source.path), source.digest)},
        data={data_key(sweep.tasks[0]): (data.path, data.digest)},
        versions={},
    )
    return make_plan(sweep, inputs)


def test_workers_publish_what_one_process_alone_does(plan: Plan, traced: Traced, tmp_path: Path) -> None:
    outcome = run_plan(plan, traced.store, Cluster(gpus_per_worker=0), on_event=traced.events.append)
    assert outcome.complete, outcome
    assert set(outcome.done) == set(plan.steps)

    alone = Traced(Store(str(tmp_path / "alone")), tmp_path / "unused")
    for step in plan.steps.values():
        run_step(step, alone.store, "cpu", lambda _: None)
    assert traced.contents() == alone.contents()

    scores = [json.loads(traced.store.read_file(EVALUATE, digest, SCORES_FILE)) for digest in evaluations(plan)]
    assert all(score["scored"] > 0 for score in scores)
    assert ["kl" in " ".join(score["metrics"]) for score in scores].count(True) == 2


def evaluations(plan: Plan) -> list[str]:
    return [step.digest for step in plan.steps.values() if step.kind == EVALUATE]
