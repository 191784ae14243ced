"""How a chat model is asked what a base model is asked as plain text, in proxy-tuning's own forms.

A chat model that answers itself gets the question within its template, and what the answer begins with after it. One
that steers a base reads the base's very prompt within the template: the two differ by spaces in the published figures,
and by more where the prompt itself is no question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earnest.evaluation.engine import Engine
from earnest.evaluation.tokenised import tokenised
from earnest.models.loading import LoadedModel
from earnest.specs import UserError


@dataclass(frozen=True)
class Manner:
    """What a task's prompts consist of: `prefix` ends each of them, and the answer follows it.

    Chat models get the `system` prompt; one that answers itself has `lead` before the question.
    """

    prefix: str = ""
    system: str = ""
    lead: str = ""


PLAIN = Manner()
Ids = tuple[int, ...]


def read_as(engine: Engine, prompts: Sequence[str], manner: Manner) -> list[tuple[Ids, tuple[Ids, ...]]]:
    """Each prompt as the base reads it, and as each steering model does; no forms where all read plain text."""
    speakers = engine.speakers
    if not any(speaker.chat for speaker in speakers):
        return read_alike(engine, prompts)
    base, *steering = speakers
    rows = tokenised(base.tokenizer, [direct(base, prompt, manner) for prompt in prompts])
    beside = [tokenised(one.tokenizer, [steers(one, prompt, manner) for prompt in prompts]) for one in steering]
    forms = list(zip(*beside, strict=True)) if beside else [()] * len(rows)
    return [(tuple(row), tuple(map(tuple, form))) for row, form in zip(rows, forms, strict=True)]


def read_alike(engine: Engine, prompts: Sequence[str]) -> list[tuple[Ids, tuple[Ids, ...]]]:
    """Each prompt as all models read it."""
    return [(tuple(row), ()) for row in tokenised(engine.tokenizer, prompts)]


def direct(model: LoadedModel, prompt: str, manner: Manner) -> str:
    """The prompt for a model that answers itself."""
    if model.chat is None:
        return prompt
    content = manner.lead + prompt.removesuffix(manner.prefix).strip()
    if model.chat == "template":
        return _template(model, content, manner)
    system = f"<<SYS>>\n{manner.system}\n<</SYS>>\n\n" if manner.system else ""
    return _begun(f"[INST] {system}{content} [/INST]", manner.prefix)


def steers(model: LoadedModel, prompt: str, manner: Manner) -> str:
    """The prompt for a model that steers another, which reads it as plain text."""
    if model.chat is None:
        return prompt
    # The published script deletes what the answer begins with wherever it stands, in the question too.
    content = prompt.replace(manner.prefix, "").rstrip() if manner.prefix else prompt
    if model.chat == "template":
        return _template(model, content, manner)
    system = f"<<SYS>>\n{manner.system}\n<</SYS>>\n\n" if manner.system else ""
    return _begun(f"[INST]{system} {content} [/INST]", manner.prefix)


def _template(model: LoadedModel, content: str, manner: Manner) -> str:
    if not model.tokenizer.chat_template:
        raise UserError(f'chat: the tokenizer of {model.name} has no chat template; use "llama2" or leave it out')
    messages = [{"role": "system", "content": manner.system}] if manner.system else []
    messages.append({"role": "user", "content": content})
    text = str(model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return _begun(text, manner.prefix)


def _begun(text: str, prefix: str) -> str:
    """The text with what the answer begins with, one space or line's end between them."""
    return text + prefix if not prefix or text[-1:].isspace() else f"{text} {prefix}"
