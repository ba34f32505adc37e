"""How much memory training takes, and the batch that fits into what is free."""

from __future__ import annotations

from bitnet_bench.checkpoints.shape import ModelShape
from bitnet_bench.machine.memory import USABLE_SHARE
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.loss import ROWS_AT_ONCE

TRAINED_BYTES = 16
"""A parameter in training: float32 master, gradient, and AdamW's two moments."""
ACTIVATION_FLOATS_PER_LAYER = 20
"""Kept for the backward pass by token, in units of the hidden width: inputs of products, quantized too, and norms."""
LOGIT_COPIES = 3
"""Float32 logits, their log-softmax and their gradient."""


def training_bytes(job: FinetuneJob, shape: ModelShape, tokens: float) -> int:
    """Return the memory of parameters, activations and logits for *tokens* of a forward pass."""
    wide = 3 * shape.intermediate / shape.hidden
    kept = 1.0 if job.gradient_checkpointing else ACTIVATION_FLOATS_PER_LAYER + wide
    with_logits = tokens if shape.keeps_all_logits else min(tokens, ROWS_AT_ONCE)
    activations = tokens * 4 * shape.hidden * kept * shape.layers + with_logits * LOGIT_COPIES * 4 * shape.vocabulary
    return int(TRAINED_BYTES * shape.parameters + activations)


def fit_batch(job: FinetuneJob, shape: ModelShape, longest: int, free_bytes: float) -> FinetuneJob:
    """Return *job* with the largest power of two for a batch size of auto that fits, and one of a number as it is.

    The gradient accumulation is raised so that a step has as many sequences whatever fits. *longest*: tokens of the
    longest sequence; a pair is two. A batch of one is the least, whether it fits or not.
    """
    if job.batch_size != "auto":
        return job
    step = job.sequences * job.gradient_accumulation
    tokens = longest * (2 if job.method == "dpo" else 1)
    batch = job.sequences
    while batch > 1 and training_bytes(job, shape, batch * tokens) > USABLE_SHARE * free_bytes:
        batch //= 2
    return job.model_copy(update={"batch_size": batch, "gradient_accumulation": step // batch})
