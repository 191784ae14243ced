"""Judges see both orders, are read strictly, keep ties, and what they fail to judge is counted and never a zero."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from earnest.decoding.generation import Generation
from earnest.evaluation.conversations import VICUNA, prompt, transcript
from earnest.evaluation.engine import Engine
from earnest.evaluation.judging import replies
from earnest.evaluation.judging.forms import CRITERIA, HELPFULNESS, SUMMARIES, templates
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import alpaca_farm, instruction, judged_summaries
from earnest.specs import AlpacaFarm, EndpointJudge, Instruction, JudgedSummaries, RuleJudge, UserError, read_task
from earnest.statistics.agreement import cohen_kappa
from earnest.statistics.length_control import length_controlled

SHARED = Path(__file__).parents[2].parent / "shared"
PARITY = SHARED / "parity" / "evaluation" / "extraction" / "judge_parse.json"
OUTCOMES = SHARED / "data" / "proxy_tuning_outcomes.parquet"
TEMPLATES = SHARED / "data" / "judge_prompts.parquet"

ROWS = [
    {"instruction": "Name a colour.", "output": "Red is a colour."},
    {"instruction": "Name a city.", "output": "Paris is a city."},
    {"instruction": "Name a tree.", "output": "An oak is a tree."},
]


class Scripted(Engine):
    """An engine whose model writes what the test wants, turn by turn."""

    def __init__(self, tokenizer: Any, written: list[str]) -> None:
        self.tokenizer, self.written, self.asked = tokenizer, list(written), []  # type: ignore[var-annotated]

    def generate(self, prompts: Any, progress: Any = None) -> list[Generation]:
        self.asked += prompts
        return [Generation(self.written.pop(0), (1, 2, 3), "stop") for _ in prompts]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@contextmanager
def endpoint(app: FastAPI) -> Iterator[str]:
    """A real server on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def chat_app(say: Any, key: str | None = None) -> tuple[FastAPI, list[dict[str, Any]]]:
    """An endpoint whose model says `say(prompt)`; None is a refusal."""
    app, bodies = FastAPI(), []  # type: ignore[var-annotated]

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        if key and request.headers.get("authorization") != f"Bearer {key}":
            return JSONResponse({"error": {"message": f"{request.headers.get('authorization')} is wrong"}}, 401)
        bodies.append(await request.json())
        said = say(bodies[-1]["messages"][-1]["content"])
        if said is None:
            return JSONResponse({"error": {"message": "content refused"}}, 400)
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage})

    return app, bodies


def answers_of(text: str) -> tuple[str, str]:
    """What stands in a prompt as answer 1 and as answer 2."""
    first, second = text.split("# Answer 1\n")[1].split("\n\n# Answer 2\n")
    return first, second.split("\n\n# Your verdict\n")[0]


def prefers(word: str, text: str) -> str:
    """An honest judge that likes `word`."""
    first, second = (word in answer for answer in answers_of(text))
    return "tie\nAlike." if first == second else f"{1 if first else 2}\nIt has the word."


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("8 7\nboth fine", ((8.0, 7.0),)), ("\n 8,7 ", ((8.0, 7.0),)), ("(9, 8)", ((9.0, 8.0),)),
        ("8.5 7", ((8.5, 7.0),)), ("10 10", ((10.0, 10.0),)),
        ("9 8 7", None), ("0 5", None), ("11 5", None), ("Scores: 9 8", None), ("", None), ("8", None),
        ("(9, 8", None), ("8.5/10 for Assistant 1, 7 for Assistant 2", None), ("I say 8 7", None), ("-8 7", None),
    ],
)  # fmt: skip
def test_a_score_is_two_numbers_on_the_first_line_or_none(reply: str, scores: Any) -> None:
    assert replies.overall(reply) == scores


def test_criteria_may_carry_their_names_but_no_others() -> None:
    parse = replies.by_criterion(CRITERIA)
    assert parse("8 7\n8 6\n9 8\n8 5\nfine") == ((8, 7), (8, 6), (9, 8), (8, 5))
    assert parse("Coherence: 8 7\nconsistency: 8 6\nFluency: 9 8\nRelevance: 8 5") == ((8, 7), (8, 6), (9, 8), (8, 5))
    assert parse("Fluency: 8 7\n8 6\n9 8\n8 5") is None
    assert parse("8 7\n8 6\n9 8") is None


