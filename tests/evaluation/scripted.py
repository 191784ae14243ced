"""A subject that says what a test wants, word for word: what is under test is the task around it."""

from collections.abc import Sequence
from typing import Any

from earnest.decoding.generation import Generation, Prompt
from earnest.evaluation.engine import Engine


class Scripted(Engine):
    """An engine whose model gives `replies` in order, and that keeps what it was asked."""

    def __init__(self, tokenizer: Any, replies: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.replies = replies
        self.asked: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt], progress: Any = None) -> list[Generation]:
        self.asked = list(prompts)
        return [Generation(text, tuple(range(len(text))), "stop") for text in self.replies]
