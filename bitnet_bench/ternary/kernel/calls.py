"""Call the functions of the library with tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof, byref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.ternary.kernel.loader import require_library
from bitnet_bench.ternary.kernel.structs import (
    Attention,
    CodeCount,
    Head,
    Lookup,
    Matrix,
    Part,
    RowsJob,
    RowsPointers,
)
from bitnet_bench.ternary.panels import PANEL_ROWS, STEP_COLUMNS

ACTIVATIONS = {"silu": 1, "relu2": 2, "gelu_pytorch_tanh": 3}
CACHE_LINE = 64
TABLES = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}
GROUP_SCALES = {torch.float16: 2, torch.float32: 3}
"""Kinds of a layer with a scale per group, by the dtype of its scales."""
Call = tuple[Callable[..., None], tuple[Any, ...]]
"""A function of the library and its arguments, whose pointers are valid while their tensors live."""


def count_filled_columns(columns: int) -> int:
    """Return how many bytes a row of quantized activations takes: whole steps, but not a multiple of 4096.

    Rows 4096 bytes apart would share the same few cache lines.
    """
    stride = -(-columns // CACHE_LINE) * CACHE_LINE
    return stride + CACHE_LINE if stride % 1024 == 0 else stride


@dataclass(frozen=True)
class QuantizedRows:
    """Quantized activations: q int8 [T, stride], steps float32 [T], sums int32 [T].

    In groups, steps and sums are [T, columns / group]. Three digits are three rows for each token, which add up to the
    activations themselves, but for 2^-21 of the largest in a group.
    """

    q: Tensor
    steps: Tensor
    sums: Tensor
    columns: int
    group: int = 0
    digits: int = 1

    @classmethod
    def empty(cls, tokens: int, columns: int, group: int = 0, digits: int = 1) -> QuantizedRows:
        """Return uninitialized buffers for *tokens* rows, in groups of *group* columns unless it is 0."""
        rows = tokens * digits
        shape = (rows, columns // group) if group else (rows,)
        return cls(
            torch.empty(rows, count_filled_columns(columns), dtype=torch.int8),
            torch.empty(shape, dtype=torch.float32),
            torch.empty(shape, dtype=torch.int32),
            columns,
            group,
            digits,
        )

    def first(self, tokens: int) -> QuantizedRows:
        """Return the buffers of the first *tokens* tokens."""
        rows = tokens * self.digits
        return replace(self, q=self.q[:rows], steps=self.steps[:rows], sums=self.sums[:rows])

    def pointers(self, tokens: int | None) -> RowsPointers:
        """Return what the kernel reads of the first *tokens* rows."""
        return RowsPointers(
            self.q.data_ptr(),
            self.steps.data_ptr(),
            self.sums.data_ptr(),
            tokens or len(self.q) // self.digits,
            self.columns,
            self.q.shape[1],
            self.group,
            self.digits,
        )


class JoinedLayers:
    """Ternary layers that read the same activations, as one call: q, k and v, or gate and up, or a single layer."""

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor | float, int, Tensor | None]], columns: int) -> None:
        """Join *parts* of (codes, scale, rows, bias): uint8 codes [panels, steps, 64] with one float scale, or an int8
        layer as bytes [panels, K / 4, 64] of value + 128 with float32 scales [rows], or uint8 codes with scales of
        groups [panels, groups, 16], float16 or float32; bias float32 [rows] or None."""
        self._kept: list[object] = []
        self._array = (Part * len(parts))()
        self.columns = columns
        self.rows = sum(rows for _, _, rows, _ in parts)
        self.group = find_group(parts[0][1], columns)
        for part, (codes, scale, rows, bias) in zip(self._array, parts, strict=True):
            if find_group(scale, columns) != self.group:
                raise ValueError("layers with groups of one size only are joined")
            per_row = isinstance(scale, Tensor) and scale.numel() > 1 and not self.group
            steps = -(-columns // STEP_COLUMNS) * (4 if per_row else 1)
            panels = -(-rows // PANEL_ROWS)
            if codes.shape[1:] != (steps, CACHE_LINE) or codes.shape[0] < panels or codes.dtype != torch.uint8:
                raise ValueError(f"panels {tuple(codes.shape)} do not hold {rows} x {columns}")
            part.codes, part.rows = find_address(codes), rows
            part.kind = GROUP_SCALES[scale.dtype] if isinstance(scale, Tensor) and self.group else int(per_row)
            part.scale = 0.0 if part.kind else float(scale)
            part.scales = find_address(scale) if isinstance(scale, Tensor) and part.kind else None
            part.bias = _optional(bias)
            self._kept += [codes, scale, bias]

    @property
    def address(self) -> int:
        """Where the kernel's table of the layers lies, while this object lives."""
        return addressof(self._array)

    def __call__(self, x: QuantizedRows, tokens: int, y: Tensor, add: bool = False) -> None:
        """Write the product of the first *tokens* rows into float32 *y* [tokens, rows], or add it to *y*."""
        function, arguments = self.call(x, y, add, tokens)
        function(*arguments)

    def call(self, x: QuantizedRows, y: Tensor, add: bool = False, tokens: int | None = None) -> Call:
        """Return the call that computes the product, to be repeated with the same buffers."""
        if (
            x.columns != self.columns
            or x.group != self.group
            or y.dtype != torch.float32
            or y.stride(-1) != 1
            or y.shape[-1] != self.rows
        ):
            raise ValueError(
                f"{x.columns} columns into {tuple(y.shape)} do not fit a layer [{self.rows}, {self.columns}]"
            )
        arguments = (self._array, len(self._array), byref(x.pointers(tokens)), y.data_ptr(), y.stride(0), add)
        return require_library().bb_linear, (*arguments, torch.get_num_threads())


