"""KLUE-DP: one line of number:head:relation says what the columns of a treebank say."""

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

dp = load_module(Path(bitnet_bench.tasks.__file__).parent / "klue" / "dp.py")
DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "klue" / "dp"

# the hub has the same columns as upstream, and no guid
DOC = {
    "sentence": "나는 학교에 갔다.",
    "index": [1, 2, 3],
    "word_form": ["나는", "학교에", "갔다."],
    "lemma": ["나 는", "학교 에", "가 았 다 ."],
    "pos": ["NP+JX", "NNG+JKB", "VV+EP+EF+SF"],
    "head": [3, 3, 0],
    "deprel": ["NP_SBJ", "NP_AJT", "VP"],
}
GOLD = ("3 NP_SBJ", "3 NP_AJT", "0 VP")


@pytest.mark.parametrize("extra", [{}, {"guid": "own-0"}])
def test_gold_is_an_item_for_each_word(extra: dict[str, str]) -> None:
    """Rows of the hub and of upstream are asked and answered alike."""
    doc = DOC | extra
    assert dp.target(doc) == "1:3:NP_SBJ 2:3:NP_AJT 3:0:VP"
    assert dp.labels(doc) == GOLD == dp.parse(dp.target(doc), doc)
    assert "\n어절: 1:나는 2:학교에 3:갔다.\n" in dp.prompt(doc)
    assert dp.prompt(doc).endswith("분석:")


def test_there_are_38_relations_in_the_official_order() -> None:
    """KLUE-baseline scores the relations from the 16th on as one: VP_OBJ is 17th, VP_CMP 16th, VP_SBJ 15th."""
    assert len(dp.RELATIONS) == len(set(dp.RELATIONS)) == 38
    assert dp.RELATIONS[14:17] == ("VP_SBJ", "VP_CMP", "VP_OBJ")
    assert dp.RELATIONS[-1] == "NP_SVJ"


@pytest.mark.parametrize(
    "output", ["  1:3:NP_SBJ\t2:3:NP_AJT  3:0:VP ", "3:0:VP 1:3:NP_SBJ 2:3:NP_AJT"], ids=["blanks", "order"]
)
def test_blanks_and_order_do_not_count(output: str) -> None:
    """The numbers say which word an item is about."""
    assert dp.parse(output, DOC) == GOLD


@pytest.mark.parametrize(
    "output",
    [
        "",
        "나는 3",
        "1:3:NP_SBJ 2:3:NP_AJT",
        "1:3:NP_SBJ 2:3:NP_AJT 3:0:VP 3:0:VP",
        "1:3:NP_SBJ 2:3:NP_AJT 3:0:VP 4:0:VP",
        "0:3:NP 1:3:NP_SBJ 2:3:NP_AJT 3:0:VP",
        "1:4:NP_SBJ 2:3:NP_AJT 3:0:VP",
        "1:-1:NP_SBJ 2:3:NP_AJT 3:0:VP",
        "1:03:NP_SBJ 2:3:NP_AJT 3:0:VP",
        "1:３:NP_SBJ 2:3:NP_AJT 3:0:VP",
        f"1:{'3' * 5000}:NP_SBJ 2:3:NP_AJT 3:0:VP",
        "1:3:NP_XXX 2:3:NP_AJT 3:0:VP",
        "1:3:np_sbj 2:3:NP_AJT 3:0:VP",
        "1:3:NP_SBJ, 2:3:NP_AJT, 3:0:VP",
        "1:3 2:3 3:0",
        "1: 3:NP_SBJ 2:3:NP_AJT 3:0:VP",
        "1:3:NP_SBJ 2:3:NP_AJT 3:0:VP 끝",
    ],
)
def test_all_else_is_malformed(output: str) -> None:
    """A missing, repeated or unknown word, a head outside the sentence, an unknown relation, other text."""
    assert dp.parse(output, DOC) is None


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a sentence with any heads and relations."""
    n = draw(st.integers(1, 14))
    return {
        "word_form": draw(st.lists(st.text("가나:1 ", min_size=1), min_size=n, max_size=n)),
        "head": draw(st.lists(st.integers(0, n), min_size=n, max_size=n)),
        "deprel": draw(st.lists(st.sampled_from(dp.RELATIONS), min_size=n, max_size=n)),
    }


@given(rows(), st.randoms(use_true_random=False))
def test_gold_comes_back_from_its_text(doc: dict[str, Any], random: Any) -> None:
    """Any analysis, its items in any order."""
    items = dp.target(doc).split(" ")
    assert dp.parse(" ".join(items), doc) == dp.labels(doc)
    random.shuffle(items)
    assert dp.parse("\t ".join(items), doc) == dp.labels(doc)


fragments = st.sampled_from(["1", "2", "3", "0", "9", ":", " ", "NP", "NP_SBJ", "VP", "가", "\n", "１"])


@given(st.one_of(st.text(), st.lists(fragments, max_size=24).map("".join)))
def test_parse_raises_on_no_text(output: str) -> None:
    """Whatever a model writes is an analysis that can be written, or None."""
    read = dp.parse(output, DOC)
    if read is not None:
        heads, relations = zip(*(label.split(" ") for label in read), strict=True)
        again = DOC | {"head": [int(head) for head in heads], "deprel": list(relations)}
        assert sorted(dp.target(again).split()) == sorted(output.split())


@given(rows(), st.data())
def test_an_item_lost_or_doubled_is_malformed(doc: dict[str, Any], data: st.DataObject) -> None:
    """Each word has one item."""
    items = dp.target(doc).split(" ")
    at = data.draw(st.integers(0, len(items) - 1))
    assert dp.parse(" ".join(items[:at] + items[at + 1 :]), doc) is None
    assert dp.parse(" ".join([*items, items[at]]), doc) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_real_row_comes_back(split: str) -> None:
    """The gold of every local row."""
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    for doc in (json.loads(line) for line in lines if line):
        assert doc["index"] == list(range(1, len(doc["word_form"]) + 1))
        assert dp.parse(dp.target(doc), doc) == dp.labels(doc)
