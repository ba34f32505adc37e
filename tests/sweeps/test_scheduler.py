"""Steps run when those before them are done; a failure leaves the others, and an interruption ends what runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_executor import FakeExecutor

from bitnet_bench.sweeps.graph import Graph, Step, make_graph
from bitnet_bench.sweeps.scheduler import SweepState, run_graph

SHAPE = {"train": (), "score": ("train",), "other": (), "measure": ("score",), "report": ("score", "other", "measure")}
"""Steps, and those before each."""


@pytest.fixture
def graph() -> Graph:
    """Give a graph of five steps, whose report runs whatever fails."""
    steps = [
        Step(id=name, kind="evaluate", title=name, job={}, key=name, after=after, tolerates_failures=name == "report")
        for name, after in SHAPE.items()
    ]
    return make_graph(Path("out"), steps)


class Index:
    """An index that knows some steps, and remembers what it was told."""

    def __init__(self, *current: str) -> None:
        self.current, self.told = set(current), list[tuple[str, str]]()

    def is_current(self, step: Step) -> bool:
        """Return whether it was told so."""
        return step.id in self.current

    def begin(self, step: Step) -> None:
        """Remember it."""
        self.told.append(("begin", step.id))

    def finish(self, step: Step) -> None:
        """Remember it."""
        self.told.append(("finish", step.id))


@pytest.mark.parametrize("room", [1, 2, 9])
def test_every_step_runs_once_and_after_those_before_it(graph: Graph, room: int) -> None:
    executor = FakeExecutor(room)
    sweep = run_graph(graph, executor)
    assert set(sweep.states.values()) == {"done"}
    assert sorted(executor.started) == sorted(SHAPE)
    place = executor.started.index
    assert all(place(before) < place(name) for name, after in SHAPE.items() for before in after)


def test_a_failure_blocks_those_behind_it_and_no_others(graph: Graph) -> None:
    """The report is written of what there is."""
    sweep = run_graph(graph, FakeExecutor(failing=["train"]))
    assert sweep.states == {
        "train": "failed", "score": "blocked", "other": "done", "measure": "blocked", "report": "done",
    }  # fmt: skip
    assert sweep.blocked_by == {"score": "train", "measure": "train"}
    assert sweep.outcomes["train"].problem == "It broke."


def test_a_report_of_nothing_is_not_written(graph: Graph) -> None:
    sweep = run_graph(graph, FakeExecutor(failing=["train", "other"]))
    assert sweep.states["report"] == "blocked"


def test_what_is_done_is_skipped_and_what_stands_behind_a_changed_step_is_looked_at_again(graph: Graph) -> None:
    """A step is compared when those before it are done: they write what it reads."""
    index, executor = Index("train", "other", "measure"), FakeExecutor()
    sweep = run_graph(graph, executor, index)
    assert executor.started == ["score", "report"]
    assert sweep.skipped == {"train", "other", "measure"}
    assert index.told == [("begin", "score"), ("finish", "score"), ("begin", "report"), ("finish", "report")]


def test_a_failed_step_is_not_recorded_as_done(graph: Graph) -> None:
    index = Index()
    run_graph(graph, FakeExecutor(failing=["score"]), index)
    assert ("begin", "score") in index.told
    assert ("finish", "score") not in index.told


def test_an_interruption_ends_the_running_steps_and_is_raised(graph: Graph) -> None:
    def interrupt(step: Step) -> None:
        if step.id == "score":
            raise KeyboardInterrupt

    executor = FakeExecutor(then=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_graph(graph, executor)
    assert executor.was_cancelled
    assert "measure" not in executor.started


def test_the_display_sees_every_change_and_how_far_running_steps_are(graph: Graph) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def show(sweep: SweepState) -> None:
        seen.append(([step.id for step in sweep.list_in("done")], sorted(sweep.progress)))

    run_graph(graph, FakeExecutor(room=2), Index(), show)
    assert seen[0] == ([], [])
    assert seen[1] == (["train"], ["other"])
    assert len(seen[-1][0]) == len(SHAPE)
