"""A continuation's text is the whole text minus the prompt's, with decoders that eat spaces and split characters."""

import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from serve.answers import CompletionShape
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from earnest.decoding.batcher import Batcher
from earnest.decoding.detokenizing import anchor_of, answer_of, text_behind
from earnest.decoding.generation import generate
from earnest.decoding.local import LocalMember
from earnest.decoding.logprobs import Likeliest, TokenLogprobs
from earnest.decoding.requests import Chunk, Mixture, Request
from earnest.decoding.sampling import Sampling
from earnest.decoding.streaming import TextStream
from earnest.decoding.tokens import TokenTexts
from earnest.models.loading import LoadedModel

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["\u2581", "\u2581\u2581\u2581\u2581", "\u2581ret", "ret", "def", "\u2581x", *"abcdefgrtux():"]


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer of Llama-2's kind: spaces are letters, other characters bytes, and a text's first space is eaten."""
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*SPECIAL, *BYTES, *PIECES]))}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def ids_of(tokenizer: PreTrainedTokenizerFast, *pieces: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(pieces))


def as_bytes(text: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in text.encode()]


def streamed(tokenizer: PreTrainedTokenizerFast, prompt: list[int], ids: list[int], size: int) -> str:
    """A text as its pieces, some tokens at a time."""
    anchor = anchor_of(tokenizer, prompt)
    stream = TextStream(tokenizer, (), anchor)
    pieces = [stream.grow(ids[:upto]) for upto in range(size, len(ids), size)]
    return "".join([*pieces, stream.finish(text_behind(tokenizer, anchor, ids))])


def test_an_indent_keeps_all_its_spaces(sentencepiece: PreTrainedTokenizerFast) -> None:
    prompt = ids_of(sentencepiece, "<s>", "\u2581", "def", ":", "<0x0A>")
    ids = ids_of(sentencepiece, "\u2581\u2581\u2581\u2581", "ret", "\u2581x")
    assert sentencepiece.decode(ids) == "   ret x", "decoded alone, it loses one"
    assert text_behind(sentencepiece, anchor_of(sentencepiece, prompt), ids) == "    ret x"
    assert streamed(sentencepiece, prompt, ids, 1) == "    ret x"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_random_texts_are_the_whole_minus_the_prompt_in_streams_too(
    sentencepiece: PreTrainedTokenizerFast, size: int
) -> None:
    """Also behind a special token in their midst, and where prompts end with characters of several bytes."""
    numbers = random.Random(3)
    choices = [[piece] for piece in (*PIECES, "</s>", "<0x0A>")]
    choices += [as_bytes(character) for character in "\u00e9\u6f22\U0001f642"]
    for _ in range(300):
        tokens = [numbers.choice(choices) for _ in range(24)]
        cut = numbers.randrange(1, 20)
        prompt, ids = (ids_of(sentencepiece, *chain.from_iterable(some)) for some in (tokens[:cut], tokens[cut:]))
        whole, known = (
            sentencepiece.decode(some, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for some in (prompt + ids, prompt)
        )
        assert whole.startswith(known)
        assert text_behind(sentencepiece, anchor_of(sentencepiece, prompt), ids) == whole[len(known) :]
        assert streamed(sentencepiece, prompt, ids, size) == whole[len(known) :]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_character_that_is_never_finished_is_one_mark_and_spoils_none_before_it(
    sentencepiece: PreTrainedTokenizerFast, size: int
) -> None:
    prompt = ids_of(sentencepiece, "<s>", "\u2581ret")
    for missing in (1, 2):
        ids = ids_of(sentencepiece, *as_bytes("\u00e9"), *as_bytes("\u6f22")[:-missing])
        assert text_behind(sentencepiece, anchor_of(sentencepiece, prompt), ids) == "\u00e9\ufffd"
        assert streamed(sentencepiece, prompt, ids, size) == "\u00e9\ufffd"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_bytes_that_are_no_text_stream_as_they_end(sentencepiece: PreTrainedTokenizerFast, size: int) -> None:
    numbers = random.Random(1)
    for _ in range(200):
        pieces = [numbers.choice([*BYTES[120:], "ret", "\u2581x", *as_bytes("\u00e9")]) for _ in range(9)]
        prompt, ids = ids_of(sentencepiece, "<s>", "def"), ids_of(sentencepiece, *pieces)
        assert streamed(sentencepiece, prompt, ids, size) == text_behind(
            sentencepiece, anchor_of(sentencepiece, prompt), ids
        )


def test_a_prompt_that_ends_within_a_long_run_of_bytes_is_known_to_its_end(
    sentencepiece: PreTrainedTokenizerFast,
) -> None:
    prompt = ids_of(sentencepiece, "<s>", *as_bytes("\u6f22\u5b57" * 20))
    ids = ids_of(sentencepiece, "\u2581x", *as_bytes("\u6f22"))
    assert text_behind(sentencepiece, anchor_of(sentencepiece, prompt), ids) == " x\u6f22"


def test_marks_at_a_prompts_end_are_its_own_and_what_finishes_its_last_character_is_the_texts(
    sentencepiece: PreTrainedTokenizerFast,
) -> None:
    whole = as_bytes("\u6f22")
    cases = [  # prompt, continuation, its text
        (["\u2581ret", *as_bytes("\ufffd")], ["\u2581x"], " x"),  # the prompt says U+FFFD itself
        (["\u2581ret", *whole[:2]], ["\u2581x"], " x"),
        (["\u2581ret", *whole[:2]], [], ""),
        (["\u2581ret", *whole[:2]], whole[2:], "\u6f22"),
        (["\u2581ret", *as_bytes("\u00e9"), *whole[:1]], whole[1:], "\u6f22"),
        (["\u2581ret", *whole[:1]], whole[1:2], "\ufffd"),
        (["</s>", "<s>"], ["\u2581ret"], "ret"),  # nothing but special tokens: a text begins
    ]
    for pieces, more, wanted in cases:
        prompt, ids = ids_of(sentencepiece, *pieces), ids_of(sentencepiece, *more)
        assert text_behind(sentencepiece, anchor_of(sentencepiece, prompt), ids) == wanted, (pieces, more)
        assert streamed(sentencepiece, prompt, ids, 1) == wanted, (pieces, more)


def made_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer with another way to write spaces down, trained on a few lines."""
    lines = [
        "def plus(a, b):",
        "    return a + b",
        "        x = 12.5, it isn't",
        "caf\u00e9 \u6f22\u5b57 \U0001f642 naïve",
    ]
    wordpiece = kind == "wordpiece"
    made = Tokenizer(models.WordPiece(unk_token="<unk>") if wordpiece else models.BPE())
    before: Any
    if wordpiece:
        before, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    elif kind.startswith("metaspace"):
        scheme = kind.removeprefix("metaspace_")
        before, made.decoder = (
            pre_tokenizers.Metaspace(prepend_scheme=scheme),
            decoders.Metaspace(prepend_scheme=scheme),
        )
    else:
        before = pre_tokenizers.ByteLevel(add_prefix_space=kind == "byte_level_prefixed")
        made.decoder = decoders.ByteLevel()
    made.pre_tokenizer = before
    train = trainers.WordPieceTrainer if wordpiece else trainers.BpeTrainer
    made.train_from_iterator(lines * 4, train(vocab_size=160, special_tokens=SPECIAL, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "kind",
    ["metaspace_first", "metaspace_always", "metaspace_never", "byte_level", "byte_level_prefixed", "wordpiece"],
)
def test_the_same_holds_for_every_way_of_writing_spaces(kind: str) -> None:
    """Random tokens, so that prompts also end within characters and words."""
    tokenizer, numbers = made_tokenizer(kind), random.Random(5)
    for _ in range(200):
        tokens = [numbers.randrange(len(tokenizer)) for _ in range(40)]
        cut, size = numbers.randrange(1, 20), numbers.randrange(1, 4)
        prompt, ids = tokens[:cut], tokens[cut:]
        whole, known = (
            tokenizer.decode(some, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for some in (tokens, prompt)
        )
        known = known if whole.startswith(known) else known.rstrip("\ufffd")
        assert whole.startswith(known)
        assert text_behind(tokenizer, anchor_of(tokenizer, prompt), ids) == whole[len(known) :]
        assert streamed(tokenizer, prompt, ids, size) == whole[len(known) :]


def test_an_answer_loses_the_space_that_its_decoder_eats_and_no_indent(sentencepiece: PreTrainedTokenizerFast) -> None:
    texts = (" yes", "yes", "    x", " ", "", " \n", "\n x")
    assert [answer_of(sentencepiece, text) for text in texts] == ["yes", "yes", "    x", "", "", " \n", "\n x"]
    kept = made_tokenizer("byte_level")  # what has such a space has written it
    assert [answer_of(kept, text) for text in texts] == list(texts)


@pytest.fixture(scope="module")
def loaded(sentencepiece: PreTrainedTokenizerFast) -> LoadedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(sentencepiece), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LoadedModel(LlamaForCausalLM(config).eval().requires_grad_(False), sentencepiece, "tiny", "0", Path())


def always(tokenizer: PreTrainedTokenizerFast, piece: str) -> Sampling:
    return Sampling(logit_bias=((ids_of(tokenizer, piece)[0], 100.0),))


@pytest.mark.parametrize(
    ("piece", "completion", "answer"),
    [("\u2581\u2581\u2581\u2581", " " * 12, " " * 12), ("\u2581ret", " ret ret ret", "ret ret ret")],
)
def test_what_is_generated_and_served_keeps_its_spaces_and_chats_begin_with_none(
    loaded: LoadedModel, piece: str, completion: str, answer: str
) -> None:
    sampling = always(loaded.tokenizer, piece)
    (made,) = generate(loaded, ["def"], max_tokens=3, sampling=sampling)
    assert made.text == completion
    batcher = Batcher([LocalMember("m", loaded, rows=2, slots=32)], loaded.tokenizer, ends=frozenset({2}))
    prompt = tuple(loaded.tokenizer("def")["input_ids"])
    for chat, wanted in ((False, completion), (True, answer)):
        batcher.submit(Request(prompt, Mixture("m"), 3, sampling=sampling, answer=chat))
        text = ""
        while not batcher.idle:
            text += "".join(chunk.text for _, chunk in batcher.step())
        assert text == wanted


def test_a_stop_string_may_begin_with_the_first_space(loaded: LoadedModel) -> None:
    (made,) = generate(loaded, ["def"], max_tokens=3, stop=(" ret",), sampling=always(loaded.tokenizer, "\u2581ret"))
    assert (made.text, made.finish) == ("", "stop")


def test_offsets_say_where_each_token_stands_in_the_text(sentencepiece: PreTrainedTokenizerFast) -> None:
    def offsets(shape: CompletionShape, *pieces: str) -> list[int]:
        told = Likeliest(-1.0, ())
        found = tuple(TokenLogprobs(token, told, told) for token in ids_of(sentencepiece, *pieces))
        return shape.piece(0, Chunk(logprobs=found))["logprobs"]["text_offset"]

    tokens = TokenTexts(sentencepiece)
    shape = CompletionShape(tokens, 0)
    assert offsets(shape, "\u2581\u2581\u2581\u2581", "ret") == [0, 4]
    assert offsets(shape, *as_bytes("\u00e9"), "\u2581x") == [7, 7, 8]
    echoed = CompletionShape(tokens, 0, {0: "ret x"})
    assert offsets(echoed, "<s>", "\u2581ret", "\u2581x", "\u2581x") == [0, 0, 3, 5]
