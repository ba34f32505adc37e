"""Run folders that are damaged, changed or half there: what is read of them, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.folder import load_record, load_samples, save_record, save_samples
from bitnet_bench.runs.reading import read_run, read_runs
from bitnet_bench.runs.records import Cost, RunRecord
from bitnet_bench.runs.run import LoadedRun


@pytest.fixture
def folder(make_results: Any, tmp_path: Path) -> Path:
    """Give a run folder with two tasks."""
    run = make_results("a", {"s:t": [1.0, 0.0, 1.0], "s:u": [1.0, 1.0]})
    return write(run, tmp_path / "run")


def write(run: LoadedRun, out: Path) -> Path:
    samples = {task: save_samples(out, task, rows) for task, rows in run.examples.items()}
    save_record(out, run.record.model_copy(update={"samples": samples}))
    return out


def said(run: LoadedRun) -> list[str]:
    for task in run.examples:
        run.examples[task]
    return [f"{Path(notice.where).name}: {notice.what.en}" for notice in run.notices]


def change(file: Path, how: Callable[[str], str]) -> None:
    file.write_text(how(file.read_text(encoding="utf-8")), encoding="utf-8")


def test_a_whole_run_is_read_without_a_word(folder: Path) -> None:
    """What was written is what is read, and there is nothing to remark."""
    run = read_run(folder)
    assert said(run) == []
    assert {task: len(rows) for task, rows in run.examples.items()} == {"s:t": 3, "s:u": 2}


def test_a_record_changed_by_hand_is_seen(folder: Path) -> None:
    """A score that was raised in an editor no longer fits the seal."""
    change(folder / "record.json", lambda text: text.replace('"value": 100.0', '"value": 100.5', 1))
    assert said(read_run(folder)) == ["record.json: was changed after it was written (its checksum differs)"]


def test_examples_changed_by_hand_are_seen(folder: Path) -> None:
    """So is an output that was mended."""
    change(folder / "samples" / "s-t.jsonl", lambda text: text.replace('"correct":0.0', '"correct":1.0', 1))
    assert said(read_run(folder)) == ["s-t.jsonl: was changed after it was written (its checksum differs)"]


def test_spaces_in_a_record_are_no_change(folder: Path) -> None:
    """A record that was indented otherwise says the same."""
    change(folder / "record.json", lambda text: json.dumps(json.loads(text)))
    assert said(read_run(folder)) == []


def test_a_record_without_a_seal_says_so(folder: Path) -> None:
    """A run of a version that made no checksums is read, and nobody vouches for it."""
    fields = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    (folder / "record.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "sha256"}))
    assert any("no checksum" in one for one in said(read_run(folder)))


def test_nan_is_left_out_and_named(folder: Path) -> None:
    """A NaN in a score or in an example's line takes that score or line away, never the rest, and never as 0."""
    change(folder / "record.json", lambda text: text.replace('"value": 100.0', '"value": NaN', 1))
    change(folder / "samples" / "s-t.jsonl", lambda text: text.replace('"correct":0.0', '"correct":NaN', 1))
    run = read_run(folder)
    remarks = "\n".join(said(run))
    assert len(run.record.scores) == 3
    assert "score 2 (s:u accuracy) cannot be read" in remarks
    assert "s-t.jsonl: line 2 cannot be read and is left out" in remarks
    assert "s-t.jsonl: holds 2 of 3 examples" in remarks


def test_a_cost_that_is_not_finite_is_left_out(folder: Path) -> None:
    """Costs are kept one by one, too."""
    change(folder / "record.json", lambda text: text.replace('"costs": []', '"costs": [{"backend": "hf"}]'))
    run = read_run(folder)
    assert run.record.costs == ()
    assert any("cost 0" in one for one in said(run))
    assert Cost.model_fields  # the record that it is held to


def test_many_bad_lines_are_counted(folder: Path) -> None:
    """Three are named, the others counted."""
    (folder / "samples" / "s-t.jsonl").write_text("{\n" * 10)
    assert any("7 more lines cannot be read" in one for one in said(read_run(folder)))


def test_an_incomplete_run_says_what_it_lacks(make_results: Any, tmp_path: Path) -> None:
    """Tasks that failed, tasks that were not reached, and samples that are gone."""
    run = make_results("a", {"s:t": [1.0]}, errors={"s:u": "out of memory\ntrace"})
    settings = {**run.record.settings, "tasks": ["s:t", "s:u", "s:v"]}
    out = write(LoadedRun(run.record.model_copy(update={"settings": settings}), run.examples), tmp_path / "run")
    (out / "samples" / "s-t.jsonl").unlink()
    remarks = said(read_run(out))
    assert "run, s:u: could not be scored: out of memory" in remarks
    assert "run, s:v: is not scored yet" in remarks
    assert "run, s:t: has no examples, so only scores are shown" in remarks


def test_a_line_separator_in_an_output_is_no_new_line(make_results: Any, tmp_path: Path) -> None:
    """U+2028 and U+0085 stand in outputs, and each example stays one line."""
    run = make_results("a", {"s:t": [1.0, 0.0]})
    rows = [e.model_copy(update={"output": "앞\u2028뒤\u0085끝"}) for e in run.examples["s:t"]]
    out = write(LoadedRun(run.record, {"s:t": rows}), tmp_path / "run")
    assert read_run(out).examples["s:t"] == rows == load_samples(out, ["s:t"])


def test_a_run_of_another_schema_leaves_the_others(folder: Path, tmp_path: Path) -> None:
    """One run that cannot be read is named, and the others are reported; alone it is an error."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "record.json").write_text('{"schema_version": 0}')
    runs, unread = read_runs([old, folder], {})
    assert [run.record.name for run in runs] == ["a"]
    assert "schema version 0" in unread[0].what.en
    with pytest.raises(BenchError, match="schema version 0"):
        read_runs([old], {})


def test_how_a_checkpoint_was_made_is_found_beside_it(folder: Path, tmp_path: Path) -> None:
    """A finetune.json that cannot be read is named; one that is not there is no fault."""
    assert read_run(folder).training is None
    (tmp_path / "finetune.json").write_text("{}")
    run = read_run(folder, tmp_path)
    assert run.training is None
    assert any("record of its training cannot be read" in one for one in said(run))


def test_a_seal_is_of_the_fields_alone(make_results: Any, tmp_path: Path) -> None:
    """Saving what was loaded gives the same bytes."""
    record: RunRecord = make_results("a", {"s:t": [1.0]}).record
    save_record(tmp_path, record)
    first = (tmp_path / "record.json").read_bytes()
    save_record(tmp_path, load_record(tmp_path))
    assert (tmp_path / "record.json").read_bytes() == first
