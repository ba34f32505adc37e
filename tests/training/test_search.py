"""`finetune --search`: both arms under one budget, chosen on validation rows, resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.protocols import no_display
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import SearchRecord
from bitnet_bench.training.finetune import make_twin_job
from bitnet_bench.training.search import parse_grid, run_search

ROWS = [{"prompt": f"{i} 다음 수는?", "response": f"{i + 1}입니다."} for i in range(24)]


@pytest.fixture
def job(tmp_path: Path) -> FinetuneJob:
    """Give a job of four steps with six validation rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return FinetuneJob(
        model="demo", data=(str(file),), out=str(tmp_path / "job"), hold_out=0.25, max_steps=4, batch_size=4
    )


def test_both_arms_try_the_same_and_each_keeps_its_best(job: FinetuneJob, tmp_path: Path) -> None:
    """Three rates with one seed, and the one of least validation loss with another; that diverged is no choice."""
    arms = {"ternary": job, "fp16": make_twin_job(job, None)}
    found = run_search(arms, {"learning_rate": ["1e-6", "1e-3", "1e30"]}, 2, tmp_path / "out", "hf", no_display)
    for arm in arms:
        tried = [trial for trial in found.trials if trial.arm == arm]
        assert [(t.settings["learning_rate"], t.seed) for t in tried] == [
            ("1e-6", 0), ("1e-3", 0), ("1e30", 0), ("1e-3", 1),
        ]  # fmt: skip
        losses = [trial.validation_loss for trial in tried]
        assert losses[2] is None
        assert "loss" in str(tried[2].error)
        assert losses[0] is not None
        assert losses[1] is not None
        assert losses[1] < losses[0]
        assert found.chosen[arm] == (tried[1].out, tried[3].out)
        assert (Path(tried[3].out) / "config.json").is_file()
    assert SearchRecord.model_validate_json((tmp_path / "out/search.json").read_text()) == found


def test_a_search_that_was_stopped_does_not_repeat_what_is_finished(
    job: FinetuneJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time only the point that is new is run."""
    run_search({"ternary": job}, {"learning_rate": ["1e-3"]}, 1, tmp_path / "out", "hf", no_display)
    begun = []

    def steps(title: str) -> Any:
        begun.append(title)
        return no_display(title)

    found = run_search({"ternary": job}, {"learning_rate": ["1e-3", "2e-3"]}, 1, tmp_path / "out", "hf", steps)
    assert len([title for title in begun if not title.startswith("read ")]) == 1
    assert len(found.trials) == 2


@pytest.mark.parametrize("option", ["lr", "lr=", "speed=1,2", "out=a,b", "seed=1,2", "model=demo,x"])
def test_what_cannot_be_searched_is_wrong_use(option: str) -> None:
    with pytest.raises(UsageError, match="is not NAME=VALUE"):
        parse_grid([option])


def test_a_bad_value_stops_before_the_first_run(job: FinetuneJob, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`learning_rate` must be greater than 0, not '-1'"):
        run_search({"ternary": job}, parse_grid(["lr=1e-3,-1"]), 1, tmp_path / "out", "hf", no_display)
    assert not (tmp_path / "out").exists()


def test_a_search_needs_validation_rows_and_a_run_that_ends(job: FinetuneJob, tmp_path: Path) -> None:
    without = job.model_copy(update={"hold_out": 0.0})
    with pytest.raises(UsageError, match="chooses on validation rows"):
        run_search({"ternary": without}, {"learning_rate": ["1e-3"]}, 1, tmp_path / "out", "hf", no_display)
    with pytest.raises(BenchError, match="Every trial of ternary diverged"):
        run_search({"ternary": job}, {"learning_rate": ["1e30"]}, 1, tmp_path / "out", "hf", no_display)
