"""Pack four ternary codes into a byte, in the layout of transformers' `BitLinear`.

Byte row i of R = rows / 4 holds rows i, i + R, i + 2R and i + 3R, lowest two bits first; the stored value is
code + 1. Value 3 is invalid: it means that the file is damaged or has another format.
"""

from __future__ import annotations

import torch
from torch import Tensor

CODES_PER_BYTE = 4


def pack(codes: Tensor) -> Tensor:
    """Return uint8 [N / 4, K] for int8 codes [N, K] in {-1, 0, +1}; raise ValueError if N is not a multiple of 4."""
    rows = codes.shape[0]
    if rows % CODES_PER_BYTE:
        raise ValueError(f"{rows} rows are no multiple of {CODES_PER_BYTE}; this layout cannot hold them")
    if ((codes < -1) | (codes > 1)).any():
        raise ValueError("codes must be -1, 0 or +1")
    quarters = (codes + 1).to(torch.uint8).chunk(CODES_PER_BYTE)
    packed = quarters[0].clone()
    for i, quarter in enumerate(quarters[1:], start=1):
        packed |= quarter << (2 * i)
    return packed


def unpack(packed: Tensor) -> Tensor:
    """Return int8 codes [4 * R, K] for uint8 *packed* [R, K]; raise ValueError if a 2-bit field holds 3."""
    fields = torch.cat([(packed >> (2 * i)) & 3 for i in range(CODES_PER_BYTE)])
    if (fields == 3).any():
        raise ValueError("a 2-bit field holds 3, which is no ternary code")
    return fields.to(torch.int8) - 1


def count_codes(packed: Tensor) -> tuple[int, int, int]:
    """Return how many codes in uint8 *packed*, of any layout, are -1, 0 and +1; raise ValueError if a field holds 3."""
    of_byte = torch.tensor([[(byte >> shift) & 3 for shift in (0, 2, 4, 6)] for byte in range(256)])
    bytes_counted = torch.bincount(packed.flatten(), minlength=256)
    minus, zero, plus, invalid = (int((bytes_counted * (of_byte == value).sum(dim=1)).sum()) for value in range(4))
    if invalid:
        raise ValueError("a 2-bit field holds 3, which is no ternary code")
    return minus, zero, plus
