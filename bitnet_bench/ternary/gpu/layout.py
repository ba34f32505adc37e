"""Pack four ternary codes into a byte, in the layout that the GPU kernels read: rows of blocks of 256 columns.

A row is one run of bytes [K / 4], in blocks of 64 bytes that hold 256 columns: bits 2 j and 2 j + 1 of byte p hold
column 64 j + p of the block, as code + 1, so one shift and one mask give 64 neighbouring columns from 64 neighbouring
bytes, four codes per register, for both dp4a and tensor cores; activations keep their order. Columns are padded to
whole blocks with code 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FIELD_COLUMNS = 64
BLOCK_COLUMNS = 4 * FIELD_COLUMNS


def count_blocks(columns: int) -> int:
    """Return how many blocks hold *columns* columns."""
    return -(-columns // BLOCK_COLUMNS)


def interleave_codes(codes: Tensor) -> Tensor:
    """Return uint8 [N, 64 * blocks] for int8 *codes* [N, K] in {-1, 0, +1}, on the device of *codes*."""
    rows, columns = codes.shape
    blocks = count_blocks(columns)
    filled = F.pad(codes, (0, blocks * BLOCK_COLUMNS - columns))
    fields = (filled + 1).to(torch.uint8).view(rows, blocks, 4, FIELD_COLUMNS)
    packed = fields[:, :, 0].clone()
    for j in range(1, 4):
        packed |= fields[:, :, j] << (2 * j)
    return packed.view(rows, blocks * FIELD_COLUMNS)


def deinterleave_codes(packed: Tensor, columns: int) -> Tensor:
    """Return the int8 codes [N, *columns*] that `interleave_codes` packed."""
    blocks = packed.view(len(packed), -1, 1, FIELD_COLUMNS)
    fields = torch.cat([(blocks >> (2 * j)) & 3 for j in range(4)], dim=2)
    return (fields.to(torch.int8) - 1).view(len(packed), -1)[:, :columns].contiguous()
