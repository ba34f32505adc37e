"""Perplexity per UTF-8 byte, which compares models with different tokenizers; lower is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.base import Metric
from bitnet_bench.metrics.sums import BOOTSTRAP_SIGNATURE, weighted_sums
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import bootstrap_stderr


class BitsPerByte(Metric, adds=("score_sums",)):
    """Negative log2-likelihood of all texts over their bytes (lm-eval's bits_per_byte); 0 is a perfect prediction."""

    name = "bits_per_byte"
    limits = (0.0, None)
    lower_is_better = True

    def score_example(self, example: Example) -> float:
        """Return the geometric mean of the probability of a byte, 0..1; higher is better."""
        loglikelihood, size = _nats_and_bytes([example])[0]
        return float(np.exp(min(0.0, loglikelihood) / size))

    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return bits per byte for sums [..., 2] of nats and bytes."""
        bits: np.ndarray = -sums[..., 0] / sums[..., 1] / np.log(2.0)
        return bits

    def value(self, examples: Sequence[Example]) -> float:
        """Return the value over all texts, in its own unit."""
        return float(self.score_sums(_nats_and_bytes(examples).sum(0)))

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return the bootstrap standard error over texts; None for fewer than two."""
        return bootstrap_stderr(_nats_and_bytes(examples), self.score_sums)

    def example_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 2], nats and bytes of each text."""
        return _nats_and_bytes(examples)

    def score_resamples(self, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the value of each sample, in its own unit."""
        return self.score_sums(weighted_sums(numbers, weights))

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|unit:utf8-byte|lower-is-better|{BOOTSTRAP_SIGNATURE}|v1"


class BytePerplexity(BitsPerByte):
    """2 to the bits per byte (lm-eval's byte_perplexity); 1 is a perfect prediction."""

    name = "byte_perplexity"
    limits = (1.0, None)

    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return the perplexity of a byte for sums [..., 2] of nats and bytes."""
        perplexity: np.ndarray = np.exp(-sums[..., 0] / sums[..., 1])
        return perplexity


def _nats_and_bytes(examples: Sequence[Example]) -> np.ndarray:
    """Return [n, 2], nats and bytes; a text without bytes counts as one byte, because its end is predicted too."""
    return np.array([(e.loglikelihoods[0], max(1, len(e.references[0].encode()))) for e in examples])
