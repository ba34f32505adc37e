"""Standard errors, intervals and tests, as pure functions of numbers."""

from __future__ import annotations

from bitnet_bench.statistics.standard_errors import (
    ALIKE_STDERR,
    NORMAL_95,
    RESAMPLES,
    SEED,
    alike_interval,
    bootstrap_counts,
    bootstrap_stderr,
    confusion_bootstrap_stderr,
    interval,
    mean_stderr,
    paired_difference,
    wilson,
)

__all__ = [
    "ALIKE_STDERR",
    "NORMAL_95",
    "RESAMPLES",
    "SEED",
    "alike_interval",
    "bootstrap_counts",
    "bootstrap_stderr",
    "confusion_bootstrap_stderr",
    "interval",
    "mean_stderr",
    "paired_difference",
    "wilson",
]
