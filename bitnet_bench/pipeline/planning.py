"""Make the graph of a sweep: the steps of all of its recipes, each once, with what they wait for and need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.select import find_data_directory
from bitnet_bench.pipeline.board_step import BOARD_FILE, RESULTS_FILE, BoardRun, BoardStep
from bitnet_bench.pipeline.jobs import compute_key, dump_step, find_kind
from bitnet_bench.pipeline.known import Known
from bitnet_bench.pipeline.matrix import NOT_IN_NAMES, Place
from bitnet_bench.pipeline.needs import choose_needs, count_parameters
from bitnet_bench.pipeline.recipe import StepNeeds, Sweep, SweepCell
from bitnet_bench.pipeline.step_files import FileFinder, StepFiles
from bitnet_bench.pipeline.steps import (
    EvaluateStep,
    FinetuneStep,
    Labels,
    MeasureStep,
    ReportStep,
    SearchStep,
    plan_steps,
)
from bitnet_bench.pipeline.steps import Step as AnyStep
from bitnet_bench.runs.choices import AUTO
from bitnet_bench.runs.folder import RECORD_FILE
from bitnet_bench.sweeps.graph import Graph, Needs, Step, make_graph
from bitnet_bench.training.search import SEARCH_RECORD_FILE
from bitnet_bench.yaml_files import KeyPath

MAX_LABEL_CHARACTERS = 150
SAMPLES_FOLDER = "samples"
Planned = TypeVar("Planned", bound=AnyStep)


@dataclass(frozen=True)
class PlannedStep:
    """A step of a recipe, the first cell that has it, and its digest."""

    step: AnyStep
    cell: SweepCell
    key: str


@dataclass(frozen=True)
class SweepPlan:
    """The steps of a sweep, as the recipes describe them and as a graph."""

    steps: Mapping[str, AnyStep]
    """The steps by id, in the order of the graph."""
    graph: Graph

    @property
    def run_folders(self) -> list[Path]:
        """The folders of all runs."""
        return [step.out for step in self.steps.values() if isinstance(step, EvaluateStep)]


def plan_sweep(sweep: Sweep, out: Path, data_dir: Path | None = None, gpus: int = 0) -> SweepPlan:
    """Return the steps of *sweep*, without opening a model, running or writing anything.

    *gpus* is the number of GPUs of this machine. BenchError, with the line of the file, for everything that can be
    known to be missing or wrong.
    """
    known = Known(find_data_directory(data_dir))
    planner = _Planner(sweep, out, known)
    for cell in sweep.cells:
        planner.add_cell(cell)
    planner.add_results()
    return planner.build(gpus)


class _Planner:
    """Collects the steps of the cells of a sweep."""

    def __init__(self, sweep: Sweep, out: Path, known: Known) -> None:
        self._sweep, self._out, self._known = sweep, out, known
        self._planned: dict[str, PlannedStep] = {}
        """Steps by their key, in order."""
        self._moved: dict[str, str] = {}
        """Folders of equal steps of later cells, and those of the first."""
        self._measured: set[str] = set()
        self._runs: dict[Path, BoardRun] = {}

    def add_cell(self, cell: SweepCell) -> None:
        """Add the steps of a cell that no earlier one has."""
        self._check_names(cell)
        labels = Labels(
            training=_shorten(cell.cell.label(("finetune",))),
            scoring=_shorten(cell.cell.label(("evaluate",))),
            start=_shorten(_label_start(cell)),
        )
        for step in plan_steps(cell.recipe, self._out, None, labels, self._known):
            if isinstance(step, ReportStep) and self._sweep.has_matrix:
                continue
            if isinstance(step, MeasureStep) and self._is_measured(step, cell):
                continue
            self._add(self._move(step), cell)

    def _check_names(self, cell: SweepCell) -> None:
        """Raise an error with its line for suites, tasks and backends that do not exist."""
        recipe = cell.recipe
        with self._locate_errors(cell, ("evaluate", "suites")):
            self._known.select_tasks(recipe.evaluate.suites, recipe.evaluate.tasks)
        for name in ("finetune", "evaluate", "measure"):
            section = getattr(recipe, name)
            if section and section.backend != AUTO:
                with self._locate_errors(cell, (name, "backend")):
                    self._known.check_backend(section.backend)

    @contextmanager
    def _locate_errors(self, cell: SweepCell, *paths: KeyPath) -> Iterator[None]:
        """Begin errors with the line of the first of *paths* that a value of the matrix set, else of the first."""
        try:
            yield
        except BenchError as error:
            where = self._sweep.place.locate(_find_path(cell, paths))
            raise type(error)(f"{where}: {error.problem}", error.hint) from error

    def _is_measured(self, step: MeasureStep, cell: SweepCell) -> bool:
        """Return whether another cell has a measurement of the same models, which seeds and learning rates leave."""
        training = cell.recipe.finetune
        started = (training.model, training.precision, training.twin, training.twin_model) if training else ()
        plain = tuple(model for model in step.models if model in cell.recipe.models.values())
        about = repr((started, plain, step.scenario, step.backend, step.precisions))
        if about in self._measured or not step.models:
            return True
        self._measured.add(about)
        return False

    def _move(self, step: Planned) -> Planned:
        """Return *step* with the folders of steps that earlier cells have as well."""

        def move(path: str) -> str:
            return self._moved.get(path, path)

        if isinstance(step, EvaluateStep):
            return replace(step, model=move(step.model))
        if isinstance(step, FinetuneStep):
            changed = {"model": move(step.job.model), "teacher": step.job.teacher and move(step.job.teacher)}
            search = step.search and replace(step.search, out=Path(move(str(step.search.out))))
            return replace(step, job=step.job.model_copy(update=changed), search=search)
        if isinstance(step, MeasureStep):
            models = tuple(map(move, step.models))
            return replace(step, models=models, folders=tuple(Path(move(str(one))) for one in step.folders))
        return step

    def _add(self, step: AnyStep, cell: SweepCell) -> None:
        key = compute_key(step)
        first = self._planned.setdefault(key, PlannedStep(step, cell, key)).step
        if isinstance(step, FinetuneStep) and isinstance(first, FinetuneStep):
            self._moved |= {step.job.out: first.job.out, step.job.masters: first.job.masters}
        elif isinstance(step, EvaluateStep | SearchStep) and isinstance(first, EvaluateStep | SearchStep):
            self._moved[str(step.out)] = str(first.out)
        if isinstance(first, EvaluateStep):
            values = {axis: value.label for axis, value in cell.cell.values.items()}
            self._runs.setdefault(first.out, BoardRun(first.out, values))

    def add_results(self) -> None:
        """Add the step that sums up all runs, if there is a matrix and the recipe reports."""
        first = self._sweep.cells[0]
        if self._sweep.has_matrix and first.recipe.report:
            runs = tuple(self._runs.values())
            self._add(BoardStep(runs, self._out / BOARD_FILE, self._out / RESULTS_FILE), first)

    def build(self, gpus: int) -> SweepPlan:
        """Return the plan of all steps; raise an error for what they would read and is not there."""
        made = {str(one.job.out) for one in self._list(FinetuneStep)} | {
            one.job.masters for one in self._list(FinetuneStep)
        }
        finder = FileFinder(self._known, made.__contains__)
        builder = _GraphBuilder(self._sweep.place, finder, gpus)
        for one in self._planned.values():
            if isinstance(one.step, EvaluateStep):
                with self._locate_errors(one.cell, ("evaluate", "suites")):
                    finder.find_task_files(one.step.tasks, one.step.job)
            with self._locate_errors(one.cell, *_list_paths(one)):
                builder.add(one)
        graph = make_graph(self._out, builder.connect(), self._sweep.place.file.name)
        by_id = builder.originals
        return SweepPlan({step.id: by_id[step.id] for step in graph.steps}, graph)

    def _list(self, kind: type[Planned]) -> list[Planned]:
        return [one.step for one in self._planned.values() if isinstance(one.step, kind)]


class _GraphBuilder:
    """Turns planned steps into those of a graph."""

    def __init__(self, place: Place, finder: FileFinder, gpus: int) -> None:
        self._place, self._finder, self._gpus = place, finder, gpus
        self.originals: dict[str, AnyStep] = {}
        self._steps: list[Step] = []
        self._sizes: dict[str, int] = {}

    def add(self, planned: PlannedStep) -> None:
        """Add a step, without what it waits for."""
        step = planned.step
        kind, name = find_kind(step), _name_step(step)
        reads = self._find_inputs(step)
        paths = _list_paths(planned)
        self._steps.append(
            Step(
                id=name,
                kind=kind,
                title=step.title,
                job=dump_step(step),
                key=planned.key,
                tolerates_failures=kind in ("report", "board"),
                inputs=reads.paths,
                has_unseen_inputs=reads.has_unseen,
                outputs=_list_outputs(step),
                folder=_find_folder(step),
                needs=self._find_needs(planned),
                line=self._place.find_line(_find_path(planned.cell, paths)) if paths else None,
            )
        )
        self.originals.setdefault(name, step)

    def _find_inputs(self, step: AnyStep) -> StepFiles:
        if isinstance(step, EvaluateStep | FinetuneStep | SearchStep):
            return self._finder.find_inputs(step)
        if isinstance(step, MeasureStep):
            return StepFiles(tuple(path for model in step.models for path in self._finder.find_model(model).paths))
        folders = step.folders if isinstance(step, ReportStep) else [run.folder for run in step.runs]
        return StepFiles(tuple(str(folder / name) for folder in folders for name in (RECORD_FILE, SAMPLES_FOLDER)))

    def _find_needs(self, planned: PlannedStep) -> Needs:
        step, kind = planned.step, find_kind(planned.step)
        said = getattr(planned.cell.recipe.needs, "finetune" if kind == "search" else kind, StepNeeds())
        parameters = sum(map(self._count_parameters, _list_models(step)))
        if isinstance(step, FinetuneStep):
            self._sizes[step.job.out] = self._sizes[step.job.masters] = self._count_parameters(step.job.model)
        return choose_needs(kind, said, parameters, self._gpus)

    def _count_parameters(self, model: str) -> int:
        if model not in self._sizes:
            self._sizes[model] = count_parameters(model)
        return self._sizes[model]

    def connect(self) -> list[Step]:
        """Return the steps, each with those that it waits for: whoever writes what it reads."""
        owners = {Path(step.folder).absolute(): step.id for step in self._steps if step.folder}
        known: dict[str, str | None] = {}

        def find_owner(path: str) -> str | None:
            if path not in known:
                place = Path(path).absolute()
                known[path] = next((owners[one] for one in (place, *place.parents) if one in owners), None)
            return known[path]

        connected = []
        measures = [step.id for step in self._steps if step.kind == "measure"]
        for step in self._steps:
            original = self.originals[step.id]
            read = [owner for path in step.inputs if (owner := find_owner(path))]
            scored = [find_owner(str(f)) for f in original.folders] if isinstance(original, MeasureStep) else []
            extends = tuple(owner for owner in scored if owner)
            last = measures if step.kind in ("report", "board") else []
            after = tuple(dict.fromkeys((*read, *extends, *last)))
            connected.append(step.model_copy(update={"after": after, "extends": extends}))
        return connected


def _label_start(cell: SweepCell) -> str:
    """Return the label of what is scored before its fine-tuning: only the model that it starts from decides."""
    values = [cell.cell.values[axis.name].label for axis in cell.cell.axes if axis.name == "checkpoints"]
    return "".join(f"-{label}" for label in values)


def _shorten(label: str) -> str:
    if len(label) <= MAX_LABEL_CHARACTERS:
        return label
    digest = hashlib.sha256(label.encode()).hexdigest()
    return f"{label[: MAX_LABEL_CHARACTERS - 9]}-{digest[:8]}"


def _find_path(cell: SweepCell, paths: Sequence[KeyPath]) -> KeyPath:
    """Return the place in the file of the first of *paths* that the matrix set, else the first of them."""
    found = [value.path for path in paths if (value := cell.cell.find_axis(path))]
    return (*found, *paths, ())[0]


def _list_paths(planned: PlannedStep) -> list[KeyPath]:
    """Return the keys of the recipe that a step comes from, the one that tells most first."""
    step, recipe = planned.step, planned.cell.recipe
    if isinstance(step, EvaluateStep):
        named: list[KeyPath] = [("models", name) for name, model in recipe.models.items() if model == step.model]
        return named[:1] or [("finetune", "model"), ("evaluate",)]
    if isinstance(step, MeasureStep):
        return [("measure",)]
    return [("finetune", "model"), ("finetune",)] if isinstance(step, FinetuneStep | SearchStep) else []


def _name_step(step: AnyStep) -> str:
    if isinstance(step, SearchStep):
        name = step.out.name
    elif isinstance(step, FinetuneStep):
        name = f"finetune-{step.name}"
    elif isinstance(step, EvaluateStep):
        name = f"evaluate-{step.out.name}"
    else:
        name = f"measure{step.label}" if isinstance(step, MeasureStep) else step.title
    return NOT_IN_NAMES.sub("-", name)


def _list_models(step: AnyStep) -> list[str]:
    if isinstance(step, EvaluateStep):
        return [step.model]
    if isinstance(step, MeasureStep):
        return list(step.models)
    jobs = (
        [step.job]
        if isinstance(step, FinetuneStep)
        else list(step.arms.values())
        if isinstance(step, SearchStep)
        else []
    )
    return [name for job in jobs[:1] for name in (job.model, job.teacher) if name]


def _find_folder(step: AnyStep) -> str | None:
    if isinstance(step, FinetuneStep):
        return step.job.out
    return str(step.out) if isinstance(step, EvaluateStep | SearchStep) else None


def _list_outputs(step: AnyStep) -> tuple[str, ...]:
    if isinstance(step, FinetuneStep):
        return (step.job.out,)
    if isinstance(step, SearchStep):
        return (str(step.out / SEARCH_RECORD_FILE),)
    if isinstance(step, EvaluateStep):
        return (str(step.out / RECORD_FILE), str(step.out / SAMPLES_FOLDER))
    if isinstance(step, MeasureStep):
        return tuple(str(folder / RECORD_FILE) for folder in step.folders)
    return (str(step.out), str(step.results)) if isinstance(step, BoardStep) else (str(step.out),)
