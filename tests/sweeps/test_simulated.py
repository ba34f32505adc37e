"""A sweep on imagined machines obeys what holds on real ones: enough room, every step once, no faster than possible."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.errors import UsageError
from bitnet_bench.sweeps.graph import Graph, Needs, Step, make_graph
from bitnet_bench.sweeps.simulated import SimulatedNode, SimulatedSweep, find_critical_path_s, simulate_sweep

NODES = (SimulatedNode(cpus=8, gpus=2, memory_bytes=64), SimulatedNode(cpus=4, gpus=1, memory_bytes=32))


def make_step(name: str, after: tuple[str, ...] = (), seconds: float = 1.0, needs: Needs | None = None) -> Step:
    """Return a step with its time as the estimate."""
    given = {"id": name, "kind": "evaluate", "title": name, "job": {}, "key": name, "after": after}
    return Step.model_validate({**given, "needs": needs or Needs(), "estimated_s": seconds})


def get_seconds(step: Step) -> float:
    """Return the time of a step."""
    assert step.estimated_s is not None
    return step.estimated_s


needs = st.builds(
    Needs, cpus=st.integers(1, 4), gpus=st.integers(0, 1), memory_bytes=st.integers(0, 32), exclusive=st.booleans()
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Give a graph in which each step waits for some of those before it."""
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 12))):
        after = tuple(step.id for step in steps if draw(st.integers(0, 3)) == 0)
        seconds = draw(st.integers(1, 50))
        steps.append(make_step(f"s{number}", after, seconds, draw(needs)))
    return make_graph(Path("out"), steps)


@st.composite
def losses(draw: st.DrawFn) -> dict[tuple[str, int], float]:
    """Give some attempts that are lost, and after which share of their time."""
    attempts = st.tuples(st.sampled_from([f"s{number}" for number in range(12)]), st.integers(1, 3))
    return draw(st.dictionaries(attempts, st.sampled_from([0.25, 0.5, 1.0]), max_size=8))


def simulate(graph: Graph, lost: dict[tuple[str, int], float], retries: int = 3) -> SimulatedSweep:
    """Return *graph* on `NODES`, where the attempts *lost* fail."""
    return simulate_sweep(graph, NODES, get_seconds, lambda step, attempt: lost.get((step.id, attempt)), retries)


@settings(max_examples=60)
@given(graphs(), losses())
def test_a_simulated_sweep_keeps_the_laws_of_a_real_one(graph: Graph, lost: dict[tuple[str, int], float]) -> None:
    """Whatever the graph, the needs and the losses: with three retries, everything is done in the end."""
    found = simulate(graph, lost)
    done = [run for run in found.runs if run.is_done]
    assert Counter(run.step for run in done) == Counter(step.id for step in graph.steps)
    ends = {run.step: run.ended_s for run in done}
    for run in found.runs:
        assert all(ends[before] <= run.began_s for before in graph.by_id[run.step].after), "it began too early"
    for moment in {run.began_s for run in found.runs}:
        for number, node in enumerate(NODES):
            there = [
                graph.by_id[run.step].needs
                for run in found.runs
                if run.node == number and run.began_s <= moment < run.ended_s
            ]
            assert sum(one.cpus for one in there) <= node.cpus
            assert sum(one.gpus for one in there) <= node.gpus
            assert sum(one.memory_bytes for one in there) <= node.memory_bytes
            assert len(there) == 1 or not any(one.exclusive for one in there)
    work = sum(run.seconds * graph.by_id[run.step].needs.cpus for run in found.runs)
    assert found.makespan_s >= max(found.critical_path_s, work / sum(node.cpus for node in NODES)) - 1e-9
    assert found.makespan_s <= sum(run.seconds for run in found.runs) + 1e-9, "nodes stood idle beside ready steps"


@settings(max_examples=20)
@given(graphs(), losses())
def test_a_simulation_is_the_same_every_time(graph: Graph, lost: dict[tuple[str, int], float]) -> None:
    assert simulate(graph, lost).runs == simulate(graph, lost).runs


def test_independent_steps_fill_all_gpus() -> None:
    """Twelve steps of a minute on three GPUs are four minutes, and cost what the GPUs are reserved for."""
    steps = [make_step(f"e{number}", seconds=60, needs=Needs(gpus=1)) for number in range(12)]
    found = simulate(make_graph(Path("out"), steps), {})
    assert found.makespan_s == 240
    assert found.count_gpu_s(is_reserved=True) == found.count_gpu_s(is_reserved=False) == 720


def test_a_measurement_has_its_node_alone_and_is_charged_for_it() -> None:
    """Beside nothing, and no steps wait that another node has room for."""
    steps = [
        make_step("measure", seconds=100, needs=Needs(gpus=1, exclusive=True)),
        *(make_step(f"e{number}", seconds=50, needs=Needs(gpus=1)) for number in range(2)),
    ]
    found = simulate(make_graph(Path("out"), steps), {})
    assert {run.step: run.node for run in found.runs} == {"measure": 0, "e0": 1, "e1": 1}
    assert found.count_gpu_s(is_reserved=False) == 2 * 100 + 2 * 50
    assert found.count_gpu_s(is_reserved=True) == 3 * 100


def test_a_lost_node_costs_the_time_until_then_and_the_step_is_tried_again() -> None:
    graph = make_graph(Path("out"), [make_step("a", seconds=40), make_step("b", ("a",), 10)])
    found = simulate(graph, {("a", 1): 0.25, ("a", 2): 0.5})
    assert [(run.step, run.attempt, run.began_s, run.ended_s) for run in found.runs] == [
        ("a", 1, 0, 10), ("a", 2, 10, 30), ("a", 3, 30, 70), ("b", 1, 70, 80),
    ]  # fmt: skip
    assert found.lost_s == 30
    assert found.critical_path_s == 50


def test_a_step_that_is_lost_too_often_fails_and_blocks_what_waits_for_it() -> None:
    graph = make_graph(Path("out"), [make_step("a"), make_step("b", ("a",)), make_step("c")])
    found = simulate(graph, {("a", attempt): 0.5 for attempt in (1, 2)}, retries=1)
    assert found.state.states == {"a": "failed", "b": "blocked", "c": "done"}
    assert found.state.outcomes["a"].is_lost


@pytest.mark.parametrize("wanted", [Needs(cpus=9), Needs(gpus=3), Needs(memory_bytes=65)])
def test_a_step_that_fits_on_no_node_is_named_before_anything_runs(wanted: Needs) -> None:
    """Three GPUs on two nodes are no three GPUs."""
    with pytest.raises(UsageError, match="huge fits on no node"):
        simulate(make_graph(Path("out"), [make_step("huge", needs=wanted)]), {})


def test_the_critical_path_is_the_longest_chain() -> None:
    steps = [
        make_step("a", seconds=5),
        make_step("b", ("a",), 7),
        make_step("c", ("a",), 1),
        make_step("d", ("b", "c"), 2),
    ]
    assert find_critical_path_s(make_graph(Path("out"), steps), get_seconds) == 14
