"""The rows of the `sample` suite come from a grammar whose words and frames stand in `benchmarks/sample/`."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tasks/sample/data"
CHOICES = {"boolq": 2, "copa": 2, "wic": 2, "hellaswag": 4, "sentineg": 2}
TEXTS = ("qa", "summarization", "translation")
SENTENCE_END = re.compile(r"(?<=[.?])\s+")
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="there is no grammar outside a checkout")


@pytest.fixture
def grammar(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules that write rows and text."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return {name: importlib.import_module(name) for name in ("sample_language", "sample_rows", "sample_text")}


def read(task: str, part: str) -> list[dict[str, Any]]:
    """Return the shipped rows of a part of *task*."""
    return [json.loads(line) for line in (DATA / task / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]


def sentences(row: dict[str, Any]) -> Iterator[str]:
    """Yield the sentences of a row, whatever fields they stand in."""
    for name, value in row.items():
        if isinstance(value, str) and name not in ("id", "word") and value not in ("원인", "결과"):
            yield from SENTENCE_END.split(value)


def test_the_shipped_rows_are_those_that_the_grammar_writes(grammar: Any) -> None:
    """Nobody edited them by hand, and they can be made again."""
    for name, text in grammar["sample_rows"].list_files():
        assert (DATA / name).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("task", CHOICES)
def test_a_choice_task_has_at_least_120_test_rows_and_every_label_as_often(task: str) -> None:
    """So a model that always answers the same is at chance."""
    rows = read(task, "test")
    assert len(rows) >= 120
    assert Counter(row["label"] for row in rows) == dict.fromkeys(range(CHOICES[task]), len(rows) // CHOICES[task])


def list_words(found: Any, kind: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a lexicon, at any depth, with the name that its list has: places, things, names, ..."""
    if isinstance(found, dict):
        for name, one in found.items():
            yield name, kind or name
            yield from list_words(one, name)
    elif isinstance(found, list):
        for one in found:
            yield from list_words(one, kind)
    elif isinstance(found, str):
        yield found.removeprefix("~ "), kind


def find_frame(sentence: str, kinds: dict[str, str], words: re.Pattern[str]) -> str:
    """Return *sentence* with its kind for every word of the lexicon, without a particle that depends on the word."""
    marked = words.sub(lambda found: f"<{kinds[found[0].lower()]}>", sentence)
    return re.sub(r">(은|는|이|가|을|를|과|와|으로|로)(?=\s)", ">", marked)


@pytest.mark.parametrize("task", [*CHOICES, *TEXTS])
def test_training_and_test_rows_share_no_sentence_frame(task: str, grammar: Any) -> None:
    """Seen from the rows alone: with its kind for every word of the lexicon, no sentence of one is one of the other."""
    kinds = {word.lower(): kind for word, kind in list_words(grammar["sample_language"].read_lexicon())}
    words = re.compile("|".join(map(re.escape, sorted(kinds, key=len, reverse=True))), re.IGNORECASE)
    train, test = (
        {find_frame(sentence, kinds, words) for row in read(task, part) for sentence in sentences(row)}
        for part in ("train", "test")
    )
    assert any("<" in frame for frame in test)
    assert not train & test


def list_frames(found: Any) -> Iterator[str]:
    """Yield the frames of a part, at any depth; a bare name says what is asked."""
    for one in found.values() if isinstance(found, dict) else found:
        if isinstance(one, (list, dict)):
            yield from list_frames(one)
        elif isinstance(one, str) and not one.isidentifier():
            yield one


def test_no_frame_of_the_test_rows_is_among_the_others(grammar: Any) -> None:
    """Seen from the grammar: neither training rows nor the text for pre-training have it."""
    frames = grammar["sample_language"].read_frames()
    parts: dict[str, list[str]] = {"train": [], "test": [], "text": []}
    for task in frames.values():
        for topic in [task] if "train" in task else task.values():
            for part, found in topic.items():
                parts[part] += list_frames(found)
    assert len(parts["test"]) > 25
    assert not {*parts["test"]} & {*parts["train"], *parts["text"]}


def test_no_test_sentence_is_in_the_training_rows_or_in_the_text_for_pre_training(grammar: Any) -> None:
    """Of the text the first 5,000 documents."""
    tested = {one for task in (*CHOICES, *TEXTS) for row in read(task, "test") for one in sentences(row)}
    trained = {one for task in (*CHOICES, *TEXTS) for row in read(task, "train") for one in sentences(row)}
    documents = islice(grammar["sample_text"].make_documents(), 5000)
    text = {one for document in documents for line in document.splitlines() for one in SENTENCE_END.split(line)}
    assert len(tested) > 1000
    assert len(text) > 10_000
    assert not tested & (trained | text)


def test_a_generated_document_is_always_the_same(grammar: Any) -> None:
    """So pre-training can be repeated."""
    make = grammar["sample_text"].make_documents
    assert list(islice(make(), 50)) == list(islice(make(), 50))


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("수진은(는) 시장에서 배추을(를) 샀다.", "수진은 시장에서 배추를 샀다."),
        ("영희은(는) 수박을(를) 골랐다.", "영희는 수박을 골랐다."),
        ("지훈이(가) 왔고 소라이(가) 갔다.", "지훈이 왔고 소라가 갔다."),
        ("빵과(와) 우유과(와) 물", "빵과 우유와 물"),
        ("교무실(으)로, 안내소(으)로, 강당(으)로", "교무실로, 안내소로, 강당으로"),
        ("그곳은 카페(이)다. 그곳은 식당(이)다.", "그곳은 카페다. 그곳은 식당이다."),
        ("그날은 월요일(이)고 그곳은 바닷가(이)다.", "그날은 월요일이고 그곳은 바닷가다."),
    ],
)
def test_a_particle_is_what_the_syllable_before_it_asks_for(written: str, read_as: str, grammar: Any) -> None:
    """Worked out by hand, with ㄹ before 로."""
    assert grammar["sample_language"].attach_particles(written) == read_as


@pytest.mark.parametrize(
    ("past", "infinitive"),
    [
        ("깼", "깨"),
        ("추웠", "추워"),
        ("했", "해"),
        ("마셨", "마셔"),
        ("갔", "가"),
        ("얼었", "얼어"),
        ("불렀", "불러"),
    ],
)
def test_the_form_in_a_of_a_past_stem_is_the_stem_without_its_last_consonant(
    past: str, infinitive: str, grammar: Any
) -> None:
    """추웠다, 추워서; a stem that is no past stem is refused."""
    assert grammar["sample_language"].make_infinitive(past) == infinitive
    with pytest.raises(ValueError, match="no past stem"):
        grammar["sample_language"].make_infinitive("먹")
