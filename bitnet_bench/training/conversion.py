"""Measure what a float model loses when its weights become ternary, and what training gives back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.data.collating import BatchItem, Collator
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, Conversion
from bitnet_bench.training.ending import read_cross_entropy
from bitnet_bench.training.items import measure_items
from bitnet_bench.training.loss import response_loss
from bitnet_bench.training.trainer import TrainingPlan

MAX_PROBED_ROWS = 64
"""Training rows that a conversion is measured on where no rows are held out."""
POINT = "float_loss"
"""Name of the logged figure by which a conversion is found again when a run is resumed."""


def measure_conversion(
    job: FinetuneJob, base: Checkpoint, model: PreTrainedModel, plan: TrainingPlan
) -> dict[str, float]:
    """Return the mean loss in nats a labelled token of the float *base*, and of *model* as it begins.

    On the held-out rows of *plan*, or on its first training rows. *model* is wholly ternary, with new norms if the job
    adds them, and no weight has changed yet.
    """
    rows = plan.validation if len(plan.validation) else plan.items[:MAX_PROBED_ROWS]
    collator = plan.collator
    before = load_model(base, "run", "bf16" if job.compute == "bf16" else "fp32")
    floats = compute_mean_loss(job, before, rows, collator)
    del before
    return {POINT: floats, "ternary_loss": compute_mean_loss(job, model, rows, collator)}


def compute_mean_loss(job: FinetuneJob, model: PreTrainedModel, rows: Sequence[BatchItem], collator: Collator) -> float:
    """Return the mean cross-entropy of *model* over the labelled tokens of *rows*, in nats."""
    training, device = model.training, "cuda" if torch.cuda.is_available() else "cpu"
    model.eval().to(device)
    by_length = np.argsort(measure_items(rows), kind="stable").tolist()
    total, count = 0.0, 0
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=job.compute == "bf16"):
        for start in range(0, len(by_length), job.sequences):
            batch = collator([rows[i] for i in by_length[start : start + job.sequences]])
            loss, tokens = response_loss(model, {name: tensor.to(device) for name, tensor in batch.items()})
            total, count = total + float(loss), count + tokens
    model.train(training)
    return total / count


def make_conversion(
    points: Sequence[dict[str, float]],
    validation: Sequence[dict[str, float]],
    tokens: np.ndarray,
    rows: int,
    warmup: int,
) -> Conversion | None:
    """Return the conversion that *points*, a run's log, holds; None if its base was ternary already.

    *validation*: logged losses of the held-out rows by step. *tokens*: those learned up to each step. *rows*: how many
    rows were held out. *warmup*: steps in which the model became ternary by and by, whose losses in training are those
    of another model.
    """
    found = next((point for point in points if POINT in point), None)
    if found is None:
        return None
    losses = (
        [(point["step"], point["validation_loss"]) for point in validation]
        if rows
        else [
            (point["step"], read_cross_entropy(point)) for point in points if "loss" in point and point["step"] > warmup
        ]
    )
    return Conversion(
        rows="validation" if rows else "training",
        float_loss=found[POINT],
        ternary_loss=found["ternary_loss"],
        curve=tuple((int(tokens[int(step) - 1]) if step else 0, loss) for step, loss in losses),
    )
