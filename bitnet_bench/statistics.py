"""Standard errors and intervals, pure: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
SEED = 1234
NORMAL_95 = 1.959963984540054


def mean_stderr(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean, s / sqrt(n) with n - 1 in s; None below two values."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def confusion_bootstrap_stderr(
    confusion: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES
) -> float | None:
    """Return the bootstrap standard error of a *statistic* of a confusion matrix; None below two examples.

    Resampling n examples with replacement is drawing the matrix from Multinomial(n, cells / n): the same
    distribution without a loop over examples. *statistic* takes [resamples, K, K] and returns [resamples].
    """
    n = int(confusion.sum())
    if n < 2:
        return None
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(n, confusion.ravel() / n, size=resamples).reshape(resamples, *confusion.shape)
    return float(np.std(statistic(drawn), ddof=1))


def resampled_counts(n: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return [resamples, n], how often each of n examples is drawn with replacement; the same for the same n."""
    return np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=resamples)


def interval(value: float, stderr: float | None, low: float = 0.0, high: float = 100.0) -> tuple[float, float] | None:
    """Return the 95 % normal interval cut to the metric's range; None without a standard error."""
    if stderr is None:
        return None
    return max(low, value - NORMAL_95 * stderr), min(high, value + NORMAL_95 * stderr)


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
