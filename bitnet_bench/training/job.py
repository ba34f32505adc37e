"""A job from rows to a checkpoint and its record, resumable to the bit, whichever library takes the steps."""

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

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
from bitnet_bench.checkpoints.shape import shape_of
from bitnet_bench.data.collating import Collator
from bitnet_bench.data.tokenizing import Encoded
from bitnet_bench.errors import BenchError
from bitnet_bench.files import disk_errors, write_whole
from bitnet_bench.machine.memory import find_free_bytes
from bitnet_bench.processes import count_processes, read_rank
from bitnet_bench.protocols import Ingredients, Progress
from bitnet_bench.runs.folder import TRAINING
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord
from bitnet_bench.training import sharding
from bitnet_bench.training.encoding import encode_rows, lost_rows, make_items
from bitnet_bench.training.memory import fit_batch
from bitnet_bench.training.objectives import refuse_other_vocabulary
from bitnet_bench.training.result import make_record, save_result, wait_for_record
from bitnet_bench.training.resume import STATE, claim, last_complete, started_settings
from bitnet_bench.training.starting_model import starting_model
from bitnet_bench.training.trainer import Build, Plan, Start, make_trainer

_log = logging.getLogger(__name__)


def finetune(job: FinetuneJob, given: Ingredients, progress: Progress, backend: str, build: Build) -> FinetuneRecord:
    """Run *job* with the trainer that *build* makes; see `bitnet_bench.protocols.TrainingBackend.finetune`."""
    out = Path(job.out)
    job = _sharded(job)
    tokenizer = load_tokenizer(given.base)
    encoded, held_out = encode_rows(job, given, tokenizer)
    job = _with_batch(job, given, encoded)
    set_seed(job.seed)
    model = starting_model(job, given.base)
    job, resumed = _claim(job, given, encoded, held_out)
    teacher = _teacher(job, given, tokenizer)
    collator = Collator(_pad_id(tokenizer))
    items, validation = (make_items(job, model, one, collator) for one in (encoded, held_out))
    plan = Plan(items, validation, collator)
    becomes_ternary = job.precision == "ternary" and not given.base.is_ternary
    start = Start(job, model, tokenizer, plan, teacher, resumed is not None, becomes_ternary, progress)
    trainer = make_trainer(start, out, build)
    job = trainer.job  # with what `make_trainer` chose
    trainer.warnings += lost_rows(encoded, given.rows, job.max_length)
    transformers_logging.set_verbosity_error()  # a resumed tied head is "missing", and that is right
    started = time.monotonic()
    with disk_errors(out):
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        seconds = time.monotonic() - started
        if job.shard:
            model = _whole(job, given.base, model)
        if not trainer.is_world_process_zero():
            return wait_for_record(trainer, out)
        save_result(job, given, model, tokenizer)
    record = make_record(job, backend, given, encoded, held_out, trainer, seconds, resumed)
    write_whole(out / TRAINING, record.model_dump_json(indent=1))
    shutil.rmtree(out / STATE, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return record


def _with_batch(job: FinetuneJob, given: Ingredients, encoded: Encoded) -> FinetuneJob:
    """Return *job* with the batch size that fits, if that is left to us; the log says which."""
    if job.batch_size != "auto":
        return job
    try:
        shape = shape_of(read_config(Path(given.base.path)))
    except KeyError as error:
        raise BenchError(
            f"How much memory {given.base.architecture} takes is not known: its config.json has no {error}.",
            "Give `batch_size` a number.",
        ) from error
    longest = job.max_length if job.packing else max((len(one.input_ids) for one in encoded.examples), default=1)
    free = find_free_bytes(count_processes()) - 4 * (given.teacher.parameters if given.teacher else 0)
    fitted = fit_batch(job, shape, longest, free)
    _log.warning(
        "Batch size %s, %s forward passes a step: %.1f GB of memory are free.",
        fitted.batch_size,
        fitted.gradient_accumulation,
        free / 1e9,
    )
    return fitted


def _claim(
    job: FinetuneJob, given: Ingredients, encoded: Encoded, held_out: Encoded
) -> tuple[FinetuneJob, Path | None]:
    """Take the run folder; return *job* with the batch of the first process, and the step to resume from.

    The first process does it for all: how much memory is free differs from process to process.
    """
    settings = {**job.settings(), "base weights": given.base.sha256, "data rows": encoded.sha256}
    settings |= {
        "shard": job.shard,
        "validation rows": held_out.sha256,
        "teacher weights": given.teacher and given.teacher.sha256,
    }
    with _first_process_first():
        if read_rank() == 0:
            claim(Path(job.out), settings, {"learning_rate_source": job.learning_rate_source})
        started = started_settings(Path(job.out))
        sizes = {name: started[name] for name in ("batch_size", "gradient_accumulation")}
        return job.model_copy(update=sizes), last_complete(Path(job.out) / STATE)


def _sharded(job: FinetuneJob) -> FinetuneJob:
    """Return *job* with what the launcher asked for; BenchError for what cannot be sharded."""
    job = job.model_copy(update={"shard": sharding.launched_for_sharding() or job.shard})
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


def _whole(job: FinetuneJob, base: Checkpoint, sharded: PreTrainedModel) -> PreTrainedModel:
    """Return *sharded* as a plain model, on the first process; on others as it is."""
    state = sharding.gathered(sharded)
    if not state:
        return sharded
    model = starting_model(job, base)
    model.load_state_dict(state)
    return model


def _first_process_first() -> Any:
    if count_processes() == 1:
        return nullcontext()
    from accelerate import PartialState

    cpu = not torch.cuda.is_available()
    return PartialState(cpu=cpu, **({"backend": "gloo"} if cpu else {})).main_process_first()


def _teacher(job: FinetuneJob, given: Ingredients, tokenizer: Any) -> PreTrainedModel | None:
    if given.teacher is None:
        return None
    refuse_other_vocabulary(tokenizer, load_tokenizer(given.teacher))
    return load_model(given.teacher, "run", "bf16" if job.compute == "bf16" else "fp32")


def _pad_id(tokenizer: Any) -> int:
    """Any id will do: padded positions are masked from attention and from the loss."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
