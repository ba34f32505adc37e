"""Test paired examples: whether there is a difference, how large it is, and whether it is smaller than a margin."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from bitnet_bench.statistics.standard_errors import NORMAL_95, RESAMPLES, RESAMPLES_PER_BLOCK, SEED, bootstrap_counts

MIN_CHI_SQUARE_PAIRS = 25
"""Number of discordant pairs below which McNemar's test is the exact binomial one."""
MIN_DIFFERING_PAIRS = 5
"""Number of differing pairs below which a small standard error is not trusted."""
BISECTION_STEPS = 60
"""Number of bisection steps for a limit of Tango's interval, which is exact to 2^-60 of its range."""


@dataclass(frozen=True)
class Effect:
    """The size of a difference, independent of the number of examples, with its 95 % interval.

    g: Cohen's g, the share of discordant pairs that one side wins, minus a half (0.05 small, 0.15 medium, 0.25 large).
    dz: the difference over the standard deviation of a pair's difference (0.2 small, 0.5 medium, 0.8 large).
    """

    kind: Literal["g", "dz"]
    value: float
    interval: tuple[float, float]


class PairedTest(Protocol):
    """A test of paired examples; differences are in the unit of the figure."""

    @property
    def difference(self) -> float:
        """Return the figure of the first side minus that of the second."""

    @property
    def stderr(self) -> float:
        """Return the standard error of the difference."""

    @property
    def p(self) -> float:
        """Return the probability of a difference at least this large if there were none (two-sided)."""

    @property
    def effect(self) -> Effect | None:
        """Return the effect size; None if no pair differs."""

    @property
    def test(self) -> str:
        """Return the name of the test behind *p*."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the difference."""

    def equivalence_p(self, margin: float) -> float:
        """Return the p of the two one-sided tests; the null hypothesis is a difference outside -margin..margin."""


@dataclass(frozen=True)
class BinaryPairs:
    """Examples that each side has right or wrong: *wins* are right on the first side only, *losses* on the second only.

    The test is McNemar's (1947). Interval and equivalence are Tango's score method (1998), which at a difference of 0
    is McNemar's chi-square, and which keeps its width if no pair is discordant.
    """

    wins: int
    losses: int
    n: int
    scale: float = 100.0

    @property
    def test(self) -> str:
        """Return the name of McNemar's test, which is exact for few discordant pairs."""
        return "mcnemar-exact" if self.wins + self.losses < MIN_CHI_SQUARE_PAIRS else "mcnemar"

    @property
    def difference(self) -> float:
        """Return (wins - losses) / n."""
        return self.scale * (self.wins - self.losses) / self.n

    @property
    def stderr(self) -> float:
        """Return the half width of the 95 % interval over 1.96; never 0, which few pairs cannot show."""
        low, high = self.interval()
        return (high - low) / (2 * NORMAL_95)

    @property
    def p(self) -> float:
        """Return McNemar's p."""
        return mcnemar(self.wins, self.losses)

    @property
    def effect(self) -> Effect | None:
        """Return Cohen's g with Wilson's interval."""
        from bitnet_bench.statistics.standard_errors import wilson

        discordant = self.wins + self.losses
        if not discordant:
            return None
        low, high = wilson(self.wins, discordant)
        return Effect("g", self.wins / discordant - 0.5, (low - 0.5, high - 0.5))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Tango's score interval."""
        low, high = tango_interval(self.wins, self.losses, self.n, level)
        return self.scale * low, self.scale * high

    def equivalence_p(self, margin: float) -> float:
        """Return the larger p of Tango's two one-sided score tests."""
        share = min(margin / self.scale, 1.0)
        if share >= 1.0:
            return 0.0
        above = tango_z(self.wins, self.losses, self.n, -share)
        below = tango_z(self.wins, self.losses, self.n, share)
        return max(_normal_tail(above), _normal_tail(-below))


@dataclass(frozen=True)
class MeanPairs:
    """A difference with a standard error over *n* pairs: the t of a paired mean, or of a paired bootstrap.

    If fewer than MIN_DIFFERING_PAIRS pairs differ, the observed spread says little about unseen pairs. The standard
    error is then no less than that of n pairs of which none differs in right and wrong (Tango), with *largest* as the
    largest difference of a pair.
    """

    difference: float
    error: float
    n: int
    test: Literal["t", "bootstrap"]
    differing: int
    largest: float = 100.0

    @cached_property
    def stderr(self) -> float:
        """Return the standard error."""
        if self.differing >= MIN_DIFFERING_PAIRS:
            return self.error
        return max(self.error, self.largest * tango_interval(0, 0, self.n)[1] / NORMAL_95)

    @property
    def p(self) -> float:
        """Return the two-sided p of t = difference / stderr; 1 if no pair differs."""
        if not self.stderr:
            return 1.0 if not self.difference else 0.0
        return 2 * _t_tail(abs(self.difference) / self.stderr, self.n - 1)

    @property
    def effect(self) -> Effect | None:
        """Return dz = difference / (error sqrt(n)), with the interval of its large-sample standard error."""
        if not self.error:
            return None
        dz = self.difference / (self.error * math.sqrt(self.n))
        half = NORMAL_95 * math.sqrt(1 / self.n + dz**2 / (2 * self.n))
        return Effect("dz", dz, (dz - half, dz + half))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return difference +- t x stderr."""
        from scipy.special import stdtrit

        half = float(stdtrit(max(1, self.n - 1), 0.5 + level / 2)) * self.stderr
        return self.difference - half, self.difference + half

    def equivalence_p(self, margin: float) -> float:
        """Return the larger p of the two one-sided t tests (Schuirmann 1987)."""
        if not self.stderr:
            return float(abs(self.difference) >= margin)
        return _t_tail((margin - abs(self.difference)) / self.stderr, self.n - 1)


def mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided p of McNemar's test: exact below MIN_CHI_SQUARE_PAIRS discordant pairs, else chi-square."""
    discordant = wins + losses
    if discordant < MIN_CHI_SQUARE_PAIRS:
        from scipy.special import bdtr

        return min(1.0, 2 * float(bdtr(min(wins, losses), discordant, 0.5))) if discordant else 1.0
    return math.erfc(abs(wins - losses) / math.sqrt(2 * discordant))


