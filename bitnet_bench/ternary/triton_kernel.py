"""The ternary product on a GPU: 2-bit codes times int8 activations with int32 sums, in Triton (W2A8).

It reads the panels that the CPU kernel reads (`bitnet_bench.ternary.panels`) and gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS, BLOCK_COLUMNS = 64, 64
"""Of the weights; both hold whole panels of 16."""


@triton.jit
def _product(
    q: Any,
    scale: Any,
    panels: Any,
    y: Any,
    tokens: Any,
    rows: Any,
    columns: Any,
    panel_count: Any,
    steps: Any,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Write y[m, n] = scale[m] * sum over k of q[m, k] * code[n, k] for one block of tokens m and rows n."""
    m = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((TOKENS, ROWS), dtype=tl.int32)
    for start in range(0, columns, COLUMNS):
        k = start + tl.arange(0, COLUMNS)
        left = tl.load(
            q + m[:, None] * columns + k[None, :], mask=(m[:, None] < tokens) & (k[None, :] < columns), other=0
        )
        # byte 4 n + i of a step holds columns 4 j + i in its bits 2 j and 2 j + 1
        place = ((n[None, :] // 16) * steps + k[:, None] // 16) * 64 + 4 * (n[None, :] % 16) + k[:, None] % 4
        inside = (n[None, :] // 16 < panel_count) & (k[:, None] // 16 < steps)
        fields = tl.load(panels + place, mask=inside, other=0x55)  # four codes of 0
        codes = ((fields >> (2 * ((k[:, None] % 16) // 4)).to(tl.uint8)) & 3).to(tl.int8) - 1
        total = tl.dot(left, codes.to(tl.int8), total, out_dtype=tl.int32)
    # integers below 2^24 are exact in float32, and the one product is rounded as torch rounds it
    scaled = total.to(tl.float32) * tl.load(scale + m, mask=m < tokens, other=0.0)[:, None]
    tl.store(y + m[:, None] * rows + n[None, :], scaled, mask=(m[:, None] < tokens) & (n[None, :] < rows))


def scaled_product(q: Tensor, scale: Tensor, panels: Tensor, rows: int) -> Tensor:
    """Return float32 [M, rows], (q @ codes.T) * scale, for int8 *q* [M, K], float32 *scale* [M] and uint8 *panels*."""
    tokens, columns = q.shape
    y = torch.empty(tokens, rows, device=q.device)
    if not tokens:
        return y
    block = 16 if tokens <= 16 else 64  # tl.dot takes no fewer than 16
    grid = (triton.cdiv(tokens, block), triton.cdiv(rows, BLOCK_ROWS))
    panel_count, steps, _ = panels.shape
    _product[grid](
        q.contiguous(),
        scale.contiguous(),
        panels.contiguous(),
        y,
        tokens,
        rows,
        columns,
        panel_count,
        steps,
        TOKENS=block,
        ROWS=BLOCK_ROWS,
        COLUMNS=BLOCK_COLUMNS,
    )
    return y
