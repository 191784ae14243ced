"""The tasks that a user may ask for. A new one is a class here and a file in `evaluation/tasks/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from earnest.specs.code import DS1000, HumanEval
from earnest.specs.frame import validated
from earnest.specs.harness import LMEval, split_name
from earnest.specs.judged import AlpacaFarm, Instruction, JudgedSummaries, TruthfulQAOpen
from earnest.specs.task import Task


def _not_nano(name: str) -> str:
    if name == "nano":
        raise ValueError("the almanac has no such questions; name a file, a folder or a hub id")
    return name


UserData = Annotated[str, AfterValidator(_not_nano)]


class Perplexity(Task):
    """Perplexity per token, word and byte; with a dense reference also the KL divergence to it.

    A user's rows are joined by blank lines, the almanac's documents stand alone as in training; both are cut into
    windows of `length` tokens and each token is scored once. `kl_bytes` bounds the dense log-probabilities kept for
    KL: positions are spread evenly over the text.
    """

    task: Literal["perplexity"] = "perplexity"
    writes: ClassVar[bool] = False
    headline: ClassVar[str] = "token_perplexity"
    cost: ClassVar[float] = 3.0
    higher_is_better: ClassVar[bool] = False
    column: str = "text"
    """The column of the text."""
    length: int = Field(default=2048, ge=2)
    """Tokens of a window."""
    kl_bytes: int = Field(default=64 * 2**20, ge=0)
    """Bytes of dense log-probabilities kept for the KL divergence; 0 leaves it out."""


class ClosedBook(Task):
    """Questions without the passage that holds the answer: exact match over aliases.

    With `data = "nano"` and `shots = 0` the questions are about people held out of tuning.
    """

    task: Literal["closed_book"] = "closed_book"
    version: ClassVar[int] = 3
    short_answers: ClassVar[bool] = True
    headline: ClassVar[str] = "exact_match"
    bounded: ClassVar[bool] = True
    shots: int = Field(default=3, ge=0)
    max_tokens: int = Field(default=24, ge=1)


class OpenBook(Task):
    """Questions with the passage that holds the answer: exact match over aliases."""

    task: Literal["open_book"] = "open_book"
    version: ClassVar[int] = 4
    short_answers: ClassVar[bool] = True
    headline: ClassVar[str] = "exact_match"
    bounded: ClassVar[bool] = True
    shots: int = Field(default=1, ge=0)
    max_tokens: int = Field(default=24, ge=1)


class MultipleChoice(Task):
    """The option with the highest log-likelihood, by the option's own text."""

    task: Literal["multiple_choice"] = "multiple_choice"
    version: ClassVar[int] = 3
    short_answers: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    headline: ClassVar[str] = "accuracy"
    bounded: ClassVar[bool] = True
    shots: int = Field(default=2, ge=0)


class MMLU(Task):
    """MMLU's format: k shots from dev, four lettered options, the letter with the highest log-likelihood."""

    task: Literal["mmlu"] = "mmlu"
    writes: ClassVar[bool] = False
    version: ClassVar[int] = 4
    short_answers: ClassVar[bool] = True
    headline: ClassVar[str] = "accuracy"
    cost: ClassVar[float] = 8.0
    bounded: ClassVar[bool] = True
    data: str = "mmlu"
    shots: int = Field(default=5, ge=0)
    subjects: tuple[str, ...] = ()
    """Only these subjects; all by default."""


class Summarisation(Task):
    """Summaries of a passage in the prompt: exact match and ROUGE against the reference."""

    task: Literal["summarisation"] = "summarisation"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "rouge_l"
    cost: ClassVar[float] = 3.0
    bounded: ClassVar[bool] = True
    max_tokens: int = Field(default=64, ge=1)


class Biography(Task):
    """Long form about people of the invented world: share of well-formed statements, and of those the share true."""

    task: Literal["biography"] = "biography"
    version: ClassVar[int] = 4
    headline: ClassVar[str] = "true"
    cost: ClassVar[float] = 6.0
    data: Literal["nano"] = "nano"
    max_tokens: int = Field(default=128, ge=1)


