"""The ternary product as a torch operator, `bitnet_bench::ternary_linear`, and the module that calls it.

torch.compile sees one opaque operator with a known shape. It runs the C kernel on the CPU, and otherwise a product in
torch with bit-identical results; on a GPU `bitnet_bench.ternary.gpu.layer` replaces it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.linear import integer_matmul
from bitnet_bench.ternary.panels import from_panels
from bitnet_bench.ternary.quantizer import quantize_activations


@torch.library.custom_op("bitnet_bench::ternary_linear", mutates_args=())
def ternary_linear(x: Tensor, panels: Tensor, gamma: float, rows: int, bias: Tensor | None) -> Tensor:
    """Return y = (Q(x) @ codes.T) * step * gamma + bias, [..., rows] in x's dtype, for x [..., K].

    *panels* are uint8 [panels, steps, 64] (`bitnet_bench.ternary.panels`), *bias* float32 [rows] or None.
    """
    flat = x.reshape(-1, x.shape[-1])
    y = _choose_product(x.device)(flat.float().contiguous(), panels, gamma, rows, bias)
    return y.to(x.dtype).view(*x.shape[:-1], rows)


@ternary_linear.register_fake
def _(x: Tensor, panels: Tensor, gamma: float, rows: int, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)


def _choose_product(device: torch.device) -> Callable[[Tensor, Tensor, float, int, Tensor | None], Tensor]:
    if device.type == "cpu" and kernel.load_library() is not None:
        return _multiply_by_kernel
    return _multiply_by_torch


def _multiply_by_kernel(x: Tensor, panels: Tensor, gamma: float, rows: int, bias: Tensor | None) -> Tensor:
    y = torch.empty(len(x), rows)
    if len(x):
        quantized = kernel.QuantizedRows.empty(*x.shape)
        kernel.quantize_rows(x, len(x), quantized)
        kernel.JoinedLayers([(panels, gamma, rows, bias)], x.shape[1])(quantized, len(x), y)
    return y


def _multiply_by_torch(x: Tensor, panels: Tensor, gamma: float, rows: int, bias: Tensor | None) -> Tensor:
    q, step = quantize_activations(x)
    y = integer_matmul(q, from_panels(panels, rows, x.shape[1])).mul_(step * gamma)
    return y if bias is None else y.add_(bias)


class PanelsLinear(nn.Module):
    """An inference-only ternary layer with 2-bit codes, and an inner RMS norm if the format has one."""

    panels: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None

    def __init__(
        self,
        panels: Tensor,
        gamma: float,
        shape: tuple[int, int],
        bias: Tensor | None = None,
        norm: tuple[Tensor | None, float] | None = None,
    ) -> None:
        """Use *panels* of codes of *shape* (rows, columns); *norm* is (weight [columns] or None, epsilon)."""
        super().__init__()
        self.out_features, self.in_features = shape
        self.gamma = gamma
        self.register_buffer("panels", panels, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("norm_weight", norm[0] if norm else None, persistent=False)
        self.epsilon = norm[1] if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., rows] in x's dtype."""
        if self.epsilon is not None:
            x = nn.functional.rms_norm(x, (self.in_features,), self.norm_weight, self.epsilon)
        y: Tensor = ternary_linear(x, self.panels, self.gamma, self.out_features, self.bias)
        return y
