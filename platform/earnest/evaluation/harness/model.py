"""Our engine as a model of lm-eval: what its benchmarks ask, answered by any subject.

This module imports lm-eval, and is imported where that is known to be there (`library`). `EngineLM` can be handed to
lm-eval's own `simple_evaluate` as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from earnest.decoding.encoding import encode
from earnest.decoding.generation import Generation, Prompt
from earnest.decoding.sampling import Sampling
from earnest.evaluation.chat import Ids, read_alike
from earnest.evaluation.engine import Engine, LogLikelihood, Progress
from earnest.evaluation.tokens import Request, prefix_token
from earnest.evaluation.tokens import requests as tokenised
from earnest.specs import UserError

MAX_TOKENS = 256  # lm-eval's, where a benchmark names none
Read = Callable[[Engine, Sequence[str]], list[tuple[Ids, tuple[Ids, ...]]]]
UNDERSTOOD = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"})


class EngineLM(LM):  # type: ignore[misc]
    """An engine as lm-eval sees it.

    `likelihoods` and `generations` keep what was found for each instance, by its id: more than lm-eval is told.
    `read` makes token ids of prompts to continue; `max_tokens` replaces what the benchmark asks for; `seed` decides
    what is sampled, where a benchmark samples.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        read: Read = read_alike,
        max_tokens: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self.engine = engine
        self.likelihoods: dict[int, list[LogLikelihood]] = defaultdict(list)
        self.generations: dict[int, list[Generation]] = defaultdict(list)
        self._read = read
        self._chats = False  # whether contexts are conversations, open for an answer
        self._max_tokens = max_tokens
        self._seed = seed
        self._progress = progress

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, NaN where there is none, and whether it is the greedy one."""
        pairs = tokenised(self.engine.tokenizer, [instance.args[:2] for instance in requests])
        found = self.engine.log_likelihoods(pairs, self._progress)
        for instance, one in zip(requests, found, strict=True):
            self.likelihoods[id(instance)].append(one)
        return [(_number(one), one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """The log-likelihood of each whole text, in windows with one token of context."""
        windows = [self._windows(ids) for ids in encode(self.engine.tokenizer, [one.args[0] for one in requests])]
        found = iter(self.engine.log_likelihoods([window for text in windows for window in text], self._progress))
        texts = [[next(found) for _ in mine] for mine in windows]
        for instance, text in zip(requests, texts, strict=True):
            self.likelihoods[id(instance)] += text
        return [math.fsum(map(_number, text)) for text in texts]

    def _windows(self, ids: list[int]) -> list[Request]:
        first, longest = prefix_token(self.engine.tokenizer), self.engine.max_length
        windows = map(make_disjoint_window, get_rolling_token_windows(ids, first, longest, 1))
        return [Request(tuple(context), tuple(continuation)) for context, continuation in windows]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """A continuation of each context up to its first stop string; sampled ones have a seed of their own each."""
        rows = self._read(self.engine, [instance.args[0] for instance in requests])
        prompts = [self._prompt(*row, one.args[1], n) for n, (row, one) in enumerate(zip(rows, requests, strict=True))]
        made = self.engine.generate(prompts, self._progress)
        for instance, generation in zip(requests, made, strict=True):
            self.generations[id(instance)].append(generation)
        return [generation.text for generation in made]

    def _prompt(self, ids: Ids, forms: tuple[Ids, ...], asked: Mapping[str, Any], number: int) -> Prompt:
        settings = normalize_gen_kwargs(dict(asked), MAX_TOKENS)
        unknown = sorted(set(settings) - UNDERSTOOD)
        if unknown:
            raise UserError(
                f"generation_kwargs {unknown[0]} = {settings[unknown[0]]!r}: not done here; "
                f"a benchmark may set {', '.join(sorted(UNDERSTOOD))}"
            )
        sampling = Sampling(seed=self._seed)
        if settings["do_sample"]:
            sampling = Sampling(
                temperature=settings["temperature"] or 1.0,
                top_k=int(settings.get("top_k") or 0),
                top_p=settings.get("top_p") or 1.0,
                seed=self._seed,
            ).nth(number)
        stops = tuple(stop for stop in settings["until"] if stop)
        most = self._max_tokens or settings["max_gen_toks"]
        return Prompt(ids, stops, most, forms, sampling, answer=self._chats)

    @property
    def tokenizer_name(self) -> str:
        """What names the tokenizer."""
        return str(self.engine.tokenizer.name_or_path)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The tokenizer's template; empty where none is asked for."""
        return str(self.engine.tokenizer.chat_template or "") if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, open for the answer, or within it.

        As in lm-eval, a template that knows no system's turn is given the others.

        Raises:
            UserError: the tokenizer has no template.
        """
        self._chats = self._chats or add_generation_prompt
        tokenizer = self.engine.tokenizer
        if not tokenizer.chat_template:
            raise UserError("chat_template = true: the tokenizer has no chat template; leave it out")
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        options["continue_final_message"] = not add_generation_prompt
        try:
            return str(tokenizer.apply_chat_template(chat_history, **options))
        except jinja2.TemplateError:
            turns = [turn for turn in chat_history if turn["role"] != "system"]
            return str(tokenizer.apply_chat_template(turns, **options))


def _number(found: LogLikelihood) -> float:
    return math.nan if found.value is None else found.value
