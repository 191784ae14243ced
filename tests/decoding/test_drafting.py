"""Guesses make drafts shorter work and nothing else, and what came of proposals decides how far the next ones go."""

from collections.abc import Sequence

import pytest
import torch

from earnest.decoding.drafting import Drafter
from earnest.decoding.lookup import Phrases, follow
from earnest.decoding.members import Drafted, Wanted
from earnest.decoding.sampling import GREEDY, Sampling

VOCABULARY = 50
CIRCLE = 10
LEAST = 0.25


class Circles:
    """A decoder that says 0, 1, 2, ... 9, 0, 1, ... whatever it read before, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[int, ...]]] = []
        self.cleared: list[tuple[int, int]] = []
        self.mad: int | None = None
        self.reaches_back = False

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> torch.Tensor:
        assert not last
        self.asked.append([tuple(row) for row in tokens])
        said = [torch.zeros(len(row), VOCABULARY) for row in tokens]
        for logits, row in zip(said, tokens, strict=True):
            for at, token in enumerate(row):
                logits[at, (token + 1) % CIRCLE] = 1.0 + token
                if token == self.mad:
                    logits[0 if self.reaches_back else at :] = torch.nan
        return torch.cat(said)

    def clear(self, row: int, start: int) -> None:
        self.cleared.append((row, start))


def drafted(drafter: Drafter, written: Sequence[int], start: int, count: int, sampling: Sampling = GREEDY) -> Drafted:
    return drafter.draft([0], [start], [Wanted(count, sampling, (), tuple(written), LEAST)])


def test_what_was_read_before_is_guessed_and_proposed_in_one_step() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 2)
    drafter.saw(0, 0, [3, 4, 5, 6, 7, 20, 3])
    found = drafted(drafter, [4], 7, 3)
    assert found.tokens == ((5, 6, 7),)
    assert decoder.asked == [[(4, 5, 6, 7)]]
    assert found.logits.argmax(-1).tolist() == [5, 6, 7, 8]


def test_a_wrong_guess_costs_a_step_and_is_not_proposed() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 1)
    drafter.saw(0, 0, [3, 4, 30, 31, 9])
    found = drafted(drafter, [3, 4], 5, 3)
    assert found.tokens == ((5, 6, 7),)
    assert decoder.asked[0] == [(4, 30, 31, 9)]
    assert found.logits.argmax(-1).tolist() == [5, 6, 7, 8]


def test_rows_are_guessed_from_their_own_text_first_and_then_from_others() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 2)
    drafter.saw(0, 0, [1, 2, 3])
    drafter.saw(1, 0, [1, 2, 9])
    for row in (0, 1):
        drafter.draft([row], [3], [Wanted(0, GREEDY, (), (7,))])
    decoder.asked.clear()
    drafter.draft([0, 1], [4, 4], [Wanted(1, GREEDY, (), (2,)), Wanted(1, GREEDY, (), (2,))])
    assert decoder.asked[0] == [(2, 3), (2, 9)]
    decoder.asked.clear()
    drafter.saw(1, 0, [40, 41])  # another text, which knows nothing of what follows 2
    drafter.draft([1], [2], [Wanted(1, GREEDY, (), (2,))])
    assert decoder.asked[0] in ([(2, 3)], [(2, 9)])


def test_a_copied_row_is_guessed_from_what_it_took_over() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 2)
    drafter.saw(0, 0, [5, 6, 7, 40])
    drafter.copied(0, 1, 3)
    drafter.draft([1], [3], [Wanted(2, GREEDY, (), (5,))])
    assert decoder.asked[0] == [(5, 6, 7)]


@pytest.mark.parametrize("setting", [{}, {"top_p": 0.5}, {"repetition_penalty": 1.1}, {"logprobs": 2}])
def test_texts_that_are_sampled_are_guessed_too_and_draw_the_same(setting: dict[str, float]) -> None:
    """At temperature 1 a row's draws differ from its likeliest tokens; what was said before changes only the steps."""
    sampling = Sampling(temperature=1.0, seed=5, **setting)
    drafter = Drafter(Circles(), 1)
    fresh = drafted(drafter, [3], 0, 6, sampling)
    decoder = Circles()
    drafter = Drafter(decoder, 1)
    drafter.saw(0, 0, [9, 3, *fresh.tokens[0], 9])
    known = drafted(drafter, [3], 3 + len(fresh.tokens[0]), 6, sampling)
    assert known.tokens == fresh.tokens
    assert known.following == fresh.following
    assert torch.equal(known.logits, fresh.logits)
    assert known.steps < fresh.steps


def test_proposals_go_less_far_when_they_are_refused_and_further_when_they_are_right() -> None:
    refused, right = Drafter(Circles(), 1), Drafter(Circles(), 1)
    start, found = 0, drafted(right, [20], 0, 9)
    for turn in range(30):
        drafted(refused, [20 + turn], turn, 9)  # only the token that it did not propose was written
        start += 1 + len(found.tokens[0])
        found = drafted(right, [20 + turn], start, 9)
    assert len(drafted(refused, [20], 30, 9).tokens[0]) < 2
    assert len(found.tokens[0]) == 9


