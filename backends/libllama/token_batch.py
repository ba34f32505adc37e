"""The tokens of one call of `llama_decode`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOKENS_AT_ONCE = 2048
"""Most tokens of one call."""
Ints = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenBatch:
    """Tokens that are read at once, as arrays [N]."""

    ids: Ints
    positions: Ints
    sequences: Ints
    wanted: npt.NDArray[np.int8]
    """1 where logits are requested, else 0."""
