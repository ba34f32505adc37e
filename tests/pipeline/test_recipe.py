"""A recipe is read with care, planned without doing anything, and done once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.random_weights import find_shape
from bitnet_bench.checkpoints.shape import compute_shape
from bitnet_bench.cli import app
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.machine.fast_dtype import fastest_dtype
from bitnet_bench.pipeline.estimates import Speed, estimate_steps
from bitnet_bench.pipeline.finetune_step import FinetuneStep
from bitnet_bench.pipeline.quickstart import RECIPE
from bitnet_bench.pipeline.recipe import RECIPES_FOLDER, find_recipe, read_recipe
from bitnet_bench.pipeline.running import run_recipe
from bitnet_bench.pipeline.step_estimate import Estimate
from bitnet_bench.pipeline.steps import EvaluateStep, MeasureStep, plan_steps

RECIPES = sorted(RECIPES_FOLDER.glob("*.yaml"))
SMALL = """\
finetune:
  data: [rows.jsonl]
  twin: true
  max_steps: 2
  batch_size: 2
evaluate:
  suites: [sample]
  tasks: [copa]
  limit: 4
"""
MEASURED = """\
models: {plain: demo}
evaluate: {suites: [sample], tasks: [copa], limit: 2}
measure: {prompt_tokens: 8, new_tokens: 2, rounds: 1, threads: 1}
report: false
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Give a recipe of a few seconds beside its rows."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "수도는?", "response": "서울"}\n' * 4, encoding="utf-8")
    file = tmp_path / "small.yaml"
    file.write_text(SMALL, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_steps", "max_step", ["Line 4", "no key finetune.max_step", "Did you mean max_steps?"]),
        ("evaluate:", "evalute:", ["Line 6", "no key evalute", "Did you mean evaluate?"]),
        (
            "  limit: 4\n",
            "  limit: 4\nmeasure: {round: 1}",
            ["Line 10", "no key measure.round", "Did you mean rounds?"],
        ),
        (
            "  limit: 4\n",
            "  limit: 4\nmeasure: {budget: 3 minutes}",
            ["Line 10", "measure.budget: '3 minutes' is not a budget", "90s, 3m or 1h"],
        ),
        ("max_steps: 2", "max_steps: 0", ["Line 4", "finetune.max_steps", "greater than 0"]),
        ("limit: 4", "limit: four", ["Line 9", "evaluate.limit", "integer"]),
        ("  suites: [sample]\n", "", ["Line 6", "evaluate.suites is missing"]),
        ("  twin: true\n", "  twin: true\n  out: here\n", ["Line 4", "finetune.out", "`out`"]),
        ("  twin: true\n", "  twin: true\n  precision: fp16\n", ["Line 1", "finetune", "twin"]),
        ("max_steps: 2", "max_steps: 2\n  max_steps: 3", ["Line 5", "finetune.max_steps stands twice"]),
        ("[rows.jsonl]", "[rows.jsonl", ["not YAML", "line"]),
        ("tasks: [copa]", "tasks: copa", ["Line 8", "evaluate.tasks"]),
        ("evaluate:", "models: {one: a, two: b, three: a}\nevaluate:", ["models.one and models.three are both a"]),
    ],
)
def test_a_wrong_recipe_is_a_sentence_with_its_line(small: Path, old: str, new: str, words: list[str]) -> None:
    """What is wrong, in which line of which file, and what was probably meant; nothing is written."""
    small.write_text(SMALL.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BenchError) as raised:
        read_recipe(small)
    for word in [*words, str(small)]:
        assert word in str(raised.value)
    assert "out" not in str(raised.value.hint).split("There are:")[-1].split(", "), "what may not be said is no offer"


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "models: {}\nevaluate: {suites: [sample]}\n"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    """An empty file, a list, a text, or a recipe without a model."""
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match=r"r\.yaml"):
        read_recipe(tmp_path / "r.yaml")


