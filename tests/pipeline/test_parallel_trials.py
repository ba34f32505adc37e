"""The trials of a rung run side by side on an executor of sweeps, with the result of one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.errors import UsageError
from bitnet_bench.pipeline import parallel_trials
from bitnet_bench.pipeline.jobs import load_step
from bitnet_bench.pipeline.parallel_trials import make_trial_runner, plan_trials
from bitnet_bench.protocols import no_display
from bitnet_bench.runs.folder import TRAINING_FILE
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.sweeps.executors import ExecutorOptions
from bitnet_bench.sweeps.graph import Graph, Step
from bitnet_bench.sweeps.inline import InlineExecutor
from bitnet_bench.training.search import run_search

RATES = ("1e-4", "2e-4", "4e-4", "8e-4")


def make_jobs(out: Path) -> dict[str, FinetuneJob]:
    """Return an arm with held-out rows; nothing reads them."""
    return {"ternary": FinetuneJob(data=("rows.jsonl",), out=str(out / "job"), hold_out=0.25, max_steps=160)}


def test_a_rung_is_a_graph_of_runs_that_wait_for_nothing(tmp_path: Path) -> None:
    """Another process can make each job again from its step alone, with its settings, length and folder."""
    jobs = [
        make_jobs(tmp_path)["ternary"].model_copy(update={"out": str(tmp_path / rate), "seed": 3}) for rate in RATES
    ]
    graph = plan_trials(
        [j.model_copy(update={"learning_rate": float(r)}) for j, r in zip(jobs, RATES, strict=True)], tmp_path, "hf", 1
    )
    assert [step.after for step in graph.steps] == [()] * 4
    assert all(step.needs.gpus == 1 for step in graph.steps)
    again: Any = load_step("finetune", graph.steps[2].job)
    assert (again.job.learning_rate, again.job.out, again.job.seed) == (4e-4, str(tmp_path / "4e-4"), 3)


def test_a_search_side_by_side_chooses_what_it_chooses_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rung is given to the executor at once; the walk afterwards finds its runs, and runs one that failed."""
    trained: list[str] = []

    def train(job: FinetuneJob, backend: str, steps: Any) -> Any:
        file = Path(job.out) / TRAINING_FILE
        if not file.is_file():
            trained.append(job.out)
            file.parent.mkdir(parents=True)
            file.touch()
        return SimpleNamespace(validation=({"loss": abs(job.peak_rate - 3e-4)},), steps=job.max_steps)

    rungs: list[int] = []

    @contextmanager
    def open_executor(on: str, graph: Graph, run_step: Any, options: ExecutorOptions) -> Iterator[InlineExecutor]:
        rungs.append(len(graph.steps))

        def run(step: Step) -> None:
            loaded: Any = load_step(step.kind, step.job)
            if loaded.job.learning_rate != 8e-4:  # that one fails on the executor
                train(loaded.job, "hf", no_display)

        yield InlineExecutor(run)

    monkeypatch.setattr("bitnet_bench.training.search.finetune", train)
    monkeypatch.setattr(parallel_trials, "open_executor", open_executor)

    def search(out: Path, ahead: Any) -> Any:
        return run_search(
            make_jobs(out), {"learning_rate": RATES}, 2, out, "hf", no_display, prune="halving", run_ahead=ahead
        )

    alone = search(tmp_path / "alone", None)
    before = len(trained)
    out = tmp_path / "beside"
    found = search(out, make_trial_runner(out, "hf", "local", ExecutorOptions(2)))
    assert found.model_dump_json().replace(str(out), "") == alone.model_dump_json().replace(str(tmp_path / "alone"), "")
    assert rungs == [4, 2, 2], "a single run needs no executor"
    assert len(trained) == 2 * before, "nothing was trained twice"


def test_an_executor_that_does_not_exist_is_named_before_anything_is_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no executor 'locol'"):
        make_trial_runner(tmp_path, "hf", "locol", ExecutorOptions())


def run_nothing(jobs: Sequence[FinetuneJob]) -> None:
    """Fail: nothing is given to an executor."""
    raise AssertionError("a finished search runs nothing")


def test_a_finished_search_gives_nothing_to_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(job: FinetuneJob, backend: str, steps: Any) -> Any:
        Path(job.out).mkdir(parents=True, exist_ok=True)
        (Path(job.out) / TRAINING_FILE).touch()
        return SimpleNamespace(validation=({"loss": job.peak_rate},), steps=job.max_steps)

    monkeypatch.setattr("bitnet_bench.training.search.finetune", train)
    arms, grid = make_jobs(tmp_path), {"learning_rate": RATES}
    first = run_search(arms, grid, 1, tmp_path, "hf", no_display, prune="halving")
    assert run_search(arms, grid, 1, tmp_path, "hf", no_display, prune="halving", run_ahead=run_nothing) == first
