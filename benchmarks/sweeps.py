"""Time what a sweep adds: over the plain commands, to plan 1,000 steps, and to find a finished sweep finished.

    python benchmarks/sweeps.py plan        # read and plan a matrix of 1,000 steps, and resume it when it is finished
    python benchmarks/sweeps.py overhead    # the same evaluations as plain commands and as a sweep, in CPU seconds

The finished sweep is one real run that stands in 1,000 folders, with the index that a sweep writes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STEPS = 1000
ROUNDS = 3
LIMIT = 40
LARGE = f"""\
matrix:
  checkpoints: [demo, demo-fp16]
  seeds: [{", ".join(map(str, range(STEPS // 2)))}]
evaluate: {{suites: [sample], tasks: [copa], limit: 2}}
"""
SMALL = """\
matrix:
  checkpoints: [demo, demo-fp16]
  suites: [sample]
  seeds: [0, 1, 2]
evaluate: {{limit: {limit}, cache: false}}
report: false
"""


def run(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a command of bitnet-bench; return its seconds on the clock, and of all its processes on the CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "bitnet_bench", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def finish_sweep(folder: Path) -> None:
    """Make the sweep `large.yaml` in *folder* a finished one: copies of a real run, and an index of them."""
    from bitnet_bench.pipeline.planning import plan_sweep
    from bitnet_bench.pipeline.recipe import read_sweep
    from bitnet_bench.pipeline.running import prepare_sweep, run_step
    from bitnet_bench.sweeps.done_index import FileIndex

    os.chdir(folder)
    out = Path("out")
    sweep = read_sweep(Path("large.yaml"))
    plan = plan_sweep(sweep, out)
    prepare_sweep(sweep, plan, out)
    index = FileIndex(plan.graph)
    first: dict[str, Path] = {}
    for step in plan.graph.steps:
        index.begin(step)
        if step.kind == "evaluate" and step.job["model"] in first:
            assert step.folder
            shutil.copytree(first[step.job["model"]], step.folder)
        else:
            outcome = run_step(step)
            assert outcome.is_done, outcome.problem
            if step.folder:
                first[step.job["model"]] = Path(step.folder)
        index.finish(step)
    index.flush()


def time_plan(folder: Path) -> dict[str, object]:
    """Return the times of planning and of resuming a finished sweep."""
    (folder / "large.yaml").write_text(LARGE, encoding="utf-8")
    script = (
        "import time; began = time.perf_counter()\n"
        "from pathlib import Path\n"
        "from bitnet_bench.pipeline.planning import plan_sweep\n"
        "from bitnet_bench.pipeline.recipe import read_sweep\n"
        "imported = time.perf_counter()\n"
        "plan = plan_sweep(read_sweep(Path('large.yaml')), Path('out'))\n"
        "print(len(plan.graph.steps), imported - began, time.perf_counter() - imported)\n"
    )
    found = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, capture_output=True, text=True)
        found.append([float(word) for word in done.stdout.split()])
    finish_sweep(folder)
    command = ["sweep", "large.yaml", "--out", "out"]
    resumed = [run(command, folder) for _ in range(ROUNDS)]
    dry = [run([*command, "--dry-run"], folder) for _ in range(ROUNDS)]
    return {
        "steps": found[0][0],
        "import_s": [one[1] for one in found],
        "plan_s": [one[2] for one in found],
        "resume_s": [one[0] for one in resumed],
        "resume_cpu_s": [one[1] for one in resumed],
        "dry_run_s": [one[0] for one in dry],
        "load": os.getloadavg(),
    }


def time_overhead(folder: Path, limit: int, rounds: int) -> dict[str, object]:
    """Return CPU and clock seconds of six evaluations as plain commands, and as one sweep, in turns."""
    (folder / "small.yaml").write_text(SMALL.format(limit=limit), encoding="utf-8")
    plain, sweeps = [], []
    for number in range(rounds):
        cells = [(model, seed) for model in ("demo", "demo-fp16") for seed in range(3)]
        times = [
            run(
                [
                    *("evaluate", "--suite", "sample", "--model", model, "--seed", str(seed), "--no-cache"),
                    *("--limit", str(limit), "--out", f"plain{number}/{model}-{seed}"),
                ],
                folder,
            )
            for model, seed in cells
        ]
        plain.append([sum(one[i] for one in times) for i in range(2)])
        sweeps.append(run(["sweep", "small.yaml", "--out", f"sweep{number}"], folder))
    return {"plain_s_and_cpu_s": plain, "sweep_s_and_cpu_s": sweeps, "load": os.getloadavg()}


def main() -> None:
    """Print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "overhead"))
    parser.add_argument("--limit", type=int, default=LIMIT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = time_plan(folder) if given.what == "plan" else time_overhead(folder, given.limit, given.rounds)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
