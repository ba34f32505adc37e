"""A step for tests of executors: units of work that are saved one by one, and a line for everything it does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_bench.processes import read_rank
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.sweeps.graph import Graph, Needs, Step, StepOutcome, make_graph


def make_step(folder: Path | str, name: str, **changes: Any) -> Step:
    """Return a step that writes a file into a folder of its own below *folder*."""
    fields = {"kind": "evaluate", "title": name, "key": f"key of {name}", "needs": Needs()} | changes
    job = {"out": f"{folder}/{name}", "effects": f"{folder}/effects", "units": 1} | fields.pop("job", {})
    out = f"{folder}/{name}"
    return Step(id=name, folder=out, outputs=(f"{out}/result.json",), job=job, **fields)


def make_counted_graph(folder: Path, names: str, **changes: Any) -> Graph:
    """Return a graph of independent steps, one for each letter of *names*."""
    return make_graph(folder, [make_step(folder, name, **changes) for name in names])


def run_counted(step: Step, steps: ProgressDisplay) -> StepOutcome:
    """Do the units of *step* that are not done, and write its result."""
    job = step.job
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    if read_rank() == 0:
        note(job, "begin")
    with steps(step.title) as progress:
        for unit in range(len(list(out.glob("unit-*"))), job["units"]):
            spend(job)
            if read_rank() == 0:
                (out / f"unit-{unit}").touch()
                note(job, f"unit-{unit}")
            progress(unit + 1, job["units"])
    if job.get("fails"):
        return StepOutcome(id=step.id, is_done=False, problem=job["fails"])
    if job.get("dies"):
        os.kill(os.getpid(), job["dies"])
    told = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    read = {path: Path(path).read_text(encoding="utf-8") for path in step.inputs}
    if read_rank() == 0:
        result = {"id": step.id, "read": read, "told": told if job.get("tells") else {}}
        (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
        note(job, "end")
    return StepOutcome(id=step.id, is_done=True)


def spend(job: Mapping[str, Any]) -> None:
    """Sleep, and compute, for as long as *job* says."""
    time.sleep(job.get("sleep_s", 0.0))
    began = time.process_time()
    while time.process_time() - began < job.get("cpu_s", 0.0):
        sum(range(1000))


def note(job: Mapping[str, Any], what: str) -> None:
    """Add a line to the file of effects, which several processes write."""
    line = json.dumps({"out": Path(job["out"]).name, "what": what, "node": os.environ.get("RAY_NODE_ID", "")})
    file = os.open(job["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def read_effects(folder: Path | str) -> list[tuple[str, str]]:
    """Return (step, what it did) in the order in which it was done."""
    file = Path(folder) / "effects"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [(said["out"], said["what"]) for said in map(json.loads, lines)]
