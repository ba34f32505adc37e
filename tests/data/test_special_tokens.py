"""Rows that bring special tokens of their own, answers without loss, and templates that rewrite earlier turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.data import arrow_files
from bitnet_bench.data.checking import examine_rows
from bitnet_bench.data.mapping import Encoding, tokenize_stored
from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.data.stored_rows import store_rows
from bitnet_bench.data.token_table import CutExamples
from bitnet_bench.data.tokenizing import IGNORED_LABEL, tokenize, tokenize_pairs, tokenize_rows

BOS, EOS = 0, 1
THINKING = (
    "{%- set ns = namespace(last=-1) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}[{{ m.role }}]"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last -%}<think></think>{%- endif -%}"
    "{{ m.content }}{{ eos_token }}{%- endfor -%}{%- if add_generation_prompt -%}[assistant]{%- endif -%}"
)
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DIALOGUE = Row(
    (Turn("user", "하나?"), Turn("model", "둘."), Turn("user", "셋?"), Turn("model", "넷."), Turn("user", "다섯?"),
     Turn("model", "여섯."))
)  # fmt: skip


@pytest.fixture
def thinking_tokenizer(make_tokenizer: Callable[[bool], Any]) -> Any:
    """Give a tokenizer whose template writes an empty thought before the last answer, and no earlier one."""
    made = make_tokenizer(False)
    made.chat_template = THINKING
    return made


def learned(examples: list[Any], tokenizer: Any) -> list[str]:
    return [tokenizer.decode([label for label in e.labels if label != IGNORED_LABEL]) for e in examples]


def whole(examples: list[Any], tokenizer: Any) -> list[str]:
    return [tokenizer.decode(e.input_ids) for e in examples]


@pytest.mark.parametrize("text", ["<s>[INST] 수도는? [/INST] 서울 </s>", "서울 </s>\n", "<s>서울", "서울"])
def test_running_text_has_one_bos_and_one_eos(text: str, tokenizer: Any) -> None:
    (piece,) = tokenize_rows([Row((Turn("text", text),))], tokenizer, "auto", 512, pretrain=True).examples
    assert (piece.input_ids[0], piece.input_ids.count(BOS)) == (BOS, 1)
    assert (piece.input_ids[-1], piece.input_ids.count(EOS)) == (EOS, 1)


@pytest.mark.parametrize("template", ["plain", "dialogue", "instruction", "inst", "chat"])
def test_an_answer_that_brings_its_eos_has_one(template: str, make_tokenizer: Callable[[bool], Any]) -> None:
    """The tokens are those of the row without it."""
    tokenizer = make_tokenizer(False)
    tokenizer.chat_template = CHAT
    rows = [Row((Turn("user", "수도는?"), Turn("model", f"서울{end}"))) for end in ("", "</s>", "</s>\n")]
    bare, *own = tokenize_rows(rows, tokenizer, template, 512, pretrain=False).examples
    assert bare.input_ids.count(EOS) == (2 if template == "chat" else 1)
    assert own == [bare, bare]


def test_special_tokens_in_a_row_are_named(tmp_path: Path, tokenizer: Any) -> None:
    """Those of the tokenizer in use, on any side; what another tokenizer calls special is text here."""
    file = tmp_path / "rows.jsonl"
    rows = [
        {"text": "<s>서울 </s>"},
        {"prompt": "<pad>는 무슨 뜻인가요?", "response": "채움입니다."},
        {"prompt": "질문", "response": "끝 표시입니다.</s>"},
        {"prompt": "질문", "chosen": "네", "rejected": "아니<s>"},
        {"prompt": "<|im_end|>는?", "response": "모릅니다."},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = examine_rows(file, tokenizer, "plain", 512, {}, str).findings
    assert [(f.line, f.kind) for f in found] == [(line, "special") for line in (1, 2, 3, 4)]
    assert "<s>, </s>" in found[0].reason
    assert "<pad>" in found[1].reason


@pytest.mark.parametrize("template", ["plain", "dialogue", "instruction", "inst", "chat"])
def test_an_answer_of_the_weight_zero_is_read_and_not_learned(
    template: str, make_tokenizer: Callable[[bool], Any]
) -> None:
    tokenizer = make_tokenizer(False)
    tokenizer.chat_template = CHAT
    turns = (Turn("user", "수도는?"), Turn("model", "부산", learned=False), Turn("user", "다시"), Turn("model", "서울"))
    (example,) = tokenize_rows([Row(turns)], tokenizer, template, 512, pretrain=False).examples
    assert "부산" in whole([example], tokenizer)[0]
    assert learned([example], tokenizer)[0].strip() == "서울</s>"


def test_a_template_that_rewrites_history_gives_a_sequence_an_answer(thinking_tokenizer: Any) -> None:
    """Each answer is learned as it is written when it is the last, behind the history as it is written then."""
    encoded = tokenize_rows([DIALOGUE, DIALOGUE], thinking_tokenizer, "chat", 512, pretrain=False)
    assert (encoded.rows, encoded.dropped, len(encoded.examples)) == (2, 0, 6)
    assert learned(encoded.examples[:3], thinking_tokenizer) == [
        "<think></think>둘.</s>",
        "<think></think>넷.</s>",
        "<think></think>여섯.</s>",
    ]
    assert whole(encoded.examples[:3], thinking_tokenizer)[1] == (
        "<s>[user]하나?</s>[assistant]둘.</s>[user]셋?</s>[assistant]<think></think>넷.</s>"
    )


def test_a_rewritten_dialogue_that_is_cut_loses_its_last_answers_first(thinking_tokenizer: Any) -> None:
    """The row is kept and counted as cut; it is lost when nothing of it is left."""
    lengths = [
        len(e.input_ids) for e in tokenize_rows([DIALOGUE], thinking_tokenizer, "chat", 512, pretrain=False).examples
    ]
    cut = tokenize_rows([DIALOGUE], thinking_tokenizer, "chat", lengths[0], pretrain=False)
    assert (len(cut.examples), cut.lost, cut.truncated) == (1, (), 1)


def test_a_rewritten_dialogue_is_pretrained_on_and_preferred_as_a_whole(thinking_tokenizer: Any) -> None:
    """All of it is learned, or the last answer alone: neither needs to find earlier answers."""
    (piece,) = tokenize_rows([DIALOGUE], thinking_tokenizer, "chat", 512, pretrain=True).examples
    assert thinking_tokenizer.decode(piece.input_ids).count("<think>") == 1
    pair = tokenize_pairs([Row(DIALOGUE.turns, rejected="일곱.")], thinking_tokenizer, "chat", 512).examples
    assert learned(pair, thinking_tokenizer) == ["<think></think>여섯.</s>", "<think></think>일곱.</s>"]


def test_sequences_of_split_rows_are_kept_by_row(
    thinking_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache on disk gives the same sequences for the same rows, the second time too."""
    import datasets

    monkeypatch.setattr(arrow_files, "MIN_CACHED_ROWS", 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    rows = [DIALOGUE, Row(DIALOGUE.turns[:2]), Row(DIALOGUE.turns[:4])]
    expected = tokenize(rows, thinking_tokenizer, "chat", "responses")
    assert [len(sequences) for sequences in expected] == [3, 1, 2]
    for _ in range(2):
        tokens = tokenize_stored(store_rows(rows), Encoding(thinking_tokenizer, "chat", "responses"))
        assert tokens.counts.tolist() == [3, 1, 2]
        assert CutExamples(tokens, tokens.numbers, 10_000) == [one for of_row in expected for one in of_row]


def test_a_rewritten_dialogue_has_no_finding(thinking_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": DIALOGUE.to_messages()}), encoding="utf-8")
    found = examine_rows(file, thinking_tokenizer, "auto", 512, {}, str)
    assert (found.findings, len(found.tokens)) == ((), 1)


def test_words_after_the_last_answer_are_in_the_text(make_tokenizer: Callable[[bool], Any]) -> None:
    tokenizer = make_tokenizer(False)
    tokenizer.chat_template = CHAT
    row = Row((*DIALOGUE.turns[:2], Turn("user", "고마워요.")))
    (example,) = tokenize_rows([row], tokenizer, "chat", 512, pretrain=False).examples
    assert "고마워요." in whole([example], tokenizer)[0]
    assert learned([example], tokenizer) == ["둘.</s>"]
