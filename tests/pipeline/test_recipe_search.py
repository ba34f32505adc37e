"""A recipe that searches chooses settings once, before the runs of all seeds, which take them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.pipeline.estimates import Speed, estimate_steps
from bitnet_bench.pipeline.finetune_step import FinetuneStep
from bitnet_bench.pipeline.recipe import read_recipe
from bitnet_bench.pipeline.search_step import SearchStep
from bitnet_bench.pipeline.steps import plan_steps
from bitnet_bench.protocols import no_display, no_progress
from bitnet_bench.runs.jobs import FinetuneJob

RECIPE = """\
finetune:
  data: [rows.jsonl]
  twin: true
  hold_out: 0.25
  max_steps: 160
  epochs: 90
  seeds: 2
  find_learning_rate: true
evaluate: {suites: [sample], tasks: [copa], limit: 4}
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Write *text* as a recipe beside its rows, and return its file."""
    rows = ({"prompt": f"{i} 다음 수는?", "response": f"{i + 1}입니다."} for i in range(32))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[FinetuneJob]:
    """Give the jobs that a fake trainer is given; each arm's loss is lowest at another rate."""
    seen: list[FinetuneJob] = []
    best = {"ternary": 2e-3, "fp16": 5e-4}

    def train(job: FinetuneJob, backend: str, steps: Any) -> Any:
        seen.append(job)
        loss = abs(job.peak_rate - best[job.precision])
        return SimpleNamespace(validation=({"loss": loss},), steps=job.max_steps)

    monkeypatch.setattr("bitnet_bench.training.search.finetune", train)
    monkeypatch.setattr("bitnet_bench.pipeline.finetune_step.finetune", train)
    monkeypatch.setattr("bitnet_bench.training.ending.warn_failed_run", lambda record: ())
    return seen


def test_both_arms_are_searched_before_the_first_run_and_every_seed_takes_what_was_chosen(
    tmp_path: Path, trained: list[FinetuneJob]
) -> None:
    steps = plan_steps(read_recipe(write_recipe(tmp_path)), tmp_path / "out")
    search, *rest = steps
    assert isinstance(search, SearchStep)
    assert list(search.arms) == ["ternary", "fp16"]
    training = [step for step in rest if isinstance(step, FinetuneStep)]
    assert [step.name for step in training] == ["ternary-seed0", "fp16-seed0", "ternary-seed1", "fp16-seed1"]
    assert not search.is_done
    search.run(no_display)
    assert search.is_done
    assert [len([job for job in trained if job.max_steps == steps]) for steps in (20, 40, 80, 160)] == [14, 8, 4, 4]
    trained.clear()
    for step in training:
        step.run(no_display)
    assert [(job.precision, job.seed, job.learning_rate, job.max_steps) for job in trained] == [
        ("ternary", 0, 2e-3, 160), ("fp16", 0, 5e-4, 160), ("ternary", 1, 2e-3, 160), ("fp16", 1, 5e-4, 160),
    ]  # fmt: skip
    assert [job.out for job in trained] == [step.job.out for step in training]


def test_a_run_whose_search_is_gone_says_so(tmp_path: Path, trained: list[FinetuneJob]) -> None:
    steps = plan_steps(read_recipe(write_recipe(tmp_path)), tmp_path / "out")
    (first, *_) = [step for step in steps if isinstance(step, FinetuneStep)]
    with pytest.raises(BenchError, match="does not say which settings are the best"):
        first.run(no_display)
    (tmp_path / "out/search").mkdir(parents=True)
    (tmp_path / "out/search/search.json").write_text("{", encoding="utf-8")
    with pytest.raises(BenchError, match=r"search\.json cannot be read"):
        first.run(no_display)


def test_a_plan_has_an_estimate_of_the_search(tmp_path: Path) -> None:
    """All trials of an arm together are 4.875 times as long as its run."""
    steps = plan_steps(read_recipe(write_recipe(tmp_path)), tmp_path / "out")
    found = estimate_steps(steps, Speed(1e11, "given"), no_progress)
    search, ternary, fp16 = found[:3]
    assert (search.title, search.done) == ("search settings", False)
    assert search.seconds is not None
    assert ternary.seconds is not None
    assert fp16.seconds is not None
    assert search.seconds == pytest.approx(4.875 * (ternary.seconds + fp16.seconds))
    assert search.note == "4.88 times a whole run of each of 2 arms"


def test_the_keys_of_a_recipe_are_those_of_the_command_line(tmp_path: Path) -> None:
    """A grid with its pruning as well; a field that cannot be searched is an error before anything is run."""
    grid = RECIPE.replace("find_learning_rate: true", 'search: ["lr=1e-4,1e-3", "epochs=1,2"]\n  prune: halving')
    search = plan_steps(read_recipe(write_recipe(tmp_path, grid)), tmp_path / "out")[0]
    assert isinstance(search, SearchStep)
    assert search.count_whole_runs() == 4 / 4 + 2 / 2 + 2
    wrong = grid.replace("epochs=1,2", "speed=1,2")
    with pytest.raises(UsageError, match="`search=speed=1,2` is not NAME=VALUE"):
        plan_steps(read_recipe(write_recipe(tmp_path, wrong)), tmp_path / "out")


def test_a_recipe_that_searches_without_validation_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"Line 1 of .*: finetune: a search chooses on validation rows"):
        read_recipe(write_recipe(tmp_path, RECIPE.replace("  hold_out: 0.25\n", "")))
