"""How much memory is free, and what share of it may be planned with: the one place of both decisions."""

from __future__ import annotations

USABLE_SHARE = 0.8
"""Of the free memory, what all that an estimate counts may take: estimates are rough, and others work here too."""
WEIGHTS_SHARE = 0.5
"""Where an estimate counts weights alone: activations and caches take the rest."""


def find_free_bytes(processes: int = 1) -> float:
    """Return the memory that this process may take: of its GPU, or its share of what this machine has available."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    return find_free_ram() / processes


def find_free_ram() -> float:
    """Return the bytes of this machine's own memory that are available, whether it has a GPU or not."""
    import psutil

    return float(psutil.virtual_memory().available)
