"""Large files of examples, read by column: the same examples and the same page as read line by line, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bitnet_bench.comparison.compare_runs import compare_runs
from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import load_metric
from bitnet_bench.reports.sections import ReportOptions
from bitnet_bench.reports.write import write_report
from bitnet_bench.runs import reading
from bitnet_bench.runs.example_parsing import GROUPS, SCHEMA, parse_examples
from bitnet_bench.runs.example_table import ExampleTable, find_longest, list_values, sort_by_document
from bitnet_bench.runs.folder import save_record, save_samples
from bitnet_bench.runs.reading import read_run
from bitnet_bench.runs.records import Example

LINE = (
    '{"task":"s:t","doc_id":7,"prompt":"질문","choices":["예","아니오"],"loglikelihoods":[-1.5,-2.0],"target":"예",'
    '"target_choice":0,"references":[],"output":"예","output_choice":0,"target_labels":[],"output_labels":[],'
    '"target_value":null,"output_value":null,"malformed":false,"correct":1.0}'
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
EXAMPLES = st.builds(
    Example,
    task=TEXTS,
    doc_id=st.integers(-(2**63), 2**63 - 1),
    prompt=TEXTS,
    choices=st.lists(TEXTS, max_size=3).map(tuple),
    loglikelihoods=st.lists(FLOATS, max_size=3).map(tuple),
    target=TEXTS,
    target_choice=st.none() | st.integers(0, 9),
    references=st.lists(TEXTS, max_size=2).map(tuple),
    output=TEXTS,
    output_choice=st.none() | st.integers(0, 9),
    target_labels=st.lists(TEXTS, max_size=2).map(tuple),
    output_labels=st.lists(TEXTS, max_size=2).map(tuple),
    target_value=st.none() | FLOATS,
    output_value=st.none() | FLOATS,
    malformed=st.booleans(),
    cut=st.booleans(),
    thought=TEXTS,
    unfinished=st.booleans(),
    groups=st.dictionaries(st.sampled_from(["category", "subject", "날짜"]), TEXTS, max_size=2),
    correct=FLOATS,
)


def write_lines(examples: Sequence[Example]) -> bytes:
    return "".join(example.model_dump_json() + "\n" for example in examples).encode()


def read_lines(content: bytes) -> list[Example] | None:
    """Read by pydantic alone; None if a line is no example."""
    try:
        return [Example.model_validate_json(line) for line in content.split(b"\n") if line]
    except ValidationError:
        return None


@settings(max_examples=150, deadline=None)
@given(st.lists(EXAMPLES, min_size=1, max_size=4))
def test_what_was_written_is_read_by_column_as_it_is_read_by_line(examples: list[Example]) -> None:
    """Every field of every row, with any character, number and group; only dates among groups may be left to lines."""
    table = parse_examples(write_lines(examples), "samples.jsonl")
    if table is None:
        assert any(example.groups for example in examples)
        return
    assert table == examples
    for name in Example.model_fields:
        if name not in ("groups", "answers", "turns", "cut", "thought", "unfinished"):
            assert list_values(table, name) == list_values(examples, name), name
    assert find_longest(table, "choices") == find_longest(examples, "choices")
    assert list(sort_by_document(table)) == list(sort_by_document(examples))


FAULTS: dict[str, Callable[[str], str]] = {
    "no example but a null": lambda line: "null",
    "a null beside an example": lambda line: f"{line} null {line}",
    "a mark of the byte order": lambda line: "\ufeff" + line,
    "a null": lambda line: line.replace('"prompt":"질문"', '"prompt":null'),
    "a null in a list": lambda line: line.replace("-1.5", "null"),
    "a null among choices": lambda line: line.replace('["예"', "[null"),
    "no list": lambda line: line.replace("[-1.5,-2.0]", "null"),
    "a field that is missing": lambda line: line.replace('"target":"예",', ""),
    "a field without its default": lambda line: line.replace('"references":[],', ""),
    "a field that is not known": lambda line: line.replace("}", ',"score":1}'),
    "a field that stands twice": lambda line: line.replace("}", ',"correct":0.0}'),
    "a number in quotes": lambda line: line.replace('"doc_id":7', '"doc_id":"7"'),
    "a whole number as a fraction": lambda line: line.replace('"doc_id":7', '"doc_id":7.0'),
    "a whole number as a score": lambda line: line.replace('"correct":1.0', '"correct":1'),
    "a number that is too long": lambda line: line.replace('"doc_id":7', f'"doc_id":{2**64}'),
    "an infinite number": lambda line: line.replace("-1.5", "-1e999"),
    "NaN": lambda line: line.replace('"correct":1.0', '"correct":NaN'),
    "a text for a flag": lambda line: line.replace("false", '"no"'),
    "a date for a text": lambda line: line.replace('"prompt":"질문"', '"prompt":"2026-01-01"'),
    "a date in a group": lambda line: line.replace("}", ',"groups":{"day":"2026-01-01"}}'),
    "a number in a group": lambda line: line.replace("}", ',"groups":{"day":1}}'),
    "a text for groups": lambda line: line.replace("}", ',"groups":"day"}'),
    "several answers": lambda line: line.replace("}", ',"answers":[{"output":"예","correct":1.0}]}'),
    "turns": lambda line: line.replace("}", ',"turns":[{"question":"예?","answer":"네"}]}'),
    "half a line": lambda line: line[:-40],
    "two rows in a line": lambda line: line + line,
    "a row over two lines": lambda line: line.replace('"output"', '\n"output"'),
    "an empty line": lambda line: line + "\n",
    "a line end of Windows": lambda line: line + "\r",
    "spaces": lambda line: line.replace(":", " : "),
    "no object": lambda line: "[1]",
    "nothing but spaces": lambda line: "  ",
    "a NUL": lambda line: line.replace("질문", "질\\u0000문"),
    "half a character": lambda line: line.replace("질문", "\\ud800"),
    "an emoji in two halves": lambda line: line.replace("질문", "\\ud83d\\ude00"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_with_a_fault_is_read_as_by_line_or_left_to_it(fault: str, place: int) -> None:
    """No fault makes another example of a line, and none is passed over, wherever it stands."""
    lines = [LINE, LINE.replace('"doc_id":7', '"doc_id":8'), LINE.replace('"doc_id":7', '"doc_id":9')]
    lines[place] = FAULTS[fault](lines[place])
    content = ("\n".join(lines) + "\n").encode()
    assert content.decode() != "\n".join([LINE] * 3) + "\n"
    table, expected = parse_examples(content, "samples.jsonl"), read_lines(content)
    assert table is None or list(table) == expected


def test_bytes_that_are_no_text_are_left_to_the_lines() -> None:
    """Arrow takes them as they come."""
    for text in ("질", "prompt"):  # in a value, and in the name of a field
        content = LINE.encode().replace(text.encode(), b"\xe9\xfe") + b"\n"
        assert parse_examples(content, "samples.jsonl") is None


def test_a_plain_file_is_read_by_column_however_long_its_lines_are() -> None:
    """Else none of these tests would say anything; a line of 3 MB is longer than what is parsed at once."""
    long = LINE.replace("질문", "질문" * 500_000)
    for content in (LINE + "\n", f"{LINE}\n{long}\n{LINE}\n"):
        table = parse_examples(content.encode(), "samples.jsonl")
        assert table is not None
        assert list(table) == read_lines(content.encode())
    assert table[-1].doc_id == 7
    assert [len(one.prompt) for one in table[:2]] == [2, 1_000_000]


def test_a_line_that_no_reading_foresaw_is_an_error_with_its_place() -> None:
    """A null where a default is left out looks like the default by column: the row itself is refused."""
    table = parse_examples((LINE[:-1] + ',"cut":null}\n').encode(), "samples.jsonl")
    with pytest.raises(BenchError, match=r"Line 1 of samples\.jsonl cannot be read"):
        table is None or table[0]


def test_documents_whose_numbers_are_far_apart_are_in_order() -> None:
    """Their difference is more than 64 bits hold."""
    lines = [LINE.replace('"doc_id":7', f'"doc_id":{doc}') for doc in (856, -(2**63))]
    table = parse_examples(("\n".join(lines) + "\n").encode(), "samples.jsonl")
    assert table is not None
    assert [one.doc_id for one in sort_by_document(table)] == [-(2**63), 856]


def test_every_field_of_an_example_is_known_to_the_columns() -> None:
    """A new one would send all files back to the lines; several answers and turns are left to them on purpose."""
    assert {*SCHEMA.names, GROUPS, "answers", "turns"} == set(Example.model_fields)


CHOSEN, OTHER = ([float(i % n > 0) for i in range(40)] for n in (3, 4))


def generated(task: str, doc: int, correct: float, **fields: Any) -> Example:
    return Example(task=task, doc_id=doc, prompt=f"질문 {doc}", target="답", output="답", correct=correct, **fields)


def make_rows(number: int) -> dict[str, Any]:
    """Give the rows of a run that are not choices: texts with groups, and two answers to each row."""
    answers = [{"output": "답", "correct": 1.0}, {"output": "둘", "correct": 0.0}]
    texts = [generated("s:text", doc, float((doc + number) % 2), groups={"category": "역사"}) for doc in range(12)]
    return {"s:text": texts, "s:several": [generated("s:several", doc, 0.5, answers=answers) for doc in (1, 2)]}


@pytest.fixture
def folders(make_results: Any, tmp_path: Path) -> list[Path]:
    """Give three runs: pairs, other prompts, another order, other documents, texts, several answers, an edited file."""
    found = []
    for number, name in enumerate("abc"):
        choices = {"s:pairs": [CHOSEN, OTHER, OTHER][number], "s:order": CHOSEN, "s:edited": CHOSEN}
        choices |= {"s:prompts": OTHER, "s:documents": CHOSEN[: 30 + number]}
        run = make_results(name, choices, ("macro_f1", "accuracy"))
        rest = make_results(name, make_rows(number), ("accuracy",))
        joined = {
            "scores": run.record.scores + rest.record.scores,
            "data": run.record.data | rest.record.data,
            "precision": "bf16" if number else "ternary",
        }
        rows = {**run.examples, **rest.examples}
        if number == 2:
            rows["s:order"] = rows["s:order"][::-1]
            rows["s:prompts"] = [one.model_copy(update={"prompt": f"다른 {one.prompt}"}) for one in rows["s:prompts"]]
        out = tmp_path / name
        samples = {task: save_samples(out, task, some) for task, some in rows.items()}
        save_record(out, run.record.model_copy(update={**joined, "samples": samples}))
        found.append(out)
    edited = found[1] / "samples" / "s-edited.jsonl"
    edited.write_text(edited.read_text().replace('"correct":0.0', '"correct":1.0', 1))
    return found


@pytest.fixture(params=[0, 5])
def render_both(request: Any, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Give the page of the runs as read by line and by column, with all rows or with 5 of them."""
    pages = []
    for least in (1 << 40, 0):
        monkeypatch.setattr(reading, "MIN_COLUMN_BYTES", least)
        options = ReportOptions(samples=request.param) if request.param else None
        out, _ = write_report(folders, tmp_path / "report.html", options=options)
        pages.append(out.read_bytes())
    return pages


