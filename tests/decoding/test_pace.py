"""How many tokens are proposed follows what is accepted and what it costs."""

import pytest

from earnest.decoding.fair_queue import FairQueue
from earnest.decoding.lookup import Lookup
from earnest.decoding.pace import MOST_PROPOSED, REST, Acceptance, Line, Pace


def paced(fixed: float, each: float) -> Pace:
    """A pace that has measured verifications of 1 to 8 tokens."""
    pace = Pace()
    for n in range(1, 9):
        pace.verify.saw(n, fixed + each * n)
    return pace


def test_a_line_finds_what_is_fixed_and_what_each_costs() -> None:
    line = Line()
    for n in (1, 5, 3, 9, 2):
        line.saw(n, 0.004 + 0.0005 * n)
    assert line.fit == pytest.approx((0.004, 0.0005))


@pytest.mark.parametrize(("a", "c"), [(0.9, 0.1), (0.7, 0.2), (0.5, 0.05)])
def test_a_single_text_looks_up_as_many_as_make_it_fastest(a: float, c: float) -> None:
    speed = {n: (1 - a ** (n + 1)) / (1 - a) / (1 + (n + 1) * c) for n in range(MOST_PROPOSED + 1)}
    assert paced(1.0, c).looked_up([a]) == max(speed, key=speed.__getitem__)


def test_nothing_is_looked_up_where_it_does_not_pay() -> None:
    assert paced(fixed=0.0, each=1.0).looked_up([0.8] * 8) == 0
    assert paced(fixed=1.0, each=0.5).looked_up([0.02]) == 0


def test_a_draft_goes_on_as_long_as_its_next_token_is_worth_its_time() -> None:
    """Rounds of one text: 4 steps of 0.2 s, and a verification of 1 s and 0.05 s for each token, bring 3 tokens."""
    pace = paced(fixed=1.0, each=0.05)
    assert pace.least_chance(1) == 0.0  # nothing measured
    for _ in range(9):
        pace.drafted(rows=1, steps=4, read=4, seconds=0.8)
        pace.wrote(tokens=3)
    assert pace.least_chance(1) == pytest.approx((0.2 + 0.05) / (0.8 + 1.0 + 4 * 0.05) * 3)
    for _ in range(200):
        pace.drafted(rows=1, steps=4, read=8, seconds=0.8)  # every second token was guessed
    assert pace.least_chance(1) == pytest.approx((0.1 + 0.05) / (0.8 + 1.0 + 8 * 0.05) * 3, rel=0.01)


def test_drafts_that_do_not_pay_are_left_out_but_tried_now_and_then() -> None:
    """Rounds of 1.8 s that write a single token, where a round without a draft would take 1.25 s."""
    pace = paced(fixed=1.0, each=0.05)
    for _ in range(9):
        pace.drafted(rows=1, steps=3, read=4, seconds=0.6)
        pace.wrote(tokens=1)
    assert [pace.pays(1) for _ in range(2 * REST)] == ([False] * (REST - 1) + [True]) * 2
    for _ in range(200):
        pace.drafted(rows=1, steps=3, read=4, seconds=0.6)
        pace.wrote(tokens=2)
    assert pace.pays(1)


def test_what_rows_share_is_weighed_against_the_rounds_that_they_share() -> None:
    pace = paced(fixed=1.0, each=0.0)
    for rows in (1, 8) * 9:
        pace.drafted(rows, steps=2, read=4 * rows, seconds=0.4)
        pace.wrote(tokens=3)
    assert pace.least_chance(8) == pytest.approx(0.1 / 1.4 * 3)
    assert pace.least_chance(1) == pytest.approx(pace.least_chance(8))


def test_a_text_whose_drafts_failed_is_given_another_chance() -> None:
    acceptance = Acceptance()
    for _ in range(50):
        acceptance.saw(4, 0)
    low = acceptance.rate
    for _ in range(100):
        acceptance.saw(0, 0)
    assert low < 0.1 < 0.6 < acceptance.rate


def test_owners_take_turns_and_keep_their_order() -> None:
    queue = FairQueue[int]()
    for owner, item in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)]:
        queue.put(owner, item)
    queue.drop("a", 2)
    assert [queue.get() for _ in range(len(queue))] == [1, 4, 5, 3, 6]


def test_looking_up_proposes_what_followed_last() -> None:
    lookup = Lookup()
    lookup.grow([1, 2, 3, 7, 8, 1, 2, 3, 9, 1, 2])
    assert lookup.propose(4) == ()
    lookup.grow([3])
    assert lookup.propose(4) == (9, 1, 2, 3)
    assert lookup.propose(0) == ()


def test_a_stall_of_the_machine_is_no_measurement() -> None:
    line = Line()
    for n in (1, 5, 3, 9, 2, 7, 4, 8):
        line.saw(n, 0.004 + 0.0005 * n)
    line.saw(5, 1.0)
    fixed, each = line.fit
    assert fixed + 5 * each == pytest.approx(0.0065, rel=0.15)


def test_what_has_become_slower_is_learnt() -> None:
    line = Line()
    for n in range(20):
        line.saw(1 + n % 7, 0.001)
    for n in range(100):
        line.saw(1 + n % 7, 0.002)
    fixed, each = line.fit
    assert fixed + 4 * each == pytest.approx(0.002, rel=0.1)