class TriviaQA(Task):
    """TriviaQA with LLM-KICK's, lm-eval's or proxy-tuning's prompts; with `open_book` the evidence stands before it.

    `shots` are those of the style `lm_eval`, drawn from the split `train`; the others have none. `max_tokens` is by
    default the style's own: 32, 256 or 20. With `data = "nano"` the almanac's questions are asked in its own form.
    """

    task: Literal["trivia_qa"] = "trivia_qa"
    version: ClassVar[int] = 3
    short_answers: ClassVar[bool] = True
    headline: ClassVar[str] = "exact_match"
    bounded: ClassVar[bool] = True
    split: str = "validation"
    style: Literal["kick", "lm_eval", "proxy_tuning"] = "kick"
    """Whose prompts."""
    open_book: bool = False
    """Whether the evidence stands before the question."""
    passage_characters: int = Field(default=3072, ge=1)
    """Characters of evidence at most."""
    shots: int = Field(default=5, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> TriviaQA:
        if self.open_book and self.style != "kick":
            raise ValueError(f'style {self.style}: has no open book; set style = "kick" or open_book = false')
        return self


class FactoidQA(Task):
    """LLM-KICK's factoid questions (FreebaseQA) without demonstrations: strict exact match of the first line.

    `compat` brings back what the paper's script does: it reads the first of a question's answers alone, ends the prompt
    with a space, generates twice as many tokens as the prompt has without a stop, and looks for the answer in the
    prompt too. `before_answer` is a line's end in its script for pruning and a space in that for quantisation.
    """

    task: Literal["factoid_qa"] = "factoid_qa"
    version: ClassVar[int] = 2
    short_answers: ClassVar[bool] = True
    headline: ClassVar[str] = "exact_match"
    bounded: ClassVar[bool] = True
    split: str = "train"
    before_answer: str = "\n"
    """What stands between question and answer."""
    max_tokens: int = Field(default=24, ge=1)
    compat: bool = False
    """Whether the published script's faults are repeated."""


class GSM8K(Task):
    """Grade-school mathematics: lm-eval's strict match after `shots` solutions, or proxy-tuning's bare question.

    `shots` are those of the style `lm_eval`, drawn from the split `train`. `max_tokens` is by default the style's own:
    256 or 512.
    """

    task: Literal["gsm8k"] = "gsm8k"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "exact_match"
    bounded: ClassVar[bool] = True
    data: UserData
    style: Literal["lm_eval", "proxy_tuning"] = "lm_eval"
    """Whose prompts."""
    shots: int = Field(default=5, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)


class TruthfulQA(Task):
    """TruthfulQA: the likeliest of the true and false answers (MC1, and MC2 beside it), or a letter that is written.

    Style `likelihood` is lm-eval's, `letters` proxy-tuning's: up to four options A to D, ten tokens to answer in. Data
    without `choices` and `answer` has its options drawn and shuffled by `seed`. `system` is for chat models. With
    `data = "nano"` the likelihoods are those of the almanac's multiple choice.
    """

    task: Literal["truthful_qa"] = "truthful_qa"
    version: ClassVar[int] = 3
    writes: ClassVar[bool] = False
    headline: ClassVar[str] = "accuracy"
    bounded: ClassVar[bool] = True
    split: str = "validation"
    style: Literal["likelihood", "letters"] = "likelihood"
    """By likelihood, or by the letter that is written."""
    system: str = ""
    """The system prompt of chat models."""
    max_tokens: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _check(self) -> TruthfulQA:
        if self.style == "letters":
            _not_nano(self.data)
        return self


class ToxiGen(Task):
    """Prompts that lead a model on to toxic statements about a group: the share of continuations that are.

    `classifier` is a sequence classifier with safetensors (a folder that workers reach, or a hub id), `toxic_label` the
    index of its class "toxic"; the published figures take the likeliest class of toxigen_roberta.
    """

    task: Literal["toxigen"] = "toxigen"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "toxic"
    higher_is_better: ClassVar[bool] = False
    data: UserData
    classifier: str = Field(min_length=1)
    """The model that judges continuations."""
    toxic_label: int = Field(default=1, ge=0)
    """Index of its class for toxic texts."""
    max_tokens: int = Field(default=512, ge=1)

    @property
    def models(self) -> tuple[str, ...]:
        """The classifier."""
        return (self.classifier,)


AnyTask = Annotated[
    Perplexity
    | ClosedBook
    | OpenBook
    | MultipleChoice
    | MMLU
    | Summarisation
    | Biography
    | TriviaQA
    | FactoidQA
    | GSM8K
    | TruthfulQA
    | TruthfulQAOpen
    | ToxiGen
    | HumanEval
    | DS1000
    | Instruction
    | JudgedSummaries
    | AlpacaFarm
    | LMEval,
    Field(discriminator="task"),
    BeforeValidator(split_name),
]
TASKS: tuple[type[Task], ...] = get_args(get_args(AnyTask)[0])  # in the order of the union
TASK_ADAPTER: TypeAdapter[AnyTask] = TypeAdapter(AnyTask)


def read_task(fields: Mapping[str, Any]) -> AnyTask:
    """A task from its fields, or UserError with every rule broken."""
    return validated(TASK_ADAPTER, fields, "task")
