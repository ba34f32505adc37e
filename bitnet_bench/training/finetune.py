"""Fine-tune a checkpoint with any training backend."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from pathlib import Path

from bitnet_bench import plugins
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.hub_rows import pin_source
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.machine.runtime_choice import AUTO, FALLBACK_BACKEND
from bitnet_bench.processes import is_first_process
from bitnet_bench.protocols import ProgressDisplay, TrainingBackend, TrainingInputs, no_display, show_phase
from bitnet_bench.runs.choices import TRAINING_BACKEND
from bitnet_bench.runs.folder import load_training_record, lock_folder
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.runs.twins import TWIN_SUFFIX
from bitnet_bench.training.finished import check_same_inputs
from bitnet_bench.training.inputs import read_training_rows, split_validation_rows

_log = logging.getLogger(__name__)
LARGE_PAGES_VARIABLE = "THP_MEM_ALLOC_ENABLE"
"""Environment variable, read at torch's first allocation, with which large tensors ask Linux for pages of 2 MB.

Gradients of a table of 262,144 x 640 are made anew in each step, and 160,000 pages of 4 KB would take 0.3 s of it.
"""
TITLES = {"sft": "fine-tune", "pretrain": "pre-train", "dpo": "align", "distill": "distill"}


def finetune(job: FinetuneJob, backend: str = TRAINING_BACKEND, steps: ProgressDisplay = no_display) -> FinetuneRecord:
    """Run *job* and return its record; a finished run is skipped, and a killed one is resumed.

    A finished run must have the same settings, base, rows and teacher. Raise BenchError if the folder holds another
    run, or another process writes into it.
    """
    from bitnet_bench.data.templates import check_template, hash_template
    from bitnet_bench.machine.fast_dtype import fastest_training_dtype
    from bitnet_bench.training.resume import check_run_folder, recall_choices

    os.environ.setdefault(LARGE_PAGES_VARIABLE, "1")
    check_template(job.template)
    compute = fastest_training_dtype() if job.compute == "auto" else job.compute
    sources = {name: tuple(map(pin_source, getattr(job, name))) for name in ("data", "validation")}
    job = job.model_copy(update={**sources, "template_sha256": hash_template(job.template), "compute": compute})
    record = load_training_record(Path(job.out))
    if record is None:
        # the first process of a launch locks the folder for all
        if is_first_process():
            check_run_folder(Path(job.out))  # before a lock file is written into it
        with lock_folder(Path(job.out)) if is_first_process() else nullcontext():
            record = load_training_record(Path(job.out))  # another process may have finished the run meanwhile
            if record is None:
                return _train(recall_choices(job, None), backend, steps)
    job = recall_choices(job, record)
    differing = [name for name, value in job.settings().items() if record.job.settings().get(name) != value]
    if differing:
        raise BenchError(
            f"{job.out} holds a finished run with another {', '.join(f'`{name}`' for name in differing)}.",
            "Give another `out`, or delete the folder.",
        )
    check_same_inputs(job, record)
    return record


def _train(job: FinetuneJob, backend: str, steps: ProgressDisplay) -> FinetuneRecord:
    """Load the inputs of *job*, and train."""
    from bitnet_bench.training.rates import set_default_rate

    trainer = plugins.load_plugin("backends", FALLBACK_BACKEND if backend == AUTO else backend)
    if not isinstance(trainer, TrainingBackend):
        raise UsageError(f"The backend {backend!r} does not train.", "`bitnet-bench backends` lists those that do.")
    shown = steps if is_first_process() else no_display
    rows, left_out = read_training_rows(job, shown)
    rows, held_out = split_validation_rows(rows, job, shown)
    with show_phase(shown, f"read {' and '.join(filter(None, (job.model, job.teacher)))}"):
        teacher = open_checkpoint(job.teacher) if job.teacher else None
        base = open_checkpoint(job.model, job.tokenizer, job.read_as)
    job = set_default_rate(job, base)
    if job.precision == "ternary" and not base.is_ternary and is_first_process():
        is_stage = job.subln or job.method == "distill"  # of the preset, or by hand
        _log.warning(
            "%s is a float model, and its weights become ternary in this run: it first loses most of what it knows.%s",
            base.source,
            "" if is_stage else " `preset=bitdistill` gives it back in three stages.",
        )
    given = TrainingInputs(base, rows, held_out, teacher, left_out)
    with shown(f"{TITLES[job.method]} {job.precision}") as progress:
        return trainer.finetune(job, given, progress)


def make_twin_job(job: FinetuneJob, model: str | None) -> FinetuneJob:
    """Return the FP16 twin of a job, with the same data, order, steps and settings, written to `<out>-fp16`.

    A given learning rate is also the twin's; one from the table of defaults is looked up again for the twin.
    """
    if model is None:
        model = "demo-fp16" if job.model == "demo" else job.model
    return job.model_copy(
        update={
            "model": model,
            "precision": "fp16",
            "read_as": None,
            "out": f"{job.out}{TWIN_SUFFIX}",
            "keep_masters": False,
            "ternary_warmup": 0,
            "learning_rate": None if job.learning_rate_source else job.learning_rate,
            "learning_rate_source": None,
        }
    )
