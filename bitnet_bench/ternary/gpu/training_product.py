"""The ternary product for training on bfloat16 tensor cores: integer operands, exact float32 sums, few launches.

y = (q @ codes.T) * (step * gamma), with dx = (dy * gamma) @ codes and dw = (dy * step).T @ q. q and codes are integers
of at most 8 bits, exact in bfloat16, and their sums stay below 2^24, exact in float32: for the same gamma, the forward
pass is bit-identical to the definition on a CPU. In the backward pass dy times its scale is rounded to dy's dtype once
before the product, whereas a plain layer rounds its weights and its activations.

Launches of a layer: quantize (once for all layers that read the same tensor), product, scale; in the backward pass one
for both scaled gradients, and two products. A plain layer under autocast has a cast and a product, and in the backward
pass two products and two casts. Weights are ternarized for all layers in two launches per step.
"""

from __future__ import annotations

import weakref
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.machine.gpu import why_no_launchers
from bitnet_bench.ternary.quantizer import SMALLEST_SCALE, absmean

FIRST_CAPABILITY = (8, 0)
"""Compute capability of Ampere, the first with bfloat16 tensor cores."""
HAS_TRITON = find_spec("triton") is not None and why_no_launchers() is None
"""True if Triton is installed and can start kernels; a constant, because torch.compile reads it."""
HAS_WIDE_MM = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 10)
"""True if torch.compile supports `mm` with an out_dtype; `bmm` has had it since 2.8 (pytorch/pytorch#163275)."""


def has_training_kernels(device: torch.device) -> bool:
    """Return whether the kernels run on *device*, a GPU of `FIRST_CAPABILITY` or later with Triton."""
    return device.type == "cuda" and _has_tensor_cores(device.index or 0)


@cache
def _has_tensor_cores(index: int) -> bool:
    return HAS_TRITON and torch.cuda.get_device_capability(index) >= FIRST_CAPABILITY


class ExactProduct(torch.autograd.Function):
    """The product y = (q @ codes.T) * (step * gamma) with straight-through gradients for x and weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, q: Tensor, step: Tensor, codes: Tensor, gamma: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return y [..., N] in *dtype* for bfloat16 q [..., K] and codes [N, K], float32 step [rows, 1], gamma []."""
        ctx.save_for_backward(q, step, codes, gamma)
        ctx.input_dtype, ctx.weight_dtype = x.dtype, weight.dtype
        sums = _wide_product(q.reshape(-1, q.shape[-1]), codes.t(), torch.float32)
        return _scale_product(sums, step, gamma, dtype).view(*q.shape[:-1], codes.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        """Return (dx, dw, None, ...) in the dtypes of x and weight."""
        q, step, codes, gamma = ctx.saved_tensors
        grad = grads[0].reshape(-1, codes.shape[0])
        grad_x = grad_w = None
        if ctx.needs_input_grad[0] and ctx.needs_input_grad[1]:
            by_gamma, by_step = _scale_gradients(grad, step, gamma)
        else:
            by_gamma, by_step = (grad.float() * gamma).to(grad.dtype), (grad * step).to(grad.dtype)
        if ctx.needs_input_grad[0]:
            grad_x = _wide_product(by_gamma, codes, ctx.input_dtype).view(q.shape)
        if ctx.needs_input_grad[1]:
            grad_w = _wide_product(by_step.t(), q.reshape(-1, q.shape[-1]), ctx.weight_dtype)
        return grad_x, grad_w, None, None, None, None, None


def _wide_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a @ b with float32 sums in *dtype*; b is converted to a's dtype."""
    b = b.to(a.dtype)
    if a.dtype == dtype or (a.device.type == "cuda" and dtype == torch.float32):
        if a.dtype == dtype:
            return a @ b
        if HAS_WIDE_MM:
            return torch.mm(a, b, out_dtype=dtype)
        return torch.bmm(a[None], b[None], out_dtype=dtype)[0]
    with torch.autocast(a.device.type, enabled=False):  # it would round float32 operands
        return (a.float() @ b.float()).to(dtype)


def _runs_kernels(device: torch.device) -> bool:
    """Return whether Triton is called; torch.compile gets the definitions, to fuse them with the operations around."""
    return device.type == "cuda" and not torch.compiler.is_compiling()


def _scale_product(sums: Tensor, step: Tensor, gamma: Tensor, dtype: torch.dtype) -> Tensor:
    if _runs_kernels(sums.device):
        from bitnet_bench.ternary.gpu import training

        return training.scale_sums(sums, step, gamma, dtype)
    return (sums * (step * gamma)).to(dtype)


def _scale_gradients(grad: Tensor, step: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    if _runs_kernels(grad.device):
        from bitnet_bench.ternary.gpu import training

        return training.scale_gradient(grad, step, gamma)
    return (grad.float() * gamma).to(grad.dtype), (grad * step).to(grad.dtype)


class _LastQuantized:
    """Caches the quantized form of the last tensor that was quantized, while that tensor lives unchanged.

    Queries, keys and values read the same tensor, as do the two halves of a gated MLP.
    """

    def __init__(self) -> None:
        self._source: weakref.ref[Tensor] | None = None
        self._version = 0
        self._result: tuple[Tensor, Tensor] | None = None

    def find(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the cached result of *x*, or None if it was not the last tensor or has changed since."""
        if self._source is not None and self._source() is x and x._version == self._version:
            return self._result
        return None

    def store(self, x: Tensor, result: tuple[Tensor, Tensor]) -> None:
        """Cache *result* until *x* is freed."""
        self._source, self._version, self._result = weakref.ref(x, self._forget), x._version, result

    def _forget(self, source: Any) -> None:
        if source is self._source:
            self._source = self._result = None


_last_quantized = _LastQuantized()


def quantize_cached(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (q, step) of *x* [..., K], cached: integers in bfloat16 of its shape, and float32 [rows, 1]."""
    if torch.compiler.is_compiling():
        return _quantize_by_definition(x.detach())
    if x.is_inference():  # it has no version counter to detect changes
        from bitnet_bench.ternary.gpu import training

        return training.quantize_rows(x)
    found = _last_quantized.find(x)
    if found is None:
        from bitnet_bench.ternary.gpu import training

        found = training.quantize_rows(x)
        _last_quantized.store(x, found)
    return found


def _quantize_by_definition(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `quantizer.quantize_activations` in bfloat16 instead of int8, in operations that torch.compile fuses."""
    wide = x.float()
    largest = wide.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE)
    q = (wide * (127.0 / largest)).round().clamp(-128, 127).to(torch.bfloat16)
    return q, (largest / 127.0).reshape(-1, 1)


def ternarize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (codes in bfloat16, gamma) of one weight [N, K]."""
    if torch.compiler.is_compiling():
        gamma = absmean(weight)
        return (weight.float() / gamma).round().clamp(-1, 1).to(torch.bfloat16), gamma
    from bitnet_bench.ternary.gpu import training

    return training.ternarize(weight)
