"""Choose the next token of each row from its logits: the most likely one, or one that is drawn."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from bitnet_bench.backends.transfers import send
from bitnet_bench.protocols import Sampling

NO_TOKEN = -1
"""Stands for a token that cannot be chosen, because a logit is NaN or the largest is infinite."""
LIKELY_TOKENS = 1024
"""Number of tokens that usually reach `top_p` together; sorting them alone saves most of the time."""
PROBABILITIES_AT_ONCE = 2**22
"""Most probabilities computed at a time: 32 MB in float64."""
FRACTION_BITS = 53
"""Bits of a random number in float64."""


def choose_greedy(logits: Tensor) -> Tensor:
    """Return the most likely token [N] of each row of *logits* [N, V], or `NO_TOKEN`."""
    top = logits.max(-1)
    return top.indices.masked_fill(~(top.values.abs() < math.inf), NO_TOKEN)


class Sampler:
    """Draws a token for every row of a batch, step by step.

    The random number of a row depends on the seed, the ids of its prompt, the number of its draw and the step alone.
    """

    def __init__(self, sampling: Sampling, prompts: Sequence[Sequence[int]], draws: Sequence[int]) -> None:
        self._sampling = sampling
        self._keys = [_make_key(sampling.seed, draw, ids) for ids, draw in zip(prompts, draws, strict=True)]
        self._step = 0

    def choose(self, logits: Tensor) -> Tensor:
        """Return a token [N] for each row of *logits* [N, V] and go on to the next step; `NO_TOKEN` as in greedy."""
        uniforms = torch.tensor([_draw_uniform(key, self._step) for key in self._keys], dtype=torch.float64)
        self._step += 1
        return draw_tokens(logits, send(uniforms, logits.device), self._sampling)


def draw_tokens(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Return the token [N] of each row of *logits* [N, V] at its place *uniforms* [N], 0..1, of the distribution.

    The place is found in the running sum of the probabilities in the order of the ids, in float64: logits that differ
    in their last bits give another token only if the place lies at the border of two.
    """
    rows = max(1, PROBABILITIES_AT_ONCE // logits.shape[-1])
    parts = [slice(start, start + rows) for start in range(0, len(logits), rows)]
    return torch.cat([_draw(logits[part], uniforms[part], sampling) for part in parts])


def _draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    top = logits.max(-1, keepdim=True).values
    scores = filter_scores((logits.double() - top.double()) / sampling.temperature, sampling)
    running = scores.exp().cumsum(-1)
    places = torch.searchsorted(running, uniforms[:, None] * running[:, -1:], right=True)[:, 0]
    found = places.clamp(max=logits.shape[-1] - 1)
    return found.masked_fill(~(top[:, 0].abs() < math.inf), NO_TOKEN)


def filter_scores(scores: Tensor, sampling: Sampling) -> Tensor:
    """Return *scores* [N, V], logits over the temperature, with -inf for tokens that `top_k` or `top_p` leave out.

    As in transformers: first the *top_k* largest are kept, then the most likely that reach *top_p* together. Tokens
    that are exactly as likely as the last one of these are kept as well.
    """
    if sampling.top_k is not None:
        least = scores.topk(min(sampling.top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -math.inf)
    if sampling.top_p < 1.0:
        scores = scores.masked_fill(scores < _find_least_likely(scores, sampling.top_p), -math.inf)
    return scores


def _find_least_likely(scores: Tensor, top_p: float) -> Tensor:
    """Return the least of the *scores* [N, 1] of the most likely tokens that reach the probability *top_p* together."""
    total = scores.logsumexp(-1, keepdim=True)
    ordered = scores.topk(min(LIKELY_TOKENS, scores.shape[-1])).values
    if bool(((ordered - total).exp().sum(-1) < top_p).any()):
        ordered = scores.sort(-1, descending=True).values
    shares = (ordered - total).exp()
    kept = (shares.cumsum(-1) - shares < top_p).sum(-1, keepdim=True)
    return ordered.gather(-1, kept.clamp(min=1) - 1)


def _make_key(seed: int, draw: int, ids: Sequence[int]) -> bytes:
    return hashlib.sha256(array("q", [seed, draw, *ids]).tobytes()).digest()


def _draw_uniform(key: bytes, step: int) -> float:
    """Return a number in [0, 1) for *step*."""
    digest = hashlib.sha256(key + step.to_bytes(8, "little")).digest()
    return float((int.from_bytes(digest[:8], "little") >> (64 - FRACTION_BITS)) * 2.0**-FRACTION_BITS)
