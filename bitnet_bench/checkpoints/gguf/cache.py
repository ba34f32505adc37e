"""Find the folder in which GGUF files, and what is read from them, are kept."""

from __future__ import annotations

import os
from pathlib import Path

from bitnet_bench.files import find_user_cache

GGUF_DIR_VARIABLE = "BITNET_BENCH_GGUF"


def find_cache_folder() -> Path:
    """Return the folder of exported files: $BITNET_BENCH_GGUF, else a folder in the user's cache folder."""
    if os.environ.get(GGUF_DIR_VARIABLE):
        return Path(os.environ[GGUF_DIR_VARIABLE])
    return find_user_cache() / "gguf"
