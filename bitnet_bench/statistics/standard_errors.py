"""Compute standard errors and intervals, as pure functions of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

RESAMPLES = 1000
SEED = 1234
RESAMPLES_PER_BLOCK = 50
NORMAL_95 = 1.959963984540054
ALIKE_STDERR = 1e-9
"""Standard error up to which all examples came out alike; rounding may leave more than 0."""


def mean_stderr(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean, s / sqrt(n) with n - 1 in s; None below two values."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def confusion_bootstrap_stderr(
    confusion: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES
) -> float | None:
    """Return the bootstrap standard error of a *statistic* of a confusion matrix; None below two examples.

    Resampling n examples with replacement is equivalent to drawing the matrix from Multinomial(n, cells / n), without a
    loop over examples. *statistic* takes [resamples, K, K] and returns [resamples].
    """
    n = int(confusion.sum())
    if n < 2:
        return None
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(n, confusion.ravel() / n, size=resamples).reshape(resamples, *confusion.shape)
    return float(np.std(statistic(drawn), ddof=1))


def bootstrap_counts(n: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Yield blocks [b, n] of how often each of n examples is drawn with replacement, *resamples* rows in all.

    The draws are the same for the same n. Blocks are used because 1,000 resamples of 50,000 examples do not fit in a
    cache.
    """
    rng = np.random.default_rng(SEED)
    for start in range(0, resamples, RESAMPLES_PER_BLOCK):
        rows = min(RESAMPLES_PER_BLOCK, resamples - start)
        drawn = rng.integers(n, size=(rows, n), dtype=np.int32) + n * np.arange(rows, dtype=np.int32)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)


def bootstrap_stderr(
    statistics: np.ndarray, of_sums: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES
) -> float | None:
    """Return the bootstrap standard error of a function of sums over examples; None below two examples.

    *statistics* [n, ...] are the numbers of each example that add up; *of_sums* takes [b, ...] and returns [b].
    """
    n = len(statistics)
    if n < 2:
        return None
    flat = statistics.reshape(n, -1).astype(float)
    sums = [(counts @ flat).reshape(-1, *statistics.shape[1:]) for counts in bootstrap_counts(n, resamples)]
    return float(np.std(of_sums(np.concatenate(sums)), ddof=1))


def interval(
    value: float, stderr: float | None, low: float = 0.0, high: float | None = 100.0, n: int | None = None
) -> tuple[float, float] | None:
    """Return the 95 % normal interval, clipped to the metric's range; None without a standard error.

    With *n* examples that all came out alike, which a standard error of 0 says, it is `alike_interval`.
    """
    if stderr is None:
        return None
    if n and stderr <= ALIKE_STDERR:
        return alike_interval(value, n, low, high)
    above = value + NORMAL_95 * stderr
    return max(low, value - NORMAL_95 * stderr), above if high is None else min(high, above)


def alike_interval(value: float, n: int, low: float, high: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over *n* examples that all came out at *value*; None without a *high*.

    By Wilson's interval of n of n, a share of up to z^2 / (n + z^2) of other examples may come out differently, and
    those anywhere in the metric's range. For n right answers of n this is Wilson's interval itself.
    """
    if high is None:
        return None
    unseen = 1.0 - wilson(n, n)[0]
    return value - unseen * (value - low), value + unseen * (high - value)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion, 0..1 (Wilson 1927, eq. 4)."""
    z2 = NORMAL_95**2
    centre = (successes + z2 / 2) / (n + z2)
    half = NORMAL_95 / (n + z2) * np.sqrt(successes * (n - successes) / n + z2 / 4)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float | None]:
    """Return mean(a - b) over paired examples and its standard error; ValueError if they are not pairs."""
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} examples are no pairs")
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return float(difference.mean()), mean_stderr(difference.tolist())
