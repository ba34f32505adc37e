"""Make a ladder of learning rates around the default, and warn if the best is probably beyond what was compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.rates import set_default_rate

RATE = "learning_rate"
FACTOR = 2.0
"""Ratio of neighbouring rates."""
REACH = 3
"""Number of rates on either side of the middle: from an eighth of it to eight times it."""
LADDER_RATES = 2 * REACH + 1


def make_ladders(arms: Mapping[str, FinetuneJob]) -> dict[str, tuple[str, ...]]:
    """Return the learning rates that each arm tries, lowest first: around the rate it has, or the table's for it."""
    return {arm: _make_ladder(job) for arm, job in arms.items()}


def _make_ladder(job: FinetuneJob) -> tuple[str, ...]:
    middle = set_default_rate(job, open_checkpoint(job.model, job.tokenizer, job.read_as)).peak_rate
    return tuple(f"{middle * FACTOR**step:.6g}" for step in range(-REACH, REACH + 1))


def find_neighbour(chosen: Mapping[str, str], tried: Sequence[Mapping[str, str]]) -> Mapping[str, str] | None:
    """Return *chosen* with the next lower learning rate that was tried; the next higher, if *chosen* has the lowest.

    There is always one if several rates did not diverge, so that arms are compared alike. None if there is no other.
    """
    alike = [one for one in tried if RATE in one and {**one, RATE: ""} == {**chosen, RATE: ""}]
    below = [one for one in alike if float(one[RATE]) < float(chosen[RATE])]
    above = [one for one in alike if float(one[RATE]) > float(chosen[RATE])]
    if below:
        return max(below, key=lambda one: float(one[RATE]))
    return min(above, key=lambda one: float(one[RATE]), default=None)


def warn_end_of_ladder(arm: str, chosen: Mapping[str, str], tried: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return a warning if the chosen learning rate of *arm* is the lowest or the highest of several that were tried."""
    rates = sorted({float(settings[RATE]) for settings in tried if RATE in settings})
    if len(rates) < 2 or float(chosen[RATE]) not in (rates[0], rates[-1]):
        return ()
    end, beyond = ("highest", "higher") if float(chosen[RATE]) == rates[-1] else ("lowest", "lower")
    return (
        f"The best learning rate of {arm}, {chosen[RATE]}, is the {end} of those tried: a {beyond} one may be better. "
        f"Search around it with `find_learning_rate` and `learning_rate={chosen[RATE]}`.",
    )


def warn_falling_rate(
    arm: str, best: Sequence[Mapping[str, str]], tried: Sequence[Mapping[str, str]]
) -> tuple[str, ...]:
    """Return a warning if whole runs of *arm* have a lower best learning rate than those of half the length.

    *best* are the best settings of each length, shortest first. Only the next lower rate was run in full, so that the
    one below it may be better still.
    """
    rates = [settings[RATE] for settings in best if RATE in settings]
    if len(rates) < 2 or float(rates[-1]) >= float(rates[-2]):
        return ()
    below = [settings[RATE] for settings in tried if float(settings[RATE]) < float(rates[-1])]
    if not below:  # the best is the lowest, of which `warn_end_of_ladder` warns
        return ()
    return (
        f"The best learning rate of {arm} fell as the runs grew longer ({', '.join(rates)}): one that is lower "
        f"still may be better. Compare them with `search=lr={max(below, key=float)},{rates[-1]}` in the same `out`.",
    )
