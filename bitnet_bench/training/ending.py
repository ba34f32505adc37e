"""Say how a run went: too short to learn, worse than it began, or worse than guessing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.preference import LN2

END_POINTS_DIVISOR = 10
"""The end of a run is the mean over its last 1 / `END_POINTS_DIVISOR` of logged points: one batch alone is noise."""


@dataclass(frozen=True)
class RunLosses:
    """The losses that say what a run did, in nats: per response token, of DPO per pair."""

    first: float
    """Before any weight changed."""
    last: float
    guessing: float


def compute_run_losses(job: FinetuneJob, history: Sequence[Mapping[str, float]], vocabulary: int) -> RunLosses:
    """Return the losses at both ends of *history*, the logged points of a run, and that of guessing.

    The loss of a distillation is no measure of what the model says, so its cross-entropy is taken. A model that becomes
    ternary over several steps begins where it wholly is.
    """
    ternary = [point for point in history if point["step"] > job.ternary_warmup] or history
    losses = [point.get("cross_entropy", point["loss"]) for point in ternary]
    end = losses[-max(1, len(history) // END_POINTS_DIVISOR) :]
    guessing = LN2 if job.method == "dpo" else math.log(vocabulary)
    return RunLosses(losses[0], sum(end) / len(end), guessing)


def warn_short_run(steps: int, warmup: int) -> tuple[str, ...]:
    """Return what is wrong with a run of so few steps, before it starts; () if nothing is."""
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
    """Return in what way a finished run failed; () if its loss fell, below that of guessing, and so did validation."""
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
    """Return what to try."""
    job = record.job
    assert record.last_loss is not None
    if job.precision == "ternary" and not record.base.is_ternary:
        return (
            "A float model that becomes ternary has to learn its task again: train for more steps, first on running "
            "text (`method=pretrain`), or with a teacher (`method=distill`)."
        )
    if record.last_loss > first:
        return "The run made the model worse. Lower `learning_rate`, or train for more steps."
    return "The model is not better than chance yet. Train for more steps, or raise `learning_rate`."