def find_group(scale: Tensor | float, columns: int) -> int:
    """Return the columns of a group that *scale* [panels, groups, 16] stands for; 0 for any other scale."""
    return columns // scale.shape[1] if isinstance(scale, Tensor) and scale.dim() == 3 else 0


def find_address(tensor: Tensor) -> int:
    """Return where the contents of *tensor* lie; ValueError unless it is contiguous and on the CPU."""
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError("the kernel reads contiguous tensors on the CPU")
    return tensor.data_ptr()


def _optional(tensor: Tensor | None) -> int | None:
    return None if tensor is None else find_address(tensor)


@dataclass(frozen=True)
class Norm:
    """An RMS norm: float32 weight [columns] or None for ones, and its epsilon."""

    weight: Tensor | None
    epsilon: float


def quantize_rows(
    x: Tensor,
    tokens: int,
    out: QuantizedRows | None,
    *,
    norm: Norm | None = None,
    activation: str = "",
    y: Tensor | None = None,
) -> None:
    """Quantize the first *tokens* rows of x into *out*; see `rows_call`."""
    function, arguments = rows_call(x[:tokens], out, norm=norm, activation=activation, y=y)
    function(*arguments)


def rows_call(
    x: Tensor,
    out: QuantizedRows | None,
    *,
    norm: Norm | None = None,
    activation: str = "",
    y: Tensor | None = None,
    add: bool = False,
) -> Call:
    """Return the call that quantizes float32 rows x [T, K] into *out*.

    With an *activation*, x is [T, 2 K] and act(first half) * second half is computed first. The RMS norm follows, if
    there is one. *y* [T, K] receives the rows before quantization; with *add* they are added to it.
    """
    columns = out.columns if out is not None else x.shape[-1]
    job = RowsJob(
        x=x.data_ptr(),
        x_stride=x.stride(0),
        tokens=len(x),
        columns=columns,
        norm=_optional(norm.weight if norm else None),
        epsilon=norm.epsilon if norm else 0.0,
        normed=norm is not None,
        activation=ACTIVATIONS[activation] if activation else 0,
        add=add,
        q=out.q.data_ptr() if out is not None else None,
        steps=out.steps.data_ptr() if out is not None else None,
        sums=out.sums.data_ptr() if out is not None else None,
        y=_optional(y),
        stride=out.q.shape[1] if out is not None else 0,
        group=out.group if out is not None else 0,
        digits=out.digits if out is not None else 1,
    )
    return require_library().bb_rows, (byref(job), torch.get_num_threads())


