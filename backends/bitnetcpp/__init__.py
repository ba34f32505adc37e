"""The `bitnetcpp` backend: the user's own build of microsoft/BitNet, through its libllama."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bitnet_bench.backends.libllama.backend import LibllamaBackend
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

if TYPE_CHECKING:
    from bitnet_bench.backends.libllama.builds import LlamaBuild
    from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile

BUILD_FOLDER_VARIABLE = "BITNETCPP_DIR"
PRECISIONS = ("i2_s", "tl1", "tl2", "ternary")
BUILD_HINT = "Build microsoft/BitNet (its setup_env.py) and name its folder with `bitnetcpp_dir` or $BITNETCPP_DIR."


class BitnetCppBackend(LibllamaBackend):
    """Runs ternary checkpoints in bitnet.cpp: I2_S is exported here, TL1 and TL2 come from the user's own file."""

    summary = "your own build of microsoft/BitNet: I2_S exported and checked first; TL1 and TL2 from a GGUF file"

    def find_build(self) -> LlamaBuild:
        """Return the user's build; raise BenchError if none is named."""
        from bitnet_bench.backends.libllama.builds import LIBRARY_VARIABLE, find_build

        given = self._options.directory or self._options.library
        named = given or os.environ.get(BUILD_FOLDER_VARIABLE) or os.environ.get(LIBRARY_VARIABLE)
        if not named:
            raise BenchError("The backend `bitnetcpp` needs your own build of bitnet.cpp.", BUILD_HINT)
        return find_build(named, "bitnet.cpp")

    def _find_file(self, checkpoint: Checkpoint, precision: Precision) -> GgufFile:
        """Return the checkpoint's export, itself if it is an I2_S file, or the user's own; ternary means I2_S."""
        from bitnet_bench.checkpoints.gguf.exports import open_for_precision, open_or_export_gguf

        if precision not in PRECISIONS:
            raise BenchError(
                f"bitnet.cpp is not run at {precision} here.", f"Give one of {', '.join(PRECISIONS)} as `precision`."
            )
        if precision in ("tl1", "tl2") and not self._options.gguf:
            raise BenchError(
                f"{precision.upper()} depends on the kernels of your build, and is not exported here.",
                "Make the file with bitnet.cpp's own converter, and name it with `gguf`.",
            )
        if precision in ("tl1", "tl2"):
            return open_or_export_gguf(checkpoint, precision, self._options.gguf)
        return open_for_precision(checkpoint, "i2_s", self._options.gguf)
