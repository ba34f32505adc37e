"""Steps run in processes of this machine, as many as their needs leave room for, and end with the scheduler."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from bitnet_bench.errors import UsageError
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.sweeps import local
from bitnet_bench.sweeps.executors import ExecutorOptions
from bitnet_bench.sweeps.graph import Graph, Needs, Step, StepOutcome, make_graph
from bitnet_bench.sweeps.local import LocalExecutor, Machine
from bitnet_bench.sweeps.scheduler import run_graph

LONG_S = 60


def act(step: Step, steps: ProgressDisplay) -> StepOutcome:
    """Do what the job of *step* says: a worker process imports this module and calls it."""
    what, out = step.job["do"], Path(step.job["out"])
    print(f"{step.id} does {what}", flush=True)
    with steps(what) as progress:
        progress(1, 2, "half")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            (out / f"{step.id}.pid").write_text(str(os.getpid()), encoding="utf-8")
            time.sleep(LONG_S)
        (out / step.id).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""), encoding="utf-8")
    return StepOutcome(id=step.id, is_done=what != "fail", problem="It broke." if what == "fail" else "")


def plan(folder: Path, **acts: str) -> Graph:
    """Return a graph of independent steps that act as said."""
    steps = [
        Step(id=name, kind="evaluate", title=name, job={"do": what, "out": str(folder)}, key=name)
        for name, what in acts.items()
    ]
    return make_graph(folder, steps)


@contextmanager
def executor(graph: Graph, jobs: int | None = None) -> Iterator[Any]:
    """Open an executor whose processes import nothing beforehand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "PRELOADED", [])
        with local.open_executor(graph, act, ExecutorOptions(jobs)) as opened:
            yield opened


def test_each_step_has_a_process_whose_death_is_not_that_of_the_others(tmp_path: Path) -> None:
    graph = plan(tmp_path, one="work", two="die", three="fail", four="work")
    with executor(graph, jobs=2) as opened:
        sweep = run_graph(graph, opened)
    assert sweep.states == {"one": "done", "two": "failed", "three": "failed", "four": "done"}
    assert (tmp_path / "four").is_file()
    assert "ended by SIGKILL" in sweep.outcomes["two"].problem
    assert sweep.outcomes["two"].is_lost
    assert not sweep.outcomes["three"].is_lost
    assert (tmp_path / "logs/two.log").read_text(encoding="utf-8") == "two does die\n"


def run_and_hang(folder: str) -> None:
    """Run a sweep of one step that hangs: the scheduler that a test kills."""
    graph = plan(Path(folder), one="hang")
    with executor(graph) as opened:
        run_graph(graph, opened)


def test_a_scheduler_that_is_killed_takes_its_steps_with_it(tmp_path: Path) -> None:
    scheduler = multiprocessing.get_context("spawn").Process(target=run_and_hang, args=(str(tmp_path),))
    scheduler.start()
    file = tmp_path / "one.pid"
    assert wait_until(lambda: file.is_file() and file.read_text(encoding="utf-8"))
    scheduler.kill()
    scheduler.join()
    pid = int(file.read_text(encoding="utf-8"))
    try:
        assert wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(holds: Callable[[], Any]) -> bool:
    """Return whether *holds* becomes true before a hanging step would end by itself."""
    deadline = time.monotonic() + LONG_S / 2
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(found)


def test_an_interruption_ends_every_process(tmp_path: Path) -> None:
    graph = plan(tmp_path, one="hang", two="hang")

    def interrupt(sweep: Any) -> None:
        if len(list(tmp_path.glob("*.pid"))) == 2 and sweep.progress:
            raise KeyboardInterrupt

    with executor(graph, jobs=2) as opened, pytest.raises(KeyboardInterrupt):
        run_graph(graph, opened, display=interrupt)
    for file in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text(encoding="utf-8")), 0)
    assert not (tmp_path / "one").exists()


def make_step(name: str, **needs: Any) -> Step:
    return Step(id=name, kind="evaluate", title=name, job={}, key=name, needs=Needs(**needs))


def choose(jobs: int, *steps: Step) -> list[str]:
    """Return the steps that start at once on a machine of four cores, two GPUs and 10 bytes."""
    machine = Machine(4, ("0", "1"), 10)
    opened = LocalExecutor(make_graph(Path("out"), steps), act, jobs, machine, None)
    return [step.id for step in opened.choose(steps)]


def test_steps_start_together_as_their_needs_leave_room() -> None:
    assert choose(9, make_step("a", cpus=3), make_step("b", cpus=2), make_step("c")) == ["a", "c"]
    assert choose(9, make_step("a", gpus=1), make_step("b", gpus=2), make_step("c", gpus=1)) == ["a", "c"]
    assert choose(9, make_step("a", memory_bytes=6), make_step("b", memory_bytes=6)) == ["a"]
    assert choose(2, make_step("a"), make_step("b"), make_step("c")) == ["a", "b"]


def test_a_measurement_runs_alone() -> None:
    assert choose(9, make_step("a"), make_step("b", exclusive=True), make_step("c")) == ["a", "c"]
    assert choose(9, make_step("b", exclusive=True), make_step("a")) == ["b"]


def test_a_step_that_can_never_run_here_is_an_error_before_anything_starts() -> None:
    opened = LocalExecutor(make_graph(Path("out"), []), act, 1, Machine(4, (), 10), None)
    graph = make_graph(Path("out"), [make_step("a", gpus=2).model_copy(update={"line": 7})])
    with pytest.raises(UsageError, match="Line 7: a needs 2 GPUs, and this machine has 0"):
        opened.check(graph)


def test_every_step_sees_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "look_at_machine", lambda: Machine(4, ("5", "7"), 10**12))
    steps = [
        make_step(name, gpus=1).model_copy(update={"job": {"do": "work", "out": str(tmp_path)}})
        for name in ("one", "two")
    ]
    graph = make_graph(tmp_path, steps)
    with executor(graph) as opened:
        run_graph(graph, opened)
    assert {(tmp_path / name).read_text(encoding="utf-8") for name in ("one", "two")} == {"5", "7"}
