"""Run a fine-tuning job from rows to a checkpoint and its record, bit-exactly resumable, with any training library."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
from bitnet_bench.data.collating import Collator
from bitnet_bench.data.tokenizing import EncodedRows
from bitnet_bench.errors import BenchError
from bitnet_bench.files import explain_disk_errors, write_whole
from bitnet_bench.processes import count_processes, read_rank
from bitnet_bench.protocols import Progress, TrainingInputs
from bitnet_bench.runs.folder import TRAINING_FILE
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord
from bitnet_bench.training import sharding
from bitnet_bench.training.conversion import measure_conversion
from bitnet_bench.training.encoding import (
    encode_rows,
    joins_step_rows,
    make_items,
    warn_dropped_rows,
    warn_foreign_text,
)
from bitnet_bench.training.memory import fit_job
from bitnet_bench.training.objectives import check_same_vocabulary
from bitnet_bench.training.result import make_record, save_result, wait_for_record
from bitnet_bench.training.resume import claim_run_folder, read_started_settings
from bitnet_bench.training.saved_steps import STATE_FOLDER, find_last_state
from bitnet_bench.training.starting_model import make_starting_model
from bitnet_bench.training.trainer import TrainerFactory, TrainerSetup, TrainingPlan, make_trainer

_log = logging.getLogger(__name__)


def run_finetune_job(
    job: FinetuneJob, given: TrainingInputs, progress: Progress, backend: str, build: TrainerFactory
) -> FinetuneRecord:
    """Run *job* with the trainer that *build* makes; see `bitnet_bench.protocols.TrainingBackend.finetune`."""
    out = Path(job.out)
    job = _resolve_sharding(job)
    tokenizer = load_tokenizer(given.base)
    encoded, held_out = encode_rows(job, given, tokenizer, progress)
    job = fit_job(job, given, encoded)
    set_seed(job.seed)
    model = make_starting_model(job, given.base)
    job, resumed = _start_or_resume(job, given, encoded, held_out)
    teacher = _load_teacher(job, given, tokenizer)
    collator = Collator(_pad_id(tokenizer), joins_step_rows(job, model.config.model_type))
    items, validation = (make_items(job, model, one, collator) for one in (encoded, held_out))
    plan = TrainingPlan(items, validation, collator)
    becomes_ternary = job.precision == "ternary" and not given.base.is_ternary
    is_new = becomes_ternary and resumed is None and not job.shard and job.method != "dpo"
    conversion = measure_conversion(job, given.base, model, plan) if is_new else {}
    resumes = resumed is not None
    start = TrainerSetup(
        job, model, tokenizer, plan, teacher, resumes, becomes_ternary, progress, conversion=conversion
    )
    trainer = make_trainer(start, out, build)
    job = trainer.job  # includes what `make_trainer` chose
    trainer.warnings += warn_dropped_rows(encoded, given.rows, job.max_length)
    trainer.warnings += warn_foreign_text(job, given.rows)
    transformers_logging.set_verbosity_error()  # a resumed tied head is "missing", as it should be
    started = time.monotonic()
    with explain_disk_errors(out):
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        seconds = time.monotonic() - started
        if job.shard:
            model = _unshard_model(job, given.base, model)
        if not trainer.is_world_process_zero():
            return wait_for_record(trainer, out)
        save_result(job, given, model, tokenizer)
    record = make_record(job, backend, given, encoded, held_out, trainer, seconds, resumed)
    write_whole(out / TRAINING_FILE, record.model_dump_json(indent=1))
    shutil.rmtree(out / STATE_FOLDER, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return record


def _start_or_resume(
    job: FinetuneJob, given: TrainingInputs, encoded: EncodedRows, held_out: EncodedRows
) -> tuple[FinetuneJob, Path | None]:
    """Claim the run folder; return *job* with the batch of the first process, and the step to resume from.

    The first process chooses the batch for all, because free memory differs between processes.
    """
    settings = {**job.settings(), "base weights": given.base.weights_id, "data rows": encoded.sha256}
    settings |= {
        "shard": job.shard,
        "validation rows": held_out.sha256,
        "teacher weights": given.teacher and given.teacher.sha256,
    }
    with _first_process_first():
        if read_rank() == 0:
            claim_run_folder(Path(job.out), settings, {"learning_rate_source": job.learning_rate_source})
        started = read_started_settings(Path(job.out))
        sizes = {name: started[name] for name in ("batch_size", "gradient_accumulation")}
        return job.model_copy(update=sizes), find_last_state(Path(job.out) / STATE_FOLDER)


def _resolve_sharding(job: FinetuneJob) -> FinetuneJob:
    """Return *job* with `shard` as the launcher requests; raise BenchError for what cannot be sharded."""
    job = job.model_copy(update={"shard": sharding.is_fsdp_launch() or job.shard})
    if job.shard and count_processes() == 1:
        raise BenchError(
            "`shard` splits a model over processes, and there is one.",
            "Start them with `torchrun --nproc-per-node 2 -m bitnet_bench finetune --shard ...`.",
        )
    if job.shard and job.lora_rank:
        raise BenchError(
            "`lora_rank` trains so little that there is nothing to `shard`, and this was not tried.",
            "Leave one of them out.",
        )
    return job


def _unshard_model(job: FinetuneJob, base: Checkpoint, sharded: PreTrainedModel) -> PreTrainedModel:
    """Return *sharded* as a plain model on the first process, and unchanged on others."""
    state = sharding.gather_weights(sharded)
    if not state:
        return sharded
    model = make_starting_model(job, base)
    model.load_state_dict(state)
    return model


def _first_process_first() -> Any:
    if count_processes() == 1:
        return nullcontext()
    from accelerate import PartialState

    cpu = not torch.cuda.is_available()
    return PartialState(cpu=cpu, **({"backend": "gloo"} if cpu else {})).main_process_first()


def _load_teacher(job: FinetuneJob, given: TrainingInputs, tokenizer: Any) -> PreTrainedModel | None:
    if given.teacher is None:
        return None
    check_same_vocabulary(tokenizer, load_tokenizer(given.teacher))
    return load_model(given.teacher, "run", "bf16" if job.compute == "bf16" else "fp32")


def _pad_id(tokenizer: Any) -> int:
    """Return an id for padding; any will do, because padding is masked from attention and from the loss."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
