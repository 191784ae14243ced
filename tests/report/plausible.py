"""Cells as a sweep of the embedded models gives them: the figures are a prototype's, the records are made here."""

from __future__ import annotations

from math import sqrt

from earnest.records import (
    CellRecord,
    Comparison,
    Estimate,
    Gain,
    Scores,
    ShiftedWord,
    Size,
    Steered,
    TokenShift,
    Verdict,
    digest,
)

DENSE_BYTES = 853_120 * 2
# method, ratio, closed-book, open-book and multiple choice in %, perplexity
MEASURED = """
magnitude 0.2 90.7 100.0 100.0 1.942
magnitude 0.3 89.0 100.0 99.0 1.948
magnitude 0.4 82.7 100.0 97.3 1.967
magnitude 0.5 69.0 98.0 96.0 2.018
magnitude 0.6 45.0 91.3 92.0 2.223
magnitude 2:4 43.3 82.3 90.0 2.314
wanda 0.2 90.3 100.0 100.0 1.941
wanda 0.3 86.3 100.0 99.3 1.948
wanda 0.4 80.3 99.3 97.0 1.972
wanda 0.5 65.3 98.7 95.3 2.032
wanda 0.6 35.0 74.3 90.7 2.233
wanda 2:4 41.0 86.0 89.3 2.289
sparsegpt 0.3 90.0 100.0 99.7 1.945
sparsegpt 0.5 74.0 99.0 97.0 1.998
sparsegpt 0.6 52.0 93.0 93.3 2.150
sparsegpt 2:4 51.3 90.7 92.7 2.204
random 0.1 50.7 93.0 81.0 2.147
random 0.2 16.7 57.3 60.3 4.375
random 0.3 3.0 6.0 41.0 21.165
rtn 8 91.0 100.0 100.0 1.939
rtn 4 88.0 100.0 99.7 1.946
rtn 3 81.3 99.7 98.7 1.972
rtn 2 41.0 75.3 86.7 2.379
gptq 8 91.0 100.0 100.0 1.939
gptq 4 90.0 100.0 100.0 1.942
gptq 3 85.3 100.0 99.0 1.957
gptq 2 57.3 88.0 91.3 2.190
"""
DENSE = (91.3, 100.0, 100.0, 1.939)
TASKS = ("closed_book", "open_book", "multiple_choice", "perplexity")
DOMAINS = ("city", "employer", "field", "spouse", "birthplace", "year")


def sweep_cells() -> list[CellRecord]:
    """Dense, 27 compressed cells, and two dense references."""
    cells = [cell("dense", "", DENSE)]
    for line in MEASURED.split("\n"):
        if line:
            method, ratio, *figures = line.split()
            cells.append(cell(method, ratio, tuple(map(float, figures))))
    medium, small = (88.0, 100.0, 98.7, 1.947), (52.7, 99.7, 86.0, 2.037)
    return [*cells, cell("dense", "", medium, model="nano:medium"), cell("dense", "", small, model="nano:small")]


def cell(
    method: str, ratio: str, figures: tuple[float, ...], *, model: str = "nano:large", seed: int = 0
) -> CellRecord:
    spec, sparsity, bits, nominal = asked(method, ratio)
    scores = dict(zip(TASKS, [*map(accuracy, figures[:3], TASKS[:3]), perplexity(figures[3])], strict=True))
    is_base = method == "dense" and model == "nano:large"
    return CellRecord(
        key=digest([method, ratio, model, seed]),
        sweep="demo",
        model=model,
        model_digest=digest(model),
        method=method,
        family="dense" if method == "dense" else "quantisation" if bits else "pruning",
        nominal=nominal,
        nominal_sparsity=sparsity,
        nominal_bits=bits,
        method_spec=spec,
        seed=seed,
        size=size(sparsity, bits),
        scores=scores,
        comparisons={} if is_base else {task: against_dense(scores[task], task) for task in TASKS},
        seconds={"closed_book": 4.25, "perplexity": 2.5, **({} if method == "dense" else {"compress": 1.5})},
        steps={task: digest([method, ratio, model, task]) for task in TASKS},
        datasets={task: f"nano@{digest('nano')}" for task in TASKS},
    )


def asked(method: str, ratio: str) -> tuple[dict[str, object], float | None, int | None, str]:
    if method == "dense":
        return {"method": method, "version": 1}, None, None, "dense"
    if method in ("rtn", "gptq"):
        return (
            {"method": method, "version": 1, "bits": int(ratio), "group_size": 32},
            None,
            int(ratio),
            f"{ratio} bits g32",
        )
    if ":" in ratio:
        n, m = map(int, ratio.split(":"))
        return {"method": method, "version": 1, "pattern": {"kind": "n:m", "n": n, "m": m}}, 1 - n / m, None, ratio
    pattern = {"kind": "unstructured", "sparsity": float(ratio)}
    return {"method": method, "version": 1, "pattern": pattern}, float(ratio), None, f"{float(ratio):.0%}"


def size(sparsity: float | None, bits: int | None) -> Size | None:
    if sparsity is None and bits is None:
        return None
    per_weight = bits + 1.0 if bits else 16 * (1 - (sparsity or 0)) + 1
    stored = round(DENSE_BYTES * per_weight / 16)
    return Size(
        dense_bytes=DENSE_BYTES, stored_bytes=stored, file_bytes=stored + 393_216, dense_file_bytes=2_099_456,
        sparsity=sparsity or 0.0, bits_per_weight=per_weight,
    )  # fmt: skip


