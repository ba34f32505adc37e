"""KLUE-STS, NLI and RE: the tasks that are asked as a choice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitnet_bench.tasks
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.tasks import TaskSettings, build_task, load_module

FOLDER = Path(bitnet_bench.tasks.__file__).parent / "klue"
sts, relations = load_module(FOLDER / "sts.py"), load_module(FOLDER / "re.py")
DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "klue"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA")


def real_rows(task: str) -> list[dict[str, Any]]:
    """Return the local rows of both splits."""
    files = [DATA / task / f"{split}.jsonl" for split in ("train", "validation")]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]


def built(tmp_path: Path, task: str, rows: list[dict[str, Any]]) -> Any:
    """Return lm-eval's task over *rows*."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    ((suite, found),) = select_tasks(["klue"], [task])
    return build_task(suite, found, TaskSettings(rows={f"klue:{task}": file})).lm_task


def pair(score: float) -> dict[str, Any]:
    """Return a row of STS, whose shape is upstream's and the hub's."""
    return {
        "sentence1": "방이 넓어요.",
        "sentence2": "객실이 큽니다. ",
        "labels": {"label": round(score, 1), "real-label": score, "binary-label": int(score >= 3)},
    }


def test_sts_asks_for_a_number_and_keeps_the_mean_of_the_annotators() -> None:
    """The gold number is the unrounded one."""
    assert sts.value(pair(3.4285)) == 3.4285
    assert sts.prompt(pair(1.0)).startswith("문장1: 방이 넓어요.\n문장2: 객실이 큽니다.\n")
    assert sts.prompt(pair(1.0)).endswith("점수:")


@pytest.mark.parametrize(("score", "choice"), [(0.0, "0"), (0.4, "0"), (0.5, "1"), (2.5, "3"), (4.49, "4"), (5.0, "5")])
def test_sts_teaches_the_nearest_number_halves_up(score: float, choice: str) -> None:
    """Python's own rounding would make 0.5 and 2.5 even."""
    assert sts.target(pair(score)) == choice


@given(st.floats(0, 5))
def test_sts_targets_are_choices(score: float) -> None:
    """Every gold number has a choice at most a half away."""
    assert abs(sts.VALUES[int(sts.target(pair(score)))] - score) <= 0.5


def test_sts_choices_are_its_values(tmp_path: Path) -> None:
    """The texts of the choices, in their order, say the numbers that stand for them."""
    task = built(tmp_path, "sts", [pair(4.6)])
    (doc,) = task.test_docs()
    assert [float(choice) for choice in task.doc_to_choice(doc)] == list(sts.VALUES)
    assert task.doc_to_target(doc) == "5"


@pytest.mark.parametrize(
    ("label", "answer"),
    [("entailment", "함의"), ("neutral", "중립"), ("contradiction", "모순"), (0, "함의"), (1, "중립"), (2, "모순")],
)
def test_nli_reads_upstreams_names_and_the_hubs_indices(tmp_path: Path, label: str | int, answer: str) -> None:
    """A row of either shape has the same answer."""
    key = "gold_label" if isinstance(label, str) else "label"
    task = built(tmp_path, "nli", [{"premise": "비가 온다.", "hypothesis": "날이 맑다.", key: label}])
    (doc,) = task.test_docs()
    assert task.doc_to_target(doc) == answer
    assert task.doc_to_choice(doc) == ["함의", "중립", "모순"]
    assert task.doc_to_text(doc).startswith("전제: 비가 온다.\n가설: 날이 맑다.\n")


SENTENCE = "한강대 총장 김하늘은 서울 출신이다."


def related(label: str | int, **places: tuple[int, int] | None) -> dict[str, Any]:
    """Return a row of RE; the offsets of an entity are inclusive, and null where upstream's were lost."""

    def entity(word: str, kind: str, place: tuple[int, int] | None) -> dict[str, Any]:
        start, end = place or (None, None)
        return {"word": word, "start_idx": start, "end_idx": end, "type": kind}

    return {
        "sentence": SENTENCE,
        "subject_entity": entity("김하늘", "PER", places.get("subject", (7, 9))),
        "object_entity": entity("한강대", "ORG", places.get("object", (0, 2))),
        "label": label,
    }


def test_re_marks_both_entities_and_names_them() -> None:
    """In whichever order they stand."""
    asked = relations.prompt(related("per:employee_of"))
    assert asked.startswith("문장: [객체:한강대] 총장 [주체:김하늘]은 서울 출신이다.\n")
    assert "\n주체: 김하늘(인물)\n객체: 한강대(단체)\n" in asked
    assert asked.endswith("관계:")


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ({"subject": None}, "[객체:한강대] 총장 김하늘은 서울 출신이다."),
        ({"object": None}, "한강대 총장 [주체:김하늘]은 서울 출신이다."),
        ({"subject": None, "object": None}, SENTENCE),
        ({"subject": (8, 10)}, "[객체:한강대] 총장 김하늘은 서울 출신이다."),
    ],
)
def test_re_marks_no_place_that_is_unknown_or_wrong(places: dict[str, Any], sentence: str) -> None:
    """An entity without a place is named below the sentence only."""
    assert relations.prompt(related(0, **places)).startswith(f"문장: {sentence}\n주체: 김하늘(인물)\n")


def test_re_marks_nothing_where_one_entity_is_inside_the_other() -> None:
    """Flat marks cannot hold both."""
    doc = related(0) | {"object_entity": {"word": "하늘", "start_idx": 8, "end_idx": 9, "type": "POH"}}
    assert relations.prompt(doc).startswith(f"문장: {SENTENCE}\n")


def test_re_choices_are_30_distinct_texts_in_the_official_order() -> None:
    """The index of a choice is the hub's label, and no_relation is 0."""
    choices = relations.choices({})
    assert len(choices) == len(set(choices)) == 30
    names = list(relations.RELATIONS)
    assert (names[0], names[10], names[29]) == ("no_relation", "org:top_members/employees", "per:title")
    assert all(relations.target({"label": i}) == relations.target({"label": n}) for i, n in enumerate(names))


def test_re_is_read_by_lm_eval(tmp_path: Path) -> None:
    """The module is called re.py, and it is it that the YAML names, not Python's."""
    task = built(tmp_path, "re", [related("per:employee_of"), related("no_relation")])
    docs = list(task.test_docs())
    assert [task.doc_to_target(doc) for doc in docs] == ["인물의 소속 단체", "관계 없음"]
    assert task.doc_to_choice(docs[0]) == relations.choices(docs[0])


@needs_data
def test_every_real_row_has_a_choice() -> None:
    """Of STS and RE; and upstream's binary label of STS is the gold number against 3."""
    for doc in real_rows("sts"):
        assert abs(sts.VALUES[int(sts.target(doc))] - sts.value(doc)) <= 0.5
        assert doc["labels"]["binary-label"] == (sts.value(doc) >= 3)
    for doc in real_rows("re"):
        index = list(relations.RELATIONS).index(doc["label"])
        assert relations.choices(doc)[index] == relations.target(doc) == relations.target(doc | {"label": index})


@needs_data
def test_the_relations_are_upstreams_list() -> None:
    """All 30, in its order."""
    listed = json.loads((DATA / "re" / "relation_list.json").read_text(encoding="utf-8"))["relations"]
    assert listed == list(relations.RELATIONS)
