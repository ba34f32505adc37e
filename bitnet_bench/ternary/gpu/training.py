"""Triton kernels of ternary training: both quantizers, and the scales of a product and of its gradient.

Their results are bit-identical to `bitnet_bench.ternary.quantizer` for the same gamma, whose sum has another order
here. Codes and quantized activations are integers in bfloat16, which represents them exactly: the products between
these kernels are plain bfloat16 GEMMs whose float32 sums are exact as well.

Parameters have no annotations except `tl.constexpr`: Triton evaluates annotations when it compiles a kernel, and `Any`
there is a NameError that the interpreter never raises. Fused multiply-adds are off (`EXACT`), because fusing
x * scale + ROUNDING would skip the rounding of the product.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDING = tl.constexpr(12582912.0)
"""Constant 1.5 * 2^23; adding it to a float32 below 2^22 rounds it to an integer, half to even."""
SMALLEST_SCALE = tl.constexpr(1e-5)
EXACT = {"enable_fp_fusion": False}
WIDEST_BLOCK = 4096
"""Most columns of a row in one pass of a program; longer rows take several passes."""
CHUNK = 8192
"""Number of weights that one program reads."""
PARTIALS_AT_ONCE = tl.constexpr(1024)
CODES_ALIGNMENT = 128
"""Alignment of a layer's codes in elements, so that a GEMM can load 16 bytes at once."""


@triton.jit
def _quantize_rows(x, q, step, columns, BLOCK: tl.constexpr):
    """Write q = clip(round(x * 127 / absmax), -128, 127) and step = absmax / 127 of one row; NaN makes step NaN."""
    row = tl.program_id(0).to(tl.int64) * columns
    offsets = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), tl.float32)
    broken = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, columns, BLOCK):
        k = start + offsets
        values = tl.load(x + row + k, mask=k < columns, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(values))  # drops NaN, hence `broken`
        broken = tl.maximum(broken, (values != values).to(tl.int32))
    absmax = tl.maximum(tl.max(largest, axis=0), SMALLEST_SCALE)
    absmax = tl.where(tl.max(broken, axis=0) > 0, float("nan"), absmax)
    tl.store(step + tl.program_id(0), tl.div_rn(absmax, 127.0))
    scale = tl.div_rn(1.0, absmax) * 127.0  # as torch computes 127.0 / tensor: rounded twice
    for start in range(0, columns, BLOCK):
        k = start + offsets
        values = tl.load(x + row + k, mask=k < columns, other=0.0).to(tl.float32) * scale
        rounded = tl.minimum(tl.maximum((values + ROUNDING) - ROUNDING, -128.0), 127.0)
        rounded = tl.where(values == values, rounded, 0.0)  # torch's int8 of a NaN is 0
        tl.store(q + row + k, rounded.to(q.dtype.element_ty), mask=k < columns)


@triton.jit
def _scale_sums(sums, step, gamma, y, columns, BLOCK: tl.constexpr):
    """Write y = sums * (step * gamma), rounded to float32 and then to the dtype of y, for one block of one row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(step + row) * tl.load(gamma)
    values = tl.load(sums + row * columns + n, mask=n < columns, other=0.0) * scale
    tl.store(y + row * columns + n, values.to(y.dtype.element_ty), mask=n < columns)


@triton.jit
def _scale_gradient(grad, step, gamma, by_gamma, by_step, columns, BLOCK: tl.constexpr):
    """Write gradient * gamma and gradient * step in the gradient's dtype, for one block of one row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(grad + row * columns + n, mask=n < columns, other=0.0).to(tl.float32)
    dtype = grad.dtype.element_ty
    tl.store(by_gamma + row * columns + n, (values * tl.load(gamma)).to(dtype), mask=n < columns)
    tl.store(by_step + row * columns + n, (values * tl.load(step + row)).to(dtype), mask=n < columns)


