"""A sweep makes the runs of the plain commands, once each, whatever fails, and resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import sweep_records
from fake_executor import FakeExecutor
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.errors import BenchError
from bitnet_bench.pipeline import running
from bitnet_bench.pipeline.board_step import read_results
from bitnet_bench.pipeline.planned_cost import estimate_plan, list_done
from bitnet_bench.pipeline.planning import plan_sweep
from bitnet_bench.pipeline.recipe import read_sweep
from bitnet_bench.pipeline.running import run_inline, run_step
from bitnet_bench.protocols import no_display, no_progress
from bitnet_bench.sweeps.done_index import FileIndex
from bitnet_bench.sweeps.graph import Step
from bitnet_bench.sweeps.scheduler import run_graph

SWEEP = """\
matrix:
  checkpoints: [demo]
  seeds: [0, 1]
evaluate: {suites: [sample], tasks: [copa], limit: 2, rows: {"sample:copa": rows.jsonl}}
"""
ROW = {
    "premise": "비가 왔다.",
    "question": "결과",
    "alternative_1": "땅이 젖었다.",
    "alternative_2": "해가 떴다.",
    "label": 0,
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Give a sweep of two evaluations of two rows of its own."""
    lines = "".join(json.dumps({**ROW, "label": label}, ensure_ascii=False) + "\n" for label in (0, 1))
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    return file


def run_here(file: Path, out: Path, **changes: Any) -> Any:
    """Run a sweep on an executor that runs each step in this process; *changes* are outcomes of steps by id."""
    plan = plan_sweep(read_sweep(file), out)
    running.prepare_sweep(read_sweep(file), plan, out)
    outcomes = []

    class Here(FakeExecutor):
        def wait(self, timeout_s: float) -> Any:
            ended = []
            for step in self._held:
                ended.append(changes.get(step.id) or run_step(step))
            self._held.clear()
            outcomes.extend(ended)
            return ended

    executor, index = Here(room=9), FileIndex(plan.graph)
    state = run_graph(plan.graph, executor, index)
    index.flush()
    return state, executor.started


def test_a_sweep_is_done_once_and_again_where_something_changed(sweep: Path, tmp_path: Path) -> None:
    """A finished sweep starts nothing; an edited record is refused, its results are written anew, and others stay."""
    out = tmp_path / "out"
    state, started = run_here(sweep, out)
    assert set(state.states.values()) == {"done"}
    assert len(started) == 3
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["runs"]
    assert [(row["run"], row["values"], len(row["scores"])) for row in rows] == [
        (f"demo-seed{seed}", {"checkpoints": "demo", "seeds": f"seed{seed}"}, 1) for seed in (0, 1)
    ]
    assert "demo-seed1" in (out / "board.html").read_text(encoding="utf-8")

    state, started = run_here(sweep, out)
    assert started == []
    assert len(state.skipped) == 3
    assert list_done(plan_sweep(read_sweep(sweep), out)) == state.skipped

    os.utime(out / "demo-seed0/record.json")  # touched, and the same: the step compares, and everything is as it was
    state, started = run_here(sweep, out)
    assert started == ["evaluate-demo-seed0", "results"]
    assert set(state.states.values()) == {"done"}

    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW, ensure_ascii=False) + "\n", encoding="utf-8")
    state, started = run_here(sweep, out)
    assert [step.id for step in state.list_in("failed")] == ["evaluate-demo-seed0", "evaluate-demo-seed1"]
    assert "different rows of sample:copa" in state.outcomes["evaluate-demo-seed0"].problem


def test_a_step_that_fails_leaves_the_others_and_the_same_call_resumes(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "demo-seed0").mkdir(parents=True)
    (out / "demo-seed0/record.json").write_text("{", encoding="utf-8")
    state, _ = run_here(sweep, out)
    assert {name for name, how in state.states.items() if how == "failed"} == {"evaluate-demo-seed0"}
    assert state.states["results"] == "done", "the page shows what there is"
    assert "record.json" in state.outcomes["evaluate-demo-seed0"].problem
    (out / "demo-seed0/record.json").unlink()
    state, started = run_here(sweep, out)
    assert started == ["evaluate-demo-seed0", "results"]
    assert set(state.states.values()) == {"done"}


def test_an_unexpected_error_is_an_outcome_with_its_traceback(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: Any) -> None:
        raise ValueError("nobody thought of this")

    step = plan_sweep(read_sweep(sweep), tmp_path / "out").graph.steps[0]
    monkeypatch.setattr("bitnet_bench.evaluation.evaluate.evaluate", fail)
    outcome = run_step(step)
    assert (outcome.is_done, outcome.problem) == (False, "ValueError: nobody thought of this")
    assert "Traceback" in capsys.readouterr().err


