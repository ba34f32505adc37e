"""The ternary linear layers: one with masters that trains, one with codes that only runs.

Both compute y = (q @ codes.T) * (step * gamma) with exact integer sums, so a trained layer and the deployed layer give
the same numbers, and a row's result does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_bench.machine.gpu import BF16_CAPABILITY
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.gpu import training_product
from bitnet_bench.ternary.quantizer import absmean, quantize_activations, ternarize

# float32 holds every integer up to 2**24; a sum of K products |q * code| <= 128 stays exact below this K.
LARGEST_EXACT_K = 2**24 // 128


def integer_matmul(q: Tensor, codes: Tensor) -> Tensor:
    """Return q @ codes.T exactly, as float32 [M, N], for int8 q [M, K] and int8 codes [N, K].

    `torch._int_mm` is several times faster than a float32 GEMM if the CPU has VNNI, and falls back to naive loops if it
    has not. A float32 GEMM of integers is exact as well (see `LARGEST_EXACT_K`), and so is a bfloat16 GEMM with float32
    sums, which GPUs have since sm_80.
    """
    _check_exact_columns(q)
    if q.device.type == "cpu" and _has_vnni():
        return torch._int_mm(q, codes.t()).float()
    with torch.autocast(q.device.type, enabled=False):  # bfloat16 would round the sums
        if q.is_cuda and has_float32_sums(q.device):
            return torch.mm(q.bfloat16(), codes.bfloat16().t(), out_dtype=torch.float32)
        return q.float() @ codes.float().t()


def _check_exact_columns(q: Tensor) -> None:
    if q.shape[-1] > LARGEST_EXACT_K:
        raise ValueError(f"in_features {q.shape[-1]} exceeds {LARGEST_EXACT_K}: float32 sums would not be exact")


@cache
def has_float32_sums(device: torch.device) -> bool:
    """Return whether a GPU multiplies bfloat16, which represents int8 exactly, and torch can return float32 sums."""
    has_sums = "dtype" in torch.ops.aten.mm.overloads()  # type: ignore[no-untyped-call]
    return has_sums and torch.cuda.get_device_capability(device) >= BF16_CAPABILITY


def _has_vnni() -> bool:
    return bool(torch.cpu._is_vnni_supported())


def has_kernel(tensor: Tensor) -> bool:
    """Return whether the C kernel can run on *tensor*; its results are bit-identical to the PyTorch definitions."""
    return tensor.device.type == "cpu" and tensor.numel() > 0 and kernel.load_library() is not None


def _quantize_fastest(x: Tensor) -> tuple[Tensor, Tensor]:
    return kernel.quantize(x.float().contiguous()) if has_kernel(x) else quantize_activations(x)


def _ternarize_fastest(weight: Tensor) -> tuple[Tensor, Tensor]:
    if not has_kernel(weight):
        return ternarize(weight)
    gamma = absmean(weight)
    return kernel.ternarize(weight.float().contiguous(), gamma), gamma


def _multiply_and_scale(q: Tensor, step: Tensor, codes: Tensor, gamma: Tensor) -> Tensor:
    rows = q.reshape(-1, q.shape[-1])
    step = step.reshape(-1, 1)
    if has_kernel(q) and _has_vnni():
        _check_exact_columns(q)
        scaled = kernel.scale_sums(torch._int_mm(rows, codes.t()), step, gamma)
    else:
        scaled = integer_matmul(rows, codes).mul_(step * gamma)
    return scaled.view(*q.shape[:-1], codes.shape[0])


class TernaryMatmul(torch.autograd.Function):
    """y = Q(x) @ T(w).T with straight-through gradients for both quantizers (arXiv:2402.17764; b1.58 FAQ).

    Backward: dx = dy @ (gamma * codes), dw = dy.T @ (step * q). Saved for backward: int8 q and int8 codes, a
    quarter of what float32 activations would keep alive.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, codes: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
        """Return y [..., N] in *out_dtype* for x [..., K] and float masters [N, K] with their codes and scale."""
        q, step = _quantize_fastest(x)
        ctx.save_for_backward(q, step, codes, gamma)
        ctx.input_dtype, ctx.weight_dtype = x.dtype, weight.dtype
        return _multiply_and_scale(q, step, codes, gamma).to(out_dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Return (dx, dw, None, ...) for dy [..., N]; products are taken in dy's dtype."""
        (grad,) = grads
        q, step, codes, gamma = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        rows, step = q.reshape(-1, q.shape[-1]), step.reshape(-1, 1)
        both = _float32_gradients if grad.dtype == torch.float32 and has_kernel(grad) else _gradients
        grad_x, grad_w = both(grad, rows, step, codes, gamma, ctx.needs_input_grad)
        return (
            None if grad_x is None else grad_x.to(ctx.input_dtype).view(q.shape),
            None if grad_w is None else grad_w.to(ctx.weight_dtype),
            None,
            None,
            None,
        )


Gradients = tuple[Tensor | None, Tensor | None]


def _gradients(
    grad: Tensor, q: Tensor, step: Tensor, codes: Tensor, gamma: Tensor, needed: Sequence[bool]
) -> Gradients:
    """Return (dx, dw) with int8 operands, which are exact in any dtype; scales go to the gradient's side."""
    grad_x = (grad @ codes.to(grad.dtype)).mul_(gamma) if needed[0] else None
    grad_w = (grad * step).to(grad.dtype).t() @ q.to(grad.dtype) if needed[1] else None
    return grad_x, grad_w


def _float32_gradients(
    grad: Tensor, q: Tensor, step: Tensor, codes: Tensor, gamma: Tensor, needed: Sequence[bool]
) -> Gradients:
    """Return (dx, dw) in float32, which is precise enough for scaled operands: one pass each instead of three."""
    grad_x = grad @ kernel.scale_codes(codes, None, float(gamma)) if needed[0] else None
    grad_w = grad.t() @ kernel.scale_codes(q, step) if needed[1] else None
    return grad_x, grad_w


class BitLinear(nn.Linear):
    """A linear layer with float32 masters whose forward is exactly ternary: weight [N, K], x [..., K] -> [..., N]."""

    ternary_share = 1.0
    """Share of quantized values, as opposed to plain ones, in the forward; less than 1 during the ternary warm-up."""
    keeps_codes = False
    """True if codes are kept from one forward to the next, for micro-batches and recomputation within a step.

    `forget_codes` must then be called after each step: changes by fused optimizers or `weight.data` are not detected.
    """
    _stored_codes: tuple[Tensor, Tensor] | None = None
    _stored_version = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., N] in x's dtype, or in autocast's."""
        if self.ternary_share < 1:
            return nn.functional.linear(*_quantize_partly(x, self.weight, self.ternary_share), self.bias)
        device = x.device.type
        out_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if _is_fused(x):
            operands = *training_product.quantize_cached(x), *self._get_codes()
            y: Tensor = training_product.ExactProduct.apply(x, self.weight, *operands, out_dtype)  # type: ignore[no-untyped-call]
        else:
            y = TernaryMatmul.apply(x, self.weight, *self._get_codes(), out_dtype)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _get_codes(self) -> tuple[Tensor, Tensor]:
        """Return codes and scale of the weights, from the cache if they were kept for this version of the weights."""
        weight, kept = self.weight, self._stored_codes
        if torch.compiler.is_compiling():  # a compiled layer cannot store anything
            return self._make_codes(weight.detach()) if kept is None else kept
        if kept is not None and self._stored_version == weight._version and self.keeps_codes:
            return kept
        made = self._make_codes(weight.detach())
        if self.keeps_codes:
            self.store_codes(*made)
        return made

    def _make_codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return (training_product.ternarize_weight if _is_fused(weight) else _ternarize_fastest)(weight)

    def ternarize(self) -> tuple[Tensor, Tensor]:
        """Return codes and scale of the present weights, whole if they are split over processes (a DTensor)."""
        return _ternarize_fastest(gather_weight(self.weight.detach()))

    def store_codes(self, codes: Tensor, gamma: Tensor) -> None:
        """Keep codes and scale that were computed from the present weights, such as by `CodesWriter`."""
        self._stored_codes, self._stored_version = (codes, gamma), self.weight._version

    def forget_codes(self) -> None:
        """Discard the kept codes, so that the next forward ternarizes again."""
        self._stored_codes = None


def _is_fused(tensor: Tensor) -> bool:
    """Return whether a layer on *tensor*'s device trains on tensor cores, or is being compiled to the same effect."""
    return torch.compiler.is_compiling() or training_product.has_training_kernels(tensor.device)


