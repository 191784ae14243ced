"""What may be left out of a spec: the almanac's corpus, questions and rule judges, for the family that learnt them.

On any other model they would be numbers about nothing; so what stands in their place must be named.
"""

from __future__ import annotations

from collections.abc import Iterable

from earnest.specs.frame import Spec, UserError

ALMANAC = "nano"
FAMILY = "nano:"
JUDGES = ("judges", "true_judge", "informative_judge")


def strangers(models: Iterable[str]) -> list[str]:
    """The models that are not of the embedded family."""
    return [model for model in models if model.strip() and not model.startswith(FAMILY)]


def check_data_is_named(spec: Spec, models: Iterable[str], what: str, remedy: str) -> None:
    """See that `data` was written down where a model did not learn from the almanac.

    Args:
        spec: a task or a calibration.
        models: whose numbers it will decide.
        what: names it in the error.
        remedy: how data are named where the user stands.

    Raises:
        UserError: `data` was left to its default, the almanac's, and one of the models is not of its family.
    """
    others = strangers(models)
    if others and "data" not in spec.model_fields_set and getattr(spec, "data", None) == ALMANAC:
        raise UserError(
            f"{what}: no data are named for {others[0]}; the invented world is the default of {FAMILY} models alone\n"
            f"{remedy}"
        )


def check_judges_are_named(spec: Spec, models: Iterable[str], what: str) -> None:
    """See that judges were written down where a model did not learn from the almanac.

    Raises:
        UserError: they were left to their default, a rule, and one of the models is not of the almanac's family.
    """
    others = strangers(models)
    missing = [name for name in JUDGES if name in type(spec).model_fields and name not in spec.model_fields_set]
    if others and missing:
        example = '{ judge = "endpoint", url = "http://...", model = "..." }'
        raise UserError(
            f"{what}: {missing[0]} not named for {others[0]}; rules that compare words are the default of {FAMILY} "
            f"models alone\nset {missing[0]} = {f'[{example}]' if missing[0] == 'judges' else example}, "
            'or { judge = "rule" } to judge by a rule'
        )
