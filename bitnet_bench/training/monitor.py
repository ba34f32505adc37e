"""Watch how a learning rate changes ternary codes: the loss alone does not show that none changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import torch
from torch import Tensor, nn

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.linear import find_bit_linears, gather_weight, has_kernel

BOUNDARY_DISTANCE = 0.05
"""Largest distance of |w| / gamma from 1/2 at which a master is near a rounding boundary."""
MIN_POINTS_TO_WARN = 20
"""Least number of logged points that must agree before a warning."""
HIGH_RATE_SHARE = 0.5
"""Least share of the peak learning rate at which it is significant that no code flips."""
HIGH_FLIP_SHARE = 0.1
"""Share of flipped codes that is too high: a code is then seldom the same for ten logged points."""
CACHED_WEIGHTS = 1 << 16
"""Masters that a processor's cache holds, with what is computed of them."""


Codes = Mapping[str, tuple[Tensor, Tensor]]
"""Codes and scale of ternary layers, by name."""


class TernaryMonitor:
    """Compares a model's ternary layers with those at the last comparison; empty for a float model."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = find_bit_linears(model)
        self._last, self._first = self._codes()
        self._fresh: Codes = {}
        scales = [float(scale.mean()) for scale in self._first.values()]
        self.mean_weight = sum(scales) / len(scales) if scales else 0.0
        """Mean over the layers of mean |W| at the beginning."""

    def restart(self) -> None:
        """Compare with the present weights from now on: they may have been loaded from a saved step."""
        self._last, _ = self._codes()

    @torch.no_grad()
    def compare_codes(self) -> dict[str, float]:
        """Return shares of all codes, and how far scales have drifted.

        flips: codes that changed since the last comparison. zeros: codes that are 0. near_boundary: masters within
        `BOUNDARY_DISTANCE` of a rounding boundary. scale_drift: mean over layers of |gamma / its first value - 1|.
        """
        if not self._layers:
            return {}
        now, scales = self._codes()
        total = sum(codes.numel() for codes in now.values())
        counts = [
            count_codes(gather_weight(self._layers[name].weight), scales[name], codes, self._last[name])
            for name, codes in now.items()
        ]
        flips, zeros, near = torch.stack(counts).sum(0).tolist()  # one wait for a GPU, not several for each layer
        self._fresh = {name: (codes, scales[name]) for name, codes in now.items()}
        ratios = torch.stack([scales[name].mean() / first.mean() for name, first in self._first.items()]).tolist()
        drift = sum(abs(ratio - 1) for ratio in ratios) / len(ratios)
        self._last = now
        return {"flips": flips / total, "zeros": zeros / total, "near_boundary": near / total, "scale_drift": drift}

    def pop_codes(self) -> Codes:
        """Return codes and scales of the last comparison by layer, once: the next step's, until it changes weights."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    @torch.no_grad()
    def _codes(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Return codes and scales by layer."""
        both = {name: layer.ternarize() for name, layer in self._layers.items()}
        return {name: codes for name, (codes, _) in both.items()}, {name: gamma for name, (_, gamma) in both.items()}


def count_codes(weight: Tensor, gamma: Tensor, codes: Tensor, last: Tensor) -> Tensor:
    """Return how many codes [N, K] differ from *last*, are 0, and are of masters near a rounding boundary.

    Without the kernel a CPU counts a cache's worth of rows at a time, and so reads the masters from memory once.
    """
    low, high = (gamma * (0.5 + distance) for distance in (-BOUNDARY_DISTANCE, BOUNDARY_DISTANCE))
    fits = weight.dtype == torch.float32 and all(one.is_contiguous() for one in (weight, codes, last))
    if fits and not gamma.dim() and has_kernel(weight):
        return torch.tensor(kernel.count_codes(weight, codes, last, float(low), float(high)))
    rows = len(weight) if weight.is_cuda else max(1, CACHED_WEIGHTS // weight.shape[1])
    bounds = (torch.split(one, rows) if gamma.dim() else repeat(one) for one in (low, high))
    counts = torch.zeros(3, dtype=torch.int64, device=weight.device)
    split = (torch.split(one, rows) for one in (weight, codes, last))
    for some, new, old, least, most in zip(*split, *bounds, strict=False):
        sizes = some.float().reshape(*least.shape, -1).abs()  # one group, if there is one scale
        near = torch.count_nonzero(sizes < most.unsqueeze(-1)) - torch.count_nonzero(sizes <= least.unsqueeze(-1))
        counts += torch.stack([torch.count_nonzero(new != old), torch.count_nonzero(new == 0), near])
    return counts


def warn_about_codes(points: Sequence[Mapping[str, float]], peak_rate: float, mean_weight: float) -> tuple[str, ...]:
    """Return a warning about the codes of a run, given its logged points so far; () if there is none.

    Each point has flips and learning_rate. Codes stand still only if none flipped at any point, and a rate that is
    rising or falling may be too small to flip any.
    """
    flips = [point["flips"] for point in points if "flips" in point]
    at_high_rate = sum(point["learning_rate"] >= HIGH_RATE_SHARE * peak_rate for point in points if "flips" in point)
    if not any(flips) and at_high_rate >= MIN_POINTS_TO_WARN:
        return (
            f"No code differed from the look before at any of {len(flips)} looks, {at_high_rate} of them at half of "
            "the peak learning rate or above: only what is not ternary learns. Raise `learning_rate`; it means "
            f"something only relative to mean |W| = {mean_weight:.3g}.",
        )
    if _longest_run(share > HIGH_FLIP_SHARE for share in flips) >= MIN_POINTS_TO_WARN:
        return (
            f"More than {HIGH_FLIP_SHARE:.0%} of the codes flipped at each of {MIN_POINTS_TO_WARN} or more logged "
            "steps in a row: the weights do not settle. Lower `learning_rate`.",
        )
    return ()


def _longest_run(agrees: Iterable[bool]) -> int:
    longest = current = 0
    for one in agrees:
        current = current + 1 if one else 0
        longest = max(longest, current)
    return longest
