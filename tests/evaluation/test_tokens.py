"""Text becomes requests as lm-eval makes them."""

import copy

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from earnest.decoding.encoding import encode
from earnest.evaluation.tokens import prefix_token, requests
from earnest.specs import UserError


def text_of(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True)


def test_context_and_continuation_spell_the_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    made = requests(tokenizer, [("Q: Who?\nA:", " Ann"), ("Q: Who?\nA: ", "Ann")])
    assert made[0] == made[1], "white space at the context's end belongs to the continuation"
    assert (text_of(tokenizer, made[0].context), text_of(tokenizer, made[0].continuation)) == ("Q: Who?\nA:", " Ann")
    assert made[0].context[0] == tokenizer.bos_token_id


def test_without_context_the_beginning_token_stands_in(tokenizer: PreTrainedTokenizerBase) -> None:
    (made,) = requests(tokenizer, [("", "Ann sings.")])
    assert made.context == (tokenizer.bos_token_id,)
    assert text_of(tokenizer, made.continuation) == "Ann sings."
    assert tokenizer.bos_token_id not in made.continuation


def test_a_text_stays_open_where_the_tokenizer_would_close_it(tokenizer: PreTrainedTokenizerBase) -> None:
    closing = copy.deepcopy(tokenizer)
    closing._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert closing("Ann")["input_ids"][-1] == 2
    assert encode(closing, ["Ann", "Ann sings."]) == encode(tokenizer, ["Ann", "Ann sings."])
    assert requests(closing, [("Ann", " sings.")]) == requests(tokenizer, [("Ann", " sings.")])


def test_a_beginning_in_the_text_is_not_doubled(tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode(tokenizer, ["<s>Ann", "Ann"]) == [encode(tokenizer, ["Ann"])[0]] * 2


def test_a_tokenizer_without_special_tokens_is_refused_for_empty_contexts(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = bare.eos_token = None
    with pytest.raises(UserError, match="set bos_token or eos_token"):
        prefix_token(bare)
