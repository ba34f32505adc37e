"""KLUE-WoS: one line of domain-slot-value says what the state of a dialogue is."""

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

wos = load_module(Path(bitnet_bench.tasks.__file__).parent / "klue" / "wos.py")
DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "klue" / "wos"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA")

# upstream and the hub have the same fields; turns of the system hold an empty state in both
DIALOGUES = [
    {
        "guid": "own-0",
        "domains": ["식당"],
        "dialogue": [
            {"role": "user", "text": "안녕하세요. ", "state": []},
            {"role": "sys", "text": "무엇을  도와드릴까요?", "state": []},
            {"role": "user", "text": "강남의 국숫집요.", "state": ["식당-종류-국숫집", "식당-지역-강남"]},
            {"role": "sys", "text": "면-사랑은 어떠세요?", "state": []},
        ],
    },
    {"guid": "own-1", "domains": [], "dialogue": [{"role": "user", "text": "고마워요.", "state": []}]},
]


def doc_of(*state: str) -> dict[str, Any]:
    """Return a row with this gold state."""
    return {"guid": "own", "turn": 0, "dialogue": [{"role": "user", "text": "네."}], "state": list(state)}


def turns(dialogues: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what evaluation makes of dialogues."""
    from datasets import Dataset

    made = wos.rows(Dataset.from_list(dialogues))
    assert isinstance(made, Dataset)
    return list(made)


def test_each_turn_of_the_user_is_a_row() -> None:
    """A row holds the dialogue up to that turn, what the system says next is not in it, and no state but its own."""
    first, second, other = turns(DIALOGUES)
    assert [row["turn"] for row in (first, second, other)] == [0, 2, 0]
    assert [turn["text"] for turn in second["dialogue"]] == [
        "안녕하세요. ",
        "무엇을  도와드릴까요?",
        "강남의 국숫집요.",
    ]
    assert set(second["dialogue"][0]) == {"role", "text"}
    assert second["state"] == ["식당-종류-국숫집", "식당-지역-강남"]
    assert other["guid"] == "own-1"


def test_the_prompt_is_the_dialogue_so_far() -> None:
    """Roles in Korean, one turn on each line, and every slot named."""
    _, second, _ = turns(DIALOGUES)
    asked = wos.prompt(second)
    assert asked.endswith("\n사용자: 안녕하세요.\n시스템: 무엇을 도와드릴까요?\n사용자: 강남의 국숫집요.\n조건:")
    assert all(slot in asked for slots in wos.SLOTS.values() for slot in slots)


def test_gold_is_the_state_in_the_order_of_the_slots() -> None:
    """The order of upstream is of no meaning, so what is taught does not depend on it."""
    first, second, _ = turns(DIALOGUES)
    assert wos.target(first) == "없음"
    assert wos.labels(first) == () == wos.parse("없음", first)
    assert wos.target(second) == "식당-종류-국숫집; 식당-지역-강남"
    assert wos.target(doc_of("식당-지역-강남", "식당-종류-국숫집")) == wos.target(second)
    assert wos.parse(wos.target(second), second) == wos.labels(second)


def test_there_are_45_slots_and_none_holds_a_hyphen() -> None:
    """So the first two hyphens end domain and slot, and a value may hold more of them."""
    assert len(wos.ORDER) == 45
    assert all(slot.count("-") == 1 and ";" not in slot for slot in wos.ORDER)
    assert wos.parse("식당-이름-면-사랑 2-1호점", doc_of()) == ("식당-이름-면-사랑 2-1호점",)


@pytest.mark.parametrize(
    "output",
    [
        " 식당-종류-국숫집;식당-지역-강남 ",
        "식당-지역-강남 ;  식당-종류-국숫집",
        "식당 - 지역 - 강남; 식당-종류-국숫집",
        "식당-종류-국숫집; 식당-종류-국숫집; 식당-지역-강남",
    ],
)
def test_blanks_order_and_repetition_do_not_count(output: str) -> None:
    """A state is a set."""
    read = wos.parse(output, doc_of())
    assert read is not None
    assert sorted(read) == ["식당-종류-국숫집", "식당-지역-강남"]
    assert len(read) == 2


def test_two_values_of_one_slot_are_two_items() -> None:
    """They are two claims, of which one at most is gold."""
    assert wos.parse("식당-지역-강남; 식당-지역-강북", doc_of()) == ("식당-지역-강남", "식당-지역-강북")


@pytest.mark.parametrize(
    "output",
    [
        "",
        " ",
        ";",
        "없음; 식당-지역-강남",
        "없음.",
        "식당-지역-강남;",
        "식당-지역-",
        "식당-지역- ",
        "식당-지역",
        "식당-평점-5",
        "영화-제목-봄",
        "지역-강남",
        "식당-지역-강남, 식당종류; 국숫집",
        "식당:지역:강남",
    ],
)
def test_all_else_is_malformed(output: str) -> None:
    """No item, an item without a value, an unknown domain or slot."""
    assert wos.parse(output, doc_of()) is None


@pytest.mark.parametrize("state", ["식당-이름-면;사랑", "영화-제목-봄", "식당-지역"])
def test_a_gold_state_that_cannot_be_written_is_refused(state: str) -> None:
    """It could never be answered right, and the error names it."""
    with pytest.raises(ValueError, match=state):
        wos.labels(doc_of(state))


values = st.text(st.sampled_from("가나-,:1 ()"), min_size=1).filter(lambda value: value.strip())
states = st.lists(st.tuples(st.sampled_from(list(wos.ORDER)), values).map("-".join), max_size=8)


@given(states)
def test_gold_comes_back_from_its_text(state: list[str]) -> None:
    """Any state of known slots, on one line that does not begin with a blank."""
    doc = doc_of(*state)
    text = wos.target(doc)
    assert set(wos.parse(f" {text} ", doc)) == set(wos.labels(doc))
    assert text == text.strip()


fragments = st.sampled_from(["식당", "지역", "이름", "-", ";", " ", "강남", "없음", "\n", "택시"])


@given(st.one_of(st.text(), st.lists(fragments, max_size=16).map("".join)))
def test_parse_raises_on_no_text(output: str) -> None:
    """Whatever a model writes is a state that can be written, or None."""
    read = wos.parse(output, doc_of())
    if read is not None:
        assert set(wos.labels(doc_of(*read))) == set(read)
        assert bool(read) == (output.strip() != "없음")


@needs_data
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_real_turn_comes_back(split: str) -> None:
    """The gold of every turn of every local dialogue, with nothing of it lost."""
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    made = turns([json.loads(line) for line in lines if line])
    assert made
    for doc in made:
        assert set(wos.parse(wos.target(doc), doc)) == set(wos.labels(doc)) == set(doc["state"])


@needs_data
def test_the_slots_are_those_of_the_ontology() -> None:
    """All 45, in its order, and no value of it holds what ends an item."""
    ontology = json.loads((DATA / "ontology.json").read_text(encoding="utf-8"))
    assert list(ontology) == list(wos.ORDER)
    assert not any(";" in value for of_slot in ontology.values() for value in of_slot)
