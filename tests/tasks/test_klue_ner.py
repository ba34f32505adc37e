"""KLUE-NER: marks around entities say what tags say, and nothing else is read as an answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitnet_bench.tasks
from bitnet_bench.evaluation.tasks import load_module

ner = load_module(Path(bitnet_bench.tasks.__file__).parent / "klue" / "ner.py")
DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "klue" / "ner"


def row(*spans: tuple[str, str], hub: bool = False) -> dict[str, Any]:
    """Return a row whose sentence is the spans' texts; a span has a type, or "" outside entities."""
    tags = [(f"{'I' if i else 'B'}-{kind}" if kind else "O") for text, kind in spans for i in range(len(text))]
    tokens = list("".join(text for text, _ in spans))
    return {"tokens": tokens, "ner_tags": [ner.TAGS.index(tag) for tag in tags] if hub else tags}


ADMIRAL = (("이순신", "PS"), ("은 ", ""), ("조선", "LC"), (" 사람이다.", ""))


@pytest.mark.parametrize("hub", [False, True])
def test_gold_is_the_sentence_with_marks(hub: bool) -> None:
    """Rows of upstream (tag names) and of the hub (tag indices) are asked and answered alike."""
    doc = row(*ADMIRAL, hub=hub)
    assert ner.target(doc) == "<이순신:PS>은 <조선:LC> 사람이다."
    assert ner.labels(doc)[:5] == ("B-PS", "I-PS", "I-PS", "O", "O")
    assert ner.parse(ner.target(doc), doc) == ner.labels(doc)
    assert "문장: 이순신은 조선 사람이다.\n" in ner.prompt(doc)
    assert ner.prompt(doc).endswith("표시:")


def test_the_hubs_indices_are_its_class_names_in_order() -> None:
    """The hub's ClassLabel has 13 names, by type and with O at the end."""
    assert [f"{p}-{t}" for t in ("DT", "LC", "OG", "PS", "QT", "TI") for p in "BI"] + ["O"] == list(ner.TAGS)


def test_neighbouring_entities_of_one_type_stay_two() -> None:
    """B- after I- begins a second mark without anything between."""
    doc = row(("김철수", "PS"), ("이영희", "PS"))
    assert ner.target(doc) == "<김철수:PS><이영희:PS>"
    assert ner.parse(ner.target(doc), doc) == ner.labels(doc)


def test_a_colon_may_stand_in_an_entity() -> None:
    """Only the last colon of a mark ends its text."""
    doc = row(("10:30", "TI"), ("에 보자", ""))
    assert ner.target(doc) == "<10:30:TI>에 보자"
    assert ner.parse(ner.target(doc), doc) == ner.labels(doc)


@pytest.mark.parametrize(
    ("before", "mark"),
    [("영화 <봄>의 ", "[김철수:PS]"), ("> [1] ", "{김철수:PS}"), ("<[{ ", "«김철수:PS»"), ("<]}» ", "⟦김철수:PS⟧")],
)
def test_a_literal_bracket_moves_the_marks_to_another_pair(before: str, mark: str) -> None:
    """A sentence that holds < or > is marked with brackets that it does not hold, and the prompt shows them."""
    doc = row((before, ""), ("김철수", "PS"))
    assert ner.target(doc) == before + mark
    assert mark.replace("김철수", "이순신") in ner.prompt(doc)
    assert ner.parse(ner.target(doc), doc) == ner.labels(doc)


def test_a_literal_mark_is_no_entity() -> None:
    """Text that looks like a mark is read as text."""
    doc = row(("<이순신:PS>은 누구?", ""))
    assert ner.parse(ner.target(doc), doc) == ("O",) * 13


def test_a_sentence_with_every_bracket_is_refused() -> None:
    """There is no mark left for it, and the error says so."""
    with pytest.raises(ValueError, match="bracket of every kind"):
        ner.prompt(row(("<[{«⟦", "")))


def test_a_token_of_several_characters_has_a_tag_for_each() -> None:
    """The contract is a tag for each character; only the first can begin the entity."""
    doc = {"tokens": ["서울", "은"], "ner_tags": ["B-LC", "O"]}
    assert ner.labels(doc) == ("B-LC", "I-LC", "O")
    assert ner.parse(ner.target(doc), doc) == ner.labels(doc)


