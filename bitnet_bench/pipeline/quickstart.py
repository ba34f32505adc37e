"""Run the main job end to end on the embedded models and data: no network, a few minutes on two cores."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench.pipeline.recipe import read_recipe
from bitnet_bench.pipeline.running import run_recipe
from bitnet_bench.pipeline.steps import REPORT_FILE
from bitnet_bench.protocols import ProgressDisplay, no_display
from bitnet_bench.runs.records import RunRecord

RECIPE = Path(__file__).parents[1] / "demo" / "quickstart.yaml"


def quickstart(out: Path, seed: int = 0, steps: ProgressDisplay = no_display) -> tuple[list[RunRecord], Path]:
    """Evaluate the embedded pair on the `sample` suite, fine-tune and evaluate it again, measure both, and report.

    Return the four runs (before and after, ternary and FP16) and the report's path. Steps that are finished in *out*
    are skipped.
    """
    recipe = read_recipe(RECIPE)
    assert recipe.finetune
    seeded = recipe.finetune.model_copy(update={"seed": seed})
    records = run_recipe(recipe.model_copy(update={"finetune": seeded}), out, steps=steps)
    return records, out / REPORT_FILE
