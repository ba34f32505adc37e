"""Read a recipe: a YAML file that says what to train, score, measure and report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from bitnet_bench.checkpoints.locate import EMBEDDED_CHECKPOINTS
from bitnet_bench.errors import BenchError, did_you_mean, explain_fault
from bitnet_bench.evaluation.suites import SUITE_FILE, suggest_name
from bitnet_bench.files import exists, is_file, write_whole
from bitnet_bench.measurement.budget import DEFAULT_BUDGET, parse_budget
from bitnet_bench.measurement.scenario import Scenario, Workload, read_budget
from bitnet_bench.runs.choices import AUTO, Precision, ReadAs
from bitnet_bench.runs.jobs import Arms, EvaluateJob, FinetuneJob, MeasureJob
from bitnet_bench.runs.value import Value
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


class Recipe(Value):
    """Steps of `bitnet-bench run`, in this order; a step that is not named is not run."""

    finetune: FinetuneSettings | None = None
    models: Mapping[str, str] = Field(default_factory=dict)
    """Models that are scored without fine-tuning, by the name of the run."""
    evaluate: EvaluateSettings
    measure: MeasureSettings | None = None
    report: bool = True

    @model_validator(mode="after")
    def _check_models(self) -> Recipe:
        if not self.finetune and not self.models:
            raise ValueError("it names no model: give finetune, models or both")
        if self.evaluate.before and not self.finetune:
            raise ValueError("evaluate.before needs a finetune to stand before")
        bad = next((name for name in self.models if not name or set(name) & set("/\\\0") or name.startswith(".")), None)
        if bad is not None:
            raise ValueError(f"models.{bad} cannot be the name of a folder")
        return self


def read_recipe(file: Path) -> Recipe:
    """Return the recipe in *file*; raise BenchError with the line of an error and a suggestion for a wrong key.

    A bare name such as `understanding` is a recipe that the package ships. Names of files and folders are relative to
    the recipe's folder if they exist there.
    """
    file = find_recipe(file)
    found = read_yaml(file)
    fields, lines = found.value, found.lines
    if not isinstance(fields, dict):
        raise BenchError(f"{file} is not a recipe: it holds no keys.", f"There are: {', '.join(Recipe.model_fields)}.")
    try:
        return _resolve_paths(Recipe.model_validate(fields), file.parent)
    except ValidationError as error:
        raise _explain_error(error, file, lines) from error


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


def _explain_error(error: ValidationError, file: Path, lines: dict[KeyPath, int]) -> BenchError:
    """Return the first error of a recipe as a sentence with its line."""
    # a misspelt section is also a missing one: report the spelling
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place: KeyPath = tuple(first["loc"])
    known = next(place[:n] for n in range(len(place), -1, -1) if place[:n] in lines)
    where, name = f"Line {lines[known]} of {file}", format_key_path(place)
    if first["type"] == "extra_forbidden":
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
    return [name for name, field in fields.items() if field.annotation not in (type(None), Literal[""])]


def _resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Return *recipe* with the names of files and folders that exist in *folder* as absolute paths."""

    def beside(name: str, inside: str = "") -> str:
        there = folder / name / inside
        return str((folder / name).resolve()) if name not in EMBEDDED_CHECKPOINTS and exists(there) else name

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
        differing = list(
            _list_differing_keys(read_recipe(kept).model_dump(mode="json"), recipe.model_dump(mode="json"))
        )
        if differing:
            raise BenchError(
                f"{folder} is the folder of another recipe: {', '.join(differing)} differ.",
                "Give another `out`, or delete the folder.",
            )
        return
    text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), allow_unicode=True, sort_keys=False)
    write_whole(kept, f"# `bitnet-bench run {RECIPE_COPY_FILE}` does this again\n{text}")


def _list_differing_keys(old: dict[str, Any], new: dict[str, Any], place: KeyPath = ()) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _list_differing_keys(a, b, (*place, name))
        elif a != b:
            yield format_key_path((*place, name))