def test_both_readings_make_the_same_page(render_both: list[bytes]) -> None:
    """Byte for byte, with rows that are pairs and rows that are not, and with what is said of the files."""
    by_line, by_column = render_both
    assert by_line == by_column
    assert b"s:prompts" in by_line


def test_both_readings_make_the_same_comparison(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences, what refuses a pair, and notices, for each two of the runs."""
    found: list[list[Any]] = []
    for least in (1 << 40, 0):
        monkeypatch.setattr(reading, "MIN_COLUMN_BYTES", least)
        found.append([compare_runs(folders[a], folders[b]) for a, b in ((0, 1), (0, 2), (2, 1))])
    assert found[0] == found[1]
    said = [words.en for result in found[0] for refused in result.comparison.refused for words in refused.differs]
    assert any("prompt" in words for words in said)
    assert len({difference.task for result in found[0] for difference in result.comparison.differences}) >= 4


def test_a_large_file_is_read_by_column_unless_it_was_edited(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest in the sealed record vouches for the bytes; others are read line by line, with what they say now."""
    monkeypatch.setattr(reading, "MIN_COLUMN_BYTES", 0)
    run = read_run(folders[1])
    assert isinstance(run.examples["s:pairs"], ExampleTable)
    assert isinstance(run.examples["s:text"], ExampleTable)
    edited = run.examples["s:edited"]
    assert isinstance(edited, list)
    assert sum(one.correct for one in edited) == sum(CHOSEN) + 1
    assert isinstance(run.examples["s:several"], list), "rows with several answers are left to the lines"
    monkeypatch.setattr(reading, "MIN_COLUMN_BYTES", 1 << 40)
    assert isinstance(run.examples["s:pairs"], list), "a small file is not worth it"


def test_only_rows_that_the_page_shows_are_decoded(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 pairs of choices, 3 are shown; a test of right and wrong decodes the first row, for its answers."""
    decoded: list[int] = []
    decode = ExampleTable._decode
    monkeypatch.setattr(ExampleTable, "_decode", lambda table, at: decoded.append(at) or decode(table, at))
    monkeypatch.setattr(reading, "MIN_COLUMN_BYTES", 0)
    for folder in folders[:2]:
        record = read_run(folder).record
        only = tuple(score for score in record.scores if score.task == "s:pairs")
        save_record(folder, record.model_copy(update={"scores": only}))
    write_report(folders[:2], tmp_path / "report.html", options=ReportOptions(samples=3))
    assert len(decoded) == 3 * 2 + 1


@pytest.mark.parametrize("name", ["accuracy", "accuracy_norm", "macro_f1", "micro_f1", "f1"])
def test_metrics_of_choices_need_no_rows(name: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their statistics of a table are those of its rows."""
    monkeypatch.setattr(reading, "MIN_COLUMN_BYTES", 0)
    table, metric = read_run(folders[0]).examples["s:pairs"], load_metric(name)
    assert isinstance(table, ExampleTable)
    assert metric.example_statistics(table).tolist() == metric.example_statistics(list(table)).tolist()
    by_row = [metric.score_example(example) for example in table]
    if metric.is_right_or_wrong:
        assert metric.example_statistics(table).tolist() == by_row


def test_a_metric_of_choices_refuses_rows_that_generate(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By column as by row."""
    monkeypatch.setattr(reading, "MIN_COLUMN_BYTES", 0)
    with pytest.raises(BenchError, match="s:text generates"):
        load_metric("macro_f1").example_statistics(read_run(folders[0]).examples["s:text"])
