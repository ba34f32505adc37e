"""Texts that are encoded word by word against the tokenizer itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from bitnet_bench.data import text_encoding
from bitnet_bench.data.text_encoding import SPLIT_PATTERNS, TextEncoder

MARK = "<|end|>"
CORPUS = [
    "안녕하세요? 오늘 날씨는 맑아요.\n네  네 12 345",
    f"don't stop!\n\n it's {MARK} a.b, c\t d é",
    "한국의 수도는 서울이에요.",
]
ALPHABET = [
    *" \n\t가나한국서울abcdsmt.,!'12é",
    "\u0301",
    "\u1100",
    "\u1161",
    "\u3000",
    "\u200b",
    "\u180e",
    "\ufeff",
    "\x1c",
    "\x85",
]
PIECES = [*ALPHABET, "\xa0", "  ", "\n\n", " \n", "'s", "'LL", MARK, "<s>", "</s>", " 한국의", "\r", "\r\n"]
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES_ONLY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def make(pre_tokenizer: Any, normalizer: Any = None, adds: bool = False, **options: Any) -> Any:
    """Return a small BPE tokenizer with *pre_tokenizer*."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", MARK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    if adds:
        backend.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **options)


def split(pattern: str) -> Any:
    """Return the pre-tokenizer of Qwen's and Llama's tokenizers with *pattern*."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES_ONLY])


CUT = {
    "gpt2": make(BYTES),
    "with nfc": make(BYTES, normalizers.NFC(), adds=True),
    "smollm": make(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])),
    **{f"split {i}": make(split(pattern)) for i, pattern in enumerate(sorted(SPLIT_PATTERNS))},
}
WHOLE = {
    "a space before the text": make(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "another normalizer": make(BYTES, normalizers.Lowercase()),
    "no pre-tokenizer that is known": make(pre_tokenizers.Metaspace()),
    "another pattern": make(split(r"\s+")),
}


def encode_plainly(texts: list[str], begins: list[bool], tokenizer: Any) -> list[list[int]]:
    """Return the ids by the tokenizer alone, without an EOS that it adds."""
    ends = tokenizer("가").input_ids[-1] == tokenizer.eos_token_id
    found = [tokenizer(t, add_special_tokens=not b).input_ids for t, b in zip(texts, begins, strict=True)]
    return [ids[:-1] if ends and not b else ids for ids, b in zip(found, begins, strict=True)]


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
@given(data=st.data())
def test_words_give_the_ids_of_the_whole_text(name: str, data: st.DataObject) -> None:
    """Whatever stands between words, and whether a text brings its BOS; the second time from memory."""
    tokenizer = {**CUT, **WHOLE}[name]
    text = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
    texts = data.draw(st.lists(text, min_size=1, max_size=4))
    begins = [data.draw(st.booleans()) for _ in texts]
    encoder = TextEncoder(tokenizer)
    expected = encode_plainly(texts, begins, tokenizer)
    for _ in range(2):
        assert [ids.tolist() for ids in encoder.encode(texts, begins)] == expected


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
@settings(max_examples=40)
@given(data=st.data())
def test_tokens_before_a_cut_are_those_that_the_text_before_it_shares(name: str, data: st.DataObject) -> None:
    """As lm-eval finds them, by encoding that text on its own; cuts are in words, in white space, or at an end."""
    tokenizer = {**CUT, **WHOLE}[name]
    texts = data.draw(st.lists(st.lists(st.sampled_from(PIECES), max_size=20).map("".join), min_size=1, max_size=3))
    begins = [data.draw(st.booleans()) for _ in texts]
    cuts = [sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4))) for text in texts]
    found = list(TextEncoder(tokenizer).encode_with_cuts(texts, begins, cuts))
    expected = encode_plainly(texts, begins, tokenizer)
    assert [ids.tolist() for ids, _ in found] == expected
    for text, has_own, places, ids, (_, counts) in zip(texts, begins, cuts, expected, found, strict=True):
        for cut, count in zip(places, counts, strict=True):
            (before,) = encode_plainly([text[:cut]], [has_own], tokenizer) if cut < len(text) else (ids,)
            assert before[:count] == ids[:count]
            assert count == min(len(before), len(ids)) or before[count] != ids[count]


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
def test_words_are_remembered_only_where_the_tokenizer_is_known_to_cut(name: str) -> None:
    """Others encode whole texts."""
    encoder = TextEncoder({**CUT, **WHOLE}[name])
    encoder.encode(["한국의 수도는 서울이에요."], [True])
    assert set(encoder._known) == ({"한국의", " 수도는", " 서울이에요."} if name in CUT else set())


@pytest.mark.parametrize("token", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"content": "a b"}])
def test_a_special_token_that_looks_beside_itself_keeps_texts_whole(token: dict[str, Any]) -> None:
    """What it takes in would be cut off."""
    from tokenizers import AddedToken

    tokenizer = make(BYTES)
    tokenizer.add_tokens([AddedToken(**{"content": "<x>", **token})])
    encoder = TextEncoder(tokenizer)
    texts = ["안녕 <x> a b 네"]
    assert [ids.tolist() for ids in encoder.encode(texts, [True])] == encode_plainly(texts, [True], tokenizer)
    assert not encoder._known


def test_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long words are not remembered; a full memory becomes the older of two, from which words in use come back."""
    monkeypatch.setattr(text_encoding, "MAX_WORDS", 3)
    encoder = TextEncoder(CUT["gpt2"])
    for texts in (["가 나 " + "다" * 99], ["라 마"], ["가 라"], ["바 사 아"]):
        assert [ids.tolist() for ids in encoder.encode(texts, [True])] == encode_plainly(texts, [True], CUT["gpt2"])
    assert set(encoder._known) == {"바", " 사", " 아"}
    assert set(encoder._older) == {"가", " 라"}


def test_a_word_in_use_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though others have filled the memory since."""
    monkeypatch.setattr(text_encoding, "MAX_WORDS", 2)
    encoder = TextEncoder(CUT["gpt2"])
    expected = [ids.tolist() for ids in encoder.encode(["서울"], [True])]
    encoder.encode(["가 나"], [True])
    assert set(encoder._older) == {"서울"}
    asked: list[str] = []
    backend = encoder.tokenizer.backend_tokenizer

    class Counting:
        def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
            asked.extend(texts)
            return backend.encode_batch_fast(texts, **options)

    encoder.tokenizer = type("Tokenizer", (), {"backend_tokenizer": Counting()})()
    assert [ids.tolist() for ids in encoder._encode_by_words(["서울"])] == expected
    assert asked == []
