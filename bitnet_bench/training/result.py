"""Write the results of a run: the checkpoint and the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import find_end_ids
from bitnet_bench.checkpoints.saving import save_checkpoint
from bitnet_bench.data.stored_rows import store_rows
from bitnet_bench.data.templates import find_chat_template, find_turn_end
from bitnet_bench.data.tokenizing import EncodedRows
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.protocols import TrainingInputs
from bitnet_bench.runs.folder import load_training_record
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.ternary.group_linear import find_group_modules
from bitnet_bench.ternary.subln import has_added_norms
from bitnet_bench.training.conversion import make_conversion
from bitnet_bench.training.ending import END_POINTS_DIVISOR, compute_run_losses, warn_failed_run
from bitnet_bench.training.finished import digest_inputs
from bitnet_bench.training.lora import merge_adapters
from bitnet_bench.training.trainer import BenchTrainer


def save_result(job: FinetuneJob, given: TrainingInputs, model: PreTrainedModel, tokenizer: Any) -> None:
    """Write the checkpoint, with the chat template of its training and all ids that end its answers.

    Weights that are not ternary keep the dtype of the base; the FP16 arm is FP16 whatever its base was.
    """
    out, dtype = Path(job.out), given.base.float_dtype
    tokenizer.chat_template = find_chat_template(
        job.template, store_rows(given.rows).list_one_of_each_kind(), tokenizer
    )
    ends = find_end_ids(given.base, tokenizer) | find_turn_end(tokenizer)
    if model.generation_config is not None and len(ends) > 1:
        model.generation_config.eos_token_id = sorted(ends)
    if job.lora_rank:
        merge_adapters(model)
    tokenizer.save_pretrained(out)
    if job.keep_masters and job.precision == "ternary":
        tokenizer.save_pretrained(job.masters)
        save_checkpoint(model, Path(job.masters), "masters", dtype)
    if job.precision == "ternary":
        own: Literal["packed", "autobitlinear"] = "packed" if has_added_norms(model) else "autobitlinear"
        save_checkpoint(model, out, "grouped" if find_group_modules(model) else own, dtype)
    else:
        save_checkpoint(model, out, "float", "float16")


def wait_for_record(trainer: BenchTrainer, out: Path) -> FinetuneRecord:
    """Return the record that the first process has written."""
    trainer.accelerator.wait_for_everyone()
    record = load_training_record(out)
    assert record is not None, "the first process has written it"
    return record


def make_record(
    job: FinetuneJob,
    backend: str,
    given: TrainingInputs,
    encoded: EncodedRows,
    held_out: EncodedRows,
    trainer: BenchTrainer,
    seconds: float,
    resumed: Path | None,
) -> FinetuneRecord:
    """Return the record of a finished run, with warnings based on its figures."""
    history = tuple(trainer.list_logged_points("loss"))
    tail = [point["loss"] for point in history[-max(1, len(history) // END_POINTS_DIVISOR) :]]
    ending = compute_run_losses(job, history, trainer.model.config.vocab_size)
    record = FinetuneRecord(
        job=job,
        backend=backend,
        base=given.base,
        result=inspect_folder(Path(job.out)),
        rows=encoded.rows,
        dropped_rows=encoded.dropped,
        truncated_rows=encoded.truncated,
        overlapping_rows=given.overlapping,
        data_sha256=encoded.sha256,
        steps=trainer.state.global_step,
        train_loss=sum(tail) / len(tail),
        first_loss=ending.first,
        last_loss=ending.last,
        guessing_loss=ending.guessing,
        history=history,
        validation=tuple(
            {name.removeprefix("validation_"): value for name, value in point.items()}
            for point in trainer.list_logged_points("validation_loss")
        ),
        validation_rows=held_out.rows,
        packing=trainer.packing,
        warnings=(*trainer.warnings, *trainer.list_code_warnings()),
        train_seconds=seconds,
        resumed_from_step=int(resumed.name.split("-")[-1]) if resumed else 0,
        environment=read_environment(),
        inputs=digest_inputs(given),
        conversion=make_conversion(
            trainer.state.log_history,
            trainer.list_logged_points("validation_loss"),
            trainer.token_counts,
            held_out.rows,
            job.ternary_warmup,
        ),
    )
    return record.model_copy(update={"warnings": (*record.warnings, *warn_failed_run(record))})