def _quantize_partly(x: Tensor, weight: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return x + share (Q(x) - x) and w + share (T(w) - w), straight-through."""
    with torch.no_grad():
        q, step = quantize_activations(x)
        codes, gamma = ternarize(weight)
        to_x, to_weight = share * (q * step - x), share * (codes * gamma - weight)
    return x + to_x.to(x.dtype), weight + to_weight.to(weight.dtype)


def gather_weight(weight: Tensor) -> Tensor:
    """Return the whole of a weight that is split over processes (a DTensor), and any other weight as it is."""
    gather: Any = getattr(weight, "full_tensor", None)
    return weight if gather is None else gather()


class InnerNorm(nn.Module):
    """RMSNorm inside a ternary layer, in float32: y = x / sqrt(mean(x^2) + eps), times a weight [K] if it has one.

    It equals LlamaRMSNorm in transformers' `use_rms_norm` (with a weight) and in tinyllama-bitnet (without).
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y of x's shape [..., K] and dtype."""
        wide = x.float()
        y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return y if self.weight is None else self.weight.to(x.dtype) * y


class CodesLinear(nn.Module):
    """An inference-only ternary layer with int8 codes [N, K] and a float32 scale, without masters and gradients."""

    codes: Tensor
    gamma: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, gamma: Tensor, bias: Tensor | None, norm: InnerNorm | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.norm = norm
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("gamma", gamma.float().reshape(()), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., N] in x's dtype."""
        q, step = _quantize_fastest(x if self.norm is None else self.norm(x))
        y = _multiply_and_scale(q, step, self.codes, self.gamma).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def find_ternary_targets(model: nn.Module, kept: Sequence[str] = ()) -> dict[str, nn.Linear]:
    """Return the linear layers that b1.58 makes ternary, by name: all except the output head and those of *kept*.

    *kept* are patterns of `modules_to_not_convert`, matched as transformers matches them.
    """
    find_head: Any = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head else None
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    if not kept:
        return linear
    from transformers.quantizers.quantizers_utils import should_convert_module

    return {name: m for name, m in linear.items() if should_convert_module(name, list(kept))}


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put *layer* in place of the module *name* of *model*, after the norm that its inputs go through, if any."""
    hooks = model.get_submodule(name)._forward_pre_hooks
    model.set_submodule(name, layer)
    layer._forward_pre_hooks.update(hooks)


def make_trainable_ternary(model: nn.Module, kept: Sequence[str] = ()) -> nn.Module:
    """Turn the ternary targets of *model* into `BitLinear` in place, keeping their parameters, and return it."""
    for layer in find_ternary_targets(model, kept).values():
        layer.__class__ = BitLinear
    return model


def find_bit_linears(model: nn.Module) -> dict[str, BitLinear]:
    """Return the trainable ternary layers of *model* by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BitLinear)}