def test_files_beside_the_recipe_are_meant(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever the command is given; a name that is no file there stays a name."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = read_recipe(small).finetune
    assert found is not None
    assert (found.data, found.model) == ((str(tmp_path / "rows.jsonl"),), "demo")


def test_seeds_and_arms_have_folders_of_their_own(small: Path, tmp_path: Path) -> None:
    """Arms differ in precision and start, seeds in the seed; the first seed is measured."""
    several = SMALL.replace("max_steps: 2", "max_steps: 2\n  seeds: 2") + "measure: {}\n"
    small.write_text(several, encoding="utf-8")
    steps = plan_steps(read_recipe(small), tmp_path / "out")
    assert [step.title for step in steps] == [
        *(f"fine-tune {name}" for name in ("ternary-seed0", "fp16-seed0", "ternary-seed1", "fp16-seed1")),
        *(f"evaluate {name}" for name in ("ternary-seed0", "fp16-seed0", "ternary-seed1", "fp16-seed1")),
        "measure",
        "report",
    ]
    jobs = [step.job for step in steps if isinstance(step, FinetuneStep)]
    assert [(job.model, job.precision, job.seed) for job in jobs[:3]] == [
        ("demo", "ternary", 0),
        ("demo-fp16", "fp16", 0),
        ("demo", "ternary", 1),
    ]
    assert len({job.out for job in jobs}) == 4
    (measuring,) = [step for step in steps if isinstance(step, MeasureStep)]
    assert [folder.name for folder in measuring.folders] == ["ternary-seed0", "fp16-seed0"]


def test_a_recipe_is_done_once_and_goes_on_where_it_was(small: Path, tmp_path: Path) -> None:
    """Finished steps are not done again, missing ones are; the folder keeps the recipe and is no other recipe's."""
    out = tmp_path / "out"
    records = run_recipe(read_recipe(small), out)
    assert [(record.name, record.precision, len(record.scores)) for record in records] == [
        ("ternary", "ternary", 2),
        ("fp16", fastest_dtype(), 2),
    ]
    assert (out / "report.html").is_file()
    assert read_recipe(out / "recipe.yaml") == read_recipe(out / "ternary/recipe.yaml") == read_recipe(small)
    assert all(step.is_done for step in plan_steps(read_recipe(small), out))

    times = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.name != ".lock"}
    (out / "fp16/record.json").unlink()  # as if it had been killed before the twin was scored
    again = run_recipe(read_recipe(small), out)
    kept = {file for file, time in times.items() if file.stat().st_mtime_ns == time}
    assert {out / "models/ternary/finetune.json", out / "models/fp16/finetune.json", out / "recipe.yaml"} <= kept
    assert [record.scores for record in again] == [record.scores for record in records]

    small.write_text(SMALL.replace("max_steps: 2", "max_steps: 3"), encoding="utf-8")
    with pytest.raises(BenchError, match=r"another recipe: finetune\.max_steps"):
        run_recipe(read_recipe(small), out)


def test_what_is_not_trained_is_scored_and_measured_as_it_is(tmp_path: Path) -> None:
    """`models` names checkpoints; what was measured is not measured again."""
    (tmp_path / "r.yaml").write_text(MEASURED, encoding="utf-8")
    recipe = read_recipe(tmp_path / "r.yaml")
    (record,) = run_recipe(recipe, tmp_path / "out")
    assert (record.name, len(record.costs)) == ("plain", 1)
    assert run_recipe(recipe, tmp_path / "out") == [record]
    assert not (tmp_path / "out/report.html").exists()