@triton.jit
def _find_chunk(weights, sizes, firsts, layers, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Return (layer, its weights, their number, its first chunk, its last chunk + 1) of this program's chunk.

    Without *layers* there is one layer, and *weights* and *sizes* are its address and size instead of tables.
    """
    if layers is None:
        layer = 0
        source = weights
        size = sizes
        first = 0
        end = tl.num_programs(0)
    else:
        layer = tl.load(layers + tl.program_id(0))
        source = tl.load(weights + layer).to(tl.pointer_type(DTYPE))
        size = tl.load(sizes + layer)
        if ALIGNED:  # otherwise alignment is unknown, and each load is of one element
            source = tl.multiple_of(source, 16)
            size = tl.multiple_of(size, 16)
        first = tl.load(firsts + layer)
        end = tl.load(firsts + layer + 1)
    return layer, source, size, first, end


@triton.jit
def _sum_magnitudes(
    weights, sizes, firsts, layers, partials, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the sum of |w| over one chunk of one layer, in float32."""
    _, source, size, first, _ = _find_chunk(weights, sizes, firsts, layers, DTYPE, ALIGNED)
    k = (tl.program_id(0) - first).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source + k, mask=k < size, other=0.0).to(tl.float32)
    tl.store(partials + tl.program_id(0), tl.sum(tl.abs(values), axis=0))


@triton.jit
def _write_codes(
    weights,
    sizes,
    firsts,
    layers,
    partials,
    places,
    codes,
    gammas,
    DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the codes of one chunk; each program sums its layer's partial sums again, which saves a launch."""
    layer, source, size, first, end = _find_chunk(weights, sizes, firsts, layers, DTYPE, ALIGNED)
    sums = tl.zeros((PARTIALS_AT_ONCE,), tl.float32)
    for start in range(first, end, PARTIALS_AT_ONCE):
        i = start + tl.arange(0, PARTIALS_AT_ONCE)
        sums += tl.load(partials + i, mask=i < end, other=0.0)
    mean = tl.div_rn(tl.sum(sums, axis=0), size * 1.0)  # 1.0: a size of 1 is not a tensor
    gamma = tl.where(mean == mean, tl.maximum(mean, SMALLEST_SCALE), mean)  # a NaN stays one
    tl.store(gammas + layer, gamma)
    k = (tl.program_id(0) - first).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source + k, mask=k < size, other=0.0).to(tl.float32)
    ratio = tl.div_rn(values, tl.zeros_like(values) + gamma)
    # clip(round(ratio), -1, 1): one half rounds to 0, which is even
    rounded = tl.where(ratio > 0.5, 1.0, tl.where(ratio < -0.5, -1.0, 0.0))
    if layers is not None:
        place = tl.load(places + layer)
        if ALIGNED:
            place = tl.multiple_of(place, 16)
        codes += place
    tl.store(codes + k, rounded.to(codes.dtype.element_ty), mask=k < size)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the quantizer's (q, step): integers in bfloat16 of x's shape [..., K], and float32 [rows, 1]."""
    columns = x.shape[-1]
    x = x.contiguous()
    rows = x.numel() // columns
    q = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
    step = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    if rows:
        block = min(WIDEST_BLOCK, triton.next_power_of_2(columns))
        _quantize_rows[(rows,)](x, q, step, columns, BLOCK=block, num_warps=_warps(block), **EXACT)
    return q, step


def scale_sums(sums: Tensor, step: Tensor, gamma: Tensor, dtype: torch.dtype) -> Tensor:
    """Return sums * (step * gamma) [M, N] in *dtype* for contiguous float32 sums; in place if *dtype* is float32."""
    rows, columns = sums.shape
    y = sums if dtype == torch.float32 else torch.empty(sums.shape, dtype=dtype, device=sums.device)
    if sums.numel():
        block = min(1024, triton.next_power_of_2(columns))
        grid = (rows, triton.cdiv(columns, block))
        _scale_sums[grid](sums, step, gamma, y, columns, BLOCK=block, num_warps=_warps(block), **EXACT)
    return y


def scale_gradient(grad: Tensor, step: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return grad * gamma and grad * step [M, N], rounded once to grad's dtype, the operands of dx and dw."""
    grad = grad.contiguous()
    rows, columns = grad.shape
    by_gamma, by_step = torch.empty_like(grad), torch.empty_like(grad)
    if grad.numel():
        block = min(1024, triton.next_power_of_2(columns))
        grid = (rows, triton.cdiv(columns, block))
        _scale_gradient[grid](
            grad, step, gamma, by_gamma, by_step, columns, BLOCK=block, num_warps=_warps(block), **EXACT
        )
    return by_gamma, by_step


