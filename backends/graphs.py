"""Capture a GPU step once and replay it, so that no Python runs between its kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from bitnet_bench.machine.gpu import first_error_line

Work = Callable[[], None]
WARM_UPS = 2
"""Runs before the capture, in which libraries choose their algorithms and allocate their workspaces."""
_log = logging.getLogger(__name__)


def capture(step: Work) -> Work | None:
    """Return a function that replays *step* on the current GPU; None, with a warning, if it cannot be captured.

    *step* reads and writes the same tensors each time. It is run before it is captured, so what it changes must be
    set afterwards.
    """
    try:
        return _capture_with_warm_up(step)
    except torch.OutOfMemoryError:
        raise  # fewer rows may fit
    except RuntimeError as error:  # something in it waits for the GPU
        _log.warning("Tokens are decoded without a CUDA graph: %s.", first_error_line(error))
        torch.cuda.empty_cache()
        return None


def _capture_with_warm_up(step: Work) -> Work:
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    return record_graph(step)


def record_graph(step: Work) -> Work:
    """Return a function that replays *step*, which must have been run before and is not run now."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads read clocks meanwhile
            step()
    except RuntimeError as error:
        if isinstance(error.__context__, torch.OutOfMemoryError):  # ending the capture failed because of it
            raise error.__context__ from None
        raise
    replay: Work = graph.replay
    return replay
