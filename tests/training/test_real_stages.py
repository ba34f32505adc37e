"""Two pretrained models become ternary by the shipped recipe; skipped where the models and the rows are not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.pipeline.recipe import find_recipe
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.folder import load_record, load_samples, load_training_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import Example

MODELS_VARIABLE, DATA_VARIABLE = "BITNET_BENCH_REAL_MODELS", "BITNET_BENCH_DATA"
"""Folders of the models, and of the rows of KLUE and the running text."""
NAMES = ("smollm2-135m-instruct", "gemma-3-270m")
STAGES = ("fp16", "ternary-text", "ternary")
STEPS, KILLED_AFTER, TEXTS = 3, 1, 100
LIMIT_S = 1200
SCORED = {("boolq", "copa", "wic", "hellaswag", "sentineg"): 16, ("qa", "summarization", "translation"): 8}
"""Tasks of `sample` -> rows of each: choices, and texts that are generated."""
LARGEST_SHARE_APART = 0.01
"""Mean |difference| of a log-likelihood between two runtimes over its mean size: an activation on the border of two
int8 values moves all that attends to it. SmolLM2 after 3 steps: 0.65 of 280 nats."""
LARGEST_SHARE_OF_TEXTS = 0.1
"""Share of the generated texts that may differ, where two first tokens are nearly as likely: 1 of 24 of SmolLM2, 0.14
nats apart."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (os.environ.get(MODELS_VARIABLE) and os.environ.get(DATA_VARIABLE)),
        reason=f"{MODELS_VARIABLE} and {DATA_VARIABLE} name no folders with the two models and the rows",
    ),
]


def write_recipe(name: str, folder: Path) -> Path:
    """Write the shipped recipe with another model, 3,072 tokens of text, 40 rows, and a state after each step."""
    recipe = yaml.safe_load(find_recipe(Path("ternarize")).read_text(encoding="utf-8"))
    whole = Path(os.environ[DATA_VARIABLE]) / "raw_ko" / "kaist_treebank.jsonl"
    text = folder / "text.jsonl"  # a hundredth of which is validated on after every step
    text.write_text("".join(whole.read_text(encoding="utf-8").splitlines(True)[:TEXTS]), encoding="utf-8")
    recipe["finetune"] |= {
        "model": str(Path(os.environ[MODELS_VARIABLE]) / name), "text": [str(text)], "text_length": 128,
        "text_tokens": 128 * 8 * STEPS, "limit": 40, "batch_size": 8, "epochs": 1, "max_steps": STEPS, "save_every": 1,
        "track": [],
    }  # fmt: skip
    recipe["evaluate"] = {"suites": ["sample"], "tasks": ["copa", "wic", "qa"], "limit": 4}
    del recipe["measure"]
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def digest_weights(out: Path) -> dict[str, Any]:
    """Return the digest of the weights that each stage left, of the masters too, and what its conversion lost."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        record = load_training_record(out / "models" / stage)
        assert record is not None
        found[stage] = (record.result.sha256, record.conversion)
    found["masters"] = open_checkpoint(str(out / "models/ternary-text/masters")).sha256
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_that_is_killed_in_every_stage_ends_with_the_same_bits_and_scores_alike(
    name: str,
    tmp_path: Path,
    kill_command: Callable[..., None],
    run_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """By the same command each time; then its result answers alike in our engine and in transformers."""
    recipe = write_recipe(name, tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ("run", str(recipe), "--data-dir", os.environ[DATA_VARIABLE], "--out")
    done = run_command(*words, str(whole))
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        saved = killed / "models" / stage / ".trainer" / f"checkpoint-{KILLED_AFTER}" / "complete"
        kill_command(*words, str(killed), is_reached=saved.exists, limit_s=LIMIT_S)
    scored = killed / "ternary" / "samples"
    kill_command(*words, str(killed), is_reached=lambda: any(scored.glob("*.jsonl")), limit_s=LIMIT_S)
    done = run_command(*words, str(killed))
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        record = load_training_record(killed / "models" / stage)
        assert record is not None
        assert record.resumed_from_step >= KILLED_AFTER
    assert digest_weights(killed) == digest_weights(whole)
    assert read_runs(killed) == read_runs(whole)
    _check_both_runtimes(name, killed / "models/ternary", tmp_path)


def read_runs(out: Path) -> dict[str, list[Example]]:
    """Return the scored rows of both runs of a recipe, which must be there."""
    folders = (out / "fp16", out / "ternary")
    return {folder.name: load_samples(folder, list(load_record(folder).samples)) for folder in folders}


def _check_both_runtimes(name: str, model: Path, out: Path) -> None:
    ours, theirs = (_score(model, out / backend, backend, precision) for backend, precision in RUNTIMES)
    pairs = list(zip(ours, theirs, strict=True))
    likelihoods = [
        (a, b)
        for one, other in pairs
        for a, b in zip(one.loglikelihoods, other.loglikelihoods, strict=True)
    ]  # fmt: skip
    apart = [abs(a - b) for a, b in likelihoods]
    mean, size = (sum(some) / len(likelihoods) for some in (apart, [abs(b) for _, b in likelihoods]))
    differing = [one for one, other in pairs if one.output != other.output]
    print(
        f"{name}: {len(pairs)} rows, {len(differing)} answers differ; {mean:.2g} of {size:.3g} nats, most "
        f"{max(apart):.2g}",
        flush=True,
    )
    assert not [(one.task, one.doc_id) for one in differing if one.choices]
    assert len(differing) <= LARGEST_SHARE_OF_TEXTS * sum(not one.choices for one in ours)
    assert mean < LARGEST_SHARE_APART * size


RUNTIMES: tuple[tuple[str, Precision], ...] = (("ternary", "ternary"), ("hf", "ternary"))


def _score(model: Path, out: Path, backend: str, precision: Precision) -> list[Example]:
    found: list[Example] = []
    for tasks, limit in SCORED.items():
        job = EvaluateJob(backend=backend, precision=precision, limit=limit, cache=False)
        record = evaluate(str(model), select_tasks(["sample"], list(tasks)), out / tasks[0], job)
        assert not record.errors
        found += load_samples(out / tasks[0], list(record.samples))
    return found