@pytest.mark.parametrize(
    "output",
    [
        "  <이순신:PS>은  <조선:LC> 사람이다. ",
        "<이순신:PS>은<조선:LC>사람이다.",
        "<이 순신:PS>은\t<조선:LC> 사람이다.",
    ],
)
def test_white_space_is_not_compared(output: str) -> None:
    """Blanks that are lost or added change no tag."""
    doc = row(*ADMIRAL)
    assert ner.parse(output, doc) == ner.labels(doc)


def test_a_blank_that_the_output_lost_belongs_to_the_entity_around_it() -> None:
    """It is inside if both neighbours are inside the same entity, else outside."""
    doc = row(("지난 19일", "DT"), (" ", ""), ("부산", "LC"))
    assert ner.parse("<지난19일:DT><부산:LC>", doc) == ner.labels(doc)


@pytest.mark.parametrize(
    "output",
    [
        "",
        "이순신은 조선",
        "이순신은 조선 사람이다. 그렇다.",
        "<이순신:PS>은 <조선:LC> 사람이었다.",
        "<이순신:XX>은 조선 사람이다.",
        "<이순신>은 조선 사람이다.",
        "<이순신: PS>은 조선 사람이다.",
        "<이순신:PS은 조선 사람이다.",
        "이순신:PS>은 조선 사람이다.",
        "<<이순신:PS>:PS>은 조선 사람이다.",
        "이순신<:PS>은 조선 사람이다.",
        "이순신은< :LC>조선 사람이다.",
        "[이순신:PS]은 조선 사람이다.",
    ],
)
def test_all_else_is_malformed(output: str) -> None:
    """Another sentence, another type, an open, nested or empty mark, other brackets."""
    assert ner.parse(output, row(*ADMIRAL)) is None


letters = st.sampled_from("가나다 :<>[]PS19.")
spans = st.lists(st.tuples(st.text(letters, min_size=1, max_size=5), st.sampled_from(["", *ner.TYPES])), max_size=6)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a row whose sentence has no blank at its ends and whose entities are not blank."""
    drawn = [("첫", ""), *draw(spans), ("끝", "")]
    return row(*((text, "" if text.isspace() else kind) for text, kind in drawn), hub=draw(st.booleans()))


@given(rows())
def test_gold_comes_back_from_its_text(doc: dict[str, Any]) -> None:
    """Any sentence with any entities, one line of text, the same tags."""
    text = ner.target(doc)
    assert ner.parse(f" {text}\t", doc) == ner.labels(doc)
    assert text == text.strip()
    assert "\n" not in text


@given(st.text(st.sampled_from("가나 :<>[]PSLC\n")), rows())
def test_parse_raises_on_no_text(output: str, doc: dict[str, Any]) -> None:
    """Whatever a model writes is a tag for each character or None, and a lone bracket is always None."""
    read = ner.parse(output, doc)
    assert read is None or (len(read) == len(doc["tokens"]) and set(read) <= set(ner.TAGS))
    if read is not None:
        again = row_of(doc, read)
        assert ner.parse(ner.target(again), doc) == read


def row_of(doc: dict[str, Any], tags: tuple[str, ...]) -> dict[str, Any]:
    """Return the row that has *tags* for gold."""
    return {"tokens": doc["tokens"], "ner_tags": list(tags)}


@given(st.data())
def test_parse_accepts_any_marking_of_the_sentence(data: st.DataObject) -> None:
    """Every choice of entities over the sentence, written by hand, is read back as those entities."""
    pieces = data.draw(
        st.lists(
            st.tuples(st.text(st.sampled_from("가나:P"), min_size=1, max_size=4), st.sampled_from(["", *ner.TYPES])),
            min_size=1,
        )
    )
    doc = row(("".join(text for text, _ in pieces), ""))
    output = "".join(f"<{text}:{kind}>" if kind else text for text, kind in pieces)
    assert ner.parse(output, doc) == ner.labels(row(*pieces))


@pytest.mark.skipif(not DATA.is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_real_row_comes_back(split: str) -> None:
    """The gold of every local row, in both shapes."""
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    for doc in (json.loads(line) for line in lines if line):
        hub = doc | {"ner_tags": [ner.TAGS.index(tag) for tag in doc["ner_tags"]]}
        assert ner.parse(ner.target(doc), doc) == ner.labels(doc) == ner.labels(hub) == tuple(doc["ner_tags"])
        assert ner.target(doc) == ner.target(hub)
