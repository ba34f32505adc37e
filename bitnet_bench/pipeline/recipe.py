"""Read a recipe: a YAML file that says what to train, score, measure and report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from bitnet_bench.checkpoints.locate import EMBEDDED_CHECKPOINTS
from bitnet_bench.errors import BenchError, UsageError, did_you_mean, explain_fault
from bitnet_bench.evaluation.suites import SUITE_FILE, suggest_name
from bitnet_bench.files import exists, is_file, write_whole
from bitnet_bench.measurement.budget import DEFAULT_BUDGET, parse_budget
from bitnet_bench.measurement.scenario import Scenario, Workload, read_budget
from bitnet_bench.pipeline.matrix import MATRIX, SECTIONS, Cell, Place, expand_matrix
from bitnet_bench.runs.choices import AUTO, Precision, ReadAs
from bitnet_bench.runs.jobs import Arms, EvaluateJob, FinetuneJob, MeasureJob
from bitnet_bench.runs.value import Value
from bitnet_bench.sweeps.cluster_settings import RaySettings, SlurmSettings
from bitnet_bench.yaml_files import KeyPath, format_key_path, read_yaml

RECIPE_COPY_FILE = "recipe.yaml"
RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"


class FinetuneSettings(FinetuneJob, Arms):
    """Settings of both arms of a fine-tuning: a job's fields, the twin, and how many seeds."""

    out: Literal[""] = ""
    data_dir: None = None
    template_sha256: None = None
    learning_rate_source: None = None

    @model_validator(mode="after")
    def _check_arms(self) -> FinetuneSettings:
        if self.twin and self.precision == "fp16":
            raise ValueError("`twin` is the FP16 arm beside a ternary one, and `precision` is fp16")
        if self.searches and not (self.validation or self.hold_out):
            raise ValueError("a search chooses on validation rows: give `hold_out`, such as 0.1, or `validation`")
        return self

    def make_job(self, out: Path, data_dir: Path | None, seed: int) -> FinetuneJob:
        """Return the job of the first arm, written to *out*."""
        own = FinetuneSettings.model_fields.keys() - FinetuneJob.model_fields.keys()
        settings = self.model_dump(exclude={*own, "out", "data_dir", "seed"})
        return FinetuneJob(**settings, out=str(out), data_dir=str(data_dir) if data_dir else None, seed=seed)


class EvaluateSettings(EvaluateJob):
    """Settings of what is scored and how."""

    data_dir: None = None
    stage: None = None
    suites: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = ()
    before: bool = False
    """True if the checkpoints are also scored before their fine-tuning."""

    def make_job(
        self, data_dir: Path | None, stage: Literal["before", "after"] | None, read_as: ReadAs | None = None
    ) -> EvaluateJob:
        """Return the job that scores one checkpoint, read as *read_as*: the recipe's is of the models that it names."""
        own = EvaluateSettings.model_fields.keys() - EvaluateJob.model_fields.keys()
        settings = self.model_dump(exclude={*own, "data_dir", "read_as", "stage"})
        return EvaluateJob(**settings, data_dir=str(data_dir) if data_dir else None, stage=stage, read_as=read_as)


class MeasureSettings(Workload):
    """Settings of what is measured and how."""

    backend: str = AUTO
    precisions: tuple[Precision, ...] = MeasureJob.default("precisions")
    """Precisions to measure; () is ternary for ternary checkpoints, and fp16 and bf16 for float ones."""
    budget: str = DEFAULT_BUDGET
    """Time for all candidates including loading: 90s, 3m or 1h. One that does not fit is run once or left out."""

    @field_validator("budget")
    @classmethod
    def _check_duration(cls, budget: str) -> str:
        read_budget(budget)
        return budget

    def scenario(self) -> Scenario:
        """Return the scenario of every candidate."""
        settings = self.model_dump(include=set(Workload.model_fields))
        return Scenario(**settings, budget_s=parse_budget(self.budget))


class StepNeeds(Value):
    """What a step occupies on the machine that runs it; what is not said is chosen for the machine."""

    cpus: int | None = Field(default=None, ge=1)
    gpus: int | None = Field(default=None, ge=0)
    memory: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?\s*([KMGT]B|[KMGT]iB)$")
    """Main memory, such as 16GB."""
    processes: int | None = Field(default=None, ge=1)
    """Processes of the step, which torchrun starts; its GPUs are divided among them."""

    @property
    def memory_bytes(self) -> int | None:
        """The memory in bytes."""
        if self.memory is None:
            return None
        number, unit = re.fullmatch(r"([\d.]+)\s*(\w+)", self.memory).groups()  # type: ignore[union-attr]
        base = 1024 if "i" in unit else 1000
        return int(float(number) * base ** ("KMGT".index(unit[0]) + 1))


class SweepNeeds(Value):
    """What steps need, by their kind."""

    finetune: StepNeeds = StepNeeds()
    evaluate: StepNeeds = StepNeeds()
    measure: StepNeeds = StepNeeds()


class Recipe(Value):
    """Steps of `bitnet-bench run`, in this order; a step that is not named is not run."""

    finetune: FinetuneSettings | None = None
    models: Mapping[str, str] = Field(default_factory=dict)
    """Models that are scored without fine-tuning, by the name of the run."""
    evaluate: EvaluateSettings
    measure: MeasureSettings | None = None
    report: bool = True
    needs: SweepNeeds = SweepNeeds()
    ray: RaySettings | None = None
    slurm: SlurmSettings | None = None

    @model_validator(mode="after")
    def _check_models(self) -> Recipe:
        if not self.finetune and not self.models:
            raise ValueError("it names no model: give finetune, models or both")
        if self.evaluate.before and not self.finetune:
            raise ValueError("evaluate.before needs a finetune to stand before")
        bad = next((name for name in self.models if not name or set(name) & set("/\\\0") or name.startswith(".")), None)
        if bad is not None:
            raise ValueError(f"models.{bad} cannot be the name of a folder")
        first: dict[str, str] = {}
        for name, model in self.models.items():
            if (other := first.setdefault(model, name)) != name:  # equal steps run once: one would have no run
                raise ValueError(f"models.{other} and models.{name} are both {model}: give one name")
        return self


@dataclass(frozen=True)
class SweepCell:
    """One recipe of a sweep, and the values of the matrix that made it."""

    recipe: Recipe
    cell: Cell


@dataclass(frozen=True)
class Sweep:
    """The recipes that a file stands for: one without a matrix, else one for each combination."""

    cells: tuple[SweepCell, ...]
    place: Place
    has_matrix: bool
    matrix: Mapping[str, Any]
    """The matrix as it is written, with the paths of files that exist beside it."""


def read_sweep(file: Path) -> Sweep:
    """Return the recipes of *file*; raise BenchError with the line of an error and a suggestion for a wrong key.

    A bare name such as `understanding` is a recipe that the package ships. Names of files and folders are relative to
    the recipe's folder if they exist there.
    """
    file = find_recipe(file)
    found = read_yaml(file)
    fields, place = found.value, Place(file, found.lines)
    if not isinstance(fields, dict):
        raise BenchError(f"{file} is not a recipe: it holds no keys.", f"There are: {', '.join(Recipe.model_fields)}.")
    cells = tuple(SweepCell(_make_recipe(cell, place), cell) for cell in expand_matrix(fields, place))
    return Sweep(cells, place, MATRIX in fields, _resolve_matrix(fields.get(MATRIX, {}), file.parent))


def read_recipe(file: Path) -> Recipe:
    """Return the only recipe in *file*, as `read_sweep` reads it; UsageError for a file with a matrix."""
    sweep = read_sweep(file)
    if sweep.has_matrix:
        where = sweep.place.locate((MATRIX,))
        raise UsageError(f"{where}: a matrix stands for several recipes.", "Run it with `bitnet-bench sweep`.")
    return sweep.cells[0].recipe


def _make_recipe(cell: Cell, place: Place) -> Recipe:
    try:
        return _resolve_paths(Recipe.model_validate(cell.fields), place.file.parent)
    except ValidationError as error:
        raise _explain_error(error, cell, place) from error


