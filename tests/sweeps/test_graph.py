"""A graph of steps is checked before anything runs: cycles, folders, names; equal steps are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.sweeps.executors import find_executor, make_command
from bitnet_bench.sweeps.graph import GRAPH_FILE, Graph, Needs, Step, find_step, load_graph, make_graph


def make_step(name: str, *after: str, **fields: Any) -> Step:
    """Return a step called *name* that waits for *after*."""
    return Step(**{"id": name, "kind": "evaluate", "title": name, "job": {}, "key": name, "after": after, **fields})


def test_steps_stand_after_those_that_they_wait_for() -> None:
    graph = make_graph(Path("out"), [make_step("c", "b"), make_step("a"), make_step("b", "a")])
    assert [step.id for step in graph.steps] == ["a", "b", "c"]
    assert graph.dependents["a"] == ("b",)


def test_equal_steps_are_one_and_whoever_waits_for_the_second_waits_for_the_first() -> None:
    steps = [make_step("a", key="same"), make_step("b", key="same"), make_step("c", "b", "a", extends=("b",))]
    graph = make_graph(Path("out"), steps)
    assert [step.id for step in graph.steps] == ["a", "c"]
    assert (graph.by_id["c"].after, graph.by_id["c"].extends) == (("a",), ("a",))


def test_a_cycle_is_named_with_its_lines() -> None:
    steps = [make_step("a", "c", line=3), make_step("b", "a", line=7), make_step("c", "b"), make_step("d", "a")]
    with pytest.raises(
        UsageError, match=r"^Lines 3 and 7: steps wait for one another: a -> b -> c -> a\.$|b -> c -> a"
    ):
        make_graph(Path("out"), steps)


def test_a_step_that_reads_its_own_result_is_a_cycle() -> None:
    with pytest.raises(UsageError, match=r"Line 4: steps wait for one another: a -> a\."):
        make_graph(Path("out"), [make_step("a", "a", line=4)])


def test_an_unknown_step_is_named_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"b waits for evaluate-dem, .*Did you mean evaluate-demo\?|which is not a step"
    ):
        make_graph(Path("out"), [make_step("evaluate-demo"), make_step("b", "evaluate-dem")])


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("out/x", "out/x", "a and b would both write out/x"),
        ("out/x", "./out/x/", "would both write"),
        ("out/x", "out/x/y", "b would write out/x/y, inside the folder of a"),
        ("out/x/y/z", "out/x", "a would write out/x/y/z, inside the folder of b"),
    ],
)
def test_two_steps_never_share_a_folder(one: str, other: str, words: str) -> None:
    steps = [make_step("a", folder=one, line=2), make_step("b", folder=other, line=5)]
    with pytest.raises(UsageError, match=rf"^Lines 2 and 5: .*{words}"):
        make_graph(Path("out"), steps)


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two steps are called a"):
        make_graph(Path("out"), [make_step("a", key="1"), make_step("a", key="2")])


def test_a_graph_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With every field of a step; another machine needs nothing else."""
    step = make_step(
        "a", job={"model": "한국어", "out": "x"}, needs=Needs(gpus=2, processes=2), inputs=("i",), line=3, folder="x"
    )
    graph = make_graph(tmp_path, [step, make_step("b", "a", tolerates_failures=True)], "sweep.yaml")
    assert load_graph(graph.save()) == load_graph(tmp_path) == graph
    assert find_step(graph, "a") == step
    with pytest.raises(UsageError, match="no step 'c'"):
        find_step(graph, "c")


def test_a_damaged_graph_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / GRAPH_FILE).write_text('{"steps": 3}', encoding="utf-8")
    with pytest.raises(BenchError, match=r"sweep\.json cannot be read"):
        load_graph(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"after": ("gone",)}, "a waits for gone, which is not a step"),
        ({"extends": ("gone",)}, "a waits for gone, which is not a step"),
        ({"after": ("a",)}, "steps wait for one another: a -> a"),
    ],
)
def test_a_graph_that_does_not_hang_together_is_a_sentence(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    """It may have been edited, and each machine reads it."""
    Graph(steps=(make_step("a", **fields),), folder=str(tmp_path)).save()
    with pytest.raises(BenchError, match=rf"sweep\.json cannot be read: {words}\."):
        load_graph(tmp_path)


def test_a_step_is_a_command_and_one_of_several_processes_is_started_by_torchrun() -> None:
    graph = make_graph(Path("out"), [make_step("a"), make_step("b", needs=Needs(gpus=4, processes=4))])
    assert make_command(graph, graph.by_id["a"])[1:] == ["-m", "bitnet_bench", "sweep", "out/sweep.json", "--step", "a"]
    assert make_command(graph, graph.by_id["b"])[1:7] == [
        "-m", "torch.distributed.run", "--nproc-per-node", "4", "-m", "bitnet_bench",
    ]  # fmt: skip


def test_a_misspelt_executor_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError) as raised:
        find_executor("locl")
    assert "Did you mean local?" in str(raised.value)
