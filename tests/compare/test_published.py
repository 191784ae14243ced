"""Proxy-tuning's published outcomes give its published metrics to the last digit, and its page says what holds."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from compare.published import TASKS, differences, gaps, markdown, read_outcomes
from earnest.statistics.intervals import mean_estimate
from earnest.statistics.paired import difference
from earnest.statistics.passes import pass_at_k
from earnest.statistics.permutation import bootstrap_p

OUTCOMES = "data/proxy_tuning_outcomes.parquet"
PAGE = Path(__file__).parents[2] / "docs" / "results" / "published-outcomes.md"
DIGITS = 1e-14  # relative: the last digit of a float that was printed whole, summed in any order


@cache
def raw(path: Path) -> dict[tuple[str, str], list[tuple[str, float | None, int]]]:
    """(task, model) -> (item, value, n) in order."""
    rows = defaultdict(list)
    for row in pq.read_table(path).to_pylist():
        rows[row["task"], row["model"]].append((row["item"], row["value"], row["n"]))
    return dict(rows)


@pytest.fixture
def outcomes(shared: Path) -> dict[tuple[str, str], list[tuple[str, float | None, int]]]:
    return raw(shared / OUTCOMES)


@pytest.fixture
def anchors(shared: Path) -> dict:
    return json.loads((shared / "data/published_anchors.json").read_text())


def values(outcomes: dict, task: str, model: str) -> list[float]:
    return [value for _, value, _ in outcomes[task, model] if value is not None]


def test_all_outcomes_are_there(outcomes: dict) -> None:
    assert sum(len(rows) for rows in outcomes.values()) == 58_915


def test_gsm8k_is_exact(outcomes: dict, anchors: dict) -> None:
    assert len(anchors["gsm"]) == 15
    for model, metrics in anchors["gsm"].items():
        assert mean_estimate(values(outcomes, "gsm8k", model)).value == metrics["exact_match"]


def test_truthfulqa_is_exact(outcomes: dict, anchors: dict) -> None:
    for model, metrics in anchors["truthfulqa/mc"].items():
        valid = values(outcomes, "truthfulqa_mc", model)
        assert mean_estimate(valid).value == metrics["acc"]
        assert metrics["tot"] - len(valid) == metrics["num_invalid_predictions"]
    for model, metrics in anchors["truthfulqa/open"].items():
        true, informative = (values(outcomes, f"truthfulqa_{name}", model) for name in ("true", "info"))
        both = [a * b for a, b in zip(true, informative, strict=True)]
        found = [mean_estimate(part).value for part in (true, informative, both)]
        assert found == [metrics[f"GPT-{name} acc"] for name in ("true", "info", "true-info")]


def test_toxigen_is_exact_in_every_group(outcomes: dict, anchors: dict) -> None:
    for model, metrics in anchors["toxigen"].items():
        groups = defaultdict(list)
        for item, value, _ in outcomes["toxigen_is_toxic", model]:
            groups[item.partition("/")[0]].append(value)
            groups["overall"].append(value)
        assert {name: mean_estimate(group).value for name, group in groups.items()} == metrics


def test_win_rates_and_their_errors_are_exact(outcomes: dict, anchors: dict) -> None:
    checked = 0
    for model, metrics in anchors["alpaca_farm"].items():
        if ("alpaca_preference", model) not in outcomes:
            continue
        preferences = np.array(values(outcomes, "alpaca_preference", model))
        found = mean_estimate(100 * (preferences - 1))
        assert found.value == pytest.approx(metrics["win_rate"], rel=DIGITS)
        assert found.stderr == pytest.approx(metrics["standard_error"], rel=DIGITS)
        counts = [int((preferences == one).sum()) for one in (2, 1, 1.5)]
        assert counts == [metrics[name] for name in ("n_wins", "n_wins_base", "n_draws")]
        checked += 1
    assert checked == 5


def test_pass_at_k_is_exact(outcomes: dict, anchors: dict, shared: Path) -> None:
    def aggregate(model: str, k: int) -> float:
        rows = outcomes["humaneval_pass_counts", model]
        return mean_estimate([pass_at_k(n, round(value), k) for _, value, n in rows]).value

    assert len(anchors["codex_humaneval"]) == 7
    for model, metrics in anchors["codex_humaneval"].items():
        assert aggregate(model, 10) == pytest.approx(metrics["pass@10"], rel=DIGITS)
    for case in json.loads((shared / "parity/statistics/pass_at_k_winrate.json").read_text())["humaneval"]:
        for k in (1, 5, 10):
            assert aggregate(case["model"], k) == pytest.approx(case[f"pass@{k}"], rel=DIGITS)


def test_paired_bootstraps_equal_the_reference(outcomes: dict, shared: Path) -> None:
    cases = json.loads((shared / "parity/statistics/paired_bootstrap.json").read_text())["cases"]
    named = [case for case in cases if "source" in case]
    assert len(named) == 3
    for case in named:
        task, _, models = case["source"].partition(":")
        a, b = (values(outcomes, task, model) for model in models.split("-minus-"))
        found, tolerance = difference(b, a, count=10_000), case["tolerance_at_10000_resamples"]
        assert found.value == pytest.approx(case["diff"], abs=1e-12)
        assert found.stderr == pytest.approx(case["bootstrap_se_limit"], abs=tolerance["se"])
        assert (found.low, found.high) == pytest.approx(case["percentile_ci95"], abs=tolerance["ci"])
        p = bootstrap_p(np.array(a) - np.array(b), count=10_000)
        assert p == pytest.approx(case["p_two_sided"], abs=tolerance["p"])


@pytest.mark.slow
def test_the_page_says_which_differences_hold(outcomes: dict, shared: Path) -> None:
    samples = read_outcomes(shared / OUTCOMES)
    rows = {row.name: row for row in differences(samples)}
    assert len(rows) == 38
    for task in TASKS[:2]:  # right and wrong: McNemar's test by scipy
        for size in ("13B", "70B"):
            for part in ("base", "expert", "tuned"):
                a, b = (values(outcomes, task.source, getattr(task, who).format(size)) for who in ("proxy", part))
                gained, lost = (sum(x > y for x, y in zip(*pair, strict=True)) for pair in ((a, b), (b, a)))
                row = rows[f"{task.name}|{size}|{part}"]
                assert (row.better, row.worse) == (gained, lost)
                assert row.p == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-9)
    # At both sizes proxies stand above their bases by far more than 5 %; on GSM8K the 70B proxy falls short of tuning.
    assert {row.verdict for name, row in rows.items() if name.endswith("base")} <= {"rises", "no worse"}
    assert rows["GSM8K, chat|70B|tuned"].verdict == "falls"
    assert rows["TruthfulQA true and informative|13B|tuned"].verdict == "no worse"
    closed = {(task, size): share for task, size, share in gaps(samples)}
    # By hand: (26.38 − 6.60) ÷ (32.45 − 6.60)
    assert closed["GSM8K, chat", "13B"].value == pytest.approx((348 - 87) / (428 - 87))
    assert PAGE.read_text(encoding="utf-8") == "\n".join(markdown(samples)) + "\n"
