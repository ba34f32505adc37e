"""Plan a successive halving: all settings in short runs, the better half in runs of twice the length, and so on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitnet_bench.runs.jobs import FinetuneJob


@dataclass(frozen=True)
class Rung:
    """Runs of one length, whose validation losses are compared."""

    size: int
    """Number of settings that are tried at this length."""
    share: float
    """Length of each run, as a share of the whole job."""


def plan_rungs(settings: int, prunes: bool) -> list[Rung]:
    """Return the rungs after which one of *settings* is chosen; without pruning, a single one of whole runs.

    The rung of a single setting is the whole job and chooses nothing, so it is not among them: half of the length
    decides between the last two.
    """
    if not prunes:
        return [Rung(settings, 1.0)]
    sizes = [settings]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    halvings = len(sizes) - 1
    return [Rung(size, 0.5 ** (halvings - number)) for number, size in enumerate(sizes[:-1])]


def count_whole_runs(settings: int, prunes: bool) -> float:
    """Return how many whole runs the rungs take together, for a run that does not diverge."""
    return sum(rung.size * rung.share for rung in plan_rungs(settings, prunes))


def shorten_job(job: FinetuneJob, share: float) -> FinetuneJob:
    """Return *job* with *share* of its length: a run of its own, with its whole warm-up and decay in that length.

    What is counted in steps or epochs shrinks alike. The masters are left out: nothing goes on from a short run.
    """
    if share == 1:
        return job
    shorter = {
        "epochs": job.epochs * share,
        "max_steps": job.max_steps and math.ceil(job.max_steps * share),
        "ternary_warmup": int(job.ternary_warmup * share),
        "keep_masters": False,
    }
    return job.model_copy(update=shorter)
