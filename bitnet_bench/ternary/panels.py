"""Pack four ternary codes into a byte, in the layout that the CPU kernels read: panels of 16 rows.

A panel is 16 rows [N / 16], cut into steps of 16 columns [K / 16], and a step is one 64-byte cache line. Byte
4 n + i of a step, bits 2 j and 2 j + 1, holds row n, column 4 j + i, as code + 1, so one shift and one mask give four
neighbouring columns of 16 rows, the operand of an int8 dot-product instruction (VNNI, dotprod). Rows and columns are
padded with code 0. Value 3 is invalid: it means that the file is damaged or has another format.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PANEL_ROWS = 16
STEP_COLUMNS = 16
STEP_BYTES = PANEL_ROWS * STEP_COLUMNS // 4
CODES_AT_ONCE = 1 << 20


def panel_shape(rows: int, columns: int) -> tuple[int, int, int]:
    """Return the shape [panels, steps, 64] that holds codes [rows, columns]."""
    return -(-rows // PANEL_ROWS), -(-columns // STEP_COLUMNS), STEP_BYTES


def to_panels(codes: Tensor) -> Tensor:
    """Return uint8 [panels, steps, 64] for int8 codes [N, K] in {-1, 0, +1}; raise ValueError for any other value.

    Few panels are packed at once: what is left between the layers of a model after larger steps is never given back.
    """
    panels, steps, _ = panel_shape(*codes.shape)
    packed = torch.empty(panels, steps, STEP_BYTES, dtype=torch.uint8, device=codes.device)
    at_once = max(1, CODES_AT_ONCE // (PANEL_ROWS * STEP_COLUMNS * max(1, steps)))
    for begin in range(0, panels, at_once):
        packed[begin : begin + at_once] = _pack_panels(codes[begin * PANEL_ROWS : (begin + at_once) * PANEL_ROWS])
    return packed


def _pack_panels(codes: Tensor) -> Tensor:
    if ((codes < -1) | (codes > 1)).any():
        raise ValueError("codes must be -1, 0 or +1")
    panels, steps, _ = panel_shape(*codes.shape)
    rows, columns = panels * PANEL_ROWS, steps * STEP_COLUMNS
    filled = F.pad(codes, (0, columns - codes.shape[1], 0, rows - codes.shape[0]))
    fields = (filled + 1).to(torch.uint8).view(panels, PANEL_ROWS, steps, 4, 4)  # panel, n, step, j, i
    packed = fields[:, :, :, 0].clone()
    for j in range(1, 4):
        packed |= fields[:, :, :, j] << (2 * j)
    return packed.permute(0, 2, 1, 3).reshape(panels, steps, STEP_BYTES)


def scales_to_panels(scales: Tensor) -> Tensor:
    """Return [panels, groups, 16] for scales [N, groups] of groups, with 0 for rows beyond the last."""
    rows, groups = scales.shape
    filled = F.pad(scales, (0, 0, 0, -rows % PANEL_ROWS))
    return filled.view(-1, PANEL_ROWS, groups).transpose(1, 2).contiguous()


def from_panels(packed: Tensor, rows: int, columns: int) -> Tensor:
    """Return int8 codes [rows, columns] of *packed*; raise ValueError if it holds 3, or codes in the padding."""
    panels, steps, _ = expected = panel_shape(rows, columns)
    if tuple(packed.shape) != expected:
        raise ValueError(f"panels of shape {tuple(packed.shape)} cannot hold {rows} x {columns} codes")
    fields = torch.stack([(packed >> (2 * j)) & 3 for j in range(4)], dim=-1)  # panel, step, 4 n + i, j
    if (fields == 3).any():
        raise ValueError("a 2-bit field holds 3, which is no ternary code")
    codes = fields.to(torch.int8).sub_(1).view(panels, steps, PANEL_ROWS, 4, 4).permute(0, 2, 1, 4, 3)
    codes = codes.reshape(panels * PANEL_ROWS, steps * STEP_COLUMNS)
    if codes[rows:].any() or codes[:, columns:].any():
        raise ValueError("the filling beyond the last row or column is not zero")
    return codes[:rows, :columns].contiguous()
