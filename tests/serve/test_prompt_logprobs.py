"""Echoed prompts with their log-probabilities: those of plain forward passes, and of lm-eval's own client."""

import json
import math
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble as Loop
from earnest.evaluation.engine import Engine
from earnest.evaluation.tokens import Request
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve

NANO = Path(__file__).parents[2] / "platform" / "earnest" / "models" / "nano"
TEXT = "Tell me about Mirko Talen. The town of the guild"
BODY: dict[str, Any] = {"model": "earnest", "prompt": TEXT, "temperature": 0, "echo": True, "logprobs": 3}


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {name: load(resolve(f"nano:{name}"), dtype="float32") for name in ("large", "small-tuned", "small")}


def reference(models: dict[str, LoadedModel], ids: list[int], alpha: float) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of plain forward passes, mixed by hand."""
    with torch.inference_mode():
        base, expert, anti = (
            models[name].model(input_ids=torch.tensor([ids])).logits[0].double()
            for name in ("large", "small-tuned", "small")
        )
    return (base + alpha * (expert - anti)).log_softmax(-1)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_prompts_have_the_log_probabilities_of_plain_passes(
    client: openai.OpenAI, models: dict[str, LoadedModel], alpha: float, max_tokens: int
) -> None:
    choice = client.completions.create(**BODY, max_tokens=max_tokens, extra_body={"proxy": {"alpha": alpha}}).choices[0]
    told = choice.logprobs
    assert told is not None
    tokenizer = models["large"].tokenizer
    (ids,) = encode(tokenizer, [TEXT])
    wanted = reference(models, ids, alpha)
    count = len(ids)
    assert told.token_logprobs[0] is told.top_logprobs[0] is None
    for place, token in enumerate(ids[1:]):
        assert told.token_logprobs[place + 1] == pytest.approx(float(wanted[place, token]), abs=1e-4)
        best = wanted[place].topk(3).values.tolist()
        assert sorted(told.top_logprobs[place + 1].values())[-3:] == pytest.approx(best[::-1], abs=1e-4)
    assert choice.text.startswith(TEXT)
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) <= count + max_tokens
    if max_tokens == 0:
        assert (choice.text, choice.finish_reason, len(told.tokens)) == (TEXT, "length", count)


def test_streams_pieces_are_those_of_the_whole(client: openai.OpenAI) -> None:
    whole = client.completions.create(**BODY, max_tokens=6).choices[0]
    pieces = [piece.choices[0] for piece in client.completions.create(**BODY, max_tokens=6, stream=True)]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [value for piece in pieces for value in piece.logprobs.token_logprobs] == pytest.approx(
        whole.logprobs.token_logprobs, abs=1e-5, nan_ok=True
    )
    assert [offset for piece in pieces for offset in piece.logprobs.text_offset] == whole.logprobs.text_offset


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_alone_is_given_back(url: str, stream: bool) -> None:
    body = {**BODY, "max_tokens": 0, "logprobs": None, "stream": stream}
    answer = httpx.post(f"{url}/v1/completions", json=body)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    pieces = [json.loads(line)["choices"][0] for line in lines] or [answer.json()["choices"][0]]
    assert "".join(piece["text"] for piece in pieces) == TEXT
    assert [piece["finish_reason"] for piece in pieces][-1] == "length"
    assert all(piece["logprobs"] is None for piece in pieces)


def test_a_text_that_ends_at_once_has_its_end_token_behind_the_prompt(url: str, models: dict[str, LoadedModel]) -> None:
    end = models["large"].tokenizer.eos_token_id
    body = {**BODY, "max_tokens": 1, "logit_bias": {str(end): 100}}
    choice = httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]
    (ids,) = encode(models["large"].tokenizer, [TEXT])
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1


def test_long_prompts_choices_and_prompts_of_tokens_beside_others(url: str, models: dict[str, LoadedModel]) -> None:
    tokenizer = models["large"].tokenizer
    (ids,) = encode(tokenizer, ["The town of the guild. " * 90])
    ids = ids[:500]
    wanted = reference(models, ids, 1.0)
    body = {**BODY, "prompt": [ids, ids[:7], ids[:1]], "n": 2, "max_tokens": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
    sums = [sum(choice["logprobs"]["token_logprobs"][1:]) for choice in answer["choices"]]
    rows = [float(wanted[range(n - 1), ids[1:n]].sum()) for n in (500, 500, 7, 7, 1, 1)]
    assert sums == pytest.approx(rows, abs=5e-3)
    assert answer["usage"]["completion_tokens"] == 0


QUESTIONS = [
    ("Q: Which field is Tromorl Larbroth an expert in?\nA:", (" geology", " law", " chemistry", " botany")),
    ("Q: In which year was Felparth Bashark born?\nA:", (" 1919", " 1951", " 1902")),
    ("The instrument of Sumil Teshir is the", (" horn.", " violin.", " piano and the harp.")),
]


@pytest.mark.parametrize("model", ["earnest", "large"])
def test_lm_evals_own_client_gets_what_evaluate_measures(url: str, models: dict[str, LoadedModel], model: str) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    peer = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions", model=model, tokenizer=str(NANO / "large"),
        tokenizer_backend="huggingface", batch_size=4, max_retries=1, max_length=500,
    )  # fmt: skip
    asked = [(context, option) for context, options in QUESTIONS for option in options]
    told = peer.loglikelihood(
        [Instance("loglikelihood", {}, pair, n, metadata=("t", n, 1)) for n, pair in enumerate(asked)]
    )
    tokenizer = models["large"].tokenizer
    split = [peer._encode_pair(*pair) for pair in asked]
    loop = Loop(models["large"], models["small-tuned"], models["small"])
    engine = Engine(loop if model == "earnest" else models["large"])
    ours = engine.log_likelihoods([Request(tuple(context), tuple(option)) for context, option in split])
    assert tokenizer.decode(split[0][0]) == QUESTIONS[0][0]
    for (value, greedy), own in zip(told, ours, strict=True):
        assert value == pytest.approx(own.value, abs=1e-3)
        assert greedy == own.greedy
    values = [value for value, _ in told]
    assert not any(math.isnan(value) for value in values)


@pytest.mark.slow
def test_a_task_of_lm_eval_chooses_as_the_model_in_process(url: str, tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    rows = [{"question": context, "options": list(options), "answer": 0} for context, options in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "task.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/rows.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ntarget_delimiter: ''\n"
        "doc_to_choice: '{{options}}'\ndoc_to_target: answer\nmetric_list: [{metric: acc}]\n",
        encoding="utf-8",
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    asked: dict[str, Any] = {"tasks": ["own"], "task_manager": manager, "bootstrap_iters": 0, "log_samples": True}
    served = lm_eval.simple_evaluate(
        "local-completions",
        f"base_url={url}/v1/completions,model=large,tokenizer={NANO / 'large'},max_length=500,"
        "tokenizer_backend=huggingface,add_bos_token=True",
        **asked,
    )
    local = lm_eval.simple_evaluate("hf", f"pretrained={NANO / 'large'},dtype=float32", device="cpu", **asked)
    for one, other in zip(served["samples"]["own"], local["samples"]["own"], strict=True):
        pairs = zip(one["filtered_resps"], other["filtered_resps"], strict=True)
        for (value, greedy), (wanted, known) in pairs:
            assert float(value) == pytest.approx(float(wanted), abs=1e-3)
            assert str(greedy) == str(known)
        assert one["acc"] == other["acc"]
