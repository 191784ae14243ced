"""From what clients send to token ids: tokenizers, chat templates, and the form in which each model reads a prompt.

Texts that are to be completed are the same for all models. A conversation may be put to each of them in its own chat
template with its own system prompt; what they then write is shared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jinja2 import TemplateError

from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import check_vocabularies
from earnest.decoding.requests import Mixture
from earnest.models.loading import load_tokenizer
from earnest.models.source import folder_of
from earnest.specs import UserError
from serve.config import Config, Model
from serve.errors import ApiError

PLAIN = """\
{%- for message in messages -%}
{%- set said = message.content | trim -%}
{%- if message.role == 'assistant' -%}{{ ' ' ~ said ~ '\\n' }}
{%- elif message.role != 'user' -%}{{ said ~ '\\n' }}
{%- elif not said.endswith('?') -%}{{ said }}
{%- else -%}{{ ('' if 'Q:' in said else 'Q: ') ~ said ~ '\\nA:' }}
{%- endif -%}
{%- endfor -%}
"""
RAW = "{%- for message in messages -%}{{ message.content }}{%- endfor -%}"
TEMPLATES = {"plain": PLAIN, "raw": RAW}
"""Chat templates for models that have none.

`plain` fits models that know no turns, as the nano family: a message that ends with a question mark becomes `Q: ...`
and `A:` on the next line, any other stands as it is. `raw` puts contents one behind the other.
"""
FALLBACK = "plain"


class Voice:
    """How one model is spoken to: its tokenizer, its chat template, its system prompt."""

    def __init__(self, name: str, model: Model) -> None:
        self.name, self.system = name, model.system
        self.tokenizer = load_tokenizer(folder_of(model.source), model.source)
        self.template = _template(name, model.chat_template, self.tokenizer)

    def conversation(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation as this model reads it, open for the answer; its own system prompt where it has none.

        Raises:
            ApiError: the template refuses the messages, such as two of one role in a row.
        """
        begun = any(message["role"] in ("system", "developer") for message in messages)
        own = [{"role": "system", "content": self.system}] if self.system and not begun else []
        try:
            text: str = self.tokenizer.apply_chat_template(
                [*own, *messages], chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ApiError(400, f"messages: the chat template of {self.name} says: {error}", param="messages") from None
        return text


class Prompts:
    """All models' voices.

    Raises:
        UserError: a model or template is not to be found, or vocabularies differ.
    """

    def __init__(self, config: Config) -> None:
        self._voices = {name: Voice(name, model) for name, model in config.models.items()}
        base = self._voices[config.base]
        for voice in self._voices.values():
            check_vocabularies(base, voice)
        self.tokenizer = base.tokenizer
        self._known = frozenset(self.tokenizer.get_vocab().values())

    def read_texts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Texts as every model reads them. Raises ApiError for one that holds no token."""
        rows = [tuple(row) for row in encode(self.tokenizer, texts)]
        if not all(rows):
            raise ApiError(400, "prompt: is empty; give at least one character", param="prompt")
        return rows

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prompt that came as token ids."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def is_token(self, token: int) -> bool:
        """Whether the vocabulary has this id."""
        return token in self._known

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise ApiError unless all of these are tokens."""
        unknown = next((token for token in ids if token not in self._known), None)
        if unknown is not None:
            raise ApiError(
                400, f"prompt: token {unknown} is not in the vocabulary of {len(self._known)} tokens", param="prompt"
            )

    def read_conversation(
        self, messages: Sequence[dict[str, str]], mixture: Mixture
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
        """A conversation as the lead reads it, and as those others do that read something else."""
        steering = {name for one in mixture.steering for name in (one.expert, one.antiexpert) if name is not None}
        texts = {name: self._voices[name].conversation(messages) for name in (mixture.lead, *sorted(steering))}
        read: dict[str, tuple[int, ...]] = {}
        for name, text in texts.items():
            read[name] = tuple(encode(self._voices[name].tokenizer, [text])[0])
            if not read[name]:
                raise ApiError(400, "messages: hold nothing to read; give at least one character", param="messages")
        lead = read.pop(mixture.lead)
        return lead, {name: ids for name, ids in read.items() if ids != lead}


def _template(name: str, wanted: str, tokenizer: Any) -> str:
    """The chat template that the config names, the tokenizer's own, or the fallback."""
    if not wanted:
        own = tokenizer.chat_template
        return own if isinstance(own, str) else TEMPLATES[FALLBACK]
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    path = Path(wanted).expanduser()
    if not path.is_file():
        raise UserError(
            f"models.{name}: chat_template {wanted!r} is no file and no built-in one; those are {', '.join(TEMPLATES)}"
        )
    return path.read_text(encoding="utf-8")
