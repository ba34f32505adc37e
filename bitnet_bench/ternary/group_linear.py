"""Ternary layers with a scale per group of inputs: trainable ones with masters, and one with codes that only runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitnet_bench.ternary.groups import multiply_int8, quantize_activation_groups, scale_groups, ternarize_groups


class GroupCodesLinear(nn.Module):
    """An inference-only layer with int8 codes [N, K] and scales [N, K / G] that rounds its inputs to int8 by group."""

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales.float(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., N] in x's dtype."""
        q, steps = quantize_activation_groups(x.float(), self.in_features // self.scales.shape[1])
        rows = q.reshape(-1, self.in_features)
        y = multiply_int8(rows, steps.reshape(len(rows), -1), self.codes, self.scales)
        y = y.view(*x.shape[:-1], self.out_features)
        return (y if self.bias is None else y + self.bias).to(x.dtype)


class StraightThroughGroups(torch.autograd.Function):
    """The weights t * s of masters [N, K], whose gradient goes to the masters unchanged."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        """Return t * s in float32."""
        return scale_groups(codes, scales)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient as it is."""
        return grads[0], None, None


class StraightThroughSteps(torch.autograd.Function):
    """Inputs [..., K] rounded to int8 by group, as floats, whose gradient goes to the inputs unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: int) -> Tensor:
        """Return q * step in x's dtype."""
        q, steps = quantize_activation_groups(x.float(), group)
        return (q.view(*steps.shape, group) * steps.unsqueeze(-1)).view(x.shape).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient as it is."""
        return grads[0], None


class GroupEmbedding(nn.Embedding):
    """An embedding with float32 masters whose rows are exactly ternary by group."""

    group_size = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows [..., K]; only those that are looked up are made ternary."""
        rows: Tensor = nn.functional.embedding(ids.flatten(), self.weight, self.padding_idx)
        codes, scales = ternarize_groups(rows.detach(), self.group_size)
        dense: Tensor = StraightThroughGroups.apply(rows, codes, scales)  # type: ignore[no-untyped-call]
        return dense.view(*ids.shape, -1)
