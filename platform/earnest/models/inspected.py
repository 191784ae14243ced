"""A model folder as it was found: config, tokenizer and skeleton are each read once, and when they are first needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from earnest.models.loading import checked_config, load_tokenizer, skeleton_of
from earnest.models.precision import stored_dtype
from earnest.models.source import Source, resolve


@dataclass(frozen=True)
class InspectedModel:
    """What a plan's checks ask of a model: all that can be told without its weights."""

    source: Source

    @classmethod
    def of(cls, name: str) -> InspectedModel:
        """Find a model by name. Raises UserError as `resolve`."""
        return cls(resolve(name))

    @cached_property
    def config(self) -> Any:
        """The config, checked with the headers of all weight files. Raises UserError as `checked_config`."""
        return checked_config(self.source)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises UserError where there is none."""
        return load_tokenizer(self.source.path, self.source.name)

    @cached_property
    def skeleton(self) -> Any:
        """The modules without memory: shapes to check a method against."""
        return skeleton_of(self.source.name, self.config)

    @cached_property
    def stored_dtype(self) -> str:
        """The dtype of the files."""
        return stored_dtype(self.source.path)
