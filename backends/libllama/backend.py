"""What the backends on libllama share: a build and a GGUF file, compared with the checkpoint before they run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from bitnet_bench.protocols import NO_OPTIONS, CheckedBackend, RuntimeOptions
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, RuntimeParity

if TYPE_CHECKING:
    from bitnet_bench.backends.batched_session import BatchedSession
    from bitnet_bench.backends.libllama.builds import LlamaBuild
    from bitnet_bench.backends.llama_session import Load
    from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile


class LibllamaBackend(CheckedBackend, adds=("find_build",)):
    """Runs checkpoints as GGUF files in a libllama; a subclass says in which, and of which types."""

    def __init__(self, options: RuntimeOptions = NO_OPTIONS) -> None:
        self._options = options

    def configured(self, options: RuntimeOptions) -> Self:
        """Return this backend with the user's *options* for the build, the GGUF file, the GPU and parity."""
        return type(self)(options)

    def find_runtime(self) -> str:
        """Return the name of the build."""
        return self.find_build().version

    @abstractmethod
    def find_build(self) -> LlamaBuild:
        """Return the build that runs; raise BenchError if there is none, or its interface is not known."""

    @abstractmethod
    def _find_file(self, checkpoint: Checkpoint, precision: Precision) -> GgufFile:
        """Return the file that runs at *precision*; raise BenchError if there is no such type here."""

    @contextmanager
    def open(self, checkpoint: Checkpoint, precision: Precision) -> Iterator[BatchedSession]:
        """Open *checkpoint* as GGUF; raise BenchError if the build computes another model."""
        from bitnet_bench.backends.llama_session import open_session
        from bitnet_bench.backends.runtime_parity import check_parity

        file, build = self._find_file(checkpoint, precision), self.find_build()
        check_parity(self._compare(checkpoint, precision, file, build), self._options.allow_mismatch)
        with open_session(checkpoint, file, precision, self._load(file, build), self._name(build)) as session:
            yield session

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Import what opening needs, without loading anything."""
        from transformers import AutoTokenizer  # noqa: F401

        import bitnet_bench.backends.libllama.builds
        import bitnet_bench.backends.llama_session  # noqa: F401

    def check(self, checkpoint: Checkpoint, precision: Precision) -> RuntimeParity:
        """Compare the weights in the file, and what the build computes with them, with *checkpoint*."""
        return self._compare(checkpoint, precision, self._find_file(checkpoint, precision), self.find_build())

    def _compare(
        self, checkpoint: Checkpoint, precision: Precision, file: GgufFile, build: LlamaBuild
    ) -> RuntimeParity:
        from bitnet_bench.backends.llama_session import compare_cached

        return compare_cached(checkpoint, file, precision, self._name(build), self._load(file, build))

    def _load(self, file: GgufFile, build: LlamaBuild) -> Load:
        return lambda vocabulary_only: build.load(file.path, vocabulary_only, self._options.gpu_layers)

    def _name(self, build: LlamaBuild) -> str:
        """Return the build's name with what computes: a GPU gives other last bits."""
        layers = self._options.gpu_layers
        return f"{build.version}, {layers} layers on the GPU" if layers else build.version
