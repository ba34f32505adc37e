"""A step runs in a process of its own, and ends in an outcome whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import counted_steps
import pytest

from bitnet_bench.processes import STOPPED_STATUS
from bitnet_bench.sweeps.attempts import Attempt
from bitnet_bench.sweeps.graph import Needs, StepOutcome
from bitnet_bench.sweeps.step_process import StepCall, StepProcess, load_progress, name_function

TESTS = str(Path(counted_steps.__file__).parent)


def make_call(folder: Path, **changes: Any) -> StepCall:
    step = counted_steps.make_step(folder, "step", **changes)
    paths = os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH", ""))))
    return StepCall(
        step,
        name_function(counted_steps.run_counted),
        str(folder / "step.log"),
        str(folder / "progress"),
        environment={"PYTHONPATH": paths},
    )


def test_a_step_runs_once_however_many_attempts_there_are(tmp_path: Path) -> None:
    call = make_call(tmp_path)
    attempts = [Attempt(call, str(tmp_path / "outcome.json"), str(tmp_path)) for _ in range(2)]
    first, second = (attempt.run() for attempt in attempts)
    assert first.is_done, first.problem
    assert first == second
    assert counted_steps.read_effects(tmp_path) == [("step", "begin"), ("step", "unit-0"), ("step", "end")]
    progress = load_progress(tmp_path / "progress")
    assert progress is not None
    assert progress.title == "step"


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    outcome = Attempt(make_call(tmp_path, job={"fails": "The rows are gone."})).run()
    assert (outcome.is_done, outcome.problem, outcome.is_lost) == (False, "The rows are gone.", False)


def test_a_process_that_is_killed_is_explained(tmp_path: Path) -> None:
    outcome = Attempt(make_call(tmp_path, job={"dies": int(signal.SIGKILL)})).run()
    assert not outcome.is_done
    assert "SIGKILL" in outcome.problem
    assert "memory" in outcome.problem
    assert str(tmp_path / "step.log") in outcome.problem


def test_an_exception_is_in_the_log_and_in_the_outcome(tmp_path: Path) -> None:
    step = make_call(tmp_path).step.model_copy(update={"inputs": (str(tmp_path / "missing"),)})
    call = StepCall(**{**vars(make_call(tmp_path)), "step": step})
    outcome = Attempt(call).run()
    assert "FileNotFoundError" in outcome.problem
    assert "Traceback" in (tmp_path / "step.log").read_text(encoding="utf-8")


def test_a_step_that_is_asked_to_stop_goes_on_from_what_it_had(tmp_path: Path) -> None:
    call = make_call(tmp_path, job={"units": 50, "sleep_s": 0.1})
    process = StepProcess(call)
    while len(counted_steps.read_effects(tmp_path)) < 3:
        time.sleep(0.02)
    process.ask_to_stop()
    assert process.wait(10)
    stopped = process.read_outcome()
    assert (stopped.is_done, stopped.is_lost) == (False, True)
    done = [what for _, what in counted_steps.read_effects(tmp_path) if what.startswith("unit")]
    assert 0 < len(done) < 50
    rest = make_call(tmp_path, job={"units": len(done) + 2})
    assert Attempt(rest).run().is_done
    units = [what for _, what in counted_steps.read_effects(tmp_path) if what.startswith("unit")]
    assert units == [f"unit-{number}" for number in range(len(done) + 2)]


def test_an_attempt_that_another_has_replaced_ends_its_process(tmp_path: Path) -> None:
    call = make_call(tmp_path, job={"units": 400, "sleep_s": 0.1})
    attempt = Attempt(call, shared=str(tmp_path))

    class Later(StepProcess):
        """Another attempt that claims the step as soon as it runs."""

        def wait(self, timeout_s: float) -> bool:
            claim = tmp_path / "claims" / "step.json"
            later = {"token": "1a7e" * 4, "beats": 1, "host": "other", "boot": "", "process": 1}
            claim.write_text(json.dumps(later), encoding="utf-8")
            return super().wait(timeout_s)

    started: list[Later] = []

    def start(call: StepCall) -> Later:
        started.append(Later(call))
        return started[0]

    outcome = attempt.run(start=start)
    assert outcome == StepOutcome(id="step", is_done=False, problem="A later attempt has taken it over.", is_lost=True)
    assert started[0].has_ended


@pytest.mark.slow  # torchrun imports torch in three processes
def test_a_step_of_two_processes_is_started_by_torchrun(tmp_path: Path) -> None:
    call = make_call(tmp_path, needs=Needs(cpus=2, processes=2), job={"tells": True})
    outcome = Attempt(call).run()
    assert outcome.is_done, (tmp_path / "step.log").read_text(encoding="utf-8")
    assert '"WORLD_SIZE": "2"' in (tmp_path / "step" / "result.json").read_text(encoding="utf-8")
    assert counted_steps.read_effects(tmp_path).count(("step", "end")) == 1


def test_the_status_of_a_stop_is_that_of_a_temporary_failure() -> None:
    assert os.EX_TEMPFAIL == STOPPED_STATUS