def _resolve_matrix(matrix: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return *matrix* with the absolute paths of checkpoints and suites that exist in *folder*."""

    def resolve(value: Any, inside: str = "") -> Any:
        if isinstance(value, list):
            return [resolve(one, inside) for one in value]
        return _resolve_beside(value, folder, inside) if isinstance(value, str) else value

    resolved = dict(matrix)
    given = matrix.get("checkpoints")
    if isinstance(given, dict):
        resolved["checkpoints"] = {name: resolve(value) for name, value in given.items()}
    elif given is not None:
        resolved["checkpoints"] = resolve(given)
    if "suites" in matrix:
        resolved["suites"] = resolve(matrix["suites"], SUITE_FILE)
    return resolved


def _resolve_beside(name: str, folder: Path, inside: str = "") -> str:
    there = folder / name / inside
    return str((folder / name).resolve()) if name not in EMBEDDED_CHECKPOINTS and exists(there) else name


def find_recipe(file: Path) -> Path:
    """Return *file*, or the shipped recipe of that name; raise BenchError, which lists the names, if there is none."""
    if is_file(file):
        return file
    shipped = RECIPES_FOLDER / f"{file}.yaml"
    if len(file.parts) == 1 and shipped.is_file():
        return shipped
    names = list_recipes()
    hint = f"{did_you_mean(str(file), names)} Give a YAML file, or one of the shipped recipes: {', '.join(names)}."
    raise BenchError(f"There is no recipe {file}.", hint.lstrip())


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))


def _explain_error(error: ValidationError, cell: Cell, file: Place) -> BenchError:
    """Return the first error of a recipe as a sentence with its line, which may be that of a value of the matrix."""
    # a misspelt section is also a missing one: report the spelling
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place: KeyPath = tuple(first["loc"])
    value = cell.find_axis(place)
    where, name = file.locate(value.path if value else place), format_key_path(place)
    if first["type"] == "extra_forbidden":
        if len(place) > 1 and place[0] not in SECTIONS and place[0] != "measure":
            return BenchError(f"{where}: there is no key {name}.", "docs/recipes.md lists every key.")
        return BenchError(f"{where}: there is no key {name}.", suggest_name(str(place[-1]), _list_keys(place[:-1])))
    if first["type"] == "missing":
        return BenchError(f"{where}: {name} is missing.", "docs/recipes.md lists every key.")
    if name in ("finetune.out", "finetune.data_dir", "evaluate.data_dir"):
        return BenchError(f"{where}: {name} is not said in a recipe.", "Give `out` and `data_dir` to the command.")
    said = explain_fault(first) if first["loc"] else f"the recipe: {explain_fault(first)}"
    return BenchError(f"{where}: {said}.", "docs/recipes.md lists every key and its values.")


def _list_keys(place: KeyPath) -> list[str]:
    """Return the keys that are allowed at *place*."""
    sections: dict[str, type[Value]] = {
        "finetune": FinetuneSettings,
        "evaluate": EvaluateSettings,
        "measure": MeasureSettings,
    }
    fields = sections[str(place[0])].model_fields if place else Recipe.model_fields
    names = [name for name, field in fields.items() if field.annotation not in (type(None), Literal[""])]
    return names if place else [*names, MATRIX]


def _resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Return *recipe* with the names of files and folders that exist in *folder* as absolute paths."""

    def beside(name: str, inside: str = "") -> str:
        return _resolve_beside(name, folder, inside)

    training, scoring = recipe.finetune, recipe.evaluate
    if training:
        training = training.model_copy(
            update={
                **{field: tuple(map(beside, getattr(training, field))) for field in ("data", "validation", "text")},
                **{
                    field: beside(name)
                    for field in ("model", "tokenizer", "twin_model", "teacher", "template")
                    if (name := getattr(training, field))
                },
            }
        )
    scoring = scoring.model_copy(
        update={
            "suites": tuple(beside(name, SUITE_FILE) for name in scoring.suites),
            "rows": {task: beside(name) for task, name in scoring.rows.items()},
            **({"tokenizer": beside(scoring.tokenizer)} if scoring.tokenizer else {}),
        }
    )
    models = {name: beside(model) for name, model in recipe.models.items()}
    return recipe.model_copy(update={"finetune": training, "evaluate": scoring, "models": models})


def claim_recipe_folder(recipe: Recipe, folder: Path) -> None:
    """Write *recipe* to *folder* as recipe.yaml; raise BenchError if the folder belongs to another recipe."""
    kept = folder / RECIPE_COPY_FILE
    if kept.is_file():
        _check_owner(folder, _dump_recipe(read_recipe(kept)), _dump_recipe(recipe))
        return
    _write_copy(kept, recipe.model_dump(mode="json", exclude_defaults=True), "run")


def claim_sweep_folder(sweep: Sweep, folder: Path) -> None:
    """Write the recipe of *sweep* to *folder*; raise BenchError if the folder belongs to another one.

    A matrix may grow and shrink: it decides which runs there are, and not what each of them is.
    """
    if not sweep.has_matrix:
        claim_recipe_folder(sweep.cells[0].recipe, folder)
        return
    kept = folder / RECIPE_COPY_FILE
    if kept.is_file():
        there = read_sweep(kept)
        _check_owner(folder, _dump_base(there), _dump_base(sweep))
    fields = sweep.cells[0].recipe.model_dump(mode="json", exclude_defaults=True)
    _write_copy(kept, {**fields, MATRIX: dict(sweep.matrix)}, "sweep")


def _check_owner(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = list(_list_differing_keys(old, new))
    if differing:
        raise BenchError(
            f"{folder} is the folder of another recipe: {', '.join(differing)} differ.",
            "Give another `out`, or delete the folder.",
        )


def _dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return what decides the results of *recipe*: all but where its steps run and what they occupy."""
    return recipe.model_dump(mode="json", exclude={"needs", "ray", "slurm"})


def _dump_base(sweep: Sweep) -> dict[str, Any]:
    """Return what all recipes of *sweep* have in common: the fields that no axis sets, and the names of the axes."""
    first = sweep.cells[0]
    fields = {**_dump_recipe(first.recipe), MATRIX: {axis.name: None for axis in first.cell.axes}}
    for section, *keys in (axis.target for axis in first.cell.axes):
        if keys:
            fields[str(section)].pop(str(keys[0]), None)
        else:
            fields.pop(str(section), None)
    return fields


def _write_copy(file: Path, fields: Mapping[str, Any], command: str) -> None:
    text = yaml.safe_dump(dict(fields), allow_unicode=True, sort_keys=False)
    write_whole(file, f"# `bitnet-bench {command} {RECIPE_COPY_FILE}` does this again\n{text}")


def _list_differing_keys(old: dict[str, Any], new: dict[str, Any], place: KeyPath = ()) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _list_differing_keys(a, b, (*place, name))
        elif a != b:
            yield format_key_path((*place, name))