def test_a_dry_run_estimates_and_writes_nothing(small: Path, tmp_path: Path) -> None:
    """Every step has a time, a size or a reason; there is no output folder afterwards."""
    done = CliRunner().invoke(app, ["run", str(small), "--out", str(tmp_path / "out"), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [step["title"] for step in found][:2] == ["fine-tune ternary", "fine-tune fp16"]
    assert all(step["seconds"] > 0 and not step["done"] for step in found)
    assert "2 steps" in found[0]["note"]
    assert not (tmp_path / "out").exists()


def test_parameters_are_those_of_the_checkpoint() -> None:
    """The formula counts what the files hold, norms left out."""
    checkpoint = open_checkpoint("demo")
    shape = find_shape("demo")
    assert shape.matrices == checkpoint.ternary_parameters
    assert abs(shape.parameters / checkpoint.parameters - 1) < 0.002


def test_an_unknown_size_is_a_reason_and_no_number(tmp_path: Path, small: Path) -> None:
    """What is not here, and is no published shape, is not guessed at."""
    small.write_text(SMALL.replace("finetune:", "finetune:\n  model: nobody/nothing"), encoding="utf-8")
    found = estimate_steps(plan_steps(read_recipe(small), tmp_path / "out"), Speed(1e12, "given"), lambda *_: None)
    assert (found[0].seconds, found[0].memory_bytes) == (None, None)
    assert "nobody/nothing" in found[0].note


def test_a_faster_machine_takes_less() -> None:
    """Estimates grow with the model: 2.4 billion parameters are some hundred times the embedded ones."""
    large = find_shape("microsoft/bitnet-b1.58-2B-4T-bf16")
    assert 2.3e9 < large.parameters < 2.6e9
    with pytest.raises(KeyError):
        compute_shape({"n_embd": 64})


def test_a_shipped_recipe_is_found_by_its_name() -> None:
    """`bitnet-bench run understanding` works where there is no source tree; another name lists those there are."""
    assert find_recipe(Path("understanding")) == RECIPES_FOLDER / "understanding.yaml"
    with pytest.raises(BenchError, match="There is no recipe understandin") as error:
        find_recipe(Path("understandin"))
    assert "headlines, sentiment, ternarize, understanding" in error.value.hint


def _measuring_estimate(model: str, measure: str, tmp_path: Path) -> Estimate:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"models: {{x: {model}}}\nevaluate: {{suites: [sample], tasks: [copa]}}\nmeasure: {{{measure}}}\n",
        encoding="utf-8",
    )
    (step,) = [s for s in plan_steps(read_recipe(file), tmp_path / "out") if isinstance(s, MeasureStep)]
    return estimate_steps([step], Speed(200e9, "test"), lambda done, total, note="": None)[0]


def test_the_estimate_of_measuring_depends_on_the_model(tmp_path: Path) -> None:
    """A large model takes longer than a small one, in `hf` more memory than in the engine, and never over budget."""
    large = "microsoft/bitnet-b1.58-2B-4T"
    small = _measuring_estimate("demo", "budget: 1h", tmp_path)
    hf, engine = (_measuring_estimate(large, f"budget: 1h, backend: {name}", tmp_path) for name in ("hf", "ternary"))
    fp16, bf16 = (
        _measuring_estimate(large, f"budget: 1h, precisions: [{name}]", tmp_path) for name in ("fp16", "bf16")
    )
    seconds = [one.seconds or 0.0 for one in (small, engine, hf)]
    assert seconds == sorted(seconds)
    assert seconds[1] > 1.5 * seconds[0]
    assert (hf.memory_bytes or 0) > 1.5 * (engine.memory_bytes or 0)
    assert (fp16.seconds or 0) > 1.5 * (bf16.seconds or 0)
    capped = _measuring_estimate(large, "budget: 60s, precisions: [fp16]", tmp_path)
    assert capped.seconds == 60
    assert "as many rounds as the budget allows" in capped.note


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_in_the_tree_can_be_planned(file: Path, tmp_path: Path) -> None:
    """Its keys are known, its suites and tasks are there, and it says what it writes."""
    recipe = read_recipe(file)
    steps: list[Any] = plan_steps(recipe, tmp_path / "out")
    assert {step.title.split()[0] for step in steps} == {"fine-tune", "evaluate", "measure", "report"}


def test_quickstart_is_a_recipe_of_every_task_that_is_embedded(tmp_path: Path) -> None:
    """It trains on the rows of each task that it scores, and has a run of each arm before and after."""
    recipe = read_recipe(RECIPE)
    assert recipe.finetune is not None
    tasks = {f"{suite.name}:{task.name}" for suite, task in select_tasks(["sample"])}
    assert {*recipe.finetune.data} - tasks == {str(RECIPE.parent / "instructions.jsonl")}
    assert tasks < {*recipe.finetune.data}
    runs = [step.out.name for step in plan_steps(recipe, tmp_path) if isinstance(step, EvaluateStep)]
    assert runs == ["ternary-before", "fp16-before", "ternary-after", "fp16-after"]


ONE_ARM = """\
finetune:
  data: [rows.jsonl]
  max_steps: 1
  batch_size: 2
evaluate:
  suites: [sample]
  tasks: [copa]
  limit: 2
report: false
"""


def test_a_finished_recipe_does_not_stand_for_other_rows(small: Path, tmp_path: Path) -> None:
    """Nor for another scored prompt or an edited record: every finished step is asked."""
    small.write_text(ONE_ARM, encoding="utf-8")
    recipe = read_recipe(small)
    (record,) = run_recipe(recipe, tmp_path / "out")
    assert run_recipe(recipe, tmp_path / "out") == [record]
    file = tmp_path / "out" / "ternary" / "record.json"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace('"value": ', '"value": 1'), encoding="utf-8")
    with pytest.raises(BenchError, match="was edited after it was written"):
        run_recipe(recipe, tmp_path / "out")
    file.write_text(whole, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "수도는?", "response": "부산"}\n' * 4, encoding="utf-8")
    with pytest.raises(BenchError, match="finished run with different data rows"):
        run_recipe(recipe, tmp_path / "out")


def test_a_report_is_written_anew_from_records_that_are_older_than_it(tmp_path: Path) -> None:
    """As records that were put back from a copy are."""
    file = tmp_path / "r.yaml"
    file.write_text("models: {plain: demo}\nevaluate: {suites: [sample], tasks: [copa], limit: 2}\n", encoding="utf-8")
    run_recipe(read_recipe(file), tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    before = page.read_text(encoding="utf-8")
    page.write_text("of other records", encoding="utf-8")
    run_recipe(read_recipe(file), tmp_path / "out")
    assert page.read_text(encoding="utf-8") == before
