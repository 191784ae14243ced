"""Numbers in answers to sums: how lm-eval and proxy-tuning find and compare them, and what they are worth.

lm-eval compares texts ("18.00" is not "18"). Proxy-tuning loses the minus of whole numbers and all punctuation
("3.5" is "35"). `value_of` reads the number itself, `same_value` compares it.
"""

from __future__ import annotations

import re
from decimal import Decimal

from earnest.evaluation.metrics import plain, plain_words
from earnest.evaluation.normal_forms import ascii_digits, readable

INVALID = "[invalid]"
STRICT = re.compile(r"#### (-?[0-9.,]+)")
FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
IGNORED = [re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$")]
NEXT_QUESTION = ("Answer the following question", "Question:", "Comment:")
BETWEEN_DIGITS = re.compile(r"(\d),(\d)")
PROXY_TUNING = re.compile(r"[-+]?\d*\.\d+|\d+")
# A minus belongs to a number unless one stands before it: "5-3" ends in 3.
NUMBER = re.compile(
    r"(?<![0-9.])-?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?(?:(?<=[0-9])|(?=\.[0-9]))(?:\.[0-9]+)?"
)
# What parts thousands beside commas, and nothing else: no-break, narrow and thin spaces, apostrophes, LaTeX's comma.
THOUSANDS = re.compile(r"(?<=\d)(?:[\u00a0\u202f\u2009'\u2019_\u066c]|\{,\})(?=\d{3}(?!\d))")
POINT_AND_MINUS = str.maketrans("\u066b\u2212", ".-")


def strict_number(text: str) -> str:
    """The number behind the first "#### ", or "[invalid]"."""
    found = STRICT.search(text)
    return found[1] if found else INVALID


def flexible_number(text: str) -> str:
    """The last run of digits and what belongs to them, or "[invalid]"; a lone "..." is such a run."""
    found = FLEXIBLE.findall(text)
    return str(found[-1]) if found else INVALID


def lm_eval_equal(answer: str, gold: str) -> bool:
    """Whether two texts are equal but for case, commas, dollars, what stands before "#### ", and one last full stop."""
    return _without_ignored(answer) == _without_ignored(gold)


def _without_ignored(text: str) -> str:
    for pattern in IGNORED:  # after each, numpy's arrays lose trailing NULs
        text = pattern.sub("", text).rstrip("\0")
    return plain(text)


def before_next_question(text: str) -> str:
    """An answer up to where a base model goes on to ask itself something else."""
    for words in NEXT_QUESTION:
        text = text.split(words, 1)[0]
    return text


def proxy_tuning_number(text: str) -> str:
    """The last number as proxy-tuning finds it, else the whole text."""
    text = BETWEEN_DIGITS.sub(r"\1\2", before_next_question(text))
    found = PROXY_TUNING.findall(text)
    return str(found[-1]) if found else text


def proxy_tuning_equal(answer: str, gold: str) -> bool:
    """Whether two texts are equal but for case and ASCII punctuation, the sign and the point included."""
    return plain_words(answer) == plain_words(gold)


def value_of(text: str) -> Decimal | None:
    """What the last number of a text is worth, in the digits of any script; None where it has none."""
    usual = ascii_digits(readable(THOUSANDS.sub("", text))).translate(POINT_AND_MINUS)
    found = NUMBER.findall(usual)
    return Decimal(found[-1].replace(",", "").replace("$", "")) if found else None


def same_value(answer: str, gold: str) -> bool:
    """Whether the last numbers of two texts are worth the same; a text without one is worth nothing."""
    value = value_of(answer)
    return value is not None and value == value_of(gold)
