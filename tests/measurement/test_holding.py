"""A run folder belongs to its measurement while that lasts, edited records are not sealed again, and files that happen
to stand in the current folder are not run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.measurement import contest
from bitnet_bench.measurement.child import PARITY_COMMAND, WORKER_COMMAND
from bitnet_bench.measurement.contest import CandidateOutcome
from bitnet_bench.measurement.measure import measure
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.runs.folder import RECORD_FILE, load_record, lock_folder, save_record
from bitnet_bench.runs.records import RunRecord

SHORT = Scenario(prompt_tokens=16, new_tokens=4, rounds=2, threads=1, budget_s=600)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Give a run folder of the embedded checkpoint."""
    record = RunRecord(
        name="run",
        checkpoint=open_checkpoint("demo"),
        backend="hf",
        precision="ternary",
        environment=read_environment(),
    )
    save_record(tmp_path / "run", record)
    return tmp_path / "run"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a measurement that begins fail the test."""

    def never(*_: Any) -> Any:
        raise AssertionError("nothing may be measured")

    monkeypatch.setattr(contest, "measure_in_rounds", never)


def test_a_run_that_is_being_written_is_not_measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured would be overwritten by the next task that is finished; it is said before minutes are spent."""
    forbid(monkeypatch)
    with lock_folder(run), pytest.raises(BenchError, match="Another process writes into"):
        measure([("demo", "ternary", run)], SHORT, backend="hf")


def test_a_measurement_holds_its_run_from_before_the_first_round(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that began meanwhile would write the record that it read before."""

    def look(contestants: Sequence[Any], *_: Any) -> list[CandidateOutcome]:
        with pytest.raises(BenchError, match="Another process writes into"), lock_folder(run):
            pass
        return [CandidateOutcome(left_out="No time.") for _ in contestants]

    monkeypatch.setattr(contest, "measure_in_rounds", look)
    measure([("demo", "ternary", run)], SHORT, backend="hf")
    assert load_record(run).cost_left_out == {"hf ternary": "No time."}
    with lock_folder(run):
        pass  # and it is free again


def test_an_edited_record_is_not_measured_into(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new seal would vouch for what was edited."""
    forbid(monkeypatch)
    fields = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
    (run / RECORD_FILE).write_text(json.dumps({**fields, "name": "another"}), encoding="utf-8")
    with pytest.raises(BenchError, match="was edited after it was written"):
        measure([("demo", "ternary", run)], SHORT, backend="hf")


@pytest.mark.parametrize("command", [WORKER_COMMAND, PARITY_COMMAND])
def test_a_file_in_the_current_folder_is_not_run(command: tuple[str, ...], tmp_path: Path) -> None:
    """It has the name of a module of the standard library, and would be imported instead of that."""
    (tmp_path / "random.py").write_text("open('was-run', 'w')\n", encoding="utf-8")
    subprocess.run(command, cwd=tmp_path, input="", text=True, capture_output=True, timeout=300, check=False)
    assert not (tmp_path / "was-run").exists()
