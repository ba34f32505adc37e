"""A recipe whose preset makes a float model ternary in stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.pipeline.finetune_step import FinetuneStep
from bitnet_bench.pipeline.recipe import Recipe, read_recipe
from bitnet_bench.pipeline.steps import EvaluateStep, plan_steps


def make_recipe(folder: Path, more: str = "") -> Recipe:
    (folder / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (folder / "texts.jsonl").write_text('{"text": "안녕"}\n')
    file = folder / "recipe.yaml"
    file.write_text(
        "finetune:\n  preset: bitdistill\n  model: org/float\n  data: [rows.jsonl]\n  text: [texts.jsonl]\n"
        f"  text_tokens: 9000\n{more}evaluate:\n  suites: [sample]\n  before: true\n"
    )
    return read_recipe(file)


def test_seeds_share_the_stage_on_running_text_which_is_not_scored(tmp_path: Path) -> None:
    """The twin teaches its own seed; before training only the float model can be scored."""
    steps = plan_steps(make_recipe(tmp_path, "  seeds: 2\n"), tmp_path / "out")
    models = tmp_path / "out/models"
    trained = [step for step in steps if isinstance(step, FinetuneStep)]
    assert [step.name for step in trained] == ["fp16-seed0", "text", "ternary-seed0", "fp16-seed1", "ternary-seed1"]
    assert [step.job.out for step in trained] == [
        str(models / name) for name in ("fp16-seed0", "ternary-text", "ternary-seed0", "fp16-seed1", "ternary-seed1")
    ]
    text, *ternary = (step.job for step in trained if step.job.precision == "ternary")
    assert text.max_steps == 3
    assert {job.model for job in ternary} == {str(models / "ternary-text/masters")}
    assert [job.teacher for job in ternary] == [str(models / "fp16-seed0"), str(models / "fp16-seed1")]
    scored = [(step.model, step.out.name) for step in steps if isinstance(step, EvaluateStep)]
    assert scored == [("org/float", "fp16-before")] + [
        (str(models / name), f"{name}-after") for name in ("fp16-seed0", "ternary-seed0", "fp16-seed1", "ternary-seed1")
    ]


def test_files_of_text_beside_a_recipe_are_found(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    assert recipe.finetune is not None
    assert recipe.finetune.text == (str(tmp_path / "texts.jsonl"),)


def test_a_search_of_a_preset_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"recipe\.yaml.*several"):
        make_recipe(tmp_path, "  find_learning_rate: true\n")
