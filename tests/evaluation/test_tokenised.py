"""A text is tokenised once per tokenizer, whoever asks, and nothing else shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from earnest.almanac.corpus import corpus_text
from earnest.almanac.tokenizer import save_tokenizer, train_tokenizer
from earnest.almanac.world import World
from earnest.decoding.encoding import encode
from earnest.evaluation import tokenised as room
from earnest.evaluation.tokenised import forget, tokenised

TEXTS = ["Ann sings.", "", "<s>Bob", "Ann sings.", "🎻"]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    forget()
    yield
    forget()


def test_what_is_remembered_is_what_encode_gives(tokenizer: PreTrainedTokenizerBase) -> None:
    wanted = encode(tokenizer, TEXTS)
    assert [tokenised(tokenizer, TEXTS) for _ in range(2)] == [wanted, wanted]


def test_another_copy_of_a_tokenizer_knows_what_the_first_has_read(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tokenised(tokenizer, TEXTS)
    tokenizer.save_pretrained(tmp_path)
    copy = AutoTokenizer.from_pretrained(tmp_path)
    read: list[str] = []

    def listening(of: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
        read.extend(texts)
        return encode(of, texts)

    monkeypatch.setattr(room, "encode", listening)
    assert tokenised(copy, [*TEXTS, "new"])[:-1] == wanted
    assert read == ["new"]


def test_another_tokenizer_knows_nothing(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenised(tokenizer, TEXTS)
    save_tokenizer(train_tokenizer(corpus_text(World.shipped(), 20, seed=2), 300), tmp_path, 128)
    other = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenised(other, TEXTS) == encode(other, TEXTS) != encode(tokenizer, TEXTS)


def test_what_is_remembered_is_bounded(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_TOKENS", 10)
    many = [f"Number {number}" for number in range(50)]
    assert tokenised(tokenizer, many) == encode(tokenizer, many)
    assert sum(map(len, room._known.values())) <= 10