def test_a_drafter_whose_every_proposal_is_refused_tries_again_now_and_then() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 1)
    lengths = [len(drafted(drafter, [20 + at % 25], at, 5).tokens[0]) for at in range(200)]
    assert 0 in lengths[20:]
    assert max(lengths[100:]) > 0


def test_a_row_whose_logits_are_no_numbers_is_wiped_and_at_its_end() -> None:
    decoder = Circles()
    decoder.mad = 5
    found = drafted(Drafter(decoder, 1), [3], 6, 4)
    assert found.tokens == ((4, 5),)
    assert decoder.cleared == [(0, 8)]


def test_a_guess_that_breaks_the_model_is_read_again_without_it() -> None:
    """Numbers that are none reach back in a pass: the token before the guess, which is sound, has none either."""
    decoder = Circles()
    decoder.mad, decoder.reaches_back = 5, True
    drafter = Drafter(decoder, 1)
    drafter.saw(0, 0, [3, 4, 5, 6, 7, 8])
    found = drafted(drafter, [3], 6, 2)
    assert decoder.asked == [[(3, 4, 5)], [(3,)], [(4,)], [(5,)]]
    assert decoder.cleared == [(0, 6), (0, 8)]
    assert found.tokens == ((4, 5),)
    assert found.logits[:2].argmax(-1).tolist() == [4, 5]


def test_a_token_is_learnt_once_it_was_read_and_found_sound() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 2)
    drafter.saw(0, 0, [40, 41])
    drafted(drafter, [42], 2, 0)  # 42 is the last token: whether it can be read is not known yet
    drafter.saw(1, 0, [40])
    drafter.draft([1], [1], [Wanted(2, GREEDY, (), (41,))])
    assert decoder.asked[1] == [(41,)]


def test_refusals_count_though_the_next_round_has_no_draft() -> None:
    drafter = Drafter(Circles(), 1)
    for turn in range(30):
        drafted(drafter, [20 + turn], 2 * turn, 3)
        drafter.saw(0, 2 * turn + 1, [40])  # none of it was accepted; another token is read without a draft
    assert len(drafted(drafter, [20], 60, 3).tokens[0]) < 2


def test_many_rows_unlearn_as_slowly_as_one() -> None:
    few, many = Drafter(Circles(), 1), Drafter(Circles(), 32)
    for turn in range(40):
        for drafter, rows in ((few, 1), (many, 32)):
            wanted = [Wanted(3, GREEDY, (), (20 + turn % 25,), 0.5)] * rows
            drafter.draft(list(range(rows)), [turn] * rows, wanted)
    assert many._right["own"].rate < 0.45
    assert few._right["own"].rate < 0.5


def test_a_step_of_many_rows_stays_small() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 40)
    for row in range(40):
        drafter.saw(row, 0, [*range(10), *range(5)])
    drafter.draft(list(range(40)), [15] * 40, [Wanted(9, GREEDY, (), (5,))] * 40)
    assert {len(row) for row in decoder.asked[0]} == {3}


def test_a_few_rows_are_not_waited_for() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 3)
    wanted = [Wanted(count, GREEDY, (), (20 + count,)) for count in (0, 0, 9)]
    assert drafter.draft([0, 1, 2], [0, 0, 0], wanted).tokens == ((), (), ())
    assert len(decoder.asked) == 1


@pytest.mark.parametrize("most", [4, 40])
def test_a_book_of_phrases_forgets_what_it_learnt_long_ago(most: int) -> None:
    book = Phrases(most)
    for begin in range(100, 400, 3):
        book.learn([begin, begin + 1, begin + 2], 0)
        assert sum(map(len, book._after + book._older)) <= 2 * most + 6
        assert follow([begin, begin + 1], book.tables, 5) == (begin + 2,)
    assert follow([100, 101], book.tables, 5) == ()


def test_nothing_is_proposed_from_the_token_on_that_would_end_the_text() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 1)
    found = drafter.draft([0], [0], [Wanted(6, GREEDY, (), (2,), ends=frozenset({5}))])
    assert found.tokens == ((3, 4),)
    assert found.following == (5,)
    assert decoder.asked == [[(2,)], [(3,)], [(4,)]]


def test_a_guess_never_reaches_behind_the_end_of_a_text() -> None:
    decoder = Circles()
    drafter = Drafter(decoder, 1)
    drafter.saw(0, 0, [3, 4, 5, 6, 7, 2, 3])
    found = drafter.draft([0], [7], [Wanted(6, GREEDY, (), (4,), ends=frozenset({7}))])
    assert found.tokens == ((5, 6),)
    assert found.following == (7,)
    assert max(token for asked in decoder.asked for row in asked for token in row) < 7
