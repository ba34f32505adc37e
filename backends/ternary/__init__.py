"""The `ternary` backend: exact 2-bit inference on the CPU kernel, or on a GPU."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bitnet_bench import ternary
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import NO_OPTIONS, InferenceBackend, RuntimeOptions
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

if TYPE_CHECKING:
    from bitnet_bench.backends.batched_session import BatchedSession

KERNEL_FOLDER = Path(ternary.__path__[0]) / "kernel"


class TernaryBackend(InferenceBackend, adds=("find_obstacle",)):
    """Runs ternary checkpoints on 2-bit codes, with the head in the dtype in which it is stored."""

    summary = "2-bit codes and exact integer sums, on a GPU or on the CPU kernel; ternary checkpoints only"
    head = "stored"

    def __init__(self, options: RuntimeOptions = NO_OPTIONS) -> None:
        self._options = options

    def configured(self, options: RuntimeOptions) -> Self:
        """Return this backend with the user's *options* for activations and for keys and values."""
        return type(self)(options)

    def find_runtime(self) -> str:
        """Return whether the CPU kernel or a GPU computes; BenchError if neither does. The kernel is not loaded."""
        turned_off = os.environ.get("BITNET_BENCH_KERNEL") == "off"
        if not turned_off and any(KERNEL_FOLDER.glob("_library.*")):
            return "the CPU kernel"
        from bitnet_bench.machine.gpu import find_gpu

        if gpu := find_gpu():
            return gpu.describe()
        if turned_off:
            raise BenchError("The CPU kernel is turned off, and there is no GPU.", "Unset BITNET_BENCH_KERNEL.")
        raise BenchError(
            "The CPU kernel is not built, and there is no GPU.",
            "Install gcc (apt-get install gcc) and reinstall bitnet-bench; or use `backend=hf`, which is slower.",
        )

    def open(self, checkpoint: Checkpoint, precision: Precision) -> AbstractContextManager[BatchedSession]:
        """Open *checkpoint* on the ternary engine, or as transformers modules if its architecture needs them."""
        from bitnet_bench.backends.ternary.inference import open_session

        return open_session(checkpoint, precision, self.head, self._options.activations, self._options.kv_cache)

    def find_obstacle(self, checkpoint: Checkpoint) -> str | None:
        """Return why another backend should run *checkpoint* on this machine, or None if this one is the best."""
        from bitnet_bench.backends.ternary.inference import find_obstacle

        return find_obstacle(checkpoint)

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Import what opening needs, without loading anything."""
        from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401 - imported when named

        import bitnet_bench.backends.ternary.inference  # noqa: F401
        from bitnet_bench.checkpoints.building import build_outline, name_config
        from bitnet_bench.checkpoints.config import read_config

        with name_config(Path(checkpoint.path)):
            build_outline(read_config(Path(checkpoint.path)))


class Int8HeadBackend(TernaryBackend):
    """`TernaryBackend` with the head in int8: faster, but no longer the checkpoint's own numbers."""

    summary = "as `ternary`, with the output head quantized to int8: faster decoding, an approximation"
    head = "int8"