def test_a_preference_is_one_word() -> None:
    assert replies.choice("1\nbecause") == ((1.0, 0.0),)
    assert replies.choice(" Tie") == ((0.5, 0.5),)
    assert [replies.choice(reply) for reply in ("", "Answer 2", "12", "either", "1.")] == [None] * 5


def test_published_parsers_are_reproduced_with_their_losses() -> None:
    if not PARITY.is_file():
        pytest.skip("the published parsers' table is not beside the checkout")
    for case in json.loads(PARITY.read_text(encoding="utf-8")):
        found, wanted = replies.kick_overall(case["review"]), case["vicuna80_parse"]
        assert (list(found[0]) if found else [-1, -1]) == wanted, case
        four, wanted = replies.kick_criteria(case["review"]), case["summarization_parse"]
        assert ([list(pair) for pair in four] if four else [-1, -1]) == (
            list(wanted.values()) if isinstance(wanted, dict) else wanted
        ), case


def test_a_judge_that_only_sees_order_says_tie(tokenizer, tmp_path: Path) -> None:
    data = write(tmp_path / "test.parquet", ROWS)
    spec = AlpacaFarm(data=data, judges=(RuleJudge(rule="first"),))
    found = alpaca_farm.measure(Scripted(tokenizer, ["Blue", "Rome", "Elm"]), spec, data)
    assert found.metrics["win_rate"].value == 0.5
    assert found.metrics["tie_rate"].value == 1.0
    assert found.metrics["orders_agree"].value == 0.0
    published = alpaca_farm.measure(
        Scripted(tokenizer, ["Blue", "Rome", "Elm"]), spec.model_copy(update={"compat": True}), data
    )
    assert published.metrics["win_rate"].value == 0.0


