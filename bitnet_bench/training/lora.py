"""Low-rank training of ternary layers, inside their quantizer (LoRA; Hu et al. 2021, arXiv:2106.09685).

W + (alpha / r) B A is made ternary. The usual adapter next to the layer would be float and could not be merged into
codes; this one is merged without changing any code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.linear import BitLinear, find_ternary_targets


class LowRank(nn.Module):
    """Parametrization weight [N, K] -> weight + scale * B A, with A [r, K] and B [N, r], in float32."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.randn(rank, columns, generator=generator) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return *weight* with the adapter added."""
        with torch.autocast(weight.device.type, enabled=False):  # masters are float32
            return torch.addmm(weight, self.b, self.a, alpha=self.scale)


def add_adapters(model: nn.Module, rank: int, alpha: float, seed: int) -> None:
    """Freeze *model* and add an adapter to each layer that is ternary, or would be in an FP16 twin."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for layer in find_ternary_targets(model).values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha, generator))


def merge_adapters(model: nn.Module) -> None:
    """Merge every adapter into its layer's weight; raise BenchError if that changes a code, which would be a bug."""
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear) or not parametrize.is_parametrized(layer, "weight"):
            continue
        before = _codes(layer)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        after = _codes(layer)
        if before is not None and after is not None and not torch.equal(before, after):
            raise BenchError(
                f"Merging the adapter of {name} changed {int((before != after).sum())} codes.",
                "This is an error of bitnet-bench; please report it.",
            )
    model.requires_grad_(True)


@torch.no_grad()
def _codes(layer: Any) -> Tensor | None:
    return layer.ternarize()[0] if isinstance(layer, BitLinear) else None
