"""Texts of any length -> token ids, a stretch at a time, exactly as the tokenizer gives them of the whole text.

Stretches overlap. Two neighbours are joined inside their overlap, where both have the same tokens all around a place
that the tokenizer never reads across: between two of its words, whose ids do not depend on each other, or where it has
no words, between characters that no token of its vocabulary holds side by side. What a stretch has near its ends, where
it may be wrong, is taken from its neighbour. Without such a place two stretches are read as one, if need be up to the
whole text; so is every text by a tokenizer whose parts are not known to look at their surroundings alone.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STRETCH = 2**16  # characters
OVERLAP = 2**12
MARGIN = OVERLAP // 4  # so far from their ends stretches are compared
BATCH = 2**18  # characters of whole texts that are encoded at once

LOCAL_NORMALIZERS = {
    "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
    "Replace", "Strip", "StripAccents",
}  # fmt: skip
LOCAL_PRE_TOKENIZERS = {
    "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Split",
    "UnicodeScripts", "Whitespace", "WhitespaceSplit",
}  # fmt: skip
# Of a pattern: classes of characters, groups without a condition, and a look at the one character that follows. In
# what then is left, these tell of text far away, before or behind.
_NEAR = re.compile(r"\[\^?(?:\\.|[^\]\\])+\]|\(\?i?:|\(\?[!=]\\[sS]\)|\\[^bBAzZGKkgQER0-9]")
_FAR = re.compile(r"[.^$\\]|\(\?")
_SPACE = "▁"


class StreamEncoder:
    """Encodes texts without special tokens, holding no more of a text than some stretches of it.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.joints = joints_of(tokenizer)

    def encode(self, pieces: Iterable[str]) -> Iterator[array[int]]:
        """The ids of one text that comes in pieces; together those of `tokenizer(text, add_special_tokens=False)`."""
        return self._encode(_Source([pieces] if isinstance(pieces, str) else pieces))

    def encode_all(self, texts: Iterable[Iterable[str]]) -> Iterator[array[int]]:
        """The ids of many texts in order, each encoded by itself; those that are short are encoded together."""
        batch: list[str] = []
        for pieces in texts:
            source = _Source(pieces)
            text = source.read(STRETCH)
            if len(text) == STRETCH or sum(map(len, batch)) > BATCH:
                yield from self._batch(batch)
                batch = []
            if len(text) == STRETCH:
                source.give_back(text)
                yield from self._encode(source)
            else:
                batch.append(text)
        yield from self._batch(batch)

    def _batch(self, texts: list[str]) -> Iterator[array[int]]:
        if texts:
            for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
                yield array("i", ids)

    def _encode(self, source: _Source) -> Iterator[array[int]]:
        size = STRETCH
        text = source.read(None if self.joints is None else size)
        here, first = _Stretch.of(self.tokenizer, text), 0
        while self.joints is not None and (more := source.read(size)):
            following = _Stretch.of(self.tokenizer, text[-OVERLAP:] + more)
            cut = _common_cut(here, following, text, self.joints)
            if cut is None:
                text += more
                here, size = _Stretch.of(self.tokenizer, text), len(text)
            else:
                yield here.ids[first : cut[0]]
                text, here, first, size = text[-OVERLAP:] + more, following, cut[1], STRETCH
        yield here.ids[first:]


