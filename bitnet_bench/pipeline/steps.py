"""Run the steps of a recipe: search settings, fine-tune, evaluate, measure and report, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench import plugins
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import choose_suites, find_data_directory, select_tasks
from bitnet_bench.evaluation.trust import require_trust
from bitnet_bench.files import is_file
from bitnet_bench.machine.runtime_choice import AUTO
from bitnet_bench.measurement import candidates
from bitnet_bench.measurement.candidates import Candidate
from bitnet_bench.measurement.measure import measure
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.pipeline.finetune_step import FinetuneStep as FinetuneStep
from bitnet_bench.pipeline.finetune_step import begins_between, make_finetune_steps
from bitnet_bench.pipeline.recipe import Recipe, claim_recipe_folder
from bitnet_bench.pipeline.search_step import SearchStep as SearchStep  # a `Step`
from bitnet_bench.protocols import ProgressDisplay, no_display
from bitnet_bench.reports.write import write_report
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.folder import RECORD_FILE, load_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import RunRecord
from bitnet_bench.training.inputs import list_training_suites

if TYPE_CHECKING:
    from bitnet_bench.evaluation.suites import Suite, Task

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class EvaluateStep:
    """Step that scores one checkpoint."""

    model: str
    out: Path
    tasks: Sequence[tuple[Suite, Task]]
    job: EvaluateJob

    @property
    def title(self) -> str:
        """Name of the step for displays."""
        return f"evaluate {self.out.name}"

    @property
    def is_done(self) -> bool:
        """True if every task has a score; `run` then only raises BenchError if they are of other rows or prompts."""
        if not is_file(self.out / RECORD_FILE):
            return False
        scored = set(load_record(self.out).finished_tasks)
        return all(f"{suite.name}:{task.name}" in scored for suite, task in self.tasks)

    def run(self, steps: ProgressDisplay) -> None:
        """Score the tasks that are not scored yet."""
        evaluate(self.model, self.tasks, self.out, self.job, steps)


@dataclass(frozen=True)
class MeasureStep:
    """Step that measures the checkpoints of the first seed, in alternating rounds."""

    list_candidates: Callable[[], list[Candidate]]
    """Function that returns the candidates; to be called when the checkpoints exist."""
    models: tuple[str, ...]
    folders: tuple[Path, ...]
    scenario: Scenario
    backend: str
    precisions: tuple[Precision, ...] = ()
    """Precisions to measure; () is the default of `make_candidates` for a checkpoint."""

    title = "measure"

    @property
    def is_done(self) -> bool:
        """True if every record has costs or says that the budget left them out, and at least one has costs."""
        return all(map(_is_measured, self.folders)) and any(load_record(f).costs for f in self.folders)

    def run(self, steps: ProgressDisplay) -> None:
        """Measure, and write the costs into the records of the run folders."""
        measure(self.list_candidates(), self.scenario, backend=self.backend, steps=steps)


def _is_measured(folder: Path) -> bool:
    if not is_file(folder / RECORD_FILE):
        return False
    record = load_record(folder)
    return bool(record.costs or record.cost_left_out)


@dataclass(frozen=True)
class ReportStep:
    """Step that writes the report about all runs."""

    folders: tuple[Path, ...]
    out: Path

    title = "report"

    @property
    def is_done(self) -> bool:
        """True if the report is newer than every record."""
        records = [folder / RECORD_FILE for folder in self.folders]
        if not is_file(self.out) or not all(map(is_file, records)):
            return False
        return all(record.stat().st_mtime_ns <= self.out.stat().st_mtime_ns for record in records)

    def run(self, steps: ProgressDisplay) -> None:
        """Write the report."""
        write_report(self.folders, self.out)


Step = SearchStep | FinetuneStep | EvaluateStep | MeasureStep | ReportStep


def plan_steps(recipe: Recipe, out: Path, data_dir: Path | None = None) -> list[Step]:
    """Return every step of *recipe* in order, finished or not, without opening, running or writing anything."""
    data_dir = find_data_directory(data_dir)
    scoring = recipe.evaluate
    for section in (recipe.finetune, recipe.evaluate, recipe.measure):
        if section and section.backend != AUTO:
            plugins.load_plugin("backends", section.backend)  # an unknown name is an error before anything is run
    tasks = select_tasks(scoring.suites, scoring.tasks, data_dir)
    trained = make_finetune_steps(recipe.finetune, out, data_dir) if recipe.finetune else []
    results = [step for step in trained if not step.is_between]
    starts = {f"{step.job.precision}-before": step.job for step in results if not begins_between(step, trained)}
    before = starts if scoring.before else {}
    after = {step.name + ("-after" if before else ""): step.job.out for step in results}

    def scored(models: Mapping[str, str], job: EvaluateJob) -> list[EvaluateStep]:
        return [EvaluateStep(model, out / name, tasks, job) for name, model in models.items()]

    plain = scored(recipe.models, scoring.make_job(data_dir, None, scoring.read_as))
    first = [
        EvaluateStep(job.model, out / name, tasks, scoring.make_job(data_dir, "before", job.read_as))
        for name, job in before.items()
    ]
    last = scored(after, scoring.make_job(data_dir, "after" if before else None))
    searched = [trained[0].search] if trained and trained[0].search else []
    steps: list[Step] = [*plain, *first, *searched, *trained, *last]
    if recipe.measure:
        # costs do not depend on the seed
        seed = recipe.finetune.seed if recipe.finetune else 0
        measured = plain + [run for run, step in zip(last, results, strict=True) if step.job.seed == seed]
        steps.append(_make_measure_step(recipe, measured))
    if recipe.report:
        folders = tuple(run.out for run in (*plain, *first, *last))
        steps.append(ReportStep(folders, out / REPORT_FILE))
    return steps


def list_suites(recipe: Recipe) -> list[str]:
    """Return the names or folders of all suites that *recipe* scores or trains on."""
    trained = list_training_suites(recipe.finetune.data) if recipe.finetune else []
    return list(dict.fromkeys((*recipe.evaluate.suites, *trained)))


def _make_measure_step(recipe: Recipe, runs: Sequence[EvaluateStep]) -> MeasureStep:
    assert recipe.measure
    wanted = recipe.measure
    models = tuple(run.model for run in runs)
    folders = tuple(run.out for run in runs)
    waiting = partial(_list_candidates, runs, recipe)
    return MeasureStep(waiting, models, folders, wanted.scenario(), wanted.backend, wanted.precisions)


def _list_candidates(runs: Sequence[EvaluateStep], recipe: Recipe) -> list[Candidate]:
    precisions = recipe.measure.precisions if recipe.measure else ()
    return [
        contender
        for run in runs
        for contender in candidates.make_candidates([run.model], precisions, run.out, read_as=run.job.read_as)
    ]


def run_recipe(
    recipe: Recipe, out: Path, data_dir: Path | None = None, steps: ProgressDisplay = no_display
) -> list[RunRecord]:
    """Run every step of *recipe* that is not finished in *out*, and return the record of every run.

    After a kill, the same call resumes. Raise BenchError if *out* holds results of another recipe, or of this recipe
    with other data or another base.
    """
    todo = plan_steps(recipe, out, data_dir)
    for suite in choose_suites(list_suites(recipe)):
        require_trust(suite)  # before hours of training
    claim_recipe_folder(recipe, out)
    for step in todo:
        # only a measurement is skipped here: training and scoring compare their inputs with the record, and the
        # report is written anew, because the records may have changed
        if isinstance(step, MeasureStep) and step.is_done:
            continue
        step.run(steps)
        if isinstance(step, EvaluateStep):
            claim_recipe_folder(recipe, step.out)
    return [load_record(step.out) for step in todo if isinstance(step, EvaluateStep)]
