"""Any benchmark of lm-eval: its own prompts, filters and metrics, answered by our engine, every sample kept.

A document for which the model gives no number (its logits are not finite, or an option does not fit) is counted as
failed and left out of every metric.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from earnest.decoding.generation import Generation
from earnest.evaluation.chat import PLAIN, read_alike, read_as
from earnest.evaluation.engine import Engine, LogLikelihood, Progress
from earnest.evaluation.harness.benchmarks import explained, open_benchmark
from earnest.evaluation.harness.figures import Figure, figure, mean_of, metric_name
from earnest.evaluation.rows import DOMAIN_COLUMNS, STRATUM_COLUMNS
from earnest.evaluation.samples import Measured, Sample, scored, unscored
from earnest.records import Estimate
from earnest.specs import LMEval, UserError
from earnest.statistics.intervals import mean_estimate

if TYPE_CHECKING:
    from earnest.evaluation.harness.model import EngineLM

RIGHT_OR_WRONG = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em"})
NOT_A_METRIC = "bypass"

Key = tuple[str, str]  # a metric, and the filter of what it looks at


@dataclass(frozen=True)
class _Document:
    """A document as it was asked (lm-eval's instances) and answered, and its value of each metric if it has any."""

    number: int
    instances: Sequence[Any]
    likelihoods: Sequence[LogLikelihood]
    generations: Sequence[Generation]
    values: Mapping[Key, Any]

    @property
    def finite(self) -> bool:
        """Whether all of the model's logits were."""
        return all(one.finite for one in self.likelihoods) and all(
            one.finish != "not_finite" for one in self.generations
        )

    @property
    def whole(self) -> bool:
        """Whether everything that was asked has an answer."""
        return self.finite and all(one.value is not None for one in self.likelihoods)


def reads(spec: LMEval, data: str) -> list[tuple[str, list[str]]]:
    """Nothing that is known here: a benchmark looks at its own data when it is found."""
    return []


def items(spec: LMEval, data: str) -> list[str]:
    """Nothing before the benchmark is opened, which needs an engine."""
    return []


def measure(engine: Engine, spec: LMEval, data: str, progress: Progress | None = None) -> Measured:
    """The benchmark's metrics under their names there; the first is the headline.

    Raises:
        UserError: the benchmark cannot be opened, or asks for what is not done here; no document could be scored.
    """
    task = open_benchmark(spec, data)
    from earnest.evaluation.harness.model import EngineLM

    read = read_alike if spec.chat_template else partial(read_as, manner=PLAIN)
    model = EngineLM(engine, read=read, max_tokens=spec.max_tokens, seed=spec.seed, progress=progress)
    with explained(spec.benchmark, "its prompts cannot be written"):
        _build(task, spec, model)
    _answer(task, model)
    with explained(spec.benchmark, "its metrics cannot be computed"):
        documents = _documents(task, model)
        figures = _figures(task, documents)
    if not figures:
        scored([_sample(task, one, None, {}) for one in documents])
        raise UserError(f"lm_eval:{spec.benchmark}: has no metric that is a number; nothing can be reported of it")
    headline, main = next(iter(figures.items()))
    samples = [_sample(task, one, headline, figures) for one in documents]
    return Measured(
        samples,
        {metric_name(*key): found.estimate for key, (found, _) in figures.items()},
        _of_means if main[0].is_mean else _of_influences,
        headline_name=metric_name(*headline),
        higher_is_better=bool(task.higher_is_better().get(headline[0], True)),
    )


def _build(task: Any, spec: LMEval, model: EngineLM) -> None:
    """Let the benchmark write its prompts."""
    chat = spec.chat_template
    with redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        task.build_all_requests(
            limit=spec.limit,
            system_instruction=spec.system,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            chat_template=model.apply_chat_template if chat else None,
            tokenizer_name=model.tokenizer_name if chat else "",
        )
    if spec.system and spec.system not in str(task.instances[0].args[0]):
        raise UserError(
            f"lm_eval:{spec.benchmark}: the prompt has no place for system = {spec.system[:40]!r}; leave it out"
        )


def _answer(task: Any, model: EngineLM) -> None:
    """Ask the model for everything that the benchmark wants, each kind of request at once."""
    kinds: dict[str, list[Any]] = defaultdict(list)
    for instance in task.instances:
        kinds[instance.request_type] += [instance] * (instance.repeats or 1)
    for kind, instances in kinds.items():
        for instance, response in zip(instances, getattr(model, kind)(instances), strict=True):
            instance.resps.append(response)
    task.apply_filters()


def _documents(task: Any, model: EngineLM) -> list[_Document]:
    asked: dict[int, list[Any]] = defaultdict(list)
    for instance in task.instances:
        asked[instance.doc_id].append(instance)
    return [_document(task, model, number, sorted(asked[number], key=lambda one: one.idx)) for number in sorted(asked)]


def _document(task: Any, model: EngineLM, number: int, instances: list[Any]) -> _Document:
    likelihoods = [one for instance in instances for one in model.likelihoods[id(instance)]]
    generations = [one for instance in instances for one in model.generations[id(instance)]]
    values: dict[Key, Any] = {}
    document = _Document(number, instances, likelihoods, generations, values)
    if not document.whole:
        return document
    for name in instances[0].filtered_resps:
        found = task.process_results(instances[0].doc, [one.filtered_resps[name] for one in instances])
        values |= {(metric, name): value for metric, value in found.items() if metric != NOT_A_METRIC}
    return document


# --- metrics --------------------------------------------------------------------------------------------------------


def _figures(task: Any, documents: Sequence[_Document]) -> dict[Key, tuple[Figure, dict[int, float]]]:
    """Each metric that is a number, in the benchmark's order, and its score of each document that has one."""
    keys = dict.fromkeys(key for document in documents for key in document.values)
    found = {}
    for key in keys:
        known = {one.number: one.values[key] for one in documents if not _missing(one.values.get(key))}
        if not known:
            continue
        aggregate = task.aggregation().get(key[0], _mean)
        made = figure(list(known.values()), aggregate)
        found[key] = made, dict(zip(known, made.scores, strict=True))
    return found


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and math.isnan(value))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _of_means(samples: Sequence[Sample]) -> Estimate:
    return mean_of([float(sample.score or 0.0) for sample in samples])


