"""Find how much memory is free and define what share of it may be used; no other module decides either."""

from __future__ import annotations

USABLE_SHARE = 0.8
"""Share of the free memory that a complete estimate may take; estimates are rough, and other processes need memory."""
WEIGHTS_SHARE = 0.5
"""Share of the free memory that weights may take if only they are counted; activations and caches take the rest."""


def find_free_bytes(processes: int = 1) -> float:
    """Return the memory that this process may take: of its GPU, or its share of what this machine has available."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    return find_free_ram() / processes


def find_free_ram() -> float:
    """Return the bytes of this machine's RAM that are available, whether or not it has a GPU."""
    import psutil

    return float(psutil.virtual_memory().available)
