"""A text that is encoded a stretch at a time gets the very ids that its tokenizer gives it whole."""

import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from earnest.models import text_stream
from earnest.models.text_stream import StreamEncoder, joints_of

TEXT = (
    "The quick brown fox jumps over the lazy dog, twice; it's 12345 times! Größe and naïveté, don't they matter? "
    "def f(x):\n    return x ** 2\n\n\n天地玄黄。宇宙洪荒，日月盈昃。\n<mark> a<mark>b \t end…\n"
)
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def wrapped(tokenizer: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    made.add_tokens(["<mark>", "lazy dog"])
    return made


def byte_level(split: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = split
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return wrapped(tokenizer, BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))


def gpt_2() -> PreTrainedTokenizerFast:
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def gpt_2_that_begins_with_a_space() -> PreTrainedTokenizerFast:
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def llama_3() -> PreTrainedTokenizerFast:
    split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    return byte_level(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)]))


def sentencepiece_merges() -> PreTrainedTokenizerFast:
    """Without words, as Llama 2 has it: the whole text is merged as one."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # while it learns
    trainer = BpeTrainer(vocab_size=300, special_tokens=["<unk>"], initial_alphabet=["▁", "\n"], show_progress=False)
    tokenizer.train_from_iterator([line + "\n" for line in TEXT.splitlines()] * 20, trainer)
    tokenizer.pre_tokenizer = None
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    made.add_tokens(["<mark>"])
    return made


def unigram() -> PreTrainedTokenizerFast:
    """As T5 and XLM-R have it, with a normalizer that looks ahead."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    return wrapped(tokenizer, trainer)


def word_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrapped(tokenizer, WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False))


KINDS = (gpt_2, gpt_2_that_begins_with_a_space, llama_3, sentencepiece_merges, unigram, word_piece)


def texts() -> Iterator[str]:
    """Shuffled words and signs, long runs without a joint, texts without spaces, marks of all kinds."""
    rng = random.Random(0)
    words = [
        *TEXT.split(" "),
        "a" * 30,
        "7" * 50,
        "  ",
        "\n\n\n",
        "\r\n",
        "é",
        "e\u0301\u0301",
        "▁",
        "\u00a0",
        "lazy dog",
    ]
    for _ in range(6):
        yield " ".join(rng.choices(words, k=800))
        yield "".join(rng.choices(words, k=800))
    yield "".join(rng.choices("天地玄黄宇宙洪荒\n", k=6000))
    yield "ab" * 3000
    yield "1" * 5000 + " end " + " " * 3000 + "!" * 2000 + TEXT * 5
    yield " \n" * 2000
    yield "<mark>" * 900
    yield TEXT * 40
    yield ""


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches so short that a text of some thousand characters has dozens."""
    for name, size in (("STRETCH", 512), ("OVERLAP", 256), ("MARGIN", 64)):
        monkeypatch.setattr(text_stream, name, size)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_the_whole_text(kind: Any) -> None:
    tokenizer = kind()
    encoder, rng = StreamEncoder(tokenizer), random.Random(1)
    for text in texts():
        cuts = sorted(rng.choices(range(len(text) + 1), k=9))
        pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert list(chain.from_iterable(encoder.encode(pieces))) == wanted


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_text_is_never_held_whole(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = kind()
    longest, encode = 0, text_stream._Stretch.of

    def noted(tokenizer: Any, text: str) -> Any:
        nonlocal longest
        longest = max(longest, len(text))
        return encode(tokenizer, text)

    monkeypatch.setattr(text_stream._Stretch, "of", noted)
    whole = TEXT * 100
    parts = list(StreamEncoder(tokenizer).encode(whole[i : i + 100] for i in range(0, len(whole), 100)))
    assert list(chain.from_iterable(parts)) == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert longest <= 4 * text_stream.STRETCH


@pytest.mark.usefixtures("_small")
def test_many_texts_keep_their_order_and_are_encoded_each_by_itself() -> None:
    tokenizer = gpt_2_that_begins_with_a_space()
    many = ["one", TEXT * 20, "two", "", "three " * 400, "four"]
    wanted = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in many]
    found = StreamEncoder(tokenizer).encode_all([text] for text in many)
    assert list(chain.from_iterable(found)) == list(chain.from_iterable(wanted))


@pytest.mark.parametrize(
    "part",
    [
        pre_tokenizers.Split(Regex(r"(?<=a)b|\w+"), "isolated"),
        pre_tokenizers.Split(Regex(r".*\n|\w+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\w+(?=.*end)"), "isolated"),
        pre_tokenizers.Split(Regex(r"^\w+|\W+"), "isolated"),
        pre_tokenizers.FixedLength(7),
    ],
)
def test_a_tokenizer_that_may_look_far_is_given_texts_whole(part: Any) -> None:
    tokenizer = byte_level(part)
    assert joints_of(tokenizer) is None
    parts = list(StreamEncoder(tokenizer).encode([TEXT, TEXT]))
    assert [list(ids) for ids in parts] == [tokenizer(TEXT + TEXT, add_special_tokens=False)["input_ids"]]


def test_a_token_that_holds_words_together_is_no_joint() -> None:
    tokenizer = sentencepiece_merges()
    joints = joints_of(tokenizer)
    assert joints is not None
    assert joints.between("o", " ")
    assert not joints.between("\n", "\n")
    tokenizer.add_tokens(["o▁t"])
    joints = joints_of(tokenizer)
    assert joints is not None
    assert not joints.between("o", " ")
