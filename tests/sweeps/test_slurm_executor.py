"""Jobs of SLURM are arrays, are found again by a later call, and are queued again only if their machine failed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import counted_steps
import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.sweeps.cluster_settings import SlurmSettings, choose_settings, parse_minutes
from bitnet_bench.sweeps.executors import ExecutorOptions, open_executor
from bitnet_bench.sweeps.graph import Graph, Needs, StepOutcome
from bitnet_bench.sweeps.scheduler import run_graph
from bitnet_bench.sweeps.slurm_executor import LOOK_S, SIGHT_S, SlurmExecutor
from bitnet_bench.sweeps.slurm_jobs import StepJob
from bitnet_bench.sweeps.slurm_queue import make_parameters

TESTS = str(Path(counted_steps.__file__).parent)
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed: pip install 'bitnet-bench[slurm]'"
)


class FakeQueue:
    """A queue that runs nothing by itself, and remembers what it was given."""

    def __init__(self) -> None:
        self.arrays: list[tuple[str, list[dict[str, Any]], Needs, Sequence[str]]] = []
        self.states: dict[str, str] = {}
        self.explanations: dict[str, str] = {}
        self.refuses = ""

    def check(self, needs: Needs) -> str:
        """Refuse what needs more than eight cores."""
        return "Requested node configuration is not available" if needs.cpus > 8 else ""

    def submit(
        self, jobs: Sequence[StepJob], needs: Needs, name: str, after: Sequence[str] = (), *, whatever: bool = False
    ) -> list[str]:
        """Remember the jobs, which wait."""
        if self.refuses:
            raise BenchError(self.refuses)
        self.arrays.append((name, [json.loads(job._order) for job in jobs], needs, after))
        number = len(self.arrays)
        ids = [f"{number}_{index}" for index in range(len(jobs))] if len(jobs) > 1 else [str(number)]
        self.states |= dict.fromkeys(ids, "PENDING")
        return ids

    def find(self, name: str) -> list[str]:
        """Return the jobs of that name that still wait."""
        number = next((str(n) for n, array in enumerate(self.arrays, 1) if array[0] == name), "none")
        return [job for job in self.states if job.partition("_")[0] == number]

    def list_states(self) -> Mapping[str, str] | None:
        """Return what waits."""
        return self.states

    def explain(self, job: str) -> str:
        """Return what a test says."""
        return self.explanations.get(job, "")

    def cancel(self, jobs: Sequence[str]) -> None:
        """Let *jobs* leave."""
        for job in jobs:
            del self.states[job]

    def close(self) -> None:
        """Let go of nothing."""

    def end(self, job: str, outcome: StepOutcome | None) -> None:
        """Let *job* leave the queue, with the outcome that it has written, if any."""
        number, _, index = job.partition("_")
        told = self.arrays[int(number) - 1][1][int(index or 0)]
        if outcome is not None:
            Path(told["outcome"]).parent.mkdir(parents=True, exist_ok=True)
            Path(told["outcome"]).write_text(outcome.model_dump_json(), encoding="utf-8")
        del self.states[job]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def open_fake(graph: Graph, queue: FakeQueue, clock: Clock | None = None) -> SlurmExecutor:
    return SlurmExecutor(graph, counted_steps.run_counted, SlurmSettings(), queue, clock=clock or Clock())


def test_ready_steps_of_equal_needs_are_one_array(tmp_path: Path) -> None:
    steps = [counted_steps.make_step(tmp_path, name, needs=Needs(cpus=1 + (name == "c"))) for name in "abcd"]
    queue = FakeQueue()
    open_fake(Graph(steps=tuple(steps), folder=str(tmp_path)), queue).submit(steps)
    assert [[told["call"]["step"]["id"] for told in array[1]] for array in queue.arrays] == [["a", "b", "d"], ["c"]]
    assert queue.arrays[0][0].startswith(f"{tmp_path.name}-evaluate-")


def test_a_large_array_is_divided(tmp_path: Path) -> None:
    steps = [counted_steps.make_step(tmp_path, f"step{number}") for number in range(501)]
    queue = FakeQueue()
    open_fake(Graph(steps=tuple(steps), folder=str(tmp_path)), queue).submit(steps)
    assert [len(array[1]) for array in queue.arrays] == [500, 1]


def test_a_later_call_finds_its_jobs_and_queues_nothing_twice(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "ab"), FakeQueue()
    open_fake(graph, queue).submit(graph.steps)  # and is killed
    queue.end("1_0", StepOutcome(id="a", is_done=True))
    again = open_fake(graph, queue)
    again.submit(graph.steps)
    assert len(queue.arrays) == 1
    assert [outcome.id for outcome in again.wait(0)] == ["a"]
    queue.end("1_1", StepOutcome(id="b", is_done=True))
    assert [outcome.id for outcome in again.wait(0)] == ["b"]


def test_a_call_that_was_killed_while_it_queued_finds_its_jobs_by_their_name(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "ab"), FakeQueue()
    first = open_fake(graph, queue)

    class Killed(BaseException):
        """The end of the process."""

    def die(*given: Any, **named: Any) -> list[str]:
        FakeQueue.submit(queue, *given, **named)
        raise Killed

    queue.submit = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        first.submit(graph.steps)
    del queue.submit  # type: ignore[method-assign]
    again = open_fake(graph, queue)
    again.submit(graph.steps)
    assert len(queue.arrays) == 1
    queue.end("1_1", StepOutcome(id="b", is_done=True))
    assert [outcome.id for outcome in again.wait(0)] == ["b"]


def test_a_job_that_was_cancelled_meanwhile_is_queued_again_by_the_next_call(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "ab"), FakeQueue()
    open_fake(graph, queue).submit(graph.steps)
    queue.explanations["1_1"] = "CANCELLED"
    queue.cancel(["1_1"])
    open_fake(graph, queue).submit(graph.steps)
    assert [[told["call"]["step"]["id"] for told in array[1]] for array in queue.arrays] == [["a", "b"], ["b"]]


def test_an_outcome_is_read_once(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "a"), FakeQueue()
    executor = open_fake(graph, queue)
    for number in (1, 2):  # the second call because an input has changed, for instance
        executor.submit(graph.steps)
        assert len(queue.arrays) == number
        queue.end(str(number), StepOutcome(id="a", is_done=True))
        assert len(executor.wait(0)) == 1


def test_a_job_of_another_step_of_that_name_is_not_taken_for_it(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "a"), FakeQueue()
    open_fake(graph, queue).submit(graph.steps)
    changed = graph.steps[0].model_copy(update={"key": "another"})
    open_fake(Graph(steps=(changed,), folder=str(tmp_path)), queue).submit([changed])
    assert len(queue.arrays) == 2


@pytest.mark.parametrize("state", ["", "NODE_FAIL"])
def test_a_job_that_was_lost_with_its_node_is_queued_again_twice(tmp_path: Path, state: str) -> None:
    graph, queue, clock = counted_steps.make_counted_graph(tmp_path, "a"), FakeQueue(), Clock()
    executor = open_fake(graph, queue, clock)
    executor.submit(graph.steps)
    found: list[StepOutcome] = []
    for job in "123":
        queue.explanations[job] = state
        queue.end(job, None)
        clock.now_s += LOOK_S
        found = [*executor.wait(0)]
        assert found == []
        clock.now_s += SIGHT_S
        found = [*executor.wait(0)]
    assert len(queue.arrays) == 3
    assert (found[0].is_done, found[0].is_lost) == (False, True)
    assert "slurm/jobs/3_0_log.out" in found[0].problem


@pytest.mark.parametrize(
    ("state", "said"), [("CANCELLED", "cancelled"), ("OUT_OF_MEMORY", "more memory"), ("TIMEOUT", "time")]
)
def test_a_job_that_would_end_so_again_is_not_queued_again(tmp_path: Path, state: str, said: str) -> None:
    graph, queue, clock = counted_steps.make_counted_graph(tmp_path, "a"), FakeQueue(), Clock()
    executor = open_fake(graph, queue, clock)
    executor.submit(graph.steps)
    queue.explanations["1"] = state
    queue.end("1", None)
    executor.wait(0)
    clock.now_s += SIGHT_S
    (outcome,) = executor.wait(0)
    assert said in outcome.problem
    assert len(queue.arrays) == 1


def test_a_result_that_is_seen_late_is_not_a_loss(tmp_path: Path) -> None:
    graph, queue, clock = counted_steps.make_counted_graph(tmp_path, "a"), FakeQueue(), Clock()
    executor = open_fake(graph, queue, clock)
    executor.submit(graph.steps)
    told = queue.arrays[0][1][0]
    queue.end("1", None)
    executor.wait(0)
    clock.now_s += SIGHT_S / 2
    Path(told["outcome"]).parent.mkdir(parents=True, exist_ok=True)
    Path(told["outcome"]).write_text(StepOutcome(id="a", is_done=True).model_dump_json(), encoding="utf-8")
    assert executor.wait(0)[0].is_done


def test_a_refused_job_leaves_nothing_in_the_ledger(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "a"), FakeQueue()
    queue.refuses = "SLURM does not take the job: Invalid account."
    with pytest.raises(BenchError, match="Invalid account"):
        open_fake(graph, queue).submit(graph.steps)
    queue.refuses = ""
    open_fake(graph, queue).submit(graph.steps)
    assert len(queue.arrays) == 1


def test_what_can_never_run_is_found_before_anything_is_queued(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "a", needs=Needs(cpus=9), line=7), FakeQueue()
    with pytest.raises(UsageError, match="Line 7: SLURM cannot run a: Requested node"):
        run_graph(graph, open_fake(graph, queue))
    assert queue.arrays == []


def test_an_interruption_ends_the_jobs(tmp_path: Path) -> None:
    graph, queue = counted_steps.make_counted_graph(tmp_path, "ab"), FakeQueue()
    executor = open_fake(graph, queue)
    executor.submit(graph.steps)
    executor.cancel()
    assert queue.states == {}
    open_fake(graph, queue).submit(graph.steps)
    assert len(queue.arrays) == 2


def test_a_step_can_be_queued_to_start_after_those_before_it(tmp_path: Path) -> None:
    steps = [
        counted_steps.make_step(tmp_path, "a"),
        counted_steps.make_step(tmp_path, "b", after=("a",)),
        counted_steps.make_step(tmp_path, "c", after=("a", "b"), tolerates_failures=True),
    ]
    queue = FakeQueue()
    graph = Graph(steps=tuple(steps), folder=str(tmp_path))
    assert open_fake(graph, queue).queue_all() == {"a": "1", "b": "2", "c": "3"}
    assert [array[3] for array in queue.arrays] == [[], ["1"], ["1", "2"]]
    assert open_fake(graph, queue).queue_all(done=["a"]) == {"b": "2", "c": "3"}
    assert len(queue.arrays) == 3
    queue.end("1", StepOutcome(id="a", is_done=True))
    queue.end("2", StepOutcome(id="b", is_done=False, problem="It broke."))
    assert open_fake(graph, queue).queue_all() == {"b": "4", "c": "3"}
    assert queue.arrays[3][3] == [], "the job of what is done may be forgotten"


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("90:01", 91), ("4:00:00", 240), ("1-2", 1560), ("2-00:30", 2910), ("0:0:30", 1)]
)
def test_a_time_limit_is_read_as_slurm_reads_it(text: str, minutes: int) -> None:
    assert parse_minutes(text) == minutes


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="`time` must be minutes"):
        SlurmSettings(time="soon")
    with pytest.raises(UsageError, match="as long as a job"):
        SlurmSettings(time="2", signal_s=120)
    with pytest.raises(UsageError, match="partitoin"):
        SlurmSettings(partitoin="gpu")


def test_the_command_line_speaks_last() -> None:
    said = SlurmSettings(partition="cpu", time=30)
    chosen = choose_settings(SlurmSettings, said, {"partition": "gpu", "time": None})
    assert (chosen.partition, chosen.minutes) == ("gpu", 30)


def test_a_job_asks_for_what_its_step_needs() -> None:
    needs = Needs(cpus=4, gpus=2, memory_bytes=3 * 2**30 + 1, exclusive=True)
    asked = make_parameters(SlurmSettings(gres="gpu:a100", partition="gpu"), needs)
    assert asked["gres"] == "gpu:a100:2"
    assert (asked["cpus_per_task"], asked["mem"], asked["exclusive"]) == (4, "3073M", True)
    assert make_parameters(SlurmSettings(), needs)["gpus_per_node"] == 2


def test_without_submitit_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    graph = counted_steps.make_counted_graph(tmp_path, "a")
    options = ExecutorOptions(settings={"cluster": "local"})
    with (
        pytest.raises(UsageError, match="needs submitit") as caught,
        open_executor("slurm", graph, counted_steps.run_counted, options),
    ):
        pass
    assert "bitnet-bench[slurm]" in caught.value.hint


@needs_submitit
def test_two_commands_do_not_queue_the_same_sweep(tmp_path: Path) -> None:
    graph = counted_steps.make_counted_graph(tmp_path, "a")
    options = ExecutorOptions(settings={"cluster": "local"})
    first, second = (open_executor("slurm", graph, counted_steps.run_counted, options) for _ in range(2))
    with first, pytest.raises(BenchError, match="Another command runs the sweep"), second:
        pass


@needs_submitit
def test_steps_run_through_submitit_and_save_at_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of submitit's local executor gets SIGUSR1, saves, is started again, and goes on from what it had."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH", "")))))
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    graph = counted_steps.make_counted_graph(tmp_path, "a", job={"units": 12, "sleep_s": 0.1})
    options = ExecutorOptions(settings={"cluster": "local"})
    with open_executor("slurm", graph, counted_steps.run_counted, options) as executor:
        executor.submit(graph.steps)
        while ("a", "unit-2") not in counted_steps.read_effects(tmp_path):
            time.sleep(0.05)
        (job,) = executor._queue._jobs.values()  # type: ignore[attr-defined]
        controller = int(job.job_id)
        children = Path(f"/proc/{controller}/task/{controller}/children").read_text(encoding="ascii").split()
        os.kill(int(children[0]), signal.SIGUSR1)
        state = run_graph(graph, executor)
    assert state.outcomes["a"].is_done, state.outcomes["a"].problem
    effects = counted_steps.read_effects(tmp_path)
    assert effects.count(("a", "begin")) == 2
    assert [what for _, what in effects if what.startswith("unit")] == [f"unit-{number}" for number in range(12)]
    log = (tmp_path / "slurm" / "jobs" / f"{job.job_id}_0_log.out").read_text(encoding="utf-8")
    assert "Requeued job" in log
