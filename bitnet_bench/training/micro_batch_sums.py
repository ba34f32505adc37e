"""Sums over micro-batches that stay on the GPU until they are read, so that a step does not wait for its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class MicroBatchSums:
    """Adds up figures of micro-batches by name, both numbers and tensors, and finds the first bad loss."""

    def __init__(self) -> None:
        self._read: dict[str, float] = {}
        self._unread: list[tuple[int, str, Tensor]] = []

    def add(self, step: int, figures: Mapping[str, Tensor | float]) -> None:
        """Add *figures* of one micro-batch of *step*; a tensor has one element and is not read yet."""
        for name, value in figures.items():
            if isinstance(value, Tensor):
                self._unread.append((step, name, value.detach()))
            else:
                self._add(name, value)

    def find_bad_loss(self) -> tuple[int, float] | None:
        """Read the added tensors; return (step, loss) of the first loss since the last call that is not finite."""
        if not self._unread:
            return None
        values = torch.stack([value.reshape(()).double() for _, _, value in self._unread]).tolist()
        bad = None
        for (step, name, _), value in zip(self._unread, values, strict=True):
            self._add(name, value)
            if name == "loss" and bad is None and not math.isfinite(value):
                bad = step, value
        self._unread.clear()
        return bad

    def pop_sums(self) -> dict[str, float]:
        """Return the sums by name, and reset them."""
        self.find_bad_loss()
        taken, self._read = self._read, {}
        return taken

    def _add(self, name: str, value: float) -> None:
        self._read[name] = self._read.get(name, 0.0) + value
