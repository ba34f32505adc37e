"""The training steps of a recipe: one for each arm and seed, or for each stage of a preset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_bench.files import is_file
from bitnet_bench.pipeline.recipe import FinetuneSettings
from bitnet_bench.pipeline.search_step import SearchStep, make_search_step
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.runs.folder import TRAINING_FILE
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune, make_twin_job
from bitnet_bench.training.stages import explain_stage_errors, plan_stages

MODELS_FOLDER = "models"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneStep:
    """Step that trains one arm and seed of a fine-tuning."""

    job: FinetuneJob
    backend: str
    name: str
    """Name of the model's folder, and, without a stage, of its run's."""
    search: SearchStep | None = None
    """Step that chooses settings of the job before it is run."""
    is_between: bool = False
    """True for a stage whose model the next one starts from, and which is not scored."""

    @property
    def title(self) -> str:
        """Name of the step for displays."""
        return f"fine-tune {self.name}"

    @property
    def is_done(self) -> bool:
        """True if the record exists; `run` then only raises BenchError if it is of another job, base or data."""
        return is_file(Path(self.job.out) / TRAINING_FILE)

    def run(self, steps: ProgressDisplay) -> None:
        """Train or resume; log a warning if the model did not learn anything."""
        from bitnet_bench.training.ending import warn_failed_run  # imports torch

        job = self.search.apply_choice(self.job) if self.search else self.job
        with explain_stage_errors(self.is_between):
            record = finetune(job, self.backend, steps)
        for warning in warn_failed_run(record):
            _log.warning("%s: %s", self.title, warning)


def make_finetune_steps(
    training: FinetuneSettings, out: Path, data_dir: Path | None, label: str = ""
) -> list[FinetuneStep]:
    """Return a step for every arm and seed; a name ends with *label*, and has the seed only if there are several."""
    named: dict[str, FinetuneJob] = {}
    steps: list[FinetuneStep] = []
    for seed in range(training.seed, training.seed + training.seeds):
        suffix = label + (f"-seed{seed}" if training.seeds > 1 else "")
        job = training.make_job(out / MODELS_FOLDER / f"{training.precision}{suffix}", data_dir, seed)
        if training.preset:
            steps += _make_stage_steps(training, job, out, suffix, label)
            continue
        named[f"{training.precision}{suffix}"] = job
        if training.twin:
            twin = make_twin_job(job, training.twin_model)
            named[f"fp16{suffix}"] = twin.model_copy(update={"out": str(out / MODELS_FOLDER / f"fp16{suffix}")})
    arms: dict[str, FinetuneJob] = {job.precision: job for job in named.values() if job.seed == training.seed}
    search = make_search_step(arms, training, out, label) if training.searches else None
    return steps + [FinetuneStep(job, training.backend, name, search) for name, job in named.items()]


def _make_stage_steps(
    training: FinetuneSettings, job: FinetuneJob, out: Path, suffix: str, label: str
) -> list[FinetuneStep]:
    """Return the stages of a preset in the order of training; all seeds share the stage on running text."""
    steps = []
    moved: dict[str | None, str] = {}  # results of earlier stages, from where they were planned to where they are
    for stage in plan_stages(job, training):
        is_text = stage.name == "text"
        name = f"{stage.name}{label}" if is_text else f"{stage.name}{suffix}"
        place = str(out / MODELS_FOLDER / (f"{training.precision}-text{label}" if is_text else name))
        start, teacher = (moved.get(path, path) for path in (stage.job.model, stage.job.teacher))
        made = stage.job.model_copy(update={"out": place, "model": start, "teacher": teacher})
        moved |= {stage.job.out: made.out, stage.job.masters: made.masters}
        if not is_text or job.seed == training.seed:
            steps.append(FinetuneStep(made, training.backend, name, is_between=is_text))
    return steps


def begins_between(step: FinetuneStep, trained: Sequence[FinetuneStep]) -> bool:
    """Return whether *step* starts from the model of another one, which is not there before training."""
    return any(step.job.model == one.job.masters for one in trained if one.is_between)
