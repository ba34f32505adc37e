"""The `bitnetcpp` backend: the user's own build of microsoft/BitNet, through its shared library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import NO_OPTIONS, CheckedBackend, RuntimeOptions
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, RuntimeParity

if TYPE_CHECKING:
    from bitnet_bench.backends.batched_session import BatchedSession
    from bitnet_bench.backends.bitnetcpp.build import BitnetCppBuild
    from bitnet_bench.backends.llama_session import Load
    from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile

BUILD_FOLDER_VARIABLE = "BITNETCPP_DIR"
PRECISIONS = ("i2_s", "tl1", "tl2", "ternary")
LIBRARY_FOLDERS = ("build/3rdparty/llama.cpp/src", "build/bin", "build/lib", "lib")
LIBRARIES = ("libllama.so", "libllama.dylib")
BUILD_HINT = "Build microsoft/BitNet (its setup_env.py) and name its folder with `bitnetcpp_dir` or $BITNETCPP_DIR."


class BitnetCppBackend(CheckedBackend, adds=("find_build",)):
    """Runs ternary checkpoints in bitnet.cpp: I2_S is exported here, TL1 and TL2 come from the user's own file."""

    summary = "your own build of microsoft/BitNet: I2_S exported and checked first; TL1 and TL2 from a GGUF file"

    def __init__(self, options: RuntimeOptions = NO_OPTIONS) -> None:
        self._options = options

    def configured(self, options: RuntimeOptions) -> Self:
        """Return this backend with the user's *options* for the build folder, the GGUF file and parity."""
        return type(self)(options)

    @contextmanager
    def open(self, checkpoint: Checkpoint, precision: Precision) -> Iterator[BatchedSession]:
        """Open *checkpoint* as GGUF; ternary means I2_S. Raise BenchError if the build computes another model."""
        from bitnet_bench.backends.llama_session import open_session
        from bitnet_bench.backends.runtime_parity import check_parity

        file, build = self._file(checkpoint, precision), self.find_build()
        check_parity(self._compare(checkpoint, precision, file, build), self._options.allow_mismatch)
        with open_session(checkpoint, file, precision, self._load(file, build), build.version) as session:
            yield session

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Import what opening needs, without loading anything."""
        from transformers import AutoTokenizer  # noqa: F401

        import bitnet_bench.backends.bitnetcpp.build  # noqa: F401

    def check(self, checkpoint: Checkpoint, precision: Precision) -> RuntimeParity:
        """Compare the weights in the file, and what the build computes with them, with *checkpoint*."""
        return self._compare(checkpoint, precision, self._file(checkpoint, precision), self.find_build())

    def _compare(
        self, checkpoint: Checkpoint, precision: Precision, file: GgufFile, build: BitnetCppBuild
    ) -> RuntimeParity:
        from bitnet_bench.backends.llama_session import compare_cached

        return compare_cached(checkpoint, file, precision, "bitnet.cpp", build.version, self._load(file, build))

    def _load(self, file: GgufFile, build: BitnetCppBuild) -> Load:
        from bitnet_bench.backends.bitnetcpp.build import BuildLibrary

        return lambda vocabulary_only: BuildLibrary(build, file, vocabulary_only)

    def find_build(self) -> BitnetCppBuild:
        """Return the user's build; raise BenchError if there is none."""
        from bitnet_bench.backends.bitnetcpp.build import BitnetCppBuild

        named = self._options.directory or os.environ.get(BUILD_FOLDER_VARIABLE)
        if not named:
            raise BenchError("The backend `bitnetcpp` needs your own build of bitnet.cpp.", BUILD_HINT)
        places = (Path(named) / place / name for place in LIBRARY_FOLDERS for name in LIBRARIES)
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise BenchError(f"There is no {LIBRARY_FOLDERS[0]}/{LIBRARIES[0]} in {named}.", BUILD_HINT)
        return BitnetCppBuild(Path(named), found)

    def _file(self, checkpoint: Checkpoint, precision: Precision) -> GgufFile:
        from bitnet_bench.checkpoints.gguf.exports import is_own_precision, open_for_precision, open_or_export_gguf

        if precision not in PRECISIONS:
            raise BenchError(
                f"bitnet.cpp is not run at {precision} here.", f"Give one of {', '.join(PRECISIONS)} as `precision`."
            )
        if precision in ("tl1", "tl2") and not self._options.gguf:
            raise BenchError(
                f"{precision.upper()} depends on the kernels of your build, and is not exported here.",
                "Make the file with bitnet.cpp's own converter, and name it with `gguf`.",
            )
        if not self._options.gguf and is_own_precision(checkpoint, "i2_s"):
            return open_for_precision(checkpoint, "i2_s", None)
        kind = precision if precision in ("tl1", "tl2") else "i2_s"
        return open_or_export_gguf(checkpoint, kind, self._options.gguf)
