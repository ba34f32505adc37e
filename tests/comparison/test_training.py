"""A pair whose models learned different things is shown as such, in `compare` and in the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.comparison.training import training_notices
from bitnet_bench.reports.html import HTMLReport
from bitnet_bench.reports.write import write_report
from bitnet_bench.runs.folder import TRAINING_FILE, save_record, save_samples
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord


def trained(run: Any, *, rows: str = "a", tokens: str = "a", steps: int = 2, old: bool = False, **job: Any) -> Any:
    """Return *run* with a record of how its checkpoint was trained."""
    record = FinetuneRecord(
        job=FinetuneJob(**{"data": ("r.jsonl",), "out": "x", "batch_size": 2, **job}),
        backend="hf",
        base=run.record.checkpoint,
        result=run.record.checkpoint,
        rows=8 if rows == "a" else 20,
        dropped_rows=0,
        truncated_rows=0,
        data_sha256=tokens,
        steps=steps,
        train_loss=1.0,
        history=(),
        train_seconds=1.0,
        resumed_from_step=0,
        environment=run.record.environment,
        inputs={} if old else {"data rows": rows},
    )
    return replace(run, training=record)


@pytest.fixture
def pair(make_results: Any) -> tuple[Any, Any]:
    """Give a ternary run and an FP16 run."""
    tasks = {"s:t": [1.0, 0.0, 1.0]}
    return make_results("ternary", tasks), make_results("fp16", tasks, precision="fp16")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"rows": "b"}, "their training rows differ (8 and 20 rows)"),
        ({"seed": 1}, "seed 0 and 1"),
        ({"steps": 3}, "2 and 3 steps"),
        ({"batch_size": 4}, "2 and 4 sequences a step"),
        ({"old": True, "tokens": "b"}, "their training rows, as tokens, differ"),
    ],
)
def test_what_a_pair_learned_differently_is_said(other: dict[str, Any], said: str, pair: tuple[Any, Any]) -> None:
    """In Korean too: rows, their order, steps and batch are what twins have in common."""
    (notice,) = training_notices(trained(pair[0]), trained(pair[1], **other))
    assert said in notice.what.en
    assert notice.what.ko != notice.what.en


def test_twins_that_learned_alike_are_passed_over(pair: tuple[Any, Any]) -> None:
    """Other tokens of the same rows are another tokenizer's; the same batch may be cut into other forward passes."""
    a = trained(pair[0], tokens="a")
    assert training_notices(a, trained(pair[1], tokens="b")) == ()
    assert training_notices(a, trained(pair[1], batch_size=1, gradient_accumulation=2)) == ()


def test_runs_that_are_no_twins_are_passed_over(pair: tuple[Any, Any]) -> None:
    """Two ternary runs on other rows are compared because of these; a run without a training learned nothing."""
    a = trained(pair[0])
    assert training_notices(a, trained(pair[0], rows="b")) == ()
    assert training_notices(a, pair[1]) == ()


def test_a_report_says_so(pair: tuple[Any, Any]) -> None:
    """Among what is missing or in doubt, in both languages."""
    page = HTMLReport().render([trained(pair[0]), trained(pair[1], rows="b")])
    assert "their training rows differ (8 and 20 rows)" in page
    assert "학습 데이터가 다름(8행과 20행)" in page
    assert "training rows differ" not in HTMLReport().render([trained(pair[0]), trained(pair[1])])


@pytest.mark.parametrize("command", ["compare", "report"])
def test_the_commands_say_so(command: str, pair: tuple[Any, Any], tmp_path: Path) -> None:
    """On standard error, as everything else that is in doubt."""
    for run, rows in zip(pair, ("a", "b"), strict=True):
        folder, checkpoint = tmp_path / run.record.name, tmp_path / f"{run.record.name}-model"
        checkpoint.mkdir()
        training = trained(run, rows=rows).training
        (checkpoint / TRAINING_FILE).write_text(training.model_dump_json(), encoding="utf-8")
        samples = {task: save_samples(folder, task, examples) for task, examples in run.examples.items()}
        there = run.record.checkpoint.model_copy(update={"path": str(checkpoint)})
        save_record(folder, run.record.model_copy(update={"samples": samples, "checkpoint": there}))
    folders = [tmp_path / "ternary", tmp_path / "fp16"]
    if command == "compare":
        told = CliRunner().invoke(app, ["compare", *map(str, folders)]).stderr
    else:
        told = " ".join(notice.what.en for notice in write_report(folders, tmp_path / "report.html")[1])
    assert "their training rows differ (8 and 20 rows)" in told
