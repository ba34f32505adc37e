"""Plan the stages in which a float model becomes ternary (BitDistill, arXiv:2510.13998, section 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.locate import is_here, open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.runs.folder import load_training_record
from bitnet_bench.runs.jobs import MAX_COUNT, MAX_EPOCHS, Arms, FinetuneJob
from bitnet_bench.runs.twins import TWIN_SUFFIX
from bitnet_bench.training.finetune import make_twin_job
from bitnet_bench.training.order import MAX_EXAMPLES
from bitnet_bench.training.resume import check_run_folder
from bitnet_bench.training.stage_checks import check_stages, has_sub_norms

TEXT_SUFFIX = "-text"
"""Suffix of the folder of the second stage."""
TEXT_SEQUENCES = 8
"""Sequences of a step of the second stage."""
TEXT_HOLD_OUT = 0.01
"""Share of the texts of which the second stage logs the loss, and which it does not learn."""

TEXT_STAGE_FIELDS = ("data", "max_length", "epochs", "max_steps")
TEXT_STAGE_HINT = (
    "This is the stage on running text: its `data` is `text`, its `max_length` is `text_length`, and its `epochs` and "
    "`max_steps` follow from `text_tokens`."
)
"""What is added to an error that names one of `TEXT_STAGE_FIELDS`, which nobody gave."""


@dataclass(frozen=True)
class Stage:
    """One training run of a preset, and the name of its model."""

    name: str
    job: FinetuneJob


def plan_stages(job: FinetuneJob, arms: Arms) -> tuple[Stage, ...]:
    """Return the runs of `preset=bitdistill` for *job*, in order; each is a job of its own, and resumes as one.

    fp16: the FP16 twin, which teaches, unless *job* names a teacher. text: the float model with SubLN, made ternary and
    trained on running text; left out without `text`. ternary: *job* itself, distilled from there.
    UsageError if *job* is no fine-tuning of a ternary model; BenchError for what a later stage could not use.
    """
    _check_job(job, arms)
    config = read_config(Path(open_checkpoint(job.model, job.tokenizer).path)) if is_here(job.model) else None
    check_stages(job, arms, config)
    lacks_norms = config is None or not has_sub_norms(config)  # a model that is not here yet is taken to have none
    teacher, stages = job.teacher, list[Stage]()
    if teacher is None:
        own_rates = {"learning_rate": None, "float_learning_rate": None}  # the job's are those of the last stage
        twin = make_twin_job(job, arms.twin_model).model_copy(update={"subln": False, **own_rates})
        stages.append(Stage("fp16", twin))
        teacher = twin.out
    update = {"method": "distill", "teacher": teacher, "subln": lacks_norms}
    if arms.text:
        positions = config and config.get("max_position_embeddings")
        text = _make_text_job(job, arms, min(arms.text_length, positions or MAX_COUNT))
        text = text.model_copy(update={"subln": lacks_norms})
        stages.append(Stage("text", text))
        update |= {"model": text.masters, "tokenizer": None, "subln": False}
    stages.append(Stage("ternary", job.model_copy(update=update)))
    for stage in stages:
        if load_training_record(Path(stage.job.out)) is None:
            check_run_folder(Path(stage.job.out))
    return tuple(stages)


def _make_text_job(job: FinetuneJob, arms: Arms, length: int) -> FinetuneJob:
    """Return the second stage of *job*: as many tokens of running text as *arms* say, with masters kept.

    Sequences have at most *length* tokens: training cuts texts at the positions of the model.
    """
    steps = arms.text_tokens and _count_text_steps(arms.text_tokens, length)
    return job.model_copy(
        update={
            "method": "pretrain",
            "teacher": None,
            "data": arms.text,
            "limit": None,
            "validation": (),
            "hold_out": TEXT_HOLD_OUT if _count_lines(arms.text) * TEXT_HOLD_OUT >= 1 else 0.0,
            "max_length": length,
            "batch_size": TEXT_SEQUENCES,
            "gradient_accumulation": 1,
            # repeated as often as the tokens need, be there one sequence of text
            "epochs": 1.0 if steps is None else float(min(steps * TEXT_SEQUENCES, MAX_EPOCHS)),
            "max_steps": steps,
            "learning_rate": arms.text_learning_rate,
            "template": FinetuneJob.default("template"),
            "packing": False,
            "keep_masters": True,
            "out": f"{job.out}{TEXT_SUFFIX}",
        }
    )


def _count_text_steps(tokens: int, length: int) -> int:
    return math.ceil(tokens / (TEXT_SEQUENCES * length))


@contextmanager
def explain_stage_errors(is_text: bool) -> Iterator[None]:
    """Say in an error of the second stage which settings of a preset the fields of its job come from."""
    try:
        yield
    except BenchError as error:
        if is_text and any(f"`{name}`" in str(error) for name in TEXT_STAGE_FIELDS):
            error.hint = f"{error.hint} {TEXT_STAGE_HINT}".strip()
        raise


def _count_lines(files: Sequence[str]) -> int:
    """Return how many lines *files* have together, at most as many as are needed to hold one out."""
    enough, found = math.ceil(1 / TEXT_HOLD_OUT), 0
    for file in files:
        if found < enough and Path(file).is_file():
            with open(file, "rb") as lines:
                found += sum(1 for _ in itertools.islice(lines, enough))
    return found


def _check_job(job: FinetuneJob, arms: Arms) -> None:
    if job.precision != "ternary":
        raise UsageError(
            f"`preset={arms.preset}` makes a model ternary, and `precision` is {job.precision}.", "Leave one out."
        )
    if job.method not in ("sft", "distill"):
        raise UsageError(
            f"`preset={arms.preset}` ends with a distillation on `data`, and `method` is {job.method}.",
            "Leave out `method`, or give `method=distill` with a `teacher` that is fine-tuned on `data` already.",
        )
    for name in ("group_size", "lora_rank", "shard"):
        if getattr(job, name):
            raise UsageError(f"`{name}` was not tried with SubLN, which `preset={arms.preset}` adds.", "Leave one out.")
    if job.teacher is not None and (arms.twin or arms.twin_model):
        named = "twin" if arms.twin else "twin_model"
        raise UsageError(
            f"`{named}` and `teacher`: in `preset={arms.preset}` the named teacher takes the place of the twin.",
            "Leave one out.",
        )
    if arms.text_tokens and _count_text_steps(arms.text_tokens, arms.text_length) * TEXT_SEQUENCES > MAX_EXAMPLES:
        most = MAX_EXAMPLES * arms.text_length
        raise UsageError(
            f"`text_tokens` is {arms.text_tokens:.3g}, and at most {most:.3g} of `text_length` {arms.text_length} are "
            "planned.",
            "Give fewer.",
        )
    if job.out.endswith(TWIN_SUFFIX):
        raise UsageError(f"`out` ends in {TWIN_SUFFIX}, as the folder of the twin will.", "Give another `out`.")
