"""Who judges: rules, a model behind an OpenAI-compatible endpoint, or a model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from earnest.decoding.endpoint import Endpoint
from earnest.decoding.generation import generate
from earnest.evaluation.engine import Engine
from earnest.evaluation.judging.forms import Form
from earnest.evaluation.metrics import token_f1
from earnest.models.loading import load
from earnest.models.precision import helper_dtype
from earnest.models.source import resolve
from earnest.specs import UserError
from earnest.specs.judged import AnyJudge, EndpointJudge, ModelJudge, RuleJudge

DOLLARS = 1e6
LEAST, SPAN = 1, 9


@dataclass(frozen=True)
class Asked:
    """Two answers to a question, in the order in which the judge sees them; `gold` is a right one, if known."""

    form: Form
    question: str
    first: str
    second: str
    gold: str = ""

    @property
    def text(self) -> str:
        """The prompt."""
        return self.form.text(self.question, self.first, self.second)


@dataclass(frozen=True)
class Reply:
    """What a judge said, or None and the problem; and what it cost."""

    text: str | None
    problem: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0


class Judge(Protocol):
    """Anyone who replies to comparisons."""

    name: str

    def replies(self, asked: Sequence[Asked]) -> list[Reply]:
        """A reply to each, in order; what fails is a reply without text."""


def judge_of(spec: AnyJudge, engine: Engine) -> Judge:
    """The judge that a user names; a model lies where the engine's does.

    Raises:
        UserError: its URL is none, its key or its model is not there.
    """
    match spec:
        case RuleJudge():
            return Rule(spec)
        case EndpointJudge():
            return Remote(spec)
        case ModelJudge():
            return Local(spec, str(engine.loaded.device))


class Rule:
    """A judge without opinions; it speaks in the form that it is asked for."""

    def __init__(self, spec: RuleJudge) -> None:
        self.name, self._rule = spec.label, spec.rule

    def replies(self, asked: Sequence[Asked]) -> list[Reply]:
        """Two whole numbers per criterion, or the better answer's number."""
        return [Reply(self._said(each)) for each in asked]

    def _said(self, asked: Asked) -> str:
        first, second = self._scores(asked)
        if asked.form.criteria == ("preference",):
            return "tie" if first == second else str(1 + (second > first))
        return "\n".join([f"{first} {second}"] * len(asked.form.criteria))

    def _scores(self, asked: Asked) -> tuple[int, int]:
        match self._rule:
            case "first":
                worth = (1.0, 0.0)
            case "longer":
                most = max(len(asked.first), len(asked.second), 1)
                worth = (len(asked.first) / most, len(asked.second) / most)
            case "overlap":
                worth = (token_f1(asked.first, [asked.gold]), token_f1(asked.second, [asked.gold]))
        return LEAST + round(SPAN * worth[0]), LEAST + round(SPAN * worth[1])


class Remote:
    """A model behind /v1/chat/completions, several comparisons at a time."""

    def __init__(self, spec: EndpointJudge) -> None:
        self.name, self._spec = spec.label, spec
        self._endpoint = Endpoint(spec.url, spec.model, key_env=spec.key_env, timeout=spec.timeout)

    def replies(self, asked: Sequence[Asked]) -> list[Reply]:
        """The endpoint's replies; one that fails for good leaves the others alone."""
        with ThreadPoolExecutor(self._spec.concurrency) as pool:
            return list(pool.map(self._reply, asked))

    def _reply(self, asked: Asked) -> Reply:
        messages = [{"role": "system", "content": asked.form.system}, {"role": "user", "content": asked.text}]
        try:
            said = self._endpoint.chat(messages, temperature=self._spec.temperature, max_tokens=self._spec.max_tokens)
        except UserError as error:
            return Reply(None, str(error))
        read, written = self._spec.usd_per_million
        usd = (said.prompt_tokens * read + said.completion_tokens * written) / DOLLARS
        return Reply(said.text, "", said.prompt_tokens, said.completion_tokens, usd)


class Local:
    """A model in this process, greedy."""

    def __init__(self, spec: ModelJudge, device: str) -> None:
        self.name, self._spec = spec.label, spec
        self._loaded = load(resolve(spec.model), device=device, dtype=helper_dtype(device))

    def replies(self, asked: Sequence[Asked]) -> list[Reply]:
        """What the model writes after each comparison; one that does not fit whole is not judged."""
        prompts = [self._prompt(each) for each in asked]
        made = generate(self._loaded, prompts, max_tokens=self._spec.max_tokens)
        return [
            Reply(None, f"the comparison is {one.cut} tokens too long for {self.name}") if one.cut
            else Reply(one.text, "", completion_tokens=len(one.ids))
            for one in made
        ]  # fmt: skip

    def _prompt(self, asked: Asked) -> str:
        tokenizer = self._loaded.tokenizer
        if not tokenizer.chat_template:
            return f"{asked.form.system}\n\n{asked.text}"
        messages = [{"role": "system", "content": asked.form.system}, {"role": "user", "content": asked.text}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
