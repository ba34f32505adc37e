"""Write the steps of recipes as JSON, from which another process runs them, and say what decides their results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.evaluation.select import choose_suites
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.pipeline.board_step import BoardStep
from bitnet_bench.pipeline.steps import EvaluateStep, FinetuneStep, MeasureStep, ReportStep, SearchStep, Step
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.value import Value
from bitnet_bench.sweeps.graph import StepKind

CLASSES: Mapping[StepKind, type[Step]] = {
    "search": SearchStep,
    "finetune": FinetuneStep,
    "evaluate": EvaluateStep,
    "measure": MeasureStep,
    "report": ReportStep,
    "board": BoardStep,
}


AGAIN_HINT = "Run `bitnet-bench sweep` again: it writes the steps anew."


class _EvaluateFields(Value):
    """What an evaluation of a graph says."""

    model: str
    out: str
    suites: tuple[str, ...]
    tasks: tuple[str, ...]
    job: EvaluateJob


def find_kind(step: Step) -> StepKind:
    """Return the kind of *step* in a graph."""
    return next(kind for kind, one in CLASSES.items() if isinstance(step, one))


def dump_step(step: Step) -> dict[str, Any]:
    """Return *step* as JSON; `load_step` is the inverse."""
    if isinstance(step, EvaluateStep):
        return {
            "model": step.model,
            "out": str(step.out),
            "suites": list(step.suites),
            "tasks": list(step.task_names),
            "job": step.job.model_dump(mode="json"),
        }
    dumped: dict[str, Any] = _adapt(find_kind(step)).dump_python(step, mode="json")
    return dumped


def load_step(kind: StepKind, fields: Mapping[str, Any]) -> Step:
    """Return the step that *fields* describe; BenchError if they describe none."""
    try:
        if kind == "evaluate":
            said = _EvaluateFields.model_validate(fields)
            tasks = find_tasks(list(said.suites), list(said.tasks))
            return EvaluateStep(said.model, Path(said.out), said.suites, tasks, said.job)
        step: Step = _adapt(kind).validate_python(fields)
    except ValidationError as error:
        raise BenchError(
            f"A step of the kind {kind} does not say what it runs: {format_validation_error(error)}.", AGAIN_HINT
        ) from error
    return step


def find_tasks(suites: list[str], names: list[str]) -> list[tuple[Suite, Task]]:
    """Return the tasks *names* (SUITE:TASK) of *suites* in that order."""
    there = {f"{suite.name}:{task.name}": (suite, task) for suite in choose_suites(suites) for task in suite.tasks}
    missing = next((name for name in names if name not in there), None)
    if missing is not None:
        raise BenchError(f"A step scores {missing}, which is no task of its suites.", AGAIN_HINT)
    return [there[name] for name in names]


@cache
def _adapt(kind: StepKind) -> TypeAdapter[Any]:
    return TypeAdapter(CLASSES[kind])


def compute_key(step: Step) -> str:
    """Return the digest of everything in *step* that decides its result: not where it is written, or how it is named.

    Measurements and reports are about folders, and so these decide.
    """
    kind = find_kind(step)
    fields = dump_step(step)
    if isinstance(step, FinetuneStep):
        searched = step.search and compute_key(step.search)
        fields = {"job": step.job.settings(), "backend": step.backend, "search": searched}
        fields["keep_masters"] = step.job.keep_masters
    elif isinstance(step, SearchStep):
        fields = {
            "arms": {arm: job.settings() for arm, job in step.arms.items()},
            "wanted": fields["wanted"],
        }
    elif isinstance(step, EvaluateStep):
        del fields["out"]
    text = json.dumps([kind, fields], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