def tango_z(wins: int, losses: int, n: int, delta: float) -> float:
    """Return the score statistic of the hypothesis that the difference of shares is *delta* (Tango 1998, eq. 4).

    At 0 it is (wins - losses) / sqrt(wins + losses), which is McNemar's.
    """
    distance = wins - losses - n * delta
    a = 2 * n
    b = -wins - losses + (2 * n - wins + losses) * delta
    c = -losses * delta * (1 - delta)
    losing = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # maximum likelihood share of losses under *delta*
    variance = n * (2 * losing + delta * (1 - delta))
    if variance <= 0:
        return 0.0 if not distance else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def tango_interval(wins: int, losses: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the differences of shares that Tango's test does not reject at 1 - *level*, -1..1."""
    from scipy.special import ndtri

    z, estimate = float(ndtri(0.5 + level / 2)), (wins - losses) / n

    def limit(end: float) -> float:
        inside, outside = estimate, end
        for _ in range(BISECTION_STEPS):
            middle = (inside + outside) / 2
            if abs(tango_z(wins, losses, n, middle)) < z:
                inside = middle
            else:
                outside = middle
        return inside

    return limit(-1.0), limit(1.0)


def make_pairs(a: np.ndarray, b: np.ndarray, scale: float = 100.0) -> BinaryPairs | MeanPairs:
    """Return the paired test of mean(a - b) x *scale* over paired values [n] in 0..1.

    Values that are all 0 or 1 are tested as right and wrong; ValueError if the lengths differ or are 0.
    """
    if a.shape != b.shape or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} examples are no pairs")
    if _is_binary(a) and _is_binary(b):
        return BinaryPairs(int((a > b).sum()), int((b > a).sum()), len(a), scale)
    difference = a - b
    error = float(np.std(difference, ddof=1)) / math.sqrt(len(a)) if len(a) > 1 else 0.0
    return MeanPairs(scale * float(difference.mean()), scale * error, len(a), "t", int((a != b).sum()), scale)


def make_bootstrap_pairs(
    numbers: tuple[np.ndarray, np.ndarray],
    figures: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], Callable[[np.ndarray, np.ndarray], np.ndarray]],
    resamples: int = RESAMPLES,
    largest: float = 100.0,
) -> MeanPairs:
    """Return the difference of a figure of two runs, recomputed on the same *resamples* of their n pairs.

    *numbers* [n, ...] are what each figure needs from each example; a figure takes numbers [m, ...] and weights [R, m],
    how often each is drawn, and returns [R]. Pairs of examples with equal numbers are drawn together.
    """
    a, b = numbers
    kept, counts = _find_distinct(a, b)
    mine, theirs = a[kept], b[kept]
    once = counts[None, :].astype(float)
    drawn = [figures[0](mine, w) - figures[1](theirs, w) for w in _draw_counts(counts, resamples)]
    difference = float((figures[0](mine, once) - figures[1](theirs, once))[0])
    error = float(np.std(np.concatenate(drawn), ddof=1)) if len(a) > 1 else 0.0
    if error <= 1e-12 * max(1.0, abs(difference)):
        error = 0.0
    differing = int((a.reshape(len(a), -1) != b.reshape(len(b), -1)).any(1).sum()) if a.shape == b.shape else len(a)
    return MeanPairs(difference, error, len(a), "bootstrap", differing, largest)


def _find_distinct(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (an index of each distinct pair of rows, the number of its occurrences)."""
    n = len(a)
    both = np.ascontiguousarray(np.concatenate([a.reshape(n, -1), b.reshape(n, -1)], axis=1, dtype=float))
    bits = both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()
    _, first, counts = np.unique(bits, return_index=True, return_counts=True)
    return (first, counts) if len(first) < n / 4 else (np.arange(n), np.ones(n, dtype=np.int64))


def _draw_counts(counts: np.ndarray, resamples: int) -> list[np.ndarray] | map[np.ndarray]:
    """Return blocks [r, m] of how often each of the m distinct examples is drawn in n = sum(counts) draws."""
    n = int(counts.sum())
    if len(counts) == n:
        return map(np.asarray, bootstrap_counts(n, resamples))
    rng = np.random.default_rng(SEED)
    sizes = [min(RESAMPLES_PER_BLOCK, resamples - start) for start in range(0, resamples, RESAMPLES_PER_BLOCK)]
    return [rng.multinomial(n, counts / n, size=size).astype(float) for size in sizes]


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _normal_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def _t_tail(t: float, freedom: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(max(1, freedom), -t))
