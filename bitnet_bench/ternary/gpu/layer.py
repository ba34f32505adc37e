"""Run the ternary layers of a transformers model on our GPU kernels, for architectures without an engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitnet_bench.ternary.gpu import calls
from bitnet_bench.ternary.gpu.calls import GpuJoinedLayers, QuantizedRows
from bitnet_bench.ternary.kernel import Norm
from bitnet_bench.ternary.linear import CodesLinear, replace_layer


class GpuLinear(nn.Module):
    """An inference-only ternary layer with 2-bit codes on a GPU, and an inner RMS norm if the format has one."""

    codes: Tensor

    def __init__(self, layer: CodesLinear) -> None:
        """Use the codes, the scale, the bias and the norm of *layer*, which is on the GPU."""
        super().__init__()
        self.out_features, self.in_features = layer.out_features, layer.in_features
        part = layer.codes, float(layer.gamma), None if layer.bias is None else layer.bias.float()
        self._weights = GpuJoinedLayers([part], layer.in_features, layer.codes.device)
        norm = layer.norm
        weight = None if norm is None or norm.weight is None else norm.weight.float()
        self._norm = None if norm is None else Norm(weight, norm.eps)
        self.register_buffer("codes", self._weights.codes, persistent=False)  # counted as memory of the model

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., N] in x's dtype."""
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        rows = QuantizedRows.empty(len(flat), self.in_features, x.device)
        y = torch.empty(len(flat), self.out_features, dtype=x.dtype, device=x.device)
        if len(flat):
            calls.quantize_rows(flat, rows, norm=self._norm)
            self._weights.multiply(rows, y)
        return y.view(*x.shape[:-1], self.out_features)


def use_gpu_layers(model: nn.Module) -> nn.Module:
    """Replace every `CodesLinear` of *model*, which is on the GPU, by a `GpuLinear`, and return the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, CodesLinear):
            replace_layer(model, name, GpuLinear(module))
    return model
