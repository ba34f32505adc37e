"""Call the functions of the library that choose the largest logit by an int8 copy of the head."""

from __future__ import annotations

from ctypes import byref, c_int64, sizeof
from dataclasses import dataclass

import torch
from torch import Tensor

from bitnet_bench.ternary.kernel.calls import CACHE_LINE, TABLES, count_filled_columns
from bitnet_bench.ternary.kernel.loader import require_library
from bitnet_bench.ternary.kernel.structs import Greedy, GreedyToken, Head, HeadCopy
from bitnet_bench.ternary.panels import PANEL_ROWS, STEP_COLUMNS

MOST_COLUMNS = 2**15
"""Most columns of a head whose largest logit is found by bounds: sums of bytes stay within 32 bits."""


@dataclass(frozen=True)
class BoundedCopy:
    """A head in int8, a scale per row, with bounds of the errors of its rows and of their norms, both Euclidean.

    codes: bytes [panels, columns / 4, 64] of value + 128; scales, errors and norms: float32 [panels * 16].
    """

    codes: Tensor
    scales: Tensor
    errors: Tensor
    norms: Tensor
    rows: int
    largest_norm: float


@dataclass(frozen=True)
class GreedyChoice:
    """The rows of a head with the largest logits of some tokens, all [tokens].

    ids: the first of the largest logits, or -1 if the whole head must be computed. counts: rows that were computed as
    they are stored. found [tokens, rows]: logits where they were computed, upper bounds of them elsewhere.
    """

    ids: Tensor
    counts: Tensor
    found: Tensor


def copy_head(table: Tensor, *, is_bounded: bool = True) -> BoundedCopy:
    """Return *table* [V, K] in int8; unless *is_bounded*, without the bounds of its errors."""
    rows, columns = table.shape
    if columns % STEP_COLUMNS or table.dtype not in TABLES or not table.is_contiguous():
        raise ValueError(f"a table {tuple(table.shape)} of {table.dtype} is not copied by the kernel")
    panels = -(-rows // PANEL_ROWS)
    codes = torch.empty(panels, columns // 4, CACHE_LINE, dtype=torch.uint8)
    scales, errors, norms = torch.zeros(3, panels * PANEL_ROWS)
    job = HeadCopy(
        table=table.data_ptr(),
        bytes=codes.data_ptr(),
        scales=scales.data_ptr(),
        errors=errors.data_ptr() if is_bounded else None,
        norms=norms.data_ptr() if is_bounded else None,
        rows=rows,
        columns=columns,
        dtype=TABLES[table.dtype],
    )
    require_library().bb_copy_head(byref(job), torch.get_num_threads())
    return BoundedCopy(codes, scales, errors, norms, rows, float(norms.max()))


def choose_rows(table: Tensor, copy: BoundedCopy, x: Tensor) -> GreedyChoice:
    """Return the rows of *table* [V, K] with the largest logits of float32 *x* [T, K], by its bounded *copy*."""
    (rows, columns), tokens = table.shape, len(x)
    if columns > MOST_COLUMNS or x.shape[1] != columns or x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"hidden states {tuple(x.shape)} of {x.dtype} do not fit a head [{rows}, {columns}]")
    stride = count_filled_columns(columns)
    ids, counts = torch.empty(2, tokens, dtype=torch.int64)
    found, candidates = torch.empty(tokens, rows), torch.empty(rows, dtype=torch.int32)
    digits = torch.zeros(2 * tokens, stride, dtype=torch.int8)
    known = torch.empty(tokens * sizeof(GreedyToken) // sizeof(c_int64), dtype=torch.int64)
    job = Greedy(
        head=Head(table.data_ptr(), x.data_ptr(), found.data_ptr(), rows, columns, tokens, 0, TABLES[table.dtype]),
        bytes=copy.codes.data_ptr(),
        scales=copy.scales.data_ptr(),
        errors=copy.errors.data_ptr(),
        norms=copy.norms.data_ptr(),
        digits=digits.data_ptr(),
        candidates=candidates.data_ptr(),
        ids=ids.data_ptr(),
        counts=counts.data_ptr(),
        largest_norm=copy.largest_norm,
        stride=stride,
        known=known.data_ptr(),
    )
    require_library().bb_greedy(byref(job), torch.get_num_threads())
    return GreedyChoice(ids, counts, found)
