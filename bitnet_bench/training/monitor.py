"""Watch what a learning rate does to ternary weights, whose loss alone does not show that nothing moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_bench.ternary.linear import bit_linears
from bitnet_bench.ternary.quantizer import ternarize

NEAR = 0.05
"""A master is near a rounding boundary where |w| / gamma is within this of 1/2."""
LOOKS = 20
"""So many looks in a row must agree before a warning."""
RESTLESS = 0.1
"""A share of codes that flips at each look: a code is then seldom the same for ten looks."""


class TernaryMonitor:
    """Compares a model's ternary layers with those at the last look; empty for a float model."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = bit_linears(model)
        self._last, self._first = self._codes()
        self._still = self._restless = 0

    def restart(self) -> None:
        """Take the weights of this moment for those of the last look: they may have come from a saved step."""
        self._last, _ = self._codes()

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """Return shares of all codes, and how far scales have moved.

        flips: changed since the last look. zeros: are 0. near_boundary: of masters within `NEAR` of rounding otherwise.
        scale_drift: mean over layers of |gamma / its first value - 1|.
        """
        if not self._layers:
            return {}
        now, scales = self._codes()
        total = sum(codes.numel() for codes in now.values())
        flips = sum(int((now[name] != self._last[name]).sum()) for name in now) / total
        zeros = sum(int((codes == 0).sum()) for codes in now.values()) / total
        near = sum(_near_boundary(_whole(layer.weight), scales[name]) for name, layer in self._layers.items()) / total
        drift = sum(abs(float(scales[name] / first) - 1) for name, first in self._first.items()) / len(scales)
        self._last = now
        self._still = self._still + 1 if flips == 0 else 0
        self._restless = self._restless + 1 if flips > RESTLESS else 0
        return {"flips": flips, "zeros": zeros, "near_boundary": near, "scale_drift": drift}

    def warning(self) -> str | None:
        """Return what is wrong and what to do, at the moment when so many looks have agreed, else None."""
        if self._still == LOOKS:
            size = sum(float(scale) for scale in self._first.values()) / len(self._first)
            return (
                f"No code flipped in the last {LOOKS} logged steps: only what is not ternary learns. Raise --lr; "
                f"it means something only beside mean |W| = {size:.3g}."
            )
        if self._restless == LOOKS:
            return (
                f"More than {RESTLESS:.0%} of the codes flipped at each of the last {LOOKS} logged steps: "
                "the weights do not settle. Lower --lr."
            )
        return None

    @torch.no_grad()
    def _codes(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Return codes and scales by layer."""
        both = {name: ternarize(_whole(layer.weight)) for name, layer in self._layers.items()}
        return {name: codes for name, (codes, _) in both.items()}, {name: gamma for name, (_, gamma) in both.items()}


def _whole(weight: Tensor) -> Tensor:
    """Return a weight of which each process has a part (a DTensor) whole, and others as they are."""
    gather: Any = getattr(weight, "full_tensor", None)
    return weight if gather is None else gather()


def _near_boundary(weight: Tensor, gamma: Tensor) -> int:
    return int(((weight.float().abs() / gamma - 0.5).abs() < NEAR).sum())
