"""Tasks whose answers a judge weighs against a reference's, and who may judge."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from earnest.specs.frame import Spec
from earnest.specs.task import Task

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class RuleJudge(Spec):
    """A judge without opinions, for tests and as a control.

    `overlap` likes the words of the reference, `longer` the longer answer, `first` whatever stands first.
    """

    judge: Literal["rule"] = "rule"
    rule: Literal["overlap", "longer", "first"] = "overlap"
    """What it likes: words of the reference, the longer answer, or what stands first."""

    @property
    def label(self) -> str:
        """Its name in metrics and verdicts."""
        return self.rule


class EndpointJudge(Spec):
    """A model behind /v1/chat/completions. `key_env` names the environment variable that holds its key.

    `usd_per_million` is the price of a million tokens read and of a million written; `name` is its name in metrics
    and verdicts, by default the model's.
    """

    judge: Literal["endpoint"] = "endpoint"
    url: str = Field(min_length=1)
    """The endpoint, up to and with /v1."""
    model: str = Field(min_length=1)
    """The model's name there."""
    name: str | None = Field(default=None, pattern=NAME)
    """Its name in metrics and verdicts; the model's by default."""
    key_env: str | None = None
    """The environment variable that holds the key."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Of the judge's sampling; 0 is greedy."""
    max_tokens: int = Field(default=1024, ge=1)
    """Tokens of a verdict at most."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests at a time."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one request."""
    usd_per_million: tuple[float, float] = (0.0, 0.0)
    """Price of a million tokens read, and written."""

    @property
    def label(self) -> str:
        """Its name in metrics and verdicts."""
        return self.name or self.model


class ModelJudge(Spec):
    """A model of the user's on the machine that evaluates: a folder, a hub id, or one of the nano family.

    `name` is its name in metrics and verdicts, by default the last part of the model's.
    """

    judge: Literal["model"] = "model"
    model: str = Field(min_length=1)
    """A folder, a hub id, or one of the nano family."""
    name: str | None = Field(default=None, pattern=NAME)
    """Its name in metrics and verdicts; the last part of the model's by default."""
    max_tokens: int = Field(default=1024, ge=1)
    """Tokens of a verdict at most."""

    @property
    def label(self) -> str:
        """Its name in metrics and verdicts."""
        return self.name or self.model.rstrip("/").rpartition("/")[2]


AnyJudge = Annotated[RuleJudge | EndpointJudge | ModelJudge, Field(discriminator="judge")]


class JudgedTask(Task):
    """Answers, each weighed against a reference's in both orders by every judge; the first judge's word is the score.

    `templates` names a file beside the data's splits that holds the judge's prompts (category, system_prompt,
    prompt_template, instruction); without it the house's own are used. `compat` repeats the published scripts' faults,
    as far as figures depend on them: the reference always stands first, and replies are read as their parsers did.
    `chat` says how a question becomes a prompt: as it is, in Vicuna's conversation, or in the tokenizer's own template.
    `max_tokens` is by default as published: 1024, for AlpacaFarm 2048; for the almanac's questions 128.
    """

    judges: tuple[AnyJudge, ...] = Field(default=(RuleJudge(),), min_length=1)
    """Who judges; the first one's word is the score."""
    templates: str | None = None
    """A file of judges' prompts beside the data."""
    compat: bool = False
    """Whether the published scripts' faults are repeated."""
    chat: Literal["plain", "vicuna", "tokenizer"] = "plain"
    """How a question becomes a prompt."""
    temperature: float = Field(default=0.7, ge=0, allow_inf_nan=False)
    """Of sampling answers; 0 is greedy."""
    top_k: int = Field(default=50, ge=0)
    """Tokens that are sampled from; 0 is all."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of an answer; as published by default."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that judge in the evaluating process."""
        return tuple(judge.model for judge in self.judges if isinstance(judge, ModelJudge))

    @model_validator(mode="after")
    def _judges_differ(self) -> Self:
        labels = [judge.label for judge in self.judges]
        if len(set(labels)) < len(labels):
            raise ValueError(
                f"judges {labels}: each must stand once, for agreement with oneself means nothing; give one another "
                "name, or drop it"
            )
        return self


class Instruction(JudgedTask):
    """Following instructions in one turn or several (turns, category, reference): Vicuna-80, MT-Bench. Scores 1..10."""

    task: Literal["instruction"] = "instruction"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "judge_score"


class JudgedSummaries(JudgedTask):
    """Summaries judged for coherence, consistency, fluency and relevance (article, highlights, size). Scores 1..10."""

    task: Literal["judged_summaries"] = "judged_summaries"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "judge_score"


class AlpacaFarm(JudgedTask):
    """The share of instructions on which the answer is preferred to the reference's (instruction, reference).

    Greedy and up to 2,048 tokens, as proxy-tuning asks it.
    """

    task: Literal["alpaca_farm"] = "alpaca_farm"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "win_rate"
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class TruthfulQAOpen(Task):
    """TruthfulQA in the model's own words: the share of answers that are both true and informative.

    A local judge is a model tuned for it, which reads `Q: ...`, `A: ...` and `True:` or `Helpful:`; an endpoint is
    asked for the word. The rule judge looks for the words of known answers. `system` is for chat models.
    """

    task: Literal["truthful_qa_open"] = "truthful_qa_open"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "true_and_informative"
    split: str = "validation"
    true_judge: AnyJudge = RuleJudge()
    """Who says whether an answer is true."""
    informative_judge: AnyJudge = RuleJudge()
    """Who says whether it is informative."""
    system: str = ""
    """The system prompt of chat models."""
    max_tokens: int = Field(default=512, ge=1)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that judge in the evaluating process."""
        judges = (self.true_judge, self.informative_judge)
        return tuple(dict.fromkeys(judge.model for judge in judges if isinstance(judge, ModelJudge)))

    @model_validator(mode="after")
    def _rules_have_a_meaning(self) -> Self:
        for judge in (self.true_judge, self.informative_judge):
            if isinstance(judge, RuleJudge) and judge.rule != "overlap":
                raise ValueError(f'rule "{judge.rule}" compares two answers, and there is one; use "overlap"')
        return self
