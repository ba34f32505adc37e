"""Watch what a learning rate does to ternary weights: codes that flip, and codes that are zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitnet_bench.ternary.linear import bit_linears
from bitnet_bench.ternary.quantizer import ternarize


class FlipMonitor:
    """Compares the codes of a model's ternary layers with those at the last look; empty for a float model."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = bit_linears(model)
        self._last = self._codes()

    def look(self) -> dict[str, float]:
        """Return `flips` (share of codes that changed since the last look) and `zeros` (share that is 0)."""
        if not self._layers:
            return {}
        now = self._codes()
        total = sum(codes.numel() for codes in now.values())
        flips = sum(int((now[name] != self._last[name]).sum()) for name in now)
        zeros = sum(int((codes == 0).sum()) for codes in now.values())
        self._last = now
        return {"flips": flips / total, "zeros": zeros / total}

    def _codes(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: ternarize(layer.weight)[0] for name, layer in self._layers.items()}