def _of_influences(samples: Sequence[Sample]) -> Estimate:
    return mean_estimate([float(sample.score or 0.0) for sample in samples])


# --- samples --------------------------------------------------------------------------------------------------------


def _sample(
    task: Any, document: _Document, headline: Key | None, figures: Mapping[Key, tuple[Figure, Mapping[int, float]]]
) -> Sample:
    asked, written = document.instances[0].doc, document.generations
    score = figures[headline][1].get(document.number) if headline is not None else None
    more: dict[str, bool | int | float | str | None] = {
        metric_name(*key): scores.get(document.number) for key, (_, scores) in figures.items()
    }
    if written:
        tokens = sum(len(one.ids) for one in written)
        more |= {"text": written[0].text, "tokens": tokens, "finish": written[0].finish}
    sample = Sample(
        id=f"{document.number:05d}",
        prompt="\n".join(dict.fromkeys(str(instance.args[0]) for instance in document.instances)),
        prediction=_prediction(document, headline) if document.whole else "",
        gold=_gold(task, asked),
        correct=bool(score) if score is not None and headline and headline[0] in RIGHT_OR_WRONG else None,
        score=score,
        log_likelihoods=tuple(one.value for one in document.likelihoods),
        truncated=any(one.cut for one in document.likelihoods) or any(one.cut for one in written),
        domain=_group(asked, DOMAIN_COLUMNS),
        stratum=_group(asked, STRATUM_COLUMNS),
        more=more,
        finite=document.finite,
    )
    return unscored(sample) if not document.finite else sample


def _prediction(document: _Document, headline: Key | None) -> str:
    """What the model said: the filtered text, the likeliest option, or the continuation if it is the greedy one."""
    first = document.instances[0]
    if first.request_type == "generate_until":
        said = first.filtered_resps[headline[1] if headline else next(iter(first.filtered_resps))]
        return said if isinstance(said, str) else " | ".join(map(str, said))
    if first.request_type == "loglikelihood_rolling":
        return ""
    if len(document.instances) == 1:
        return str(first.args[1]) if document.likelihoods[0].greedy else ""
    # What is asked without its context, for mutual information, stands behind the options.
    options = [one for one in document.instances if one.args[0]] or document.instances
    likeliest = max(range(len(options)), key=lambda i: document.likelihoods[i].value or 0.0)
    distinct = len({one.args[1] for one in options}) > 1
    return str(options[likeliest].args[1]).strip() if distinct else f"option {likeliest}"


def _gold(task: Any, document: Any) -> str:
    target = task.doc_to_target(document)
    if isinstance(target, int) and getattr(task.config, "doc_to_choice", None) is not None:
        choices = task.doc_to_choice(document)
        return str(choices[target]) if 0 <= target < len(choices) else str(target)
    return " | ".join(map(str, target)) if isinstance(target, list) else str(target)


def _group(document: Any, columns: Sequence[str]) -> str:
    """What a document says of its domain or stratum, if it is a row that does."""
    if not isinstance(document, Mapping):
        return ""
    return next((str(document[name]) for name in columns if document.get(name) is not None), "")
