"""The bookkeeping of a run: every step ends in exactly one place."""

import pytest

from cluster.plans import compress, evaluate, plan_of
from earnest.cluster.ledger import LOSSES_PER_ATTEMPT, Ledger
from earnest.steps import StepSummary


def summary(digest: str) -> StepSummary:
    return StepSummary(digest, "compress", "", 0.1)


def test_a_step_is_ready_once_all_that_it_needs_is_stored() -> None:
    made, dense = compress("wanda"), evaluate("perplexity")
    against = evaluate("perplexity", made, dense)
    ledger = Ledger(plan_of([against, made, dense]), {dense.digest}, attempts=3)
    assert ledger.ready() == [made]
    ledger.begin(made)
    assert ledger.ready() == []
    ledger.finish(made, summary(made.digest))
    assert ledger.ready() == [against]


def test_what_needs_a_step_that_was_set_aside_is_blocked_down_the_whole_chain() -> None:
    made = compress("wanda")
    on_it = evaluate("perplexity", made)
    against_it = evaluate("other", None, on_it)
    fine = evaluate("fine")
    ledger = Ledger(plan_of([made, on_it, against_it, fine]), (), attempts=3)
    ledger.set_aside(made, "no memory")
    assert ledger.block_unreachable() == [on_it, against_it]
    assert ledger.remaining() == [fine]
    assert set(ledger.outcome.blocked.values()) == {
        "needs compress tiny wanda, which was set aside: no memory",
    }
    assert not ledger.outcome.complete


def test_a_running_step_is_blocked_only_when_it_comes_back() -> None:
    made = compress("wanda")
    on_it = evaluate("task", made)
    ledger = Ledger(plan_of([made, on_it]), {made.digest}, attempts=3)
    ledger.begin(on_it)
    ledger.reopen(made.digest)
    ledger.set_aside(made, "rotten")
    assert ledger.block_unreachable() == []
    ledger.put_back(on_it)
    assert ledger.block_unreachable() == [on_it]


def test_only_attempts_in_which_the_step_ran_count_yet_losses_before_it_end_too() -> None:
    step = compress("wanda")
    ledger = Ledger(plan_of([step]), (), attempts=2)
    lost = [ledger.may_run_again(step, began=False) for _ in range(2 * LOSSES_PER_ATTEMPT)]
    assert lost == [True] * (2 * LOSSES_PER_ATTEMPT - 1) + [False]
    assert [ledger.may_run_again(step, began=True) for _ in range(2)] == [True, False]


def test_a_plan_with_a_need_that_it_does_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="needs step"):
        Ledger(plan_of([evaluate("task", compress("elsewhere"))]), (), attempts=1)
