"""What a short answer is worth: the strict exact match and F1, and matches of others under names that say whose.

The lenient matches stand beside the strict one so that published figures can be compared; none is a headline.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4", " "))
_NO_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation))
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """An answer without case, punctuation (each mark becomes a space), articles and surplus white space.

    Follows TriviaQA's official evaluation (Joshi et al. 2017).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_TO_SPACE)).split())


def exact_match(prediction: str, aliases: Sequence[str]) -> bool:
    """Whether the normalised prediction equals a normalised alias."""
    answer = normalise(prediction)
    return any(answer == normalise(alias) for alias in aliases)


def token_f1(prediction: str, aliases: Sequence[str]) -> float:
    """The best F1 of the normalised words over the aliases, 0..1."""
    return max((_f1(normalise(prediction).split(), normalise(alias).split()) for alias in aliases), default=0.0)


def squad_normalise(text: str) -> str:
    """An answer without case, punctuation (each mark vanishes), articles and surplus white space.

    Follows SQuAD's official evaluation (Rajpurkar et al. 2018).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def squad_match(prediction: str, aliases: Sequence[str]) -> bool:
    """SQuAD's exact match: as SQuAD normalises, the prediction equals an alias."""
    return any(squad_normalise(prediction) == squad_normalise(alias) for alias in aliases)


def squad_f1(prediction: str, aliases: Sequence[str]) -> float:
    """SQuAD's F1 over the aliases, 0..1; no words against no words is 1."""
    words = squad_normalise(prediction).split()
    golds = [squad_normalise(alias).split() for alias in aliases]
    return max((_f1(words, gold) if words or gold else 1.0 for gold in golds), default=0.0)


def _f1(predicted: list[str], gold: list[str]) -> float:
    same = (Counter(predicted) & Counter(gold)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def kick_containment(prediction: str, aliases: Sequence[str]) -> bool:
    """LLM-KICK's "exact match": the prediction lies in an alias or an alias in the prediction.

    An empty prediction lies in every alias and counts as right, so a collapsed model looks good. It is reported only
    to be compared with published figures.
    """
    answer = normalise(prediction)
    return any(answer in normalise(alias) or normalise(alias) in answer for alias in aliases)


def kick_substring(text: str, aliases: Sequence[str]) -> bool:
    """LLM-KICK's "exact match" of factoid questions: an alias stands anywhere in the text, case and spaces ignored.

    Short aliases are found inside other words ("ran" in "France").
    """
    searched = _squeezed(text)
    return any(_squeezed(alias) in searched for alias in aliases)


def lm_eval_match(prediction: str, aliases: Sequence[str]) -> bool:
    """lm-eval's exact match of TriviaQA: equal to an alias but for case and ASCII punctuation; articles count."""
    answer = plain(prediction).translate(_NO_PUNCTUATION)
    return any(answer == plain(alias).translate(_NO_PUNCTUATION) for alias in aliases)


def proxy_tuning_match(prediction: str, aliases: Sequence[str]) -> bool:
    """Proxy-tuning's match of TriviaQA: equal to an alias but for case and outer white space."""
    return prediction.strip().lower() in {alias.lower() for alias in aliases}


def plain(text: str) -> str:
    """Lower case by code point and no trailing NUL: texts as numpy's arrays of strings hold them in lm-eval."""
    return "".join(character.lower()[0] for character in text.rstrip("\0"))


def _squeezed(text: str) -> str:
    return text.lower().replace(" ", "").strip()
