"""KLUE-MRC: what the gold answers of a question are, and what an output says."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitnet_bench.tasks
from bitnet_bench.evaluation.tasks import load_module

mrc = load_module(Path(bitnet_bench.tasks.__file__).parent / "klue" / "mrc.py")
DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "klue" / "mrc"


def doc_of(*texts: str, impossible: bool = False, plausible: tuple[str, ...] = (), hub: bool = False) -> dict[str, Any]:
    """Return a row as upstream's, or as the hub has it: with plausible answers among the answers."""
    answers = (*texts, *plausible) if hub else texts
    doc = {
        "title": "도서관 소식",
        "context": "시립 도서관은 봄에 문을 열었다.\n하루에 백 명이 찾는다.",
        "question": "하루에 몇 명이 찾나?",
        "is_impossible": impossible,
        "answers": {"answer_start": [0] * len(answers), "text": list(answers)},
    }
    return doc if hub else doc | {"plausible_answers": {"answer_start": [0] * len(plausible), "text": list(plausible)}}


@pytest.mark.parametrize("hub", [False, True])
def test_references_are_every_gold_answer_once(hub: bool) -> None:
    """The first of them is what training teaches."""
    doc = doc_of("백 명", "백", "백 명", hub=hub)
    assert mrc.references(doc) == ("백 명", "백")
    assert mrc.target(doc) == "백 명"
    assert mrc.read(mrc.target(doc)) == "백 명"


@pytest.mark.parametrize("hub", [False, True])
def test_an_impossible_question_has_no_answer_though_a_plausible_one_is_given(hub: bool) -> None:
    """The hub lists plausible answers among the answers; they are wrong answers."""
    doc = doc_of(impossible=True, plausible=("봄",), hub=hub)
    assert mrc.references(doc) == ("",)
    assert mrc.target(doc) == "답 없음"
    assert mrc.read(mrc.target(doc)) == ""


def test_answers_are_compared_in_nfc() -> None:
    """Decomposed and composed text is one answer."""
    assert mrc.references(doc_of(unicodedata.normalize("NFD", "백 명"), "백 명")) == ("백 명",)


def test_a_question_without_answers_must_say_that_it_is_impossible() -> None:
    """A row that lost its answers is refused; one without the field, as in one's own rows, is impossible."""
    with pytest.raises(ValueError, match="not marked as impossible"):
        mrc.references(doc_of())
    own = {key: value for key, value in doc_of().items() if key != "is_impossible"}
    assert mrc.references(own) == ("",)


def test_the_prompt_names_the_word_for_no_answer_after_the_question() -> None:
    """A long passage is cut on the left, and the question and the word must stay."""
    asked = mrc.prompt(doc_of("백 명"))
    assert asked.index("본문: 시립") < asked.index("질문: 하루에") < asked.index("'답 없음'") < asked.index("\n답:")
    assert asked.startswith("제목: 도서관 소식\n")


@pytest.mark.parametrize("output", ["답 없음", " 답 없음 ", "답없음", "답 없음."])
def test_the_word_for_no_answer_is_read_as_none(output: str) -> None:
    """Blanks and a full stop do not count."""
    assert mrc.read(output) == ""


@pytest.mark.parametrize("output", ["백 명", "답 없음..", "답 없음 백 명", "없음", "답"])
def test_all_else_is_an_answer(output: str) -> None:
    """Only the stated word says that there is none."""
    assert mrc.read(f" {output}\n") == output


@given(st.text())
def test_read_raises_on_no_text(output: str) -> None:
    """It is the stripped output or nothing."""
    assert mrc.read(output) in ("", output.strip())


@given(st.lists(st.text(st.sampled_from("가나 \n1"), min_size=1).filter(str.strip), min_size=1))
def test_a_target_is_one_line(texts: list[str]) -> None:
    """Generation stops at the end of a line, so no target has one inside, nor a blank at an end."""
    text = mrc.target(doc_of(*texts))
    assert text == text.strip() != ""
    assert "\n" not in text


@pytest.mark.skipif(not DATA.is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_real_target_is_read_as_a_reference(split: str) -> None:
    """The gold of every local row, with its plausible answers among the answers too, as on the hub."""
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    for doc in (json.loads(line) for line in lines if line):
        plausible = doc.get("plausible_answers") or {"text": []}
        hub = doc | {"answers": {"text": [*doc["answers"]["text"], *plausible["text"]]}}
        assert mrc.read(mrc.target(doc)) == mrc.references(doc)[0]
        assert mrc.references(doc) == (mrc.references(hub) if doc["is_impossible"] else mrc.references(doc))
        assert doc["is_impossible"] == (mrc.references(hub) == ("",))
