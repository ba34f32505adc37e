"""Move small tensors to a GPU and back without waiting for what the GPU computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy *tensor* from the CPU to *device*; the copy to a GPU is queued behind its other work.

    From memory that is not pinned, the copy would wait for all of that work.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class PendingTensors:
    """Tensors on their way to the CPU."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Queue the copies of *tensors*, which are on one device, behind what computes them."""
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors):
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def wait(self) -> list[Tensor]:
        """Return the tensors once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors
