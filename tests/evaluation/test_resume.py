"""An evaluation that is stopped, or has a task that cannot be scored, keeps the others and goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitnet_bench import cli
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import task_run as run
from bitnet_bench.evaluation.evaluate import evaluate as run_evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.jobs import EvaluateJob

TASKS = ["copa", "wic", "sentineg"]


def evaluate(out: Path) -> Any:
    """Score three tasks of the sample suite."""
    return run_evaluate("demo", select_tasks(["sample"], TASKS), out, EvaluateJob(limit=6))


def failing(monkeypatch: pytest.MonkeyPatch, task: str, error: BaseException) -> list[str]:
    """Let *task* raise *error*; return where the tasks that are begun will stand."""
    begun: list[str] = []
    real = run.evaluate_task

    def maybe(lm: Any, built: Any, *rest: Any) -> Any:
        begun.append(built.task.name)
        if built.task.name == task:
            raise error
        return real(lm, built, *rest)

    monkeypatch.setattr(run, "evaluate_task", maybe)
    return begun


def test_a_stopped_run_goes_on_with_the_next_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished is not done again, and scores and samples end as those of a run that was not stopped."""
    whole = evaluate(tmp_path / "whole")
    with monkeypatch.context() as patch:
        failing(patch, "wic", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path / "run")
    begun = failing(monkeypatch, "", RuntimeError())
    resumed = evaluate(tmp_path / "run")
    assert begun == ["wic", "sentineg"]
    assert resumed.scores == whole.scores
    assert resumed.data == whole.data
    assert resumed.counts["requests"] == whole.counts["requests"]
    for task in TASKS:
        file = f"samples/sample-{task}.jsonl"
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_broken_task_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is in the record, the others have their scores, and the same command tries it again."""
    with monkeypatch.context() as patch:
        failing(patch, "wic", BenchError("The rows are odd.", "Mend them."))
        record = evaluate(tmp_path)
    assert {score.task for score in record.scores} == {"sample:copa", "sample:sentineg"}
    assert record.errors == {"sample:wic": "The rows are odd.\n  Mend them."}
    assert load_record(tmp_path) == record
    begun = failing(monkeypatch, "", RuntimeError())
    mended = evaluate(tmp_path)
    assert begun == ["wic"]
    assert not mended.errors
    assert {score.task for score in mended.scores} == {f"sample:{task}" for task in TASKS}


def test_the_exit_status_tells_of_a_broken_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, the error on standard error, and the other scores on standard output."""
    failing(monkeypatch, "wic", BenchError("The rows are odd.", "Mend them."))
    named = [word for task in TASKS for word in ("--task", task)]
    monkeypatch.setattr(
        "sys.argv", ["bitnet-bench", "evaluate", "--suite", "sample", *named, "--limit", "4", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert "was not scored on sample:wic. The rows are odd." in told.err
    assert "sample:copa" in told.out
