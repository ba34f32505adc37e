"""Ternary layers with a scale per group of inputs: trainable ones with masters, and one with codes that only runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_bench.ternary.groups import multiply_int8, quantize_activation_groups, scale_groups, ternarize_groups
from bitnet_bench.ternary.linear import BitLinear, find_ternary_targets, gather_weight


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


class GroupBitLinear(BitLinear):
    """A linear layer with float32 masters whose forward multiplies by the weights t * s, with a scale per group.

    Products are float32 even under autocast, whose bfloat16 would round the scales.
    """

    group_size = 0
    rounds_inputs = False
    """Whether inputs are rounded to int8 by group."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., N] in x's dtype, or in autocast's."""
        device = x.device.type
        out_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            wide = x.float()
            if self.rounds_inputs:
                rounded: Tensor = StraightThroughSteps.apply(wide, self.group_size)  # type: ignore[no-untyped-call]
                wide = rounded if self.ternary_share == 1 else wide + self.ternary_share * (rounded - wide)
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(wide, self.dense_weight(), bias).to(out_dtype)

    def dense_weight(self) -> Tensor:
        """Return the float32 weights t * s [N, K], whose gradient goes to the masters."""
        dense: Tensor = StraightThroughGroups.apply(self.weight, *self._get_codes())  # type: ignore[no-untyped-call]
        return dense if self.ternary_share == 1 else self.weight + self.ternary_share * (dense - self.weight)

    def ternarize(self) -> tuple[Tensor, Tensor]:
        """Return codes and scales of the present weights, whole if they are split over processes."""
        return ternarize_groups(gather_weight(self.weight), self.group_size)

    def _make_codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return ternarize_groups(weight, self.group_size)


class GroupEmbedding(nn.Embedding):
    """An embedding with float32 masters whose rows are exactly ternary by group."""

    group_size = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows [..., K]; only those that are looked up are made ternary."""
        rows: Tensor = nn.functional.embedding(ids.flatten(), self.weight, self.padding_idx)
        codes, scales = ternarize_groups(rows.detach(), self.group_size)
        dense: Tensor = StraightThroughGroups.apply(rows, codes, scales)  # type: ignore[no-untyped-call]
        return dense.view(*ids.shape, -1)

    def ternarize(self) -> tuple[Tensor, Tensor]:
        """Return codes and scales of the present weights."""
        return ternarize_groups(self.weight, self.group_size)


def make_trainable_groups(
    model: nn.Module, group: int, tables: Sequence[str], *, rounds_inputs: bool, kept: Sequence[str] = ()
) -> nn.Module:
    """Turn the ternary targets of *model*, and the *tables* among embedding and head, into layers with groups in place.

    A head that is tied to a ternary embedding is ternary too. The head's inputs are never rounded.
    """
    layers: dict[str, nn.Module] = dict(find_ternary_targets(model, kept))
    modules = dict(model.named_modules())
    embedding: Any = modules[tables[0]] if tables else None
    heads = {
        name for name, m in modules.items() if isinstance(m, nn.Linear) and embedding and m.weight is embedding.weight
    }
    for name in {*tables, *heads}:
        layers[name] = modules[name]
    for name, layer in layers.items():
        layer.__class__ = GroupEmbedding if isinstance(layer, nn.Embedding) else GroupBitLinear
        made: Any = layer
        made.group_size = group
        if isinstance(layer, GroupBitLinear):
            layer.rounds_inputs = rounds_inputs and name not in tables and name not in heads
    return model


def find_group_modules(model: nn.Module) -> dict[str, GroupBitLinear | GroupEmbedding]:
    """Return the trainable layers and tables of *model* with a scale per group, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, GroupBitLinear | GroupEmbedding)}
