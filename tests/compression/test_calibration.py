"""Where calibration tokens come from: windows of a text by seed, ids already made, the almanac's corpus."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from earnest.compression.calibration import calibration_ids
from earnest.specs import Calibration, UserError


@pytest.fixture(scope="module")
def tokenizer(make_model: Callable[..., Any]) -> Any:
    """Bytes as tokens, <s> first."""
    return make_model().tokenizer


def table(path: Path, **columns: list[Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def spec(**changes: Any) -> Calibration:
    return Calibration(**{"data": "somewhere", "samples": 4, "length": 8, "seed": 0, **changes})


def test_windows_are_pieces_of_the_text_joined_by_a_blank_line(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", text=["The first row.", "  ", "The second row."])
    ids = calibration_ids(spec(samples=50), path, tokenizer)
    assert (ids.shape, ids.dtype) == ((50, 8), torch.int64)
    whole = "<s>The first row.\n\nThe second row."
    pieces = {tokenizer.decode(row) for row in ids}
    assert all(piece in whole for piece in pieces)
    assert len(pieces) > 10


def test_every_window_can_be_drawn(tokenizer: Any, tmp_path: Path) -> None:
    """<s> and nine letters: three windows of eight, the first and the last among them."""
    path = tmp_path / "d.txt"
    path.write_text("abcdefghi")
    ids = calibration_ids(spec(samples=60), str(path), tokenizer)
    assert {tokenizer.decode(row) for row in ids} == {"<s>abcdefg", "abcdefgh", "bcdefghi"}


def test_the_seed_decides_the_windows(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", text=["some longer text to draw windows from, row by row"] * 20)
    draw: Callable[[int], Tensor] = lambda seed: calibration_ids(spec(seed=seed), path, tokenizer)  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_rows_of_exactly_the_length_are_used_as_they_are_in_order(tokenizer: Any, tmp_path: Path) -> None:
    rows = [[10 * i + j for j in range(8)] for i in range(6)]
    path = table(tmp_path / "d.parquet", input_ids=rows, text=["ignored"] * 6)
    assert calibration_ids(spec(), path, tokenizer).tolist() == rows[:4]


def test_too_few_rows_of_ids_name_how_many_there_are(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", input_ids=[[1] * 8] * 3)
    with pytest.raises(UserError, match=r"holds 3 rows of 8 tokens, not 4; lower samples to 3"):
        calibration_ids(spec(), path, tokenizer)


def test_rows_of_other_lengths_are_concatenated(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", input_ids=[list(range(i, i + 5)) for i in range(0, 50, 5)])
    ids = calibration_ids(spec(samples=20), path, tokenizer)
    assert all(torch.equal(row, torch.arange(int(row[0]), int(row[0]) + 8)) for row in ids)


def test_too_little_text_names_its_tokens_and_what_to_lower(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", text=["abc"])
    with pytest.raises(UserError, match=r"its 4 tokens are too few for one window of 8; lower length to at most 4"):
        calibration_ids(spec(), path, tokenizer)


def test_no_text_is_not_told_to_lower_the_length(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", text=["  "])
    with pytest.raises(UserError, match=r"its [01] tokens are too few for one window of 8; give more text$"):
        calibration_ids(spec(), path, tokenizer)


def test_a_missing_column_and_a_column_without_text_are_named(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", body=["abc"], number=[1])
    with pytest.raises(UserError, match=r"no column 'text'; its columns are body, number"):
        calibration_ids(spec(), path, tokenizer)
    with pytest.raises(UserError, match=r"column 'number' holds int, not text"):
        calibration_ids(spec(column="number"), path, tokenizer)


def test_nano_is_the_almanacs_corpus_each_document_between_begin_and_end(tokenizer: Any) -> None:
    ids = calibration_ids(spec(data="nano", samples=6, length=400), "nano", tokenizer)
    assert ids.shape == (6, 400)
    ends = (ids[:, :-1] == tokenizer.eos_token_id).nonzero()
    assert len(ends) > 6
    assert all(int(ids[row, column + 1]) == tokenizer.bos_token_id for row, column in ends)
    again = calibration_ids(spec(data="nano", samples=6, length=400), "nano", tokenizer)
    assert torch.equal(ids, again)


def test_a_row_without_text_is_named(tokenizer: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "d.parquet", text=["abc", None])
    with pytest.raises(UserError, match=r"row 1: column 'text' holds nothing, not text"):
        calibration_ids(spec(), path, tokenizer)


@pytest.mark.parametrize("ids", [["1 2", "3 4"], [["1"], ["2"]], [[1], [-1]]])
def test_ids_that_are_no_token_ids_are_refused(tokenizer: Any, tmp_path: Path, ids: list[Any]) -> None:
    path = table(tmp_path / "d.parquet", input_ids=ids)
    with pytest.raises(UserError, match=r"row \d: input_ids holds .*, not a list of token ids"):
        calibration_ids(spec(), path, tokenizer)
