"""What a short answer is worth: the strict exact match and F1, and matches of others under names that say whose.

The strict ones compare `normal_forms`, in which only blank texts are empty. The others repeat what was published.

The lenient matches stand beside the strict one so that published figures can be compared; none is a headline.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from earnest.evaluation.normal_forms import normalise

_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4", " "))
_NO_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation))
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(prediction: str, aliases: Sequence[str]) -> bool:
    """Whether the prediction says the same as an alias, as `normalise` compares; what is blank says nothing."""
    answer = normalise(prediction)
    return answer != "" and any(answer == normalise(alias) for alias in aliases)


def token_f1(prediction: str, aliases: Sequence[str]) -> float:
    """The best F1 of the normalised words over the aliases, 0..1."""
    words = normalise(prediction).split()
    return max((_f1(words, normalise(alias).split()) for alias in aliases), default=0.0)


def trivia_normalise(text: str) -> str:
    """An answer without case, punctuation (each mark becomes a space), articles and surplus white space.

    Follows TriviaQA's official evaluation (Joshi et al. 2017); "The The" and "!!!" become nothing.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_TO_SPACE)).split())


def trivia_match(prediction: str, aliases: Sequence[str]) -> bool:
    """TriviaQA's exact match: as TriviaQA normalises, the prediction equals an alias; nothing equals nothing."""
    answer = trivia_normalise(prediction)
    return any(answer == trivia_normalise(alias) for alias in aliases)


def trivia_f1(prediction: str, aliases: Sequence[str]) -> float:
    """TriviaQA's F1 over the aliases, 0..1."""
    words = trivia_normalise(prediction).split()
    return max((_f1(words, trivia_normalise(alias).split()) for alias in aliases), default=0.0)


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
    answer, golds = trivia_normalise(prediction), [trivia_normalise(alias) for alias in aliases]
    return any(answer in gold or gold in answer for gold in golds)


def kick_substring(text: str, aliases: Sequence[str]) -> bool:
    """LLM-KICK's "exact match" of factoid questions: an alias stands anywhere in the text, case and spaces ignored.

    Short aliases are found inside other words ("ran" in "France").
    """
    searched = _squeezed(text)
    return any(_squeezed(alias) in searched for alias in aliases)


def lm_eval_match(prediction: str, aliases: Sequence[str]) -> bool:
    """lm-eval's exact match of TriviaQA: equal to an alias but for case and ASCII punctuation; articles count."""
    answer = plain_words(prediction)
    return any(answer == plain_words(alias) for alias in aliases)


def proxy_tuning_match(prediction: str, aliases: Sequence[str]) -> bool:
    """Proxy-tuning's match of TriviaQA: equal to an alias but for case and outer white space."""
    return prediction.strip().lower() in {alias.lower() for alias in aliases}


def plain(text: str) -> str:
    """Lower case as lm-eval has it, which compares in numpy's arrays of strings.

    They hold no trailing NUL, and no more characters than before: of "İ", whose lower case is two, one is cut off at
    the text's end.
    """
    text = text.rstrip("\0")
    return text.lower()[: len(text)].rstrip("\0")


def plain_words(text: str) -> str:
    """`plain` without ASCII punctuation."""
    return plain(text).translate(_NO_PUNCTUATION).rstrip("\0")


def _squeezed(text: str) -> str:
    return text.lower().replace(" ", "").strip()
