"""`bitnet-bench leaderboard`: what it prints and writes, and with which status it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.runs.folder import save_record, save_samples

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 40 + [0.0] * 60


@pytest.fixture
def place(make_results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a ternary run and its twin, which is the current one."""
    for name, got in (("mine", BAD), ("mine-fp16", GOOD)):
        precision = "fp16" if name.endswith("fp16") else "ternary"
        run = make_results(name, {"kobest:boolq": got, "kobest:wic": got}, precision=precision)
        samples = {task: save_samples(tmp_path / "runs" / name, task, rows) for task, rows in run.examples.items()}
        save_record(tmp_path / "runs" / name, run.record.model_copy(update={"samples": samples}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["leaderboard", *arguments])


def test_the_ranking_is_printed_and_the_page_written(place: Path) -> None:
    """Without options it is board.html, and how to open it is said."""
    result = run("runs")
    assert result.exit_code == 0
    assert result.stdout.startswith("‘mine-fp16’ ranks first of 2 runs on 2 tasks, with 90.0 ±4.2 on average (KoBEST).")
    assert "Leaderboard: board.html" in result.stdout
    assert "webbrowser board.html" in result.stderr
    assert (place / "board.html").is_file()


def test_several_files_are_written(place: Path) -> None:
    """--out is repeatable."""
    assert run("runs/*", "--out", "a.md", "--out", "b.html", "--lang", "en").exit_code == 0
    assert "# bitnet-bench leaderboard" in (place / "a.md").read_text(encoding="utf-8")
    assert '<html lang="en">' in (place / "b.html").read_text(encoding="utf-8")


def test_json_is_all_of_standard_output(place: Path) -> None:
    """No file is written then, unless one is named."""
    result = run("runs", "--json", "--suite", "kobest", "--task", "boolq")
    found = json.loads(result.stdout)
    assert [column["task"] for column in found["columns"]] == ["kobest:boolq"]
    assert found["twins"][0]["test"] == "paired"
    assert not (place / "board.html").exists()
    assert run("runs", "--json", "--out", "b.md").exit_code == 0
    assert (place / "b.md").is_file()


def test_without_paired_no_example_is_read(place: Path) -> None:
    """Standard errors are enough then."""
    for file in place.glob("runs/*/samples/*"):
        file.unlink()
    assert json.loads(run("runs", "--no-paired", "--json").stdout)["twins"][0]["test"] == "unpaired"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["nowhere"], UsageError, "nowhere does not exist."),
        (["runs/nothing*"], UsageError, "runs/nothing* does not exist."),
        (["runs", "--suite", "kobset"], UsageError, "No run has the suite 'kobset'."),
        (["runs", "--task", "boolk"], UsageError, "No run has the task 'boolk'."),
        (["runs", "--category", "역사"], UsageError, "No run has the category '역사'."),
        (["runs", "--out", "board.pdf"], UsageError, "board.pdf ends neither in .html nor in .md."),
        (["runs/mine/samples"], BenchError, "There is no run that can be read."),
    ],
)
def test_wrong_use_says_what_to_do(arguments: list[str], kind: type[BenchError], message: str) -> None:
    """A name of nothing is wrong use, which ends with status 2; runs that cannot be read end with 1."""
    error = run(*arguments).exception
    assert type(error) is kind
    assert error.problem == message
    assert error.hint


def test_a_damaged_run_is_said_and_left_out(place: Path) -> None:
    """On standard error; the status is 0, because the others are there."""
    (place / "runs" / "half").mkdir()
    (place / "runs" / "half" / "record.json").write_text("{", encoding="utf-8")
    result = run("runs", "--json")
    assert result.exit_code == 0
    assert "half: cannot be read and is left out" in result.stderr
    assert len(json.loads(result.stdout)["runs"]) == 2


def test_a_long_ranking_is_cut_on_the_terminal(make_results: Any, place: Path) -> None:
    """The file has all runs."""
    for number in range(20):
        record = make_results(f"run{number:02}", {"kobest:boolq": GOOD}).record
        save_record(place / "runs" / record.name, record)
    result = run("runs", "--out", "b.md")
    assert "Runs that are in the file alone: 2." in result.stdout
    assert "run19" in (place / "b.md").read_text(encoding="utf-8")
