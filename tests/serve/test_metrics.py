"""What Prometheus reads is what happened."""

import asyncio
import re
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from serve.config import Config
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.keys import digest

KEY = "a key"
BODY: dict[str, Any] = {"model": "earnest", "prompt": "The town", "max_tokens": 8, "temperature": 0, "n": 2}


def figures(text: str) -> dict[tuple[str, ...], float]:
    """All samples by name and labels, these in the order of their names and without the replica."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("replica") == "r-1"
            found[(sample.name, *(sample.labels[label] for label in sorted(sample.labels)))] = sample.value
    return found


def test_figures_are_what_happened(config: Config, ensemble: Ensemble) -> None:
    keyed = config.with_settings({"keys": [{"name": "reader", "sha256": digest(KEY), "metrics": True}]})

    async def asked() -> tuple[dict[str, Any], dict[tuple[str, ...], float]]:
        transport = httpx.ASGITransport(make_app(keyed, ensemble, replica="r-1"))
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            answer = (await client.post("/v1/completions", json={**BODY, "proxy": {}})).json()
            await client.post("/v1/completions", json={**BODY, "stream": True})
            await client.post("/v1/completions", json={**BODY, "n": 0})
            await client.get("/any/path/that/somebody/made/up")
            return answer["usage"], figures((await client.get("/metrics")).text)

    usage, found = asyncio.run(asked())
    assert found["earnest_requests_total", "/v1/completions", "200"] == 2
    assert found["earnest_requests_total", "/v1/completions", "400"] == 1
    assert found["earnest_requests_total", "unknown", "404"] == 1
    assert found["earnest_tokens_total", "reader", "prompt", "earnest"] == 2 * usage["prompt_tokens"]
    assert found["earnest_tokens_total", "reader", "completion", "earnest"] == 2 * usage["completion_tokens"]
    assert found["earnest_drafted_tokens_total", "earnest"] >= usage["proxy"]["drafted"]
    assert found["earnest_accepted_tokens_total", "earnest"] <= found["earnest_drafted_tokens_total", "earnest"]
    assert found["earnest_first_token_seconds_count", "earnest"] == 4
    assert found["earnest_token_seconds_count", "earnest"] == 4
    assert found["earnest_queue_seconds_count", "earnest"] == 4
    assert found[("earnest_batch_tokens_total",)] >= 4 * usage["completion_tokens"] / 2
    for name in ("rounds", "prompt_tokens", "cached_tokens"):
        assert (f"earnest_batch_{name}_total",) in found
        assert (f"earnest_batch_{name}",) not in found
    assert found["earnest_request_seconds_count", "/v1/completions"] == 3
    assert found[("earnest_batch_rows",)] == config.batch.rows
    assert found[("earnest_batch_running",)] == 0
    assert found[("earnest_batch_kv_bytes",)] > 0
    assert found[("earnest_ensemble_up",)] == 1


def test_every_figure_says_what_it_is(config: Config, ensemble: Ensemble) -> None:
    async def asked() -> str:
        transport = httpx.ASGITransport(make_app(config, ensemble))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get("/metrics")).text

    text = asyncio.run(asked())
    kinds = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    assert {name for name, kind in kinds.items() if kind == "counter"} == {n for n in kinds if n.endswith("_total")}
    assert set(re.findall(r"# TYPE (\S+)", text)) == set(re.findall(r"# HELP (\S+) \S", text))
