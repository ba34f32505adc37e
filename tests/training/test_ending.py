"""What a run says about its end: the start, guessing, validation, and jobs too short to learn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.cli.finetuning import finetune_table, finetune_warnings
from bitnet_bench.pipeline.finetune_step import FinetuneStep
from bitnet_bench.protocols import no_display
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord
from bitnet_bench.training.ending import RunLosses, compute_run_losses, warn_failed_run, warn_short_run
from bitnet_bench.training.finetune import finetune

JOB = FinetuneJob(model="demo", data=("rows.jsonl",), out="out")
PAIRS = JOB.model_copy(update={"method": "dpo"})


def curve(*losses: float, **more: float) -> list[dict[str, float]]:
    """Return logged points of steps 1, 2, ... with these losses."""
    return [{"step": step, "loss": loss, **more} for step, loss in enumerate(losses, 1)]


@pytest.fixture
def make_record(make_results: Callable[..., Any]) -> Callable[..., FinetuneRecord]:
    """Give a factory of records of a job with these fields, from a ternary or a float base."""
    of_run = make_results("run", {"kobest:copa": [1.0, 0.0]}).record
    base: Checkpoint = of_run.checkpoint

    def make(job: FinetuneJob = JOB, floats: bool = False, **fields: Any) -> FinetuneRecord:
        found = base.model_copy(update={"format": "float"}) if floats else base
        known = {
            "job": job.model_copy(update={"learning_rate": 1e-3}), "backend": "hf", "base": found, "result": base,
            "rows": 8, "dropped_rows": 0, "truncated_rows": 0, "data_sha256": "0" * 64, "steps": 9, "train_loss": 3.0,
            "first_loss": 4.0, "last_loss": 3.0, "guessing_loss": 8.7, "history": (), "train_seconds": 1.0,
            "resumed_from_step": 0, "environment": of_run.environment,
        }  # fmt: skip
        return FinetuneRecord(**{**known, **fields})

    return make


def test_the_start_is_the_first_step_and_the_end_the_last_tenth() -> None:
    history = curve(5.0, *[4.0] * 17, 3.0, 2.0)
    assert compute_run_losses(JOB, history, 100) == RunLosses(5.0, 2.5, math.log(100))
    assert compute_run_losses(JOB, curve(5.0), 100) == RunLosses(5.0, 5.0, math.log(100))


def test_the_loss_of_a_distillation_is_its_cross_entropy() -> None:
    """Its other parts are weighted sums, which no vocabulary bounds."""
    history = [{**point, "cross_entropy": point["loss"] / 10} for point in curve(500.0, 40.0)]
    assert compute_run_losses(JOB, history, 100) == RunLosses(50.0, 4.0, math.log(100))


def test_guessing_between_two_answers_is_ln_2() -> None:
    assert compute_run_losses(PAIRS, curve(0.69), 100).guessing == math.log(2)


def test_a_lambda_warm_up_begins_where_the_model_is_wholly_ternary() -> None:
    """Its first steps are those of a float model, whose loss says nothing about the ternary one."""
    job = JOB.model_copy(update={"ternary_warmup": 2})
    assert compute_run_losses(job, curve(1.0, 2.0, 6.0, 5.0), 100).first == 6.0


def test_a_run_that_learned_has_no_warning(make_record: Callable[..., FinetuneRecord]) -> None:
    better = ({"step": 0, "loss": 4.0}, {"step": 9, "loss": 3.5})
    assert warn_failed_run(make_record(validation=better)) == ()
    assert warn_failed_run(make_record(first_loss=None, last_loss=None, guessing_loss=None)) == ()


def test_a_loss_above_its_start_or_above_guessing_is_warned_of(make_record: Callable[..., FinetuneRecord]) -> None:
    """Each bound that it is above is named with its value."""
    (rose,) = warn_failed_run(make_record(last_loss=5.0))
    assert "ended at 5, above 4 (where it began)." in rose
    assert "Lower `learning_rate`" in rose
    (lost,) = warn_failed_run(make_record(first_loss=20.0, last_loss=9.0))
    assert "above 8.7 (uniform guessing)." in lost
    assert "raise `learning_rate`" in lost
    (both,) = warn_failed_run(make_record(last_loss=9.0))
    assert "above 4 (where it began) and 8.7 (uniform guessing)." in both


def test_a_float_model_that_became_ternary_is_told_to_learn_longer(make_record: Callable[..., FinetuneRecord]) -> None:
    """A lower rate would not bring back what quantization broke."""
    (warning,) = warn_failed_run(make_record(floats=True, first_loss=20.0, last_loss=9.0))
    assert "`method=pretrain`" in warning
    assert "Lower `learning_rate`" not in warning


def test_preferences_are_held_against_ln_2_alone(make_record: Callable[..., FinetuneRecord]) -> None:
    """Where they begin is where guessing is: one bound, named once."""
    fields = {"job": PAIRS, "first_loss": math.log(2), "guessing_loss": math.log(2)}
    assert warn_failed_run(make_record(**fields, last_loss=0.5)) == ()
    (warning,) = warn_failed_run(make_record(**fields, last_loss=0.7))
    assert "ended at 0.7, above 0.6931 (where it began)." in warning


def test_a_validation_loss_that_rose_is_warned_of(make_record: Callable[..., FinetuneRecord]) -> None:
    worse = ({"step": 0, "loss": 3.0}, {"step": 5, "loss": 2.0}, {"step": 9, "loss": 3.5})
    (warning,) = warn_failed_run(make_record(validation=worse))
    assert "validation loss ended at 3.5, above 3 before training" in warning


@pytest.mark.parametrize(
    ("steps", "warmup", "words"),
    [(1, 1, "has one step"), (1, 0, "has one step"), (4, 4, "lasts 4 steps, as long as the run"), (4, 3, "")],
)
def test_a_job_too_short_to_learn_is_warned_of(steps: int, warmup: int, words: str) -> None:
    warnings = warn_short_run(steps, warmup)
    assert words in " ".join(warnings)
    assert bool(warnings) == bool(words)


def test_the_table_shows_both_ends_and_guessing_and_says_fine_tuned_only_then(
    make_record: Callable[..., FinetuneRecord],
) -> None:
    good, bad = make_record(), make_record(last_loss=5.0)
    table = finetune_table([good])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert {"4.000", "3.000", "8.700"} <= set(cells)
    assert table.title == "Fine-tuned"
    assert "Fine-tuned" not in str(finetune_table([good, bad]).title)


def test_how_a_run_ended_is_the_last_warning(make_record: Callable[..., FinetuneRecord]) -> None:
    """Of two arms as well: what is printed after the failure would hide it."""
    bad = make_record(last_loss=5.0, warnings=("rows lost", *warn_failed_run(make_record(last_loss=5.0))))
    other = make_record(job=JOB.model_copy(update={"out": "out-fp16", "learning_rate": 1e-3}), warnings=("short",))
    lines = finetune_warnings([bad, other])
    assert [line.partition(":")[0] for line in lines] == ["out", "out-fp16", "out"]
    assert "The loss ended at 5" in lines[-1]
    assert len(lines) == 3


def test_the_last_line_of_a_run_that_made_the_model_worse_says_so(tmp_path: Path, run_command: Any) -> None:
    """In one file of both streams, and in the record."""
    rows = tmp_path / "rows.jsonl"
    texts = [{"prompt": f"{i}번은?", "response": f"{i}번입니다."} for i in range(8)]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), encoding="utf-8")
    options = ["--model", "demo-fp16", "--precision", "fp16", "--lr", "3e-2", "--schedule", "constant"]
    options += ["--max-steps", "3", "--batch-size", "8", "--warmup-ratio", "0", "--compute", "fp32"]
    done = run_command("finetune", "--data", str(rows), "--out", str(tmp_path / "out"), *options, together=True)
    assert done.returncode == 0, done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("Warning: ")
    assert "The loss ended at" in last
    assert "(where it began)" in last
    record = FinetuneRecord.model_validate_json((tmp_path / "out/finetune.json").read_text(encoding="utf-8"))
    assert record.warnings[-1].replace("`learning_rate`", "--lr") in last
    assert record.first_loss == record.history[0]["loss"]
    assert record.last_loss is not None
    assert record.last_loss > record.history[0]["loss"]


def test_a_recipe_logs_how_its_training_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing else shows it there before the report."""
    rows = tmp_path / "rows.jsonl"
    texts = [{"prompt": f"{i}번은?", "response": f"{i}번입니다."} for i in range(8)]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), encoding="utf-8")
    job = FinetuneJob(
        model="demo-fp16", data=(str(rows),), out=str(tmp_path / "out"), precision="fp16", max_steps=3, batch_size=8,
        learning_rate=3e-2, schedule="constant", warmup_ratio=0.0, compute="fp32", epochs=9, track=(),
    )  # fmt: skip
    FinetuneStep(job, "hf", "fp16").run(no_display)
    assert "fine-tune fp16: The loss ended at" in caplog.text


def test_a_job_of_one_step_says_so_before_it_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, and in the record."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "한국의 수도는?", "response": "서울입니다."}\n' * 2, encoding="utf-8")
    record = finetune(FinetuneJob(model="demo", data=(str(rows),), out=str(tmp_path / "out"), max_steps=1))
    assert "has one step" in record.warnings[0]
    assert record.warnings[0] in caplog.text
    assert record.history[0]["learning_rate"] > 0


def test_running_text_that_taught_too_little_is_advised_more_text(make_record: Callable[..., FinetuneRecord]) -> None:
    """Not running text first, which it is."""
    job = JOB.model_copy(update={"method": "pretrain"})
    (warning,) = warn_failed_run(make_record(job, floats=True, first_loss=21.6, last_loss=15.3))
    assert "train on more text" in warning
    assert "`method=pretrain`" not in warning


def test_seeds_without_a_search_are_refused(run_command: Any) -> None:
    """There would be one run, of one seed."""
    done = run_command("finetune", "--data", "rows.jsonl", "--out", "out", "--seeds", "3")
    assert done.returncode == 2
    assert "--seeds makes runs of the settings that a search has chosen" in done.stderr
