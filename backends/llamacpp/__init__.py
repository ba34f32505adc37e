"""The `llamacpp` backend: llama.cpp from a wheel, or any libllama, on the checkpoint's own weights as GGUF."""

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

PRECISIONS = ("fp16", "bf16", "q8_0", "q4_0", "tq1_0", "tq2_0", "q2_0", "ternary")


class LlamaCppBackend(LibllamaBackend):
    """Runs BitNet and Llama-type checkpoints in llama.cpp, exported and compared with the checkpoint first."""

    summary = "llama.cpp (extra `llamacpp`, or your build): F16, BF16, Q8_0, Q4_0, TQ1_0, TQ2_0 and Q2_0, checked first"
    runs_gguf = True

    def find_build(self) -> LlamaBuild:
        """Return the build that `libllama` or the environment names, else that of an installed wheel."""
        from bitnet_bench.backends.libllama.builds import LIBRARY_VARIABLE, find_build, find_wheel

        named = self._options.library or os.environ.get(LIBRARY_VARIABLE)
        return find_build(named) if named else find_wheel()

    def _find_file(self, checkpoint: Checkpoint, precision: Precision) -> GgufFile:
        """Return the checkpoint's export or itself, or the user's own file; ternary means TQ2_0, with groups Q2_0."""
        from bitnet_bench.checkpoints.gguf.exports import is_own_precision, open_for_precision

        if precision not in PRECISIONS and not is_own_precision(checkpoint, precision):
            raise BenchError(
                f"llama.cpp is not run at {precision} here.", f"Give one of {', '.join(PRECISIONS)} as `precision`."
            )
        return open_for_precision(checkpoint, precision, self._options.gguf)
