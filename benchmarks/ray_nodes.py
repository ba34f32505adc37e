"""Measure how much faster two Ray nodes of one core each run a sweep's steps than one, on this machine.

PYTHONPATH=tests python benchmarks/ray_nodes.py --work cpu_s: steps compute, which needs a quiet machine of two cores.
With --work sleep_s they wait, and what is measured is what Ray and the executor add.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import counted_steps
from ray.cluster_utils import Cluster

from bitnet_bench.sweeps.executors import ExecutorOptions, open_executor
from bitnet_bench.sweeps.graph import Graph
from bitnet_bench.sweeps.scheduler import SweepState, run_graph

STORE_BYTES = 80 * 2**20


def run(graph: Graph, address: str) -> tuple[SweepState, float]:
    """Run *graph*, and return how long that took."""
    options = ExecutorOptions(settings={"address": address})
    with open_executor("ray", graph, counted_steps.run_counted, options) as executor:
        began = time.monotonic()
        return run_graph(graph, executor), time.monotonic() - began


def measure(nodes: int, work: str, seconds: float, steps: int) -> float:
    """Return how long *steps* steps take on *nodes* nodes whose workers have started."""
    node = {"object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **node})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, **node)
    folder = Path(tempfile.mkdtemp(prefix="ray-nodes-"))
    run(counted_steps.make_counted_graph(folder, "wxyz"), cluster.address)
    graph = counted_steps.make_counted_graph(folder, "abcdefghijklmnop"[:steps], job={work: seconds})
    state, wall = run(graph, cluster.address)
    busy = sum(outcome.seconds for outcome in state.outcomes.values()) / (nodes * wall)
    print(f"{nodes} nodes: {wall:.1f} s, cores held by steps {busy:.0%} of the time, load {os.getloadavg()[0]:.1f}")
    cluster.shutdown()
    return wall


def main() -> None:
    """Measure one node and two, and print how many times faster two are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=("cpu_s", "sleep_s"), default="cpu_s")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    paths = (str(Path(counted_steps.__file__).parent), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    one, two = (measure(nodes, given.work, given.seconds, given.steps) for nodes in (1, 2))
    print(f"two nodes: {one / two:.2f} times one")


if __name__ == "__main__":
    main()