def attention_call(
    qkv: Tensor,
    out: Tensor,
    where: tuple[Tensor, Tensor, Tensor],
    cache: tuple[Tensor, Tensor, int],
    angles: tuple[Tensor, Tensor],
    norms: tuple[Tensor | None, Tensor | None, float],
    heads: tuple[int, int, int],
    *,
    scale: float | None = None,
    window: int | None = None,
    heads_per_tile: int = 0,
    queries: int = 0,
) -> Call:
    """Return the call for rotation, cache and attention: qkv [T, (heads + 2 kv heads) d] -> out [T, heads d].

    *where*: slots and positions [T], and room [T, 2] for the tiles of tokens that attend together, int32. *cache*: keys
    and values in float32 or bfloat16, and their capacity in positions. *angles*: cosines and sines [positions, d / 2].
    *norms*: query and key norms of single heads, or None, and their epsilon. *heads*: query heads, key-value heads, d.
    *scale* multiplies scores, by default 1 / sqrt(d). With a *window* a token reads so many positions at most, its own
    included. *heads_per_tile* heads and *queries* queries share a tile, by default as many as leave no thread idle.
    """
    slots, positions, tiles = where
    job = Attention(
        qkv=qkv.data_ptr(),
        stride=qkv.stride(0),
        tokens=len(qkv),
        slots=slots.data_ptr(),
        positions=positions.data_ptr(),
        keys=cache[0].data_ptr(),
        values=cache[1].data_ptr(),
        capacity=cache[2],
        heads=heads[0],
        kv_heads=heads[1],
        dimension=heads[2],
        cosines=find_address(angles[0]),
        sines=find_address(angles[1]),
        query_norm=_optional(norms[0]),
        key_norm=_optional(norms[1]),
        epsilon=norms[2],
        scale=heads[2] ** -0.5 if scale is None else scale,
        out=out.data_ptr(),
        window=window or 0,
        narrow=cache[0].dtype == torch.bfloat16,
        heads_per_tile=heads_per_tile,
        most_queries=queries,
        tiles=tiles.data_ptr(),
    )
    return require_library().bb_attention, (byref(job), torch.get_num_threads())


def multiply_head(table: Tensor, x: Tensor, y: Tensor) -> None:
    """Write x @ table.T into float32 y [R, V], for x [R, K] and a table [V, K] in bfloat16, float16 or float32."""
    if table.shape[1] % 16 or table.dtype not in TABLES:
        raise ValueError(f"a table {tuple(table.shape)} of {table.dtype} is not read by the kernel")
    job = Head(
        table=find_address(table),
        x=find_address(x),
        y=find_address(y),
        rows=table.shape[0],
        columns=table.shape[1],
        tokens=len(x),
        dtype=TABLES[table.dtype],
    )
    require_library().bb_head(byref(job), torch.get_num_threads())


def lookup_rows(codes: Tensor, scales: Tensor, ids: Tensor, columns: int) -> Tensor:
    """Return float32 rows *ids* [T, columns] of an embedding, from its panels and its scales [panels, groups, 16]."""
    y = torch.empty(len(ids), columns)
    group = find_group(scales, columns)
    job = Lookup(
        find_address(codes),
        find_address(scales),
        find_address(ids),
        find_address(y),
        len(ids),
        columns,
        group,
        GROUP_SCALES[scales.dtype],
    )
    require_library().bb_lookup(byref(job))
    return y


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (q, step) of `quantizer.quantize_activations` for contiguous float32 x [..., K]."""
    q, step = torch.empty(x.shape, dtype=torch.int8), torch.empty((*x.shape[:-1], 1))
    rows = QuantizedRows(q.view(-1, x.shape[-1]), step, torch.empty(step.numel(), dtype=torch.int32), x.shape[-1])
    function, arguments = rows_call(x.view(-1, x.shape[-1]), rows)
    function(*arguments)
    return q, step


def ternarize(weight: Tensor, gamma: Tensor) -> Tensor:
    """Return int8 clip(round(weight / gamma), -1, 1) of contiguous float32 *weight* [N, K]."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    _matrix(1, weight, codes, None, float(gamma))
    return codes


def scale_sums(sums: Tensor, scales: Tensor, scale: Tensor) -> Tensor:
    """Return int32 *sums* [T, N] times scales [T] * scale as float32, computed in the memory of *sums*."""
    y = sums.view(torch.float32)
    _matrix(2, sums, y, scales, float(scale))
    return y


def scale_codes(codes: Tensor, scales: Tensor | None, scale: float = 1.0) -> Tensor:
    """Return int8 *codes* [T, K] times scales [T] (None: ones) * scale, as float32."""
    y = torch.empty(codes.shape)
    _matrix(3, codes, y, scales, scale)
    return y


def count_codes(masters: Tensor, codes: Tensor, last: Tensor, low: float, high: float) -> tuple[int, int, int]:
    """Return how many int8 *codes* [N, K] differ from *last*, are 0, and have low < |master| < high.

    All three are contiguous; *masters* are float32.
    """
    job = CodeCount(find_address(masters), find_address(codes), find_address(last), low, high, masters.numel())
    require_library().bb_count_codes(byref(job), torch.get_num_threads())
    return job.flips, job.zeros, job.near


def _matrix(kind: int, x: Tensor, y: Tensor, scales: Tensor | None, scale: float) -> None:
    rows, columns = x.shape
    job = Matrix(find_address(x), find_address(y), _optional(scales), scale, kind, rows, columns)
    require_library().bb_matrix(byref(job), torch.get_num_threads())
