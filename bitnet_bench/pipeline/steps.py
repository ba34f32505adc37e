"""The steps of a recipe: search settings, fine-tune, evaluate, measure and report, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_bench.evaluation.select import find_data_directory
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.files import is_file
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.pipeline.board_step import BoardStep
from bitnet_bench.pipeline.finetune_step import FinetuneStep as FinetuneStep
from bitnet_bench.pipeline.finetune_step import begins_between, make_finetune_steps
from bitnet_bench.pipeline.known import Known
from bitnet_bench.pipeline.recipe import Recipe
from bitnet_bench.pipeline.search_step import SearchStep as SearchStep  # a `Step`
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.runs.choices import AUTO, Precision, ReadAs
from bitnet_bench.runs.folder import RECORD_FILE, load_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.training.inputs import list_training_suites

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class EvaluateStep:
    """Step that scores one checkpoint."""

    model: str
    out: Path
    suites: tuple[str, ...]
    """Names or folders of the suites, as the recipe gives them."""
    tasks: Sequence[tuple[Suite, Task]]
    job: EvaluateJob

    @property
    def title(self) -> str:
        """Name of the step for displays."""
        return f"evaluate {self.out.name}"

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks as SUITE:TASK."""
        return tuple(f"{suite.name}:{task.name}" for suite, task in self.tasks)

    @property
    def is_done(self) -> bool:
        """True if every task has a score; `run` then only raises BenchError if they are of other rows or prompts."""
        if not is_file(self.out / RECORD_FILE):
            return False
        return set(self.task_names) <= set(load_record(self.out).finished_tasks)

    def run(self, steps: ProgressDisplay) -> None:
        """Score the tasks that are not scored yet."""
        from bitnet_bench.evaluation.evaluate import evaluate

        evaluate(self.model, self.tasks, self.out, self.job, steps)


@dataclass(frozen=True)
class MeasureStep:
    """Step that measures the checkpoints of the first seed, in alternating rounds."""

    models: tuple[str, ...]
    folders: tuple[Path, ...]
    """The run folder of each of *models*, whose record gains its costs."""
    readings: tuple[ReadAs | None, ...]
    """What the weights of each are read as."""
    scenario: Scenario
    backend: str
    precisions: tuple[Precision, ...] = ()
    """Precisions to measure; () is the default of `make_candidates` for a checkpoint."""
    label: str = ""

    @property
    def title(self) -> str:
        """Name of the step for displays."""
        return f"measure{self.label and ' '}{self.label.strip('-')}"

    @property
    def is_done(self) -> bool:
        """True if every record has costs or says that the budget left them out, and at least one has costs."""
        return all(map(_is_measured, self.folders)) and any(load_record(f).costs for f in self.folders)

    def run(self, steps: ProgressDisplay) -> None:
        """Measure, and write the costs into the records of the run folders; nothing is measured twice."""
        if self.is_done:
            return
        from bitnet_bench.measurement.candidates import make_candidates
        from bitnet_bench.measurement.measure import measure

        candidates = [
            candidate
            for model, out, read_as in zip(self.models, self.folders, self.readings, strict=True)
            for candidate in make_candidates([model], self.precisions, out, read_as=read_as)
        ]
        measure(candidates, self.scenario, backend=self.backend, steps=steps)


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
        from bitnet_bench.reports.write import write_report

        write_report(self.folders, self.out)


Step = SearchStep | FinetuneStep | EvaluateStep | MeasureStep | ReportStep | BoardStep


@dataclass(frozen=True)
class Labels:
    """What the names of a recipe's runs end with, so that those of several recipes can share a folder."""

    training: str = ""
    """Of what is fine-tuned."""
    scoring: str = ""
    """Added to that for what is scored."""
    start: str = ""
    """Of what is scored before it is fine-tuned, in place of `training`."""


def plan_steps(
    recipe: Recipe, out: Path, data_dir: Path | None = None, labels: Labels | None = None, known: Known | None = None
) -> list[Step]:
    """Return every step of *recipe* in order, finished or not, without opening, running or writing anything.

    *known* keeps what several recipes have in common.
    """
    labels, known = labels or Labels(), known or Known(find_data_directory(data_dir))
    scoring, data_dir = recipe.evaluate, known.data_dir
    for section in (recipe.finetune, recipe.evaluate, recipe.measure):
        if section and section.backend != AUTO:
            known.check_backend(section.backend)  # an unknown name is an error before anything is run
    tasks = known.select_tasks(scoring.suites, scoring.tasks)
    trained = make_finetune_steps(recipe.finetune, out, data_dir, labels.training) if recipe.finetune else []
    results = [step for step in trained if not step.is_between]
    starts = {step.job.precision: step.job for step in results if not begins_between(step, trained)}
    before = starts if scoring.before else {}

    def score(model: str, name: str, job: EvaluateJob) -> EvaluateStep:
        return EvaluateStep(model, out / f"{name}{labels.scoring}", scoring.suites, tasks, job)

    plain_job = scoring.make_job(data_dir, None, scoring.read_as)
    plain = [score(model, name, plain_job) for name, model in recipe.models.items()]
    first = [
        score(job.model, f"{arm}-before{labels.start}", scoring.make_job(data_dir, "before", job.read_as))
        for arm, job in before.items()
    ]
    last_job = scoring.make_job(data_dir, "after" if before else None)
    ending = "-after" if before else ""
    last = [score(step.job.out, f"{step.name}{ending}", last_job) for step in results]
    searched = [trained[0].search] if trained and trained[0].search else []
    steps: list[Step] = [*plain, *first, *searched, *trained, *last]
    if recipe.measure:
        # costs do not depend on the seed
        seed = recipe.finetune.seed if recipe.finetune else 0
        measured = plain + [run for run, step in zip(last, results, strict=True) if step.job.seed == seed]
        steps.append(_make_measure_step(recipe, measured, labels.training + labels.scoring))
    if recipe.report:
        folders = tuple(run.out for run in (*plain, *first, *last))
        steps.append(ReportStep(folders, out / REPORT_FILE))
    return steps


def list_suites(recipe: Recipe) -> list[str]:
    """Return the names or folders of all suites that *recipe* scores or trains on."""
    trained = list_training_suites(recipe.finetune.data) if recipe.finetune else []
    return list(dict.fromkeys((*recipe.evaluate.suites, *trained)))


def _make_measure_step(recipe: Recipe, runs: Sequence[EvaluateStep], label: str) -> MeasureStep:
    assert recipe.measure
    wanted = recipe.measure
    models = tuple(run.model for run in runs)
    folders = tuple(run.out for run in runs)
    readings = tuple(run.job.read_as for run in runs)
    return MeasureStep(models, folders, readings, wanted.scenario(), wanted.backend, wanted.precisions, label)
