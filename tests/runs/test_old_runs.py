"""What the version before the move of modules wrote still opens: a run folder, a finetune.json, a recipe and its copy.

The files in `old/` were written by bitnet-bench 0.1.0 as it was before: a fine-tuning of two steps, an evaluation of
two tasks on two rows each, a measurement of two rounds, and a recipe with the copy that its folder keeps. The pair and
the rows of `sample` have changed since: what is to be continued is copied with the digests of today's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import bitnet_bench as bb
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.finished import ROWS, digest_task
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.pipeline.recipe import claim_recipe_folder, read_recipe
from bitnet_bench.runs.folder import compute_seal, load_record
from bitnet_bench.runs.reading import read_run
from bitnet_bench.runs.records import FinetuneRecord

OLD = Path(__file__).with_name("old")


def copy_run(folder: Path) -> Path:
    """Copy the run to *folder*, as if made of today's `demo` and rows; all else stays as it was."""
    shutil.copytree(OLD / "run", folder)
    fields = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    del fields["sha256"]
    fields["checkpoint"]["sha256"] = open_checkpoint("demo").sha256
    for suite, task in select_tasks(["sample"], ["copa", "qa"]):
        digests = digest_task(build_task(suite, task, TaskSettings()), TaskSettings(), 2)
        name = f"{suite.name}:{task.name}"
        fields["suites"][suite.name], fields["data"][name] = suite.version, digests[ROWS.format(name)]
    text = json.dumps({**fields, "sha256": compute_seal(fields)}, ensure_ascii=False)
    (folder / "record.json").write_text(text, encoding="utf-8")
    return folder


def test_a_run_of_before_opens_with_its_scores_samples_costs_and_training() -> None:
    """Nothing is missing, changed or doubtful: the seal over the record and the digests of the samples hold."""
    run = read_run(OLD / "run", OLD / "checkpoint")
    assert {score.task for score in run.record.scores} == {"sample:copa", "sample:qa"}
    assert [len(run.examples[task]) for task in ("sample:copa", "sample:qa")] == [2, 2]
    assert len(run.record.costs[0].metrics["decode_s"].readings) == 2  # type: ignore[union-attr]
    assert run.training is not None
    assert run.training.steps == 2
    assert {notice.where for notice in run.notices} <= {str(OLD / "run")}  # which names the version that wrote it


def test_a_run_of_before_is_written_again_as_it_was(tmp_path: Path) -> None:
    """The schema is the same: the record's fields go through the models of today unchanged."""
    fields = json.loads((OLD / "run" / "record.json").read_text(encoding="utf-8"))
    del fields["sha256"]
    assert json.loads(load_record(OLD / "run").model_dump_json()) == fields


def test_an_evaluation_of_before_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was scored is not scored again, under the same settings."""
    monkeypatch.delenv("BITNET_BENCH_DATA", raising=False)  # it was scored without
    folder = copy_run(tmp_path / "run")
    before = load_record(folder)
    job = bb.EvaluateJob(limit=2, backend="hf", cache=False)
    assert evaluate("demo", select_tasks(["sample"], ["copa", "qa"]), folder, job) == before
    assert before.checkpoint.sha256 == open_checkpoint("demo").sha256


def test_a_fine_tuning_of_before_is_not_done_again(tmp_path: Path) -> None:
    """Its `finetune.json` is found and believed; the rows it names are not even there."""
    folder = Path(shutil.copytree(OLD / "checkpoint", tmp_path / "checkpoint"))
    fields = json.loads((folder / "finetune.json").read_text(encoding="utf-8"))
    fields["base"]["sha256"] = open_checkpoint("demo").sha256
    (folder / "finetune.json").write_text(json.dumps(fields), encoding="utf-8")
    before = FinetuneRecord.model_validate(fields)
    job = bb.FinetuneJob(
        model="demo",
        data=("rows.jsonl",),
        out=str(folder),
        max_steps=2,
        batch_size=4,
        hold_out=0.25,
        compute=before.job.compute,
    )
    assert bb.finetune(job) == before


def test_a_recipe_of_before_reads_and_continues_its_folder(tmp_path: Path) -> None:
    """The folder that the recipe was run in holds the same recipe."""
    recipe = read_recipe(OLD / "recipe.yaml")
    folder = Path(shutil.copytree(OLD / "recipe", tmp_path / "recipe"))
    claim_recipe_folder(recipe, folder)
    assert recipe.finetune is not None
    assert recipe.finetune.twin


def test_a_recipe_and_a_run_with_the_former_name_of_allow_mismatch_open(tmp_path: Path) -> None:
    """`despite_parity` is read as `allow_mismatch`, so that the same settings continue the run."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("models: {a: demo}\nevaluate: {suites: [sample], despite_parity: true}\n", encoding="utf-8")
    assert read_recipe(recipe).evaluate.allow_mismatch
    folder = copy_run(tmp_path / "run")
    record = load_record(folder)
    fields = record.model_dump(mode="json")
    fields["settings"]["despite_parity"] = True
    (folder / "record.json").write_text(json.dumps(fields), encoding="utf-8")
    before = load_record(folder)
    assert before.settings == {**record.settings, "allow_mismatch": True}
    job = bb.EvaluateJob(limit=2, backend="hf", cache=False, allow_mismatch=True)
    assert evaluate("demo", select_tasks(["sample"], ["copa", "qa"]), folder, job) == before


def test_a_report_shows_a_run_of_before(tmp_path: Path) -> None:
    """It is among the runs, with its tasks."""
    page = bb.report([OLD / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "sample:copa" in page
