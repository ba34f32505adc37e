"""A pretrained model answers CLIcK as it does in lm-eval's own `hf`; skipped where the model or the rows are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.folder import load_samples
from bitnet_bench.runs.jobs import EvaluateJob

from .test_exam_prompts import DATA, build_ours, build_theirs, list_click_tasks, list_rows

MODELS_VARIABLE = "BITNET_BENCH_REAL_MODELS"
MODEL = "gemma-3-270m"
ROWS = 100
LARGEST_DIFFERENCE = 0.001
"""Difference in nats of a log-likelihood in float32: the order of float sums."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get(MODELS_VARIABLE), reason=f"{MODELS_VARIABLE} names no folder with the model"),
    pytest.mark.skipif(not (DATA / "click").is_dir(), reason="no local rows: ../shared/data or BITNET_BENCH_DATA"),
]


def answer_with_lm_eval(
    model: Path, rows: list[dict[str, Any]], categories: set[tuple[str, ...]]
) -> dict[tuple[str, str], list[float]]:
    """Return the log-likelihoods that lm-eval's `hf` gives the choices of each row in its own eleven tasks."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1)
    named = list_click_tasks()  # lm-eval builds no task without rows
    tasks = {name: build_theirs(name, rows) for name, category in named.items() if category in categories}
    found = evaluator.evaluate(lm, {"tasks": tasks, "groups": {}, "group_map": {}}, bootstrap_iters=0, log_samples=True)
    samples = [sample for of_task in found["samples"].values() for sample in of_task]
    return {
        (sample["doc"]["id"], sample["doc"]["question"]): [float(ll) for ll, _ in sample["filtered_resps"]]
        for sample in samples
    }


def test_predictions_are_those_of_lm_evals_hf(tmp_path: Path) -> None:
    """On 100 rows of the local half: every choice is the same, and log-likelihoods but for the order of float sums."""
    model = Path(os.environ[MODELS_VARIABLE]) / MODEL
    job = EvaluateJob(data_dir=str(DATA), limit=ROWS, backend="hf", precision="fp32")
    evaluate(str(model), select_tasks(["knowledge"], ["click"], DATA), tmp_path / "run", job)
    ours = load_samples(tmp_path / "run", ["knowledge:click"])
    rows = list_rows(build_ours("knowledge:click", data=DATA))[:ROWS]
    theirs = answer_with_lm_eval(model, rows, {tuple(example.groups.values()) for example in ours})
    assert len(ours) == len(theirs) == ROWS
    differences = []
    for row, example in zip(rows, ours, strict=True):
        other = theirs[row["id"], row["question"]]
        differences += [abs(a - b) for a, b in zip(example.loglikelihoods, other, strict=True)]
        assert example.output_choice == other.index(max(other)), row["id"]
    print(f"largest difference: {max(differences):.2e} nats over {len(differences)} log-likelihoods")
    assert max(differences) < LARGEST_DIFFERENCE