def test_both_orders_reach_the_endpoint_and_every_verdict_is_kept(
    tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    data = write(tmp_path / "test.parquet", ROWS)
    app, bodies = chat_app(lambda text: prefers("Blue", text), key="sk-very-secret")
    with endpoint(app) as url:
        judge = EndpointJudge(url=url, model="wise", key_env="JUDGE_KEY", usd_per_million=(10.0, 30.0))
        spec = AlpacaFarm(data=data, judges=(judge, RuleJudge(rule="longer")))
        found = alpaca_farm.measure(Scripted(tokenizer, ["Blue is", "Rome", "Elm"]), spec, data)
    seen = {answers_of(body["messages"][-1]["content"]) for body in bodies}
    assert len(bodies) == 6
    assert {("Blue is", ROWS[0]["output"]), (ROWS[0]["output"], "Blue is")} <= seen
    assert [sample.score for sample in found.samples] == [1.0, 0.5, 0.5]
    assert found.metrics["win_rate"].value == pytest.approx(2 / 3)
    assert found.metrics["usd.wise"].value == pytest.approx(6 * (100 * 10 + 10 * 30) / 1e6)
    assert found.metrics["calls.wise"].value == 6
    verdicts = json.loads(str(found.samples[0].more["verdicts"]))
    assert [(v["judge"], v["answer_first"], v["scores"]) for v in verdicts] == [
        ("wise", False, [[1.0, 0.0]]), ("wise", True, [[1.0, 0.0]]),
        ("longer", False, [[0.0, 1.0]]), ("longer", True, [[0.0, 1.0]]),
    ]  # fmt: skip
    assert found.metrics["kappa.wise.longer"].n == 3
    assert "sk-very-secret" not in str(found.samples)


def test_what_a_judge_fails_on_is_unjudged_and_counted_never_zero(tokenizer, tmp_path: Path) -> None:
    data = write(tmp_path / "test.parquet", ROWS)

    def say(text: str) -> str | None:
        if "city" in text:
            return None
        return "I cannot choose" if "tree" in text and answers_of(text)[0] == "Elm" else prefers("Blue", text)

    app, _ = chat_app(say)
    with endpoint(app) as url:
        spec = AlpacaFarm(data=data, judges=(EndpointJudge(url=url, model="moody"),))
        found = alpaca_farm.measure(Scripted(tokenizer, ["Blue", "Rome", "Elm"]), spec, data)
    assert [sample.score for sample in found.samples] == [1.0, None, None]
    assert found.metrics["win_rate"].value == 1.0
    assert found.metrics["win_rate"].n == 1
    assert found.metrics["judged.moody"].value == pytest.approx(1 / 3)
    assert found.metrics["calls_failed.moody"].value == 2
    assert found.metrics["replies_unread.moody"].value == 1
    problems = [verdict["problem"] for verdict in json.loads(str(found.samples[1].more["verdicts"]))]
    assert all("content refused" in problem for problem in problems)


def test_a_judge_that_judges_nothing_is_one_clear_error(
    tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    data = write(tmp_path / "test.parquet", ROWS)
    app, _ = chat_app(lambda text: "1", key="another")
    with endpoint(app) as url:
        spec = AlpacaFarm(data=data, judges=(EndpointJudge(url=url, model="wise", key_env="JUDGE_KEY"),))
        with pytest.raises(UserError, match="none of 3 answers could be judged") as error:
            alpaca_farm.measure(Scripted(tokenizer, ["Blue", "Rome", "Elm"]), spec, data)
    assert "sk-very-secret" not in str(error.value)


def test_a_local_model_judges_and_its_babble_is_no_verdict(make_model, tmp_path: Path) -> None:
    loaded = make_model()
    folder = tmp_path / "judge"
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    data = write(tmp_path / "test.parquet", ROWS)
    task = {"task": "alpaca_farm", "data": data, "max_tokens": 4,
            "judges": [{"judge": "rule"}, {"judge": "model", "model": str(folder), "max_tokens": 4}]}  # fmt: skip
    scores = evaluate(make_model(), read_task(task), data).scores
    assert scores.scored == 3
    assert scores.metrics["judged.judge"].value == 0.0
    assert scores.metrics["calls.judge"].value == 6


def test_conversations_of_two_turns_are_asked_turn_by_turn_and_judged_whole(tokenizer, tmp_path: Path) -> None:
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "reference": ["One.", "Two."]},
        {"question_id": 82, "category": "math", "turns": ["Add."], "reference": ["Three."]},
    ]
    data = write(tmp_path / "test.parquet", rows)
    engine = Scripted(tokenizer, ["First", "Sum", "Second"])
    app, bodies = chat_app(
        lambda text: "(4, 8)" if answers_of(text)[0].startswith(("[Turn 1]\nOne", "Three")) else "8 4"
    )
    with endpoint(app) as url:
        spec = Instruction(data=data, judges=(EndpointJudge(url=url, model="wise"),), chat="vicuna")
        found = instruction.measure(engine, spec, data)
    seen = [body["messages"][-1]["content"] for body in bodies]
    assert sum("[Turn 1]\nFirst\n\n[Turn 2]\nSecond" in text for text in seen) == 2
    assert [sample.score for sample in found.samples] == [8.0, 8.0]
    assert [sample.id for sample in found.samples] == ["81", "82"]
    assert found.metrics["judge_score"].value == 8.0
    assert found.metrics["reference_overall"].value == 4.0
    assert found.metrics["win_rate"].value == 1.0
    asked = [tokenizer.decode(p.ids, skip_special_tokens=True) for p in engine.asked]
    assert "First" in asked[2]
    assert "Again." in asked[2]


def test_summaries_are_judged_by_four_criteria_and_by_size(tokenizer, tmp_path: Path) -> None:
    rows = [
        {"article": "A dog ran.\nIt barked.", "highlights": ["Dog runs"], "size": "small"},
        {"article": "A cat sat.", "highlights": ["Cat sits"], "size": "large"},
    ]
    data = write(tmp_path / "test.parquet", rows)
    engine = Scripted(tokenizer, ["Dog runs", "Fish"])
    found = judged_summaries.measure(engine, JudgedSummaries(data=data), data)
    assert [sample.more["coherence"] for sample in found.samples] == [10.0, 1.0]
    assert found.metrics["judge_score"].value == 5.5
    assert [sample.stratum for sample in found.samples] == ["small", "large"]
    clean, faulty = (
        [row["prompt"] for row in judged_summaries.user_rows(JudgedSummaries(data=data, compat=c), data)]
        for c in (False, True)
    )
    assert clean[0].endswith("relevance.\n\nA dog ran.\nIt barked.")
    assert clean[0].startswith("Summarize the given story in less than 150 words")
    assert clean[1].startswith("Summarize the given news in less than 150 words")
    assert faulty[0].endswith("A dog ran.It barked.@highlightDog runs")


