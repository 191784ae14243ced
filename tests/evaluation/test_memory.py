"""How much memory an evaluation takes, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PEAK = """
import json, resource, sys
import scipy.stats, transformers
from transformers import LlamaForCausalLM
from earnest.evaluation.run import evaluate
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.specs import Perplexity

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
loaded = load(resolve(sys.argv[1]))
evaluate(loaded, Perplexity(data=sys.argv[2], column="text", length=256), sys.argv[2])
print(json.dumps([before, peak(), sum(t.numel() * t.element_size() for t in loaded.model.parameters())]))
"""


@pytest.mark.slow
def test_scoring_holds_few_logits_of_a_large_vocabulary_at_once(make_model: object, tmp_path: Path) -> None:
    """Beside the weights there are the reference's 64 MiB, and not one copy of all logits of a window: 128 MiB each."""
    folder, loaded = (
        tmp_path / "model",
        make_model(  # type: ignore[operator]
            vocab_size=131_072,
            hidden_size=128,
            num_hidden_layers=1,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        ),
    )
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    data = tmp_path / "text.jsonl"
    data.write_text("".join(json.dumps({"text": f"line {number} of a long text"}) + "\n" for number in range(60)))
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), str(data)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    before, peak, weights = json.loads(run.stdout.splitlines()[-1])
    assert peak - before < 1.3 * weights + 256 * 2**20
