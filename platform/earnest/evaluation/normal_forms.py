"""Texts as they are compared: how characters are encoded never decides, and nothing that tells two answers apart goes.

Published benchmarks compare in ways of their own; those stand in `metrics`.
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import cache

# Characters that are others in another width or lowered, whole numerals, and Arabic letters by their place in a word.
_SHAPES = ("<wide>", "<narrow>", "<sub>", "<compat>", "<initial>", "<medial>", "<final>", "<isolated>")
_SHAPED = (
    0x3000, *range(0x2080, 0x209D), *range(0x2160, 0x2180), *range(0xFB50, 0xFE00), *range(0xFE70, 0xFF00),
    *range(0xFF01, 0xFFEF),
)  # fmt: skip
# Variation selectors, the grapheme joiner, and the line that lengthens Arabic words.
_SHOWN_AS = (0x034F, 0x0640, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_ASCII_MARKS = frozenset(string.punctuation)
# Apostrophes that Unicode counts as letters, spacing accents that stand for one, and the slash of fractions.
_OTHER_MARKS = frozenset("\u02b9\u02bb\u02bc\u02bd\u02c8\u02ca\u02cb\u00b4\u2044")
_ARTICLES = frozenset(("a", "an", "the"))
# Written without spaces: Han, kana, and what repeats or lengthens them; each character is a word.
_UNSPACED = re.compile(
    r"[\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# C++ is not C, -5 is not 5, and .5 is not 5: signs that belong to a name or a number.
_KEPT = re.compile(r"(?<=[^\W\d_])[+#]+(?![\w+#])|(?<![\w)\]])-(?=\.?\d)|(?<![\w.,])\.(?=\d)")
_OWED = re.compile(r"(?<![\w)\]])-[$\u20ac\u00a3](?=\.?\d)")


def readable(text: str) -> str:
    """A text as its reader sees it: composed (NFC), in usual width, one space for white space, nothing invisible.

    >>> readable("cafe\u0301\u200b \u00a0\uff11") == "caf\u00e9 1"
    True
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_shapes()))
    if not text.isprintable():
        text = "".join(character for character in text if not _invisible(character))
    return " ".join(text.split())


def normalise(text: str) -> str:
    """An answer without case, marks and articles: the words that are compared, parted by single spaces.

    Beyond `readable`, case is folded as Unicode folds it (ß is ss, ς is σ) and İ, I, ı and i are one letter, because a
    capital does not tell which it is; digits of all scripts are one; every mark becomes a space, but for those that
    belong to a name or a number (C++, -5, .5); characters of scripts without spaces are words; and a, an and the go
    where a word follows that is no article ("Vitamin A" keeps its letter, "The The" both words). An answer of marks
    alone is compared by them, so that the form is empty for blank texts alone.
    """
    folded = _folded(readable(text))
    words = _UNSPACED.sub(r" \g<0> ", _without_marks(folded)).split()
    return " ".join(_without_articles(words)) or folded


def words_of(text: str) -> list[str]:
    """The words of a text in order, case folded, articles kept; of ASCII the runs of letters and digits."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in _folded(readable(text)))
    return _UNSPACED.sub(r" \g<0> ", "".join(kept)).split()


def latin(text: str) -> float:
    """The share of a text's letters that are Latin, 0..1; 1 where it has no letter."""
    letters = [character for character in text if character.isalpha()]
    named = (unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN")) for letter in letters)
    return sum(named) / len(letters) if letters else 1.0


def ascii_digits(text: str) -> str:
    """A text with the decimal digits of all scripts as 0 to 9."""
    return text if text.isascii() else re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)


def _folded(text: str) -> str:
    if text.isascii():
        return text.casefold()
    folded = unicodedata.normalize("NFC", text.casefold()).replace("i\u0307", "i").replace("\u0131", "i")
    return ascii_digits(folded).replace("\u2212", "-")


def _without_marks(text: str) -> str:
    """A folded text with a space for each mark that belongs to no name or number."""
    text = _OWED.sub("-", text)
    kept = {place for match in _KEPT.finditer(text) for place in range(*match.span())}
    return "".join(" " if _is_mark(c) and place not in kept else c for place, c in enumerate(text))


def _is_mark(character: str) -> bool:
    if character.isascii():
        return character in _ASCII_MARKS
    return character in _OTHER_MARKS or unicodedata.category(character).startswith("P")


def _without_articles(words: list[str]) -> list[str]:
    last = max((place for place, word in enumerate(words) if word not in _ARTICLES), default=-1)
    return [word for place, word in enumerate(words) if place > last or word not in _ARTICLES]


def _invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Cc") and not character.isspace()


@cache
def _shapes() -> dict[int, str]:
    """What takes the place of a character: nothing of those that only say how others are shown."""
    parts = {code: unicodedata.decomposition(chr(code)).split() for code in _SHAPED}
    usual = {code: "".join(chr(int(c, 16)) for c in p[1:]) for code, p in parts.items() if p and p[0] in _SHAPES}
    return usual | dict.fromkeys(_SHOWN_AS, "")
