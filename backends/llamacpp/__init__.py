"""The `llamacpp` backend: llama.cpp through llama-cpp-python, on the checkpoint's own weights as GGUF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import NO_OPTIONS, CheckedBackend, RuntimeOptions
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, RuntimeParity

if TYPE_CHECKING:
    from bitnet_bench.backends.batched_session import BatchedSession
    from bitnet_bench.backends.llama_session import Load
    from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile

PRECISIONS = ("fp16", "bf16", "q8_0", "q4_0", "tq1_0", "tq2_0", "ternary")


class LlamaCppBackend(CheckedBackend):
    """Runs BitNet and Llama-type checkpoints in llama.cpp, exported and compared with the checkpoint first."""

    summary = "llama.cpp (extra `llamacpp`): F16, BF16, Q8_0, Q4_0, TQ1_0 and TQ2_0, exported and checked first"

    runs_gguf = True

    def __init__(self, options: RuntimeOptions = NO_OPTIONS) -> None:
        self._options = options

    def configured(self, options: RuntimeOptions) -> Self:
        """Return this backend with the user's *options* for the GGUF file and parity."""
        return type(self)(options)

    @contextmanager
    def open(self, checkpoint: Checkpoint, precision: Precision) -> Iterator[BatchedSession]:
        """Open *checkpoint* as GGUF; ternary means TQ2_0. Raise BenchError if llama.cpp computes another model."""
        from bitnet_bench.backends.llama_session import open_session
        from bitnet_bench.backends.llamacpp.bindings import version
        from bitnet_bench.backends.runtime_parity import check_parity

        file = self._file(checkpoint, precision)
        check_parity(self._compare(checkpoint, precision, file), self._options.allow_mismatch)
        with open_session(checkpoint, file, precision, self._load(file), version()) as session:
            yield session

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Import what opening needs, without loading anything."""
        from transformers import AutoTokenizer  # noqa: F401

        import bitnet_bench.backends.llamacpp.bindings
        import bitnet_bench.checkpoints.gguf.exports  # noqa: F401

    def check(self, checkpoint: Checkpoint, precision: Precision) -> RuntimeParity:
        """Compare the weights in the file, and what llama.cpp computes with them, with *checkpoint*."""
        return self._compare(checkpoint, precision, self._file(checkpoint, precision))

    def _compare(self, checkpoint: Checkpoint, precision: Precision, file: GgufFile) -> RuntimeParity:
        from bitnet_bench.backends.llama_session import compare_cached
        from bitnet_bench.backends.llamacpp.bindings import version

        return compare_cached(checkpoint, file, precision, "llama.cpp", version(), self._load(file))

    def _load(self, file: GgufFile) -> Load:
        from bitnet_bench.backends.llamacpp.bindings import PythonLibrary

        return lambda vocabulary_only: PythonLibrary(file, vocabulary_only)

    def _file(self, checkpoint: Checkpoint, precision: Precision) -> GgufFile:
        from bitnet_bench.checkpoints.gguf.exports import is_own_precision, open_for_precision

        if precision not in PRECISIONS and not is_own_precision(checkpoint, precision):
            raise BenchError(
                f"llama.cpp is not run at {precision} here.", f"Give one of {', '.join(PRECISIONS)} as `precision`."
            )
        return open_for_precision(checkpoint, precision, self._options.gguf)
