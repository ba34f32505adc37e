"""Warn about runs that are too short to learn, or end worse than they began or worse than guessing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.preference import LN2

END_POINTS_DIVISOR = 10
"""Divisor of the share of logged points at the end of a run whose mean is its final loss: one batch alone is noise."""


@dataclass(frozen=True)
class RunLosses:
    """Losses that summarize a run, in nats per response token, for DPO per pair."""

    first: float
    """Loss before any weight changed."""
    last: float
    guessing: float


def compute_run_losses(job: FinetuneJob, history: Sequence[Mapping[str, float]], vocabulary: int) -> RunLosses:
    """Return the losses at both ends of *history*, the logged points of a run, and that of guessing.

    A model that becomes ternary over several steps begins where it is fully ternary.
    """
    ternary = [point for point in history if point["step"] > job.ternary_warmup] or history
    losses = [read_cross_entropy(point) for point in ternary]
    end = losses[-max(1, len(history) // END_POINTS_DIVISOR) :]
    guessing = LN2 if job.method == "dpo" else math.log(vocabulary)
    return RunLosses(losses[0], sum(end) / len(end), guessing)


def read_cross_entropy(point: Mapping[str, float]) -> float:
    """Return the loss of a logged step; of a distillation the part that measures the model's own predictions."""
    return point.get("cross_entropy", point["loss"])


def warn_short_run(steps: int, warmup: int) -> tuple[str, ...]:
    """Return a warning about a run of too few steps, before it starts; () if there is none."""
    advice = "Give more rows, more `epochs` or `max_steps`, or a smaller batch."
    if steps == 1:
        return (f"The run has one step, from which a model learns next to nothing. {advice}",)
    if warmup >= steps:
        return (
            f"The warm-up lasts {warmup} steps, as long as the run: the learning rate is at its peak in the last step "
            f"only. Lower `warmup_ratio`. {advice}",
        )
    return ()


def warn_failed_run(record: FinetuneRecord) -> tuple[str, ...]:
    """Return warnings about how a finished run failed; () if its loss fell below guessing and validation loss fell."""
    warnings = []
    first, last, guessing = record.first_loss, record.last_loss, record.guessing_loss
    if first is not None and last is not None and guessing is not None:
        bounds = {"where it began": first} if record.job.method == "dpo" else _list_loss_bounds(first, guessing)
        above = [f"{bound:.4g} ({name})" for name, bound in bounds.items() if last > bound]
        if above:
            warnings.append(f"The loss ended at {last:.4g}, above {' and '.join(above)}. {_advise(record, first)}")
    if len(record.validation) > 1:
        before, after = record.validation[0]["loss"], record.validation[-1]["loss"]
        if after > before:
            warnings.append(
                f"The validation loss ended at {after:.4g}, above {before:.4g} before training: what was learned does "
                "not carry over to other rows. Train on more rows, for fewer `epochs`, or with a lower `learning_rate`."
            )
    return tuple(warnings)


def _list_loss_bounds(first: float, guessing: float) -> dict[str, float]:
    return {"where it began": first, "uniform guessing": guessing}


def _advise(record: FinetuneRecord, first: float) -> str:
    """Return advice for a run whose loss did not fall enough."""
    job = record.job
    assert record.last_loss is not None
    if job.precision == "ternary" and not record.base.is_ternary and job.method == "pretrain":
        return (
            "A float model that becomes ternary has to learn its language again: train on more text (more `epochs` or "
            "`max_steps`; of a preset: `text_tokens`)."
        )
    if job.precision == "ternary" and not record.base.is_ternary:
        return (
            "A float model that becomes ternary has to learn its task again: train for more steps, first on running "
            "text (`method=pretrain`), or with a teacher (`method=distill`)."
        )
    if record.last_loss > first:
        return "The run made the model worse. Lower `learning_rate`, or train for more steps."
    return "The model is not better than chance yet. Train for more steps, or raise `learning_rate`."
