"""Call libllama in the user's own build of microsoft/BitNet.

Its structures are those of its own headers, so a shim is compiled against them and cached: a fraction of a second,
once for each build.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_char_p, c_float, c_int, c_void_p
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitnet_bench.backends.llama_session import TOKENS_AT_ONCE, Logits, TokenBatch
from bitnet_bench.checkpoints.gguf.cache import find_cache_folder
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.environment import find_compiler

SHIM = Path(__file__).with_name("shim.c")
HEADERS = ("3rdparty/llama.cpp/include", "3rdparty/llama.cpp/ggml/include")
OPTIONAL_NAMES = (
    "llama_model_load_from_file",
    "llama_model_free",
    "llama_model_n_ctx_train",
    "llama_vocab_n_tokens",
    "llama_init_from_model",
    "llama_memory_clear",
    "llama_memory_seq_pos_max",
    "llama_kv_self_clear",
    "llama_kv_self_seq_pos_max",
    "kv_unified",
)
"""Names that only later versions of llama.h declare; `shim.c` uses those that exist."""
IMPLICIT_CALLS_FLAG = "-Werror=implicit-function-declaration"
REBUILD_HINT = "Build bitnet.cpp again, or use `backend=ternary` or `backend=llamacpp`."


@dataclass(frozen=True)
class BitnetCppBuild:
    """A build of microsoft/BitNet: its folder, and the shared library in it."""

    folder: Path
    library: Path

    @property
    def version(self) -> str:
        """Name of the build: its commit and the time of its library; cached comparisons depend on it."""
        command = ["git", "-C", str(self.folder), "rev-parse", "--short", "HEAD"]
        top = (self.folder / ".git").exists() and shutil.which("git")
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() if top else ""
        built = datetime.fromtimestamp(self.library.stat().st_mtime).isoformat(sep=" ", timespec="seconds")
        return f"bitnet.cpp ({said or 'no commit'}, built {built})"


class BuildLibrary:
    """A GGUF file loaded by the build; see `bitnet_bench.backends.llama_session.Library`."""

    def __init__(self, build: BitnetCppBuild, file: GgufFile, vocabulary_only: bool = False) -> None:
        """Load *file*; raise BenchError with the build's own message if that fails."""
        self._calls = _load_shim(shim(build))
        self._bench = self._calls.bench_open(str(file.path).encode(), vocabulary_only, TOKENS_AT_ONCE)
        if not self._bench:
            raise self._make_error(f"bitnet.cpp does not load {file.path}")
        self.vocabulary: int = self._calls.bench_vocabulary(self._bench)
        self.trained_context: int = self._calls.bench_trained_context(self._bench)

    def close(self) -> None:
        """Free all memory."""
        self._calls.bench_close(self._bench)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of *text*, with the special tokens that the file specifies."""
        data = text.encode()
        room = (c_int * (len(data) + 8))()
        count = self._calls.bench_tokenize(self._bench, data, len(data), room, len(room))
        return list(room[: max(count, 0)])

    def make_room(self, tokens: int, sequences: int) -> None:
        """Make an empty context; raise MemoryError if there is no memory for it."""
        if not self._calls.bench_make_room(self._bench, tokens, sequences, TOKENS_AT_ONCE, torch.get_num_threads()):
            raise MemoryError(f"bitnet.cpp makes no context for {tokens} tokens")

    def forget(self) -> None:
        """Empty the context."""
        self._calls.bench_forget(self._bench)

    def read(self, tokens: TokenBatch) -> None:
        """Read at most `TOKENS_AT_ONCE` tokens; raise BenchError with the build's own message if that fails."""
        arrays = (tokens.ids, tokens.positions, tokens.sequences, tokens.wanted)
        status = self._calls.bench_read(self._bench, len(tokens.ids), *(array.ctypes.data for array in arrays))
        if status:
            raise self._make_error(f"bitnet.cpp's decoding failed with status {status}")

    def logits(self, rows: int) -> Logits:
        """Return the requested logits [rows, V], valid until the next `read`."""
        return np.ctypeslib.as_array(self._calls.bench_logits(self._bench), (rows, self.vocabulary))

    def count_held_tokens(self, sequence: int) -> int:
        """Return how many tokens of *sequence* the context holds."""
        return int(self._calls.bench_held(self._bench, sequence))

    def _make_error(self, what: str) -> BenchError:
        words = self._calls.bench_said().decode("utf-8", "replace").strip()
        return BenchError(f"{what}. {words}".strip(), REBUILD_HINT)


def shim(build: BitnetCppBuild) -> Path:
    """Return the shim for *build*, compiling it if it is not cached; raise BenchError without headers or compiler."""
    headers = [build.folder / place for place in HEADERS]
    header = headers[0] / "llama.h"
    if not header.is_file():
        raise BenchError(f"There is no {HEADERS[0]}/llama.h in {build.folder}.", "Keep the sources beside the build.")
    declared = re.sub(r"//.*", "", header.read_text(encoding="utf-8", errors="replace"))
    state = f"{build.library.resolve()} {build.library.stat().st_mtime_ns} {declared} {SHIM.read_text()}"
    out = find_cache_folder() / "shims" / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.so"
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        defined = [f"-DHAS_{name.upper()}" for name in OPTIONAL_NAMES if re.search(rf"\b{name}\b", declared)]
        _compile([*defined, *(f"-I{place}" for place in headers)], build.library, out)
    return out


def _compile(options: list[str], library: Path, out: Path) -> None:
    named = os.environ.get("CC") or find_compiler()
    if named is None:
        raise BenchError("No C compiler was found, and bitnet.cpp is reached through one.", "apt-get install gcc")
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        made = Path(place) / out.name
        found = [
            str(library),
            f"-Wl,-rpath,{library.parent}",
            *(f"-Wl,-rpath,{p}" for p in _find_library_folders(library)),
        ]
        command = [
            *named.split(),
            "-O2",
            "-shared",
            "-fPIC",
            IMPLICIT_CALLS_FLAG,
            *options,
            str(SHIM),
            "-o",
            str(made),
            *found,
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            first = next((line for line in ended.stderr.splitlines() if "error" in line), "no message")
            raise BenchError(f"The interface of this bitnet.cpp is not known: {first}", REBUILD_HINT)
        made.rename(out)


def _find_library_folders(library: Path) -> list[Path]:
    """Return the folders of the build's other shared libraries, which libllama needs."""
    root = next((p for p in library.parents if p.name == "build"), library.parent)
    return sorted({path.parent for path in root.rglob("lib*.so")} | {path.parent for path in root.rglob("lib*.dylib")})


def _load_shim(path: Path) -> Any:
    """Return the loaded shim with its functions typed."""
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise BenchError(f"The library of bitnet.cpp does not load: {error}.", REBUILD_HINT) from error
    numbers = (c_int,) * 2
    for name, result, arguments in (
        ("open", c_void_p, (c_char_p, *numbers)),
        ("close", None, (c_void_p,)),
        ("said", c_char_p, ()),
        ("vocabulary", c_int, (c_void_p,)),
        ("trained_context", c_int, (c_void_p,)),
        ("tokenize", c_int, (c_void_p, c_char_p, c_int, c_void_p, c_int)),
        ("make_room", c_int, (c_void_p, *numbers, *numbers)),
        ("forget", None, (c_void_p,)),
        ("held", c_int, (c_void_p, c_int)),
        ("read", c_int, (c_void_p, c_int, *(c_void_p,) * 4)),
        ("logits", POINTER(c_float), (c_void_p,)),
    ):
        call = getattr(found, f"bench_{name}")
        call.restype, call.argtypes = result, arguments
    return found
