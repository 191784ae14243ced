"""Questions of one or several turns: as a model is asked them, and as a judge reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from earnest.decoding.generation import Generation, Prompt
from earnest.decoding.sampling import Sampling
from earnest.evaluation.chat import PLAIN, read_alike, read_as
from earnest.evaluation.engine import Engine, Progress
from earnest.specs import UserError
from earnest.specs.judged import JudgedTask

# The conversation that Vicuna 1.1 and later were tuned on.
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def converse(
    engine: Engine,
    spec: JudgedTask,
    conversations: Sequence[Sequence[str]],
    stops: tuple[str, ...],
    max_tokens: int,
    progress: Progress | None = None,
) -> list[list[Generation]]:
    """The engine's answer to every turn of every conversation; later turns are asked after its own earlier answers.

    Raises:
        UserError: the tokenizer has no template for conversations, and `chat` asks for it.
    """
    answered: list[list[Generation]] = [[] for _ in conversations]
    for turn in range(max(map(len, conversations))):
        going = [number for number, turns in enumerate(conversations) if len(turns) > turn]
        texts = [
            prompt(engine.tokenizer, spec.chat, conversations[n][: turn + 1], [g.text.strip() for g in answered[n]])
            for n in going
        ]
        rows = read_as(engine, texts, PLAIN) if spec.chat == "plain" else read_alike(engine, texts)
        prompts = [
            Prompt(ids, stops, max_tokens, forms, _sampling(spec, number, turn), answer=True)
            for number, (ids, forms) in zip(going, rows, strict=True)
        ]
        for number, generation in zip(going, engine.generate(prompts, progress), strict=True):
            answered[number].append(generation)
    return answered


def _sampling(spec: JudgedTask, number: int, turn: int) -> Sampling:
    """Every answer has a seed of its own."""
    drawn = Sampling(temperature=spec.temperature, top_k=spec.top_k if spec.temperature else 0, seed=spec.seed)
    return drawn.nth(number).nth(turn) if spec.temperature else drawn


def prompt(tokenizer: Any, chat: str, turns: Sequence[str], answers: Sequence[str]) -> str:
    """A conversation up to where the next answer begins; there is one answer less than turns."""
    if chat == "tokenizer":
        return _by_template(tokenizer, turns, answers)
    if chat == "vicuna":
        ended = zip(turns, answers, strict=False)
        said = "".join(f"USER: {turn} ASSISTANT: {answer}</s>" for turn, answer in ended)
        return f"{VICUNA} {said}USER: {turns[-1]} ASSISTANT:"
    return "\n\n".join(text for pair in zip(turns, [*answers, ""], strict=True) for text in pair if text)


def _by_template(tokenizer: Any, turns: Sequence[str], answers: Sequence[str]) -> str:
    if not tokenizer.chat_template:
        raise UserError('chat = "tokenizer": the tokenizer has no chat template; use "vicuna" or "plain"')
    messages = [{"role": "user", "content": turns[0]}]
    for answer, turn in zip(answers, turns[1:], strict=True):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def transcript(turns: Sequence[str], answers: Sequence[str]) -> tuple[str, str]:
    """The question and the answer as a judge reads them: one turn as it is, several with their numbers."""
    if len(turns) == 1:
        return turns[0], answers[0]
    numbered = [
        "\n\n".join(f"[Turn {n}]\n{text}" for n, text in enumerate(texts, start=1)) for texts in (turns, answers)
    ]
    return numbered[0], numbered[1]


def whole(generations: Sequence[Generation], text: str) -> Generation:
    """The generations of a conversation as one: all tokens, whether any was cut, and whether any was not finite."""
    broken = next((g.finish for g in generations if g.finish == "not_finite"), generations[-1].finish)
    ids = tuple(token for generation in generations for token in generation.ids)
    return replace(generations[-1], text=text, ids=ids, finish=broken, cut=max(g.cut for g in generations))
