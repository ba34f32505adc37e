"""Estimate how much memory training takes, and choose the batch that fits into free memory."""

from __future__ import annotations

import logging
from pathlib import Path

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.shape import ModelShape, compute_shape
from bitnet_bench.data.tokenizing import EncodedRows
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.memory import USABLE_SHARE, find_free_bytes
from bitnet_bench.processes import count_processes
from bitnet_bench.protocols import TrainingInputs
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.head_loss import count_chunk_rows

_log = logging.getLogger(__name__)
TRAINED_BYTES = 16
"""Bytes of a parameter in training: float32 master, gradient, and AdamW's two moments."""
ACTIVATION_FLOATS_PER_LAYER = 20
"""Floats that a token keeps for the backward pass in a layer, in units of the hidden width: inputs of products, also
quantized, and norms."""
LOGIT_COPIES = 3
"""Copies of logits in float32: the logits, their log-softmax and their gradient."""


def training_bytes(job: FinetuneJob, shape: ModelShape, tokens: float) -> int:
    """Return the bytes of parameters, activations and logits for *tokens* of a forward pass."""
    wide = 3 * shape.intermediate / shape.hidden
    kept = 1.0 if job.gradient_checkpointing else ACTIVATION_FLOATS_PER_LAYER + wide
    with_logits = tokens if shape.keeps_all_logits else min(tokens, count_chunk_rows(shape.vocabulary))
    activations = tokens * 4 * shape.hidden * kept * shape.layers + with_logits * LOGIT_COPIES * 4 * shape.vocabulary
    return int(TRAINED_BYTES * shape.parameters + activations)


def fit_batch(job: FinetuneJob, shape: ModelShape, longest: int, free_bytes: float) -> FinetuneJob:
    """Return *job* with the largest batch that fits, from `job.sequences` down by halves; a given size is kept.

    The gradient accumulation is raised so that a step always has the same number of sequences. *longest*: tokens of the
    longest sequence; a pair counts twice. The smallest batch is one, whether it fits or not.
    """
    if job.batch_size != "auto":
        return job
    step = job.sequences * job.gradient_accumulation
    tokens = longest * (2 if job.method == "dpo" else 1)
    batch = job.sequences
    while batch > 1 and training_bytes(job, shape, batch * tokens) > USABLE_SHARE * free_bytes:
        batch //= 2
    return job.model_copy(update={"batch_size": batch, "gradient_accumulation": step // batch})


def fit_job(job: FinetuneJob, given: TrainingInputs, encoded: EncodedRows) -> FinetuneJob:
    """Return *job* with the batch size that fits if it is `auto`, and log it."""
    if job.batch_size != "auto":
        return job
    try:
        shape = compute_shape(read_config(Path(given.base.path)))
    except KeyError as error:
        raise BenchError(
            f"How much memory {given.base.architecture} takes is not known: its config.json has no {error}.",
            "Give `batch_size` a number.",
        ) from error
    longest = job.max_length if job.packing else int(encoded.lengths.max(initial=1))
    free = find_free_bytes(count_processes()) - 4 * (given.teacher.parameters if given.teacher else 0)
    fitted = fit_batch(job, shape, longest, free)
    _log.warning(
        "Batch size %s, %s forward passes a step: %.1f GB of memory are free.",
        fitted.batch_size,
        fitted.gradient_accumulation,
        free / 1e9,
    )
    return fitted
