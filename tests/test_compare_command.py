"""`bitnet-bench compare`: what it prints, and with which status it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.runs.folder import load_record, save_record, save_samples

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50


@pytest.fixture
def runs(make_results: Any, tmp_path: Path) -> list[str]:
    """Give the folders of two runs, the first 40 points worse."""
    folders = []
    for name, got in (("a", BAD), ("b", GOOD)):
        run = make_results(name, {"kobest:boolq": got})
        samples = {task: save_samples(tmp_path / name, task, rows) for task, rows in run.examples.items()}
        save_record(tmp_path / name, run.record.model_copy(update={"samples": samples}))
        folders.append(str(tmp_path / name))
    return folders


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments])


def test_the_verdict_comes_first(runs: list[str]) -> None:
    """The first line says who is better, by how much, and how sure that is."""
    result = run(*runs)
    assert result.exit_code == 0
    assert result.stdout.startswith("Over 1 task, ‘a’ is 40.0 points worse than ‘b’ on average (95% interval −")


@pytest.mark.parametrize(("bound", "status"), [("< -1.0", 1), ("< -50", 0)])
def test_a_condition_decides_the_status(bound: str, status: int, runs: list[str]) -> None:
    """--fail-if ends with 1 where it holds, and says the number."""
    result = run(*runs, "--fail-if", f"kobest.accuracy {bound}", "--format", "json")
    assert result.exit_code == status
    assert json.loads(result.stdout)["differences"][0]["difference"] == -40.0
    assert "kobest.accuracy is −40.0" in result.stderr


@pytest.mark.parametrize("edited", ["record.json", "samples/kobest-boolq.jsonl"])
def test_no_condition_passes_on_an_edited_run(edited: str, runs: list[str]) -> None:
    """Without one, the comparison is shown with a warning."""
    file = Path(runs[1]) / edited
    file = file if file.is_file() else next((Path(runs[1]) / "samples").iterdir())
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text.replace("50.0", "49.0").replace("90.0", "49.0") if "record" in edited else text + "\n", "utf-8"
    )
    assert file.read_text(encoding="utf-8") != text
    result = run(*runs, "--fail-if", "kobest.accuracy < -50")
    assert result.exit_code == 1
    assert isinstance(result.exception, BenchError)
    assert "was edited after it was written" in str(result.exception)
    assert run(*runs).exit_code == 0


def test_a_wrong_condition_is_wrong_use(runs: list[str]) -> None:
    """It names the nearest metric, and is a usage error (status 2 of the command line)."""
    result = run(*runs, "--fail-if", "kobest.acuracy < -1.0")
    assert isinstance(result.exception, UsageError)
    assert "accuracy" in result.exception.hint


def test_runs_over_other_data_are_refused(runs: list[str]) -> None:
    """The error says what differs."""
    record = load_record(Path(runs[1]))
    save_record(Path(runs[1]), record.model_copy(update={"data": {"kobest:boolq": "f" * 64}}))
    result = run(*runs)
    assert isinstance(result.exception, BenchError)
    assert "the data differ" in result.exception.hint


def test_a_run_changed_by_hand_is_remarked(runs: list[str]) -> None:
    """The comparison goes on, and standard error says that nobody vouches for the record."""
    file = Path(runs[0]) / "record.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"value": 50.0', '"value": 51.0'), encoding="utf-8")
    assert "was changed after it was written" in run(*runs).stderr


def test_a_margin_is_asked_for(runs: list[str]) -> None:
    """--margin is in the result."""
    assert json.loads(run(*runs, "--margin", "50", "--format", "json").stdout)["margin"] == 50.0
