"""What a candidate returns comes to its judge as data: equal values of the same types, and no code."""

import datetime as dt
import json
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from earnest.evaluation.sandbox import run
from earnest.evaluation.sandbox.values import UnsentError, decode, encode


def carried(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


PLAIN = [
    None,
    True,
    0,
    -(2**70),
    10**5000,
    0.1,
    float("inf"),
    1 + 2j,
    "\ud800é",
    b"x",
    [1, [2.5, (3,)]],
    {1: {"a": ()}},
    {(1, 2): {3}},
    frozenset({1}),
    deque([1]),
    range(3, 9, 2),
    Decimal("1.10"),
    Fraction(1, 3),
    dt.timedelta(1, 2, 3),
    dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC),
    dt.date(2020, 1, 2),
    dt.time(1, 2),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_come_back_equal_and_of_their_type(value: Any) -> None:
    found = carried(value)
    assert found == value
    assert type(found) is type(value) or isinstance(value, frozenset)


def test_not_a_number_stays_none() -> None:
    assert carried(float("nan")) != carried(float("nan"))


@pytest.mark.parametrize("value", [Counter("aab"), OrderedDict(a=1), defaultdict(int, a=2)])
def test_subclasses_become_the_type_they_come_from(value: Any) -> None:
    assert carried(value) == dict(value)
    assert type(carried(value)) is dict


def test_an_iterator_gives_the_same_items_once() -> None:
    assert list(carried(n * n for n in range(4))) == [0, 1, 4, 9]


ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.zeros((0, 4), dtype=np.int8),
    np.array(["a", "bc"]),
    np.array([1, "x", None], dtype=object),
    np.array(["2020-01-01"], dtype="M8[ns]"),
    np.float32(1.5),
    np.bool_(True),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: str(value.dtype))
def test_arrays_and_their_scalars_come_back(value: Any) -> None:
    found = carried(value)
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert (found == value).all()


FRAME = pd.DataFrame(
    {
        "n": [1, 2, 3],
        "x": [0.5, np.nan, 1.5],
        "s": ["a", None, "c"],
        "t": pd.date_range("2020-01-01", periods=3, tz="Europe/Rome"),
        "c": pd.Categorical(["u", "v", "u"], categories=["v", "u"], ordered=True),
        "i": pd.array([1, None, 3], dtype="Int64"),
        "d": pd.to_timedelta([1, 2, 3], unit="h"),
    }
)
FRAMES = {
    "types": FRAME,
    "dates": FRAME.set_index(pd.date_range("2020-01-01", periods=3, freq="D", name="day")),
    "levels": FRAME[["n", "x"]].set_index(pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["k", None])),
    "twice": pd.DataFrame([[1, 2], [3, 4]], columns=["same", "same"]),
    "grouped": FRAME.groupby("c", observed=False)[["n"]].agg(["sum", "mean"]),
    "empty": FRAME.iloc[:0],
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_frames_come_back_exactly(frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(carried(frame), frame)
    for place in range(frame.shape[1]):
        pd.testing.assert_series_equal(carried(frame.iloc[:, place]), frame.iloc[:, place])
    pd.testing.assert_index_equal(carried(frame.index), frame.index)


def test_missing_values_and_times_come_back() -> None:
    assert carried(pd.NA) is pd.NA
    assert carried(pd.NaT) is pd.NaT
    for value in (
        pd.Timestamp("2020-01-01 01:02:03.000000004", tz="Asia/Tokyo"),
        pd.Timestamp("2020-01-01"),
        pd.Timedelta("1h"),
    ):
        assert carried(value) == value


def test_sparse_matrices_and_tensors_come_back() -> None:
    matrix = sparse.csr_matrix(np.eye(3))
    assert (carried(matrix) != matrix).nnz == 0
    assert carried(matrix).format == "csr"
    assert torch.equal(carried(torch.arange(4).reshape(2, 2)), torch.arange(4).reshape(2, 2))


@pytest.mark.parametrize(
    "value", [object(), lambda: 1, type, FRAME.groupby("n")], ids=["object", "function", "class", "groups"]
)
def test_what_is_no_data_is_not_sent(value: Any) -> None:
    with pytest.raises(UnsentError):
        encode(value)


def test_a_program_that_returns_an_object_of_its_own_fails_and_says_why() -> None:
    found = run("class Mine: pass\ndef f(): return Mine()", checks="assert __candidate__('f')() == 1")
    assert found.status == "failed"
    assert "Mine" in found.detail