def _warps(block: int) -> int:
    return min(8, max(1, block // 256))


TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def ternarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (codes in bfloat16, float32 scalar gamma) of *weight*, in two launches."""
    weight = weight.contiguous()
    chunks = max(1, triton.cdiv(weight.numel(), CHUNK))
    codes = torch.empty(weight.shape, dtype=torch.bfloat16, device=weight.device)
    gamma = torch.empty((), dtype=torch.float32, device=weight.device)
    partials = torch.empty(chunks, dtype=torch.float32, device=weight.device)
    options = {"DTYPE": TRITON_DTYPES[weight.dtype], "ALIGNED": False, "BLOCK": CHUNK, "num_warps": 8, **EXACT}
    _sum_magnitudes[(chunks,)](weight, weight.numel(), None, None, partials, **options)
    _write_codes[(chunks,)](weight, weight.numel(), None, None, partials, None, codes, gamma, **options)
    return codes, gamma


class CodesWriter:
    """Ternarizes the weights of any number of layers in two launches.

    The weights' addresses are kept on the device, and copied again only if a weight has moved.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._shapes = [weight.shape for weight in weights]
        self._sizes = [weight.numel() for weight in weights]
        self._dtype, self._device = weights[0].dtype, weights[0].device
        counts = [triton.cdiv(size, CHUNK) for size in self._sizes]
        self._chunks = sum(counts)
        places = [0]
        for size in self._sizes:
            places.append(places[-1] + CODES_ALIGNMENT * math.ceil(size / CODES_ALIGNMENT))
        self._places, self._length = places, places[-1]
        numbers = torch.arange(len(weights), dtype=torch.int32)
        layers = numbers.repeat_interleave(torch.tensor(counts))
        firsts = torch.tensor([0, *counts]).cumsum(0).int()
        self._tables = tuple(
            table.to(self._device) for table in (torch.tensor(self._sizes), firsts, layers, torch.tensor(places))
        )
        self._addresses: tuple[int, ...] = ()

    def fits(self, weights: Sequence[Tensor]) -> bool:
        """Return whether *weights* have the shapes, dtype and device of this writer."""
        return [w.shape for w in weights] == self._shapes and all(
            w.dtype == self._dtype and w.device == self._device and w.is_contiguous() for w in weights
        )

    def write(self, weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return (codes in bfloat16 of its shape, float32 scalar gamma) of each of *weights*, in new memory."""
        addresses = tuple(weight.data_ptr() for weight in weights)
        if addresses != self._addresses:
            self._addresses, self._pointers = addresses, torch.tensor(addresses, device=self._device)
        aligned = all(not address % 16 for address in addresses) and all(not size % 16 for size in self._sizes)
        codes = torch.empty(self._length, dtype=torch.bfloat16, device=self._device)
        gammas = torch.empty(len(weights), dtype=torch.float32, device=self._device)
        partials = torch.empty(self._chunks, dtype=torch.float32, device=self._device)
        sizes, firsts, layers, places = self._tables
        options = {"DTYPE": TRITON_DTYPES[self._dtype], "ALIGNED": aligned, "BLOCK": CHUNK, "num_warps": 8, **EXACT}
        _sum_magnitudes[(self._chunks,)](self._pointers, sizes, firsts, layers, partials, **options)
        _write_codes[(self._chunks,)](self._pointers, sizes, firsts, layers, partials, places, codes, gammas, **options)
        return [
            (codes[place : place + size].view(shape), gamma)
            for place, size, shape, gamma in zip(self._places, self._sizes, self._shapes, gammas.unbind(), strict=False)
        ]
