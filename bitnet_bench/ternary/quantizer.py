"""The two quantizers of BitNet b1.58, computed in float32 whatever the dtype of the input.

Sources: arXiv:2402.17764 eq. 1-3 (weights, absmean) and eq. 4-5 with the released b1.58 code (activations,
per-token absmax to int8). In bfloat16 the absmean scale flips 0.23 % of the codes, hence float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-5


def absmean(weight: Tensor) -> Tensor:
    """Return the b1.58 scale gamma = max(mean |w|, 1e-5) as a float32 scalar (arXiv:2402.17764, eq. 3)."""
    return weight.float().abs().mean().clamp(min=SMALLEST_SCALE)


def ternarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (codes, gamma): int8 codes in {-1, 0, +1} of *weight*'s shape, and its float32 absmean scale.

    codes = clip(round(w / gamma), -1, 1), rounding half to even (arXiv:2402.17764, eq. 1-2).
    """
    gamma = absmean(weight)
    codes = (weight.float() / gamma).round().clamp(-1, 1).to(torch.int8)
    return codes, gamma


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (q, step): int8 *q* of x's shape [..., K] and float32 *step* [..., 1] with x ~ q * step, per token.

    q = clip(round(x * 127 / max(absmax, 1e-5)), -128, 127), rounding half to even.
    """
    x = x.float()
    largest = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE)
    q = (x * (127.0 / largest)).round().clamp(-128, 127).to(torch.int8)
    return q, largest / 127.0


def masters_from_codes(codes: Tensor, gamma: Tensor) -> Tensor:
    """Return float32 W = codes * gamma / density, whose codes and absmean scale are again *codes* and *gamma*.

    The absmean of codes * gamma alone is gamma * density, so quantizing it again would shrink the scale by the share of
    non-zeros (the density). An all-zero layer stays zero.
    """
    density = codes.ne(0).float().mean()
    return codes.float() * (gamma.float() / density) if density > 0 else codes.float()
