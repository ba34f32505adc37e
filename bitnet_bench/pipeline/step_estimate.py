"""What a step of a recipe takes, by estimate."""

from __future__ import annotations

from dataclasses import dataclass

PROCESS_BYTES = 600 * 10**6
"""Bytes of a process that has imported torch and transformers."""


@dataclass(frozen=True)
class Estimate:
    """Estimated time, memory and disk of one step."""

    title: str
    done: bool
    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int | None
    note: str
    """Basis of the estimate, or why there is none."""
    speed: str = ""
    """Source of the speed on which the estimate is based."""