class _Source:
    """A text that comes in pieces, to be read as so many characters at a time."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces, self._rest = iter(pieces), ""

    def read(self, count: int | None) -> str:
        """The next `count` characters, fewer where the text ends; all that are left for None."""
        found, size = [self._rest], len(self._rest)
        while count is None or size < count:
            piece = next(self._pieces, None)
            if piece is None:
                break
            found.append(piece)
            size += len(piece)
        text = "".join(found)
        self._rest = "" if count is None else text[count:]
        return text[:count]

    def give_back(self, text: str) -> None:
        """Let `text` be read again."""
        self._rest = text + self._rest


@dataclass(frozen=True)
class _Stretch:
    """Tokens of a stretch of text: ids, the characters that each spans, and the word that it belongs to."""

    ids: array[int]
    spans: Sequence[tuple[int, int]]
    words: Sequence[int | None]

    @classmethod
    def of(cls, tokenizer: Any, text: str) -> _Stretch:
        found = tokenizer(text, add_special_tokens=False, verbose=False)
        encoding = found.encodings[0] if found.is_fast else None
        ids = array("i", found["input_ids"])
        return cls(ids, (), ()) if encoding is None else cls(ids, encoding.offsets, encoding.word_ids)

    def between(self, low: int, high: int) -> range:
        """The tokens from the first to the last that lie within characters `low` to `high`."""
        inside = [i for i, (begin, end) in enumerate(self.spans) if low <= begin and end <= high]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def parted(self, token: int) -> bool:
        """Whether a word ends before the token."""
        before, after = self.words[token - 1], self.words[token]
        return before is not None and after is not None and before != after


@dataclass(frozen=True)
class Joints:
    """Where texts may be joined: between words; and if there are no words, beside what no token joins.

    `before_space`: the characters that some token holds before a space; `after_newline`: those that one holds after a
    line's end; both None where only words count.
    """

    before_space: frozenset[str] | None = None
    after_newline: frozenset[str] | None = None

    def between(self, before: str, after: str) -> bool:
        """Whether no token holds these two characters side by side."""
        if self.before_space is None or self.after_newline is None:
            return False
        if after == " ":
            return before.isascii() and before.isprintable() and before not in {" ", *self.before_space}
        return before == "\n" and not after.isspace() and after != _SPACE and after not in self.after_newline


def _common_cut(here: _Stretch, following: _Stretch, text: str, joints: Joints) -> tuple[int, int] | None:
    """The token that the rest begins with, by its number in `here`, which encodes `text`, and in `following`, which
    begins `OVERLAP` before the end of `text`; None where there is no place to join them.
    """
    shift = len(text) - OVERLAP
    left, right = here.between(shift + MARGIN, len(text) - MARGIN), following.between(MARGIN, OVERLAP - MARGIN)
    spans = [(begin + shift, end + shift) for begin, end in following.spans[right.start : right.stop]]
    same = here.ids[left.start : left.stop] == following.ids[right.start : right.stop]
    if not same or spans != list(here.spans[left.start : left.stop]):
        return None
    for at in sorted(range(1, len(left)), key=lambda at: abs(2 * at - len(left))):
        end, begin = spans[at - 1][1], spans[at][0]
        apart = here.parted(left[at]) and following.parted(right[at])
        if apart or (end == begin and 0 < begin < len(text) and joints.between(text[begin - 1], text[begin])):
            return left[at], right[at]
    return None


def joints_of(tokenizer: Any) -> Joints | None:
    """Where texts of a tokenizer may be joined; None where it has a part that is not known to look near by alone."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not tokenizer.is_fast:
        return None
    settings = json.loads(backend.to_str())
    normalizers = list(_parts(settings["normalizer"], "normalizers"))
    pre_tokenizers = list(_parts(settings["pre_tokenizer"], "pretokenizers"))
    model = settings["model"]
    if not (
        all(part["type"] in LOCAL_NORMALIZERS and _near(part) for part in normalizers)
        and all(part["type"] in LOCAL_PRE_TOKENIZERS and _near(part) for part in pre_tokenizers)
        and not model.get("dropout")
    ):
        return None
    wordless = _has_no_words(normalizers, pre_tokenizers, model)
    del settings, model  # as large as what follows
    vocabulary = tokenizer.get_vocab()
    if not wordless or not (_SPACE in vocabulary and "\n" in vocabulary):
        return Joints()
    return Joints(
        frozenset(token[i - 1] for token in vocabulary for i in range(1, len(token)) if token[i] == _SPACE),
        frozenset(token[i] for token in vocabulary for i in range(1, len(token)) if token[i - 1] == "\n"),
    )


def _parts(settings: Mapping[str, Any] | None, inner: str) -> Iterator[Mapping[str, Any]]:
    """The parts of a sequence of parts, one after the other."""
    if settings is None:
        return
    if settings["type"] != "Sequence":
        yield settings
        return
    for part in settings[inner]:
        yield from _parts(part, inner)


def _near(part: Mapping[str, Any]) -> bool:
    """Whether a part's pattern, if it has one, looks at nothing before what it finds and at one character behind it."""
    pattern = part.get("pattern") or {}
    return "Regex" not in pattern or not _FAR.search(_NEAR.sub("", pattern["Regex"]))


def _has_no_words(
    normalizers: Sequence[Mapping[str, Any]], pre_tokenizers: Sequence[Mapping[str, Any]], model: Mapping[str, Any]
) -> bool:
    """Whether merges alone make the tokens of a text, in which nothing but spaces was replaced."""
    return (
        model["type"] == "BPE"
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and all(
            part["type"] == "Prepend" or (part["type"] == "Replace" and part["pattern"] == {"String": " "})
            for part in normalizers
        )
        and all(
            part["type"] == "Metaspace" or (part["type"] == "Split" and part["pattern"] == {"String": " "})
            for part in pre_tokenizers
        )
    )
