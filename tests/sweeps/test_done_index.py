"""A step is done while its files are those of when it ended; whatever changes, it is run again and compares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.sweeps.done_index import INDEX_FILE, FileIndex
from bitnet_bench.sweeps.graph import Graph, Step, make_graph


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """Give a graph of a run and a measurement that adds to its record; the run's files are there."""
    for name in ("model/weights", "rows.jsonl", "run/record.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    record = str(tmp_path / "run/record.json")
    run = Step(
        id="run",
        kind="evaluate",
        title="run",
        job={},
        key="key",
        inputs=(str(tmp_path / "model"), str(tmp_path / "rows.jsonl")),
        outputs=(record,),
    )
    measure = Step(
        id="measure", kind="measure", title="", job={}, key="m", after=("run",), outputs=(record,), extends=("run",)
    )
    return make_graph(tmp_path, [run, measure])


def finish(graph: Graph, name: str = "run", between: Callable[[], object] = lambda: None) -> None:
    """Run a step, in which *between* happens."""
    index = FileIndex(graph)
    index.begin(graph.by_id[name])
    between()
    index.finish(graph.by_id[name])
    index.flush()


def is_current(graph: Graph, name: str = "run", **changes: object) -> bool:
    """Return whether another process finds the step done."""
    return FileIndex(graph).is_current(graph.by_id[name].model_copy(update=changes))


def test_a_finished_step_is_found_by_the_next_process(graph: Graph) -> None:
    assert not is_current(graph)
    finish(graph)
    assert is_current(graph)


@pytest.mark.parametrize("name", ["model/weights", "rows.jsonl", "run/record.json"])
@pytest.mark.parametrize("how", ["rewrite", "touch", "same size and time", "remove"])
def test_a_file_that_changed_is_noticed(graph: Graph, tmp_path: Path, name: str, how: str) -> None:
    """Even one with the same size and the old time of modification."""
    finish(graph)
    file = tmp_path / name
    before = file.stat()
    if how == "remove":
        file.unlink()
    elif how == "touch":
        os.utime(file)
    else:
        file.write_text("x" * len(name) if how == "same size and time" else "longer than before it was", "utf-8")
        if how == "same size and time":
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not is_current(graph)


def test_a_new_file_in_a_folder_is_noticed_and_one_of_a_tracker_is_not(graph: Graph, tmp_path: Path) -> None:
    finish(graph)
    (tmp_path / "model/tensorboard").mkdir()
    (tmp_path / "model/tensorboard/events").write_text("x", encoding="utf-8")
    (tmp_path / "model/.lock").write_text("x", encoding="utf-8")
    assert is_current(graph)
    (tmp_path / "model/chat_template.jinja").write_text("x", encoding="utf-8")
    assert not is_current(graph)


def test_another_job_is_not_done(graph: Graph) -> None:
    finish(graph)
    assert not is_current(graph, key="another")
    assert not is_current(graph, has_unseen_inputs=True), "a branch of the hub may have moved"


def test_a_step_whose_input_changed_while_it_ran_is_not_recorded(graph: Graph, tmp_path: Path) -> None:
    """Nobody knows which of both it read."""
    finish(graph, between=lambda: (tmp_path / "rows.jsonl").write_text("other", encoding="utf-8"))
    assert not is_current(graph)


def test_a_step_without_its_results_is_not_recorded(graph: Graph, tmp_path: Path) -> None:
    finish(graph, between=(tmp_path / "run/record.json").unlink)
    assert not is_current(graph)


def test_costs_added_by_a_step_of_the_sweep_leave_the_run_done(graph: Graph, tmp_path: Path) -> None:
    record = tmp_path / "run/record.json"
    finish(graph)
    finish(graph, "measure", between=lambda: record.write_text("with costs", encoding="utf-8"))
    assert is_current(graph)
    assert is_current(graph, "measure")
    record.write_text("edited by hand", encoding="utf-8")
    assert not is_current(graph)


def test_a_measurement_does_not_vouch_for_a_record_that_was_edited_before(graph: Graph, tmp_path: Path) -> None:
    finish(graph)
    (tmp_path / "run/record.json").write_text("edited by hand", encoding="utf-8")
    finish(graph, "measure")
    assert not is_current(graph)


def test_a_young_file_is_recorded_when_a_change_would_show(graph: Graph, tmp_path: Path) -> None:
    """A file system's clock ticks slowly: until then, two contents could have one time."""
    changed_ns = max(file.stat().st_ctime_ns for file in tmp_path.rglob("*"))
    now = [changed_ns + 10**9]
    index = FileIndex(graph, clock_ns=lambda: now[0])
    index.begin(graph.by_id["run"])
    now[0] = (tmp_path / "run/record.json").stat().st_ctime_ns + 1000
    index.finish(graph.by_id["run"])
    assert not is_current(graph)
    now[0] += 10**9
    index.flush()
    assert is_current(graph)


def test_a_line_that_a_kill_cut_short_does_not_spoil_the_next_ones(graph: Graph, tmp_path: Path) -> None:
    finish(graph)
    file = tmp_path / INDEX_FILE
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole + whole[:20], encoding="utf-8")
    for _ in range(2):
        finish(graph)
    assert is_current(graph)
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(whole.splitlines()) + 2


def test_a_line_that_a_kill_cut_short_is_ignored_and_another_is_an_error(graph: Graph, tmp_path: Path) -> None:
    finish(graph)
    file = tmp_path / INDEX_FILE
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole + whole[:20], encoding="utf-8")
    assert is_current(graph)
    file.write_text(whole[:20] + "\n" + whole, encoding="utf-8")
    with pytest.raises(BenchError, match=r"Line 1 of .*cannot be read"):
        FileIndex(graph)
