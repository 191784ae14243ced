"""Text is shown as soon as it is certain, and never what may still change."""

import random

import pytest

from earnest.decoding.streaming import TextStream


class Bytes:
    """A tokenizer of one token per byte, as byte fallback is: a character may take several tokens."""

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def shown(text: str, stops: tuple[str, ...] = (), sizes: int = 1, end: str | None = None) -> list[str]:
    """The pieces of a text that grows by some bytes at a time; with `end` its last byte ended it there."""
    ids, stream = list(text.encode()), TextStream(Bytes(), stops)
    seen = len(ids) + 1 if end is None else len(ids)
    pieces = [stream.grow(ids[:upto]) for upto in range(sizes, seen, sizes)]
    return [*pieces, stream.finish(text if end is None else end)]


@pytest.mark.parametrize("sizes", [1, 2, 5])
def test_pieces_make_the_text_and_no_character_is_torn(sizes: int) -> None:
    text = "Ünïcödé — 漢字 and 🙂 end"
    pieces = shown(text, sizes=sizes)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_may_become_a_stop_string_is_held_back_and_given_when_it_does_not() -> None:
    pieces = shown("one\n\nQ two\n", stops=("\n\nQuestion:",))
    assert "".join(pieces) == "one\n\nQ two\n"
    assert pieces[:3] == ["o", "n", "e"]
    assert pieces[3:6] == ["", "", ""]  # "\n\nQ" may be the stop string
    assert pieces[6] == "\n\nQ "


def test_nothing_of_a_stop_string_that_comes_is_shown() -> None:
    assert "".join(shown("abcSTOP", stops=("STOP",), end="abc")) == "abc"


def test_nano_texts_come_out_whole(nano) -> None:
    """Random tokens: decoding in windows gives what decoding at once gives."""
    tokenizer = nano("small").tokenizer
    numbers = random.Random(0)
    for _ in range(50):
        ids = [numbers.randrange(3, 1500) for _ in range(40)]
        stream = TextStream(tokenizer, ())
        pieces = [stream.grow(ids[:upto]) for upto in range(1, 41)]
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert whole.startswith("".join(pieces))
        assert "".join(pieces) + stream.finish(whole) == whole
