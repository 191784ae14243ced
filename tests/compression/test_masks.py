"""Exact counts, ties to the earlier weight, N:M in every group."""

import pytest
import torch

from earnest.compression.masks import share, smallest, smallest_in_groups, smallest_in_matrix
from earnest.specs import NM


def test_the_share_is_the_floor_of_the_decimal_number_as_written() -> None:
    assert [share(100, 0.29), share(10, 0.7), share(64, 0.7), share(3, 0.5), share(1, 0.999)] == [29, 7, 44, 1, 0]


def test_when_all_tie_the_earlier_weights_go_and_exactly_so_many() -> None:
    mask = smallest_in_matrix(torch.ones(4, 6), 0.4)
    assert mask.flatten().tolist() == [True] * 9 + [False] * 15


def test_ties_at_the_threshold_fall_to_the_earlier_weight() -> None:
    assert smallest(torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0, 2.0]), 4).tolist() == [False, True, True, True, True, False]


def test_rows_are_counted_one_by_one() -> None:
    scores = torch.rand(16, 40, generator=torch.Generator().manual_seed(0))
    assert smallest(scores, 13).sum(1).tolist() == [13] * 16


@pytest.mark.parametrize("count", [0, 1, 99, 100])
def test_the_marked_are_never_larger_than_the_others(count: int) -> None:
    scores = torch.randint(5, (100,), generator=torch.Generator().manual_seed(1)).float()
    mask = smallest(scores, count)
    assert int(mask.sum()) == count
    if 0 < count < 100:
        assert scores[mask].max() <= scores[~mask].min()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 8)])
def test_n_of_m_keeps_the_n_largest_of_every_group(n: int, m: int) -> None:
    scores = torch.rand(8, 48, generator=torch.Generator().manual_seed(2))
    kept = ~smallest_in_groups(scores, NM(n=n, m=m)).view(8, -1, m)
    assert (kept.sum(-1) == n).all()
    grouped = scores.view(8, -1, m)
    assert (grouped.masked_fill(~kept, 2).amin(-1) >= grouped.masked_fill(kept, -1).amax(-1)).all()