def test_a_step_runs_alone_as_a_command_of_any_machine(sweep: Path, tmp_path: Path) -> None:
    """`sweep OUT/sweep.json --step ID` needs nothing else, and leaves its outcome in a file."""
    out = tmp_path / "out"
    plan = plan_sweep(read_sweep(sweep), out)
    running.prepare_sweep(read_sweep(sweep), plan, out)
    done = CliRunner().invoke(app, ["sweep", str(out / "sweep.json"), "--step", "evaluate-demo-seed1"])
    assert done.exit_code == 0, done.output
    assert json.loads(plan.graph.find_outcome("evaluate-demo-seed1").read_text(encoding="utf-8"))["is_done"]
    assert (out / "demo-seed1/record.json").is_file()
    assert not (out / "demo-seed0").exists()


def test_a_step_survives_json(sweep: Path, tmp_path: Path) -> None:
    """The step that another machine reads is the one that was planned."""
    text = SWEEP.replace(
        "evaluate:", "finetune: {data: [rows.jsonl], hold_out: 0.5, find_learning_rate: true}\nevaluate:"
    )
    sweep.write_text(text + "measure: {}\n", "utf-8")
    plan = plan_sweep(read_sweep(sweep), tmp_path / "out")
    assert {step.kind for step in plan.graph.steps} == {"search", "finetune", "evaluate", "measure", "board"}
    for step in plan.graph.steps:
        again = Step.model_validate_json(step.model_dump_json())
        loaded = running.load_step(again.kind, again.job)
        assert running.load_step(step.kind, json.loads(json.dumps(step.job))) == loaded
        assert loaded.title == plan.steps[step.id].title
        assert again == step


def test_a_recipe_without_a_matrix_is_run_by_the_same_engine(sweep: Path, tmp_path: Path) -> None:
    """Its first error ends it, and its folder keeps the recipe."""
    single = SWEEP.partition("evaluate:")
    sweep.write_text("models: {plain: demo}\n" + single[1] + single[2], encoding="utf-8")
    (record,) = run_inline(read_sweep(sweep), tmp_path / "out", None, no_display)
    assert record.name == "plain"
    assert (tmp_path / "out/plain/recipe.yaml").is_file()
    assert (tmp_path / "out/report.html").is_file()
    (tmp_path / "out/plain/record.json").write_text("{", encoding="utf-8")
    with pytest.raises(BenchError, match=r"record\.json"):
        run_inline(read_sweep(sweep), tmp_path / "out", None, no_display)


def test_a_plan_says_what_is_done_and_what_must_be_compared(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_here(sweep, out)
    (out / "done.jsonl").unlink()
    cost = estimate_plan(plan_sweep(read_sweep(sweep), out), 1.0, no_progress)
    assert set(cost.states.values()) == {"to check"}
    run_here(sweep, out)
    shown = CliRunner().invoke(app, ["sweep", str(sweep), "--out", str(out), "--dry-run", "--json"])
    steps = json.loads(shown.stdout)
    assert [(step["state"], step["seconds"]) for step in steps] == [("done", 0.0)] * 3
    assert steps[-1]["after"] == [step["id"] for step in steps[:-1]]


@pytest.mark.slow
def test_three_models_on_three_suites_with_two_seeds_have_the_records_of_the_plain_commands(tmp_path: Path) -> None:
    """Nineteen steps in processes of this machine: records and samples are the same, times and hosts apart."""
    file = sweep_records.write_sweep(tmp_path / "sweep")
    state = sweep_records.run_whole_sweep(file, tmp_path / "swept")
    assert set(state.states.values()) == {"done"}, state.outcomes
    sweep_records.run_plain_commands(file, tmp_path / "plain")
    swept, plain = sweep_records.read_runs(tmp_path / "swept"), sweep_records.read_runs(tmp_path / "plain")
    assert len(plain) == 18
    assert swept == plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": None}, "does not say what it runs: job"),
        ({"suites": 3}, "does not say what it runs: suites"),
        ({"tasks": ["sample:gone"]}, "scores sample:gone, which is no task of its suites"),
    ],
)
def test_a_step_that_does_not_say_what_it_runs_is_a_sentence(
    sweep: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """A graph is a file, which somebody may have edited."""
    step = plan_sweep(read_sweep(sweep), tmp_path / "out").graph.steps[0]
    with pytest.raises(BenchError, match=words):
        running.load_step(step.kind, {**step.job, **change})


@pytest.mark.parametrize(
    "rows",
    [
        None,
        3,
        [3],
        [{}],
        [{"run": "a", "scores": [{}], "costs": []}],
        [{"run": "a", "scores": [], "costs": [{"decode_tokens_per_s": "fast"}]}],
        [{"run": "a", "scores": [{"task": "t", "value": None, "stderr": 1, "lower_is_better": False}], "costs": []}],
    ],
)
def test_damaged_results_are_a_sentence(tmp_path: Path, rows: Any) -> None:
    """They are shown when a sweep that is done is run again."""
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"runs": rows}), encoding="utf-8")
    with pytest.raises(BenchError, match=r"results\.json cannot be read: runs"):
        read_results(file)
