"""Plan checkpoints x suites on a cluster by simulation: hours, GPU hours and money, before a GPU is rented.

    bitnet-bench evaluate --suite SUITE --model ONE --out pilot/SUITE ...   # each suite, on one GPU of the cluster
    python benchmarks/cluster_plan.py pilot/* --checkpoints 100 --nodes 8 --gpus 8 --price 2.5

A pilot of one checkpoint gives the seconds of each suite: what its record says, and `--opening-s` for starting and
loading. The graph of all checkpoints is then run by the scheduler of `bitnet-bench sweep` on imagined nodes
(`bitnet_bench.sweeps.simulated`). `--lost` loses the node of every Nth step half way.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitnet_bench.runs.folder import load_record
from bitnet_bench.sweeps.graph import Graph, Needs, Step, make_graph
from bitnet_bench.sweeps.simulated import SECONDS_PER_HOUR, SimulatedNode, SimulatedSweep, simulate_sweep

CPUS_PER_GPU = 8
REPORT_S = 60.0


def make_step(kind: str, name: str, seconds: float, needs: Needs, after: Sequence[str] = ()) -> Step:
    """Return a step that takes *seconds*."""
    fields: dict[str, Any] = {"kind": kind, "id": name, "title": name, "job": {}, "key": name}
    return Step(**fields, after=tuple(after), needs=needs, estimated_s=seconds, tolerates_failures=kind == "report")


def plan_graph(seconds: Mapping[str, float], checkpoints: int, measure_s: float) -> Graph:
    """Return the steps of a leaderboard: every suite of every checkpoint, its costs on a node alone, and the page."""
    one = Needs(cpus=CPUS_PER_GPU, gpus=1)
    steps = []
    for number in range(checkpoints):
        if measure_s:
            alone = one.model_copy(update={"exclusive": True})
            steps.append(make_step("measure", f"measure-{number}", measure_s, alone))
        steps += [make_step("evaluate", f"{suite}-{number}", taken, one) for suite, taken in seconds.items()]
    steps.append(make_step("report", "report", REPORT_S, Needs(), [step.id for step in steps]))
    return make_graph(Path("plan"), steps)


def get_seconds(step: Step) -> float:
    """Return what the pilot says."""
    assert step.estimated_s is not None
    return step.estimated_s


def simulate(graph: Graph, nodes: Sequence[SimulatedNode], lost: int) -> SimulatedSweep:
    """Return the sweep; the first attempt of every *lost*-th step is lost half way (0: none)."""
    losing = {step.id for step in graph.steps[lost - 1 :: lost]} if lost else set()
    return simulate_sweep(
        graph, nodes, get_seconds, lambda step, attempt: 0.5 if attempt == 1 and step.id in losing else None
    )


def describe(found: SimulatedSweep, price: float) -> list[str]:
    """Return the cells of a row: nodes, time, bound, share of the GPUs in use, GPU hours, lost ones, money."""
    gpus = sum(node.gpus for node in found.nodes)
    used, reserved = (found.count_gpu_s(is_reserved=each) / SECONDS_PER_HOUR for each in (False, True))
    work_s = sum(run.seconds for run in found.runs if run.is_done and not run.step.startswith("report"))
    return [
        f"{len(found.nodes)} nodes, {gpus} GPUs",
        f"{found.makespan_s / SECONDS_PER_HOUR:.2f}",
        f"{max(found.critical_path_s, work_s / gpus) / SECONDS_PER_HOUR:.2f}",
        f"{used / reserved:.0%}",
        f"{reserved:,.1f}",
        f"{found.lost_s / SECONDS_PER_HOUR:.2f}",
        f"{price * reserved:,.0f}",
    ]


def main() -> None:
    """Print what the pilot took, and the plan on one GPU, on some of the nodes, and on all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pilot", type=Path, nargs="+", help="run folders, one for each suite")
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of a node")
    parser.add_argument("--scale", type=float, default=1.0, help="times the pilot's seconds, as for more rows")
    parser.add_argument("--opening-s", type=float, default=20.0)
    parser.add_argument("--measure-s", type=float, default=200.0, help="a measurement with its budget; 0 for none")
    parser.add_argument("--lost", type=int, default=0, metavar="N", help="lose the node of every Nth step once")
    parser.add_argument("--assume", nargs="*", default=[], metavar="SUITE=S", help="seconds of suites without a pilot")
    parser.add_argument("--price", type=float, default=1.0, help="of a GPU hour")
    given = parser.parse_args()
    seconds = {folder.name: given.opening_s + given.scale * load_record(folder).seconds for folder in given.pilot}
    seconds |= {name: given.opening_s + float(taken) for name, _, taken in (one.partition("=") for one in given.assume)}
    print(f"One checkpoint, {len(seconds)} suites: {sum(seconds.values()):,.0f} s")
    print("  " + ", ".join(f"{suite} {taken:.0f}" for suite, taken in seconds.items()))
    cores = CPUS_PER_GPU * given.gpus
    large, single = SimulatedNode(cores, given.gpus), SimulatedNode(CPUS_PER_GPU, 1)
    whole = plan_graph(seconds, given.checkpoints, given.measure_s)
    scored = plan_graph(seconds, given.checkpoints, 0.0)
    print(f"{len(whole.steps):,} steps; hours, bound in hours, GPUs in use, GPU hours, lost hours, price")
    plans = {
        "one GPU": (whole, [single]),
        "scores and costs": (whole, [large] * given.nodes),
        "scores alone": (scored, [large] * given.nodes),
        "single-GPU nodes": (whole, [single] * (given.nodes * given.gpus)),
    }
    for name, (graph, nodes) in plans.items():
        print(" | ".join([f"{name:18}", *describe(simulate(graph, nodes, given.lost), given.price)]))


if __name__ == "__main__":
    main()