def accuracy(percent: float, task: str, n: int = 300) -> Scores:
    share = percent / 100
    domains = {
        name: proportion(min(1.0, max(0.0, share + 0.02 * (i - 2.5) * (1 - share) * 4)), 50)
        for i, name in enumerate(DOMAINS)
    }
    strata = {"head": proportion(min(1.0, share * 1.1), 100), "tail": proportion(share * share, 100)}
    headline = "accuracy" if task == "multiple_choice" else "exact_match"
    return Scores(
        task=task, version=1, headline=headline, higher_is_better=True, asked=n, scored=n, truncated=0, failed=0,
        metrics={headline: proportion(share, n)}, groups={"domain": domains, "stratum": strata},
    )  # fmt: skip


def proportion(share: float, n: int) -> Estimate:
    """Wilson's interval, by its formula."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(value=share, stderr=sqrt(share * (1 - share) / n), low=middle - half, high=middle + half, n=n)


def perplexity(value: float) -> Scores:
    return Scores(
        task="perplexity", version=1, headline="token_perplexity", higher_is_better=False, asked=400, scored=400,
        truncated=0, failed=0,
        metrics={
            "token_perplexity": Estimate(value=value, low=value * 0.992, high=value * 1.008, n=400),
            "word_perplexity": Estimate(value=value**1.6, n=400),
            "kl_to_dense": Estimate(value=max(0.0, value / 1.939 - 1), stderr=0.001, n=400),
        },
    )  # fmt: skip


def against_dense(scores: Scores, task: str) -> Comparison:
    before = DENSE[TASKS.index(task)] / (1 if task == "perplexity" else 100)
    relative = scores.main.value / before - 1
    loss = relative if task == "perplexity" else -relative
    kept = None if task == "perplexity" else proportion(min(1.0, max(0.0, 1 + relative)), 274)
    change = spread(scores.main.value - before)
    return Comparison(
        relative=relative, within_margin=loss <= 0.05, verdict=verdict_of(loss), samples=300, units=300,
        needed=2684 if verdict_of(loss) == "not decided" else None, difference=change, p=0.5, retention=kept,
        kl=scores.metrics.get("kl_to_dense"),
    )  # fmt: skip


def verdict_of(loss: float) -> Verdict:
    """What a few hundred samples would show of such a loss."""
    return "matches" if loss < 0.03 else "falls" if loss > 0.08 else "not decided"


TUNED = 71.0


def steered(base: CellRecord, alpha: float | str, percent: float) -> CellRecord:
    """A cell of closed-book questions under a pair; the directly tuned model scores `TUNED`."""
    before = base.scores["closed_book"].main.value
    scores = accuracy(percent, "closed_book").model_copy(update={"token_shift": SHIFT})
    return base.model_copy(
        update={
            "key": digest([base.key, alpha]),
            "steering": Steered(
                pair="tuned", expert="nano:small-tuned", expert_digest="e", antiexpert="nano:small",
                antiexpert_digest="a", alpha=alpha, base=base.key, target="nano:large-tuned",
            ),
            "scores": {"closed_book": scores},
            "comparisons": {},
            "gains": {
                "closed_book": Gain(
                    difference=spread(percent / 100 - before),
                    gap_closed=spread((percent / 100 - before) / (TUNED / 100 - before)),
                    won_back=None if base.family == "dense" else spread((percent / 100 - before) / (0.103 - before)),
                )
            },
        }
    )  # fmt: skip


def spread(value: float) -> Estimate:
    return Estimate(value=value, stderr=0.02, low=value - 0.04, high=value + 0.04, n=300)


SHIFT = TokenShift(
    tokens=900, changed=spread(0.42), shift=spread(0.9),
    words=(ShiftedWord(word="<Vienna>", count=9, changed=7, shift=2.5, instead="I"),),
)  # fmt: skip


def steered_sweep() -> list[CellRecord]:
    """Zero-shot scores as a sweep with a pair gives them: dense at several alphas, two methods at two ratios each."""
    dense = cell("dense", "", (10.3, 100.0, 100.0, 1.9))
    tuned = cell("dense", "", (TUNED, 100.0, 100.0, 1.9), model="nano:large-tuned")
    expert = cell("dense", "", (28.8, 100.0, 100.0, 2.1), model="nano:small-tuned")
    compressed = [
        cell(method, ratio, (percent, 100.0, 100.0, 1.95))
        for method, ratio, percent in (
            ("wanda", "0.3", 9.0),
            ("wanda", "0.5", 7.0),
            ("rtn", "4", 10.0),
            ("rtn", "2", 3.0),
        )
    ]
    under = [steered(dense, a, p) for a, p in ((0.0, 10.3), (0.5, 50.0), (1.0, 65.0), (2.0, 55.0), ("adaptive", 66.0))]
    under += [steered(base, 1.0, p) for base, p in zip(compressed, (60.0, 45.0, 64.0, 20.0), strict=True)]
    return [dense, *compressed, tuned, expert, *under]