def test_vicunas_conversation_and_transcripts() -> None:
    assert prompt(None, "vicuna", ["a", "b"], ["x"]) == f"{VICUNA} USER: a ASSISTANT: x</s>USER: b ASSISTANT:"
    assert prompt(None, "plain", ["a", "b"], ["x"]) == "a\n\nx\n\nb"
    assert transcript(["a"], ["x"]) == ("a", "x")


def test_what_answers_hold_is_not_filled_in() -> None:
    text = HELPFULNESS.text("q {answer_2}", "{prompt}", "{oops} }{")
    assert "q {answer_2}" in text
    assert "# Answer 1\n{prompt}\n\n# Answer 2\n{oops} }{\n" in text
    assert SUMMARIES.instruction in SUMMARIES.text("q", "a", "b")


def test_a_users_templates_are_asked_by_category(tmp_path: Path) -> None:
    if not TEMPLATES.is_file():
        pytest.skip("the published judge prompts are not beside the checkout")
    rows = [row for row in pq.read_table(TEMPLATES).to_pylist() if row["task"] == "vicuna80"]
    write(tmp_path / "prompts.parquet", rows)
    found = templates(str(tmp_path), "prompts", HELPFULNESS)
    assert set(found) == {"", "general", "coding", "math"}
    assert found[""] == found["general"]
    row = rows[0]
    wanted = row["prompt_template"].format(question="Q", answer_1="A", answer_2="B", prompt=row["instruction"])
    assert found["general"].text("Q", "A", "B") == wanted
    broken = write(tmp_path / "broken.parquet", [{**rows[0], "prompt_template": "{question} {answer_1}"}])
    with pytest.raises(UserError, match=r"no \{answer_2\}"):
        templates(broken, "prompts", HELPFULNESS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"turns": ["a", "b"], "reference": ["x"]}, "2 turns and 1 reference answers"),
        ({"turns": [""], "reference": ["x"]}, "not empty"),
        ({"turns": ["a"]}, "has no column 'reference' or 'answer'"),
    ],
)
def test_conversations_that_cannot_be_judged_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "test.parquet", [row])
    with pytest.raises(UserError, match=message):
        instruction.user_rows(Instruction(data=data), data)


def test_a_judge_cannot_agree_with_itself() -> None:
    with pytest.raises(UserError, match="each must stand once"):
        read_task({"task": "instruction", "judges": [{"judge": "rule"}, {"judge": "rule"}]})


def test_kappa_is_agreement_beyond_chance() -> None:
    assert cohen_kappa("aabb", "aabb") == 1.0
    assert cohen_kappa("aabb", "abab") == 0.0
    # 20 and 15 agreements of 50, the classic table: observed 0.7, expected 0.5
    one, other = "y" * 25 + "n" * 25, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    assert cohen_kappa("aa", "aa") is None
    assert cohen_kappa("", "") is None
    with pytest.raises(ValueError, match="same items"):
        cohen_kappa("a", "ab")


def test_length_control_takes_away_what_length_alone_wins() -> None:
    lengths = [100.0, -100.0] * 200
    by_length = [1.0 if length > 0 else 0.0 for length in lengths]
    assert length_controlled(by_length, lengths).value == pytest.approx(0.5, abs=1e-6)
    by_worth = [1.0, 1.0, 1.0, 0.0] * 100
    found = length_controlled(by_worth, [0.0] * 400)
    assert found.value == pytest.approx(0.75, abs=1e-3)
    assert found.stderr == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.01)
    biased = length_controlled([1.0] * 90 + [0.0] * 10, [50.0] * 95 + [-50.0] * 5)
    assert biased.low is not None
    assert 0 < biased.low < biased.value < 0.9


def test_published_win_rates_are_recomputed() -> None:
    if not OUTCOMES.is_file():
        pytest.skip("the published outcomes are not beside the checkout")
    rows = pq.read_table(OUTCOMES, filters=[("task", "=", "alpaca_preference")]).to_pylist()
    for model, percent in {"dexperts-13B": 83.35, "llama2-chat-70B": 90.37, "llama2-chat-7B": 82.48}.items():
        wins = [row["value"] - 1 for row in rows if row["model"] == model]
        samples = [alpaca_farm.Sample("", "", score=win) for win in wins]
        assert round(100 * alpaca_farm.win_rate(samples).value, 2) == percent
