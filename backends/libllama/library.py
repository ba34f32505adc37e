"""Call one libllama through ctypes, over the layout of its structures and whichever of its names it exports."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_bench.backends.libllama.layouts import STRUCTURE_BYTES, Layout, Structure
from bitnet_bench.backends.libllama.token_batch import TOKENS_AT_ONCE, Logits, TokenBatch
from bitnet_bench.errors import BenchError

OTHER_BUILD_HINT = "Use another build: the wheel of the extra `llamacpp`, or one that `libllama` names."
_computing: list[Path] = []
"""The one library of this process that computes with ggml: two copies of ggml do not live together."""
_last_messages: list[str] = []


class _Structure(ctypes.Structure):
    """Room for a structure of any layout; it is passed in memory, so that its true size does not matter."""

    _fields_ = (("words", c_uint64 * (STRUCTURE_BYTES // 8)),)


def _keep_message(level: int, text: bytes, data: Any) -> None:
    """Keep libllama's last log lines for an error message instead of printing them."""
    _last_messages.append(text.decode("utf-8", "replace").strip())
    del _last_messages[:-20]


_listen = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)(_keep_message)
"""The callback that libllama calls; it lives as long as the process."""


class Calls:
    """The functions of one libllama, under the name that its version gives each."""

    def __init__(self, library: Path) -> None:
        """Load *library*; BenchError if it does not load, or lacks a function that a session needs."""
        self.path = library
        self._library = _load(library)
        if not self.has("llama_decode"):
            raise BenchError(f"{library} is no libllama: it has no llama_decode.", OTHER_BUILD_HINT)
        self._find("llama_log_set", None, c_void_p, c_void_p)(ctypes.cast(_listen, c_void_p), None)
        self._load_plugins()
        self._find("llama_backend_init", None)()
        pointer, text, number = c_void_p, c_char_p, c_int32
        self.model_defaults = self._find("llama_model_default_params", _Structure)
        self.context_defaults = self._find("llama_context_default_params", _Structure)
        self.load = self._find("llama_model_load_from_file llama_load_model_from_file", pointer, text, _Structure)
        self.free_model = self._find("llama_model_free llama_free_model", None, pointer)
        self.count_tokens = self._find("llama_vocab_n_tokens llama_n_vocab", number, pointer)
        self.trained_context = self._find("llama_model_n_ctx_train llama_n_ctx_train", number, pointer)
        self.tokenize = self._find(
            "llama_tokenize", number, pointer, text, number, POINTER(c_int32), number, c_bool, c_bool
        )
        self.make_context = self._find(
            "llama_init_from_model llama_new_context_with_model", pointer, pointer, _Structure
        )
        self.free_context = self._find("llama_free", None, pointer)
        self.decode = self._find("llama_decode", number, pointer, _Structure)
        self.logits = self._find("llama_get_logits", POINTER(c_float), pointer)
        self._clear = self._find("llama_memory_clear llama_kv_self_clear llama_kv_cache_clear", None, pointer, c_bool)
        self._last_position = self._find(
            "llama_memory_seq_pos_max llama_kv_self_seq_pos_max llama_kv_cache_seq_pos_max", number, pointer, number
        )

    def has(self, name: str) -> bool:
        """Return whether the library exports *name*."""
        return hasattr(self._library, name)

    def vocabulary(self, model: int) -> int:
        """Return the address of the model's vocabulary; of the model itself in versions that have no such thing."""
        if not self.has("llama_vocab_n_tokens"):
            return model
        return int(self._find("llama_model_get_vocab", c_void_p, c_void_p)(model))

    def clear(self, context: int) -> None:
        """Empty a context."""
        self._clear(self._memory(context, "llama_memory_clear"), False)

    def last_position(self, context: int, sequence: int) -> int:
        """Return the last position that a context holds of *sequence*, -1 for none."""
        return int(self._last_position(self._memory(context, "llama_memory_seq_pos_max"), sequence))

    def read_number(self, name: str, subject: int) -> int | None:
        """Return what a getter such as `llama_n_ctx` says of *subject*; None in a version without it."""
        return int(self._find(name, c_uint32, c_void_p)(subject)) if self.has(name) else None

    def read_text(self, name: str) -> str | None:
        """Return what a function without arguments such as `llama_version` says; None in a version without it."""
        said = self._find(name, c_char_p)() if self.has(name) else None
        return said.decode("utf-8", "replace").strip() if said else None

    def describe_version(self) -> str | None:
        """Return the build number and the commit, as far as the library exports them, such as `b11549, 64fbe0fe7`."""
        number = self._find("_Z18llama_build_numberv", c_int32)() if self.has("_Z18llama_build_numberv") else 0
        commits = (self.read_text(name) for name in ("_Z12llama_commitv", "ggml_commit"))
        commit = next((text for text in commits if text and text != "unknown"), None)
        return ", ".join([f"b{number}"] * (number > 0) + ([commit] if commit else [])) or None

    @property
    def computes_on_gpu(self) -> bool:
        """Whether the build can keep layers on a GPU."""
        return self.has("llama_supports_gpu_offload") and bool(self._find("llama_supports_gpu_offload", c_bool)())

    def _memory(self, context: int, name: str) -> int:
        """Return what the function *name* of the newer interface takes: the context's memory, in older ones itself."""
        return int(self._find("llama_get_memory", c_void_p, c_void_p)(context)) if self.has(name) else context

    def _load_plugins(self) -> None:
        """Load the computing parts beside a release's libllama, which is linked with none."""
        if not self.has("ggml_backend_load_all_from_path") or not self.has("ggml_backend_dev_count"):
            return
        for folder in (self.path.parent, self.path.parent.parent / "bin"):
            if not self._find("ggml_backend_dev_count", ctypes.c_size_t)():
                self._find("ggml_backend_load_all_from_path", None, c_char_p)(os.fsencode(folder))

    def _find(self, names: str, result: Any, *arguments: Any) -> Any:
        """Return the first function of *names* that the library exports, typed."""
        name = next((name for name in names.split() if self.has(name)), None)
        if name is None:
            raise BenchError(f"{self.path} has no {' or '.join(names.split())}.", OTHER_BUILD_HINT)
        found = getattr(self._library, name)
        found.restype, found.argtypes = result, arguments
        return found


class LlamaLibrary:
    """A GGUF file loaded by a libllama; see `bitnet_bench.backends.llama_session.Library`."""

    def __init__(
        self, calls: Calls, layout: Layout, file: Path, vocabulary_only: bool = False, gpu_layers: int = 0
    ) -> None:
        """Load *file*; raise BenchError with libllama's own message if that fails."""
        self._calls, self._layout, self._context = calls, layout, 0
        settings = calls.model_defaults()
        _write(settings, layout.model, vocab_only=vocabulary_only, n_gpu_layers=gpu_layers)
        self.model = calls.load(os.fsencode(file), settings) or 0
        if not self.model:
            raise _make_error(f"{calls.path.name} does not load {file}")
        words = calls.vocabulary(self.model)
        self._tokenizer = self.model if layout.tokenizes_with_model else words
        self.vocabulary = int(calls.count_tokens(words))
        self.trained_context = int(calls.trained_context(self.model))
        self._batch = _Batch(layout.batch)

    def close(self) -> None:
        """Free all memory."""
        if self._context:
            self._calls.free_context(self._context)
        self._calls.free_model(self.model)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of *text*, with the special tokens that the file specifies."""
        data = text.encode()
        room = (c_int32 * (len(data) + 8))()
        count = self._calls.tokenize(self._tokenizer, data, len(data), room, len(room), True, True)
        return list(room[: max(count, 0)])

    def make_room(self, tokens: int, sequences: int) -> None:
        """Make an empty context; raise MemoryError if there is no memory for it."""
        self.make_context(tokens, sequences, _count_threads())

    def make_context(self, tokens: int, sequences: int, threads: int) -> int:
        """Make an empty context that computes with *threads* threads, and return its address."""
        if self._context:
            self._calls.free_context(self._context)
        settings = self._calls.context_defaults()
        wanted = {"n_ctx": tokens, "n_seq_max": sequences, "n_batch": TOKENS_AT_ONCE, "kv_unified": True}
        wanted |= {"n_threads": threads, "n_threads_batch": threads, "no_perf": True}
        wanted["flash_attn"] = False  # ik_llama.cpp's ends the process where sequences stand side by side
        _write(settings, self._layout.context, **wanted)
        self._context = self._calls.make_context(self.model, settings) or 0
        if not self._context:
            raise MemoryError(f"{self._calls.path.name} makes no context for {tokens} tokens")
        return self._context

    def forget(self) -> None:
        """Empty the context."""
        self._calls.clear(self._context)

    def read(self, tokens: TokenBatch) -> None:
        """Read at most `TOKENS_AT_ONCE` tokens; raise BenchError with libllama's own message if that fails."""
        status = self._calls.decode(self._context, self._batch.fill(tokens))
        if status:
            raise _make_error(f"The decoding of {self._calls.path.name} failed with status {status}")

    def logits(self, rows: int) -> Logits:
        """Return the requested logits [rows, V], valid until the next `read`."""
        return np.ctypeslib.as_array(self._calls.logits(self._context), (rows, self.vocabulary))

    def count_held_tokens(self, sequence: int) -> int:
        """Return how many tokens of *sequence* the context holds."""
        return self._calls.last_position(self._context, sequence) + 1


class _Batch:
    """A `llama_batch` over numpy arrays, which is filled at once instead of token by token."""

    def __init__(self, structure: Structure) -> None:
        self._ids, self._positions, self._sequences, self._counts = (
            np.ones(TOKENS_AT_ONCE, np.int32) for _ in range(4)
        )
        self._wanted = np.zeros(TOKENS_AT_ONCE, np.int8)
        first = self._sequences.ctypes.data
        self._pointers = first + 4 * np.arange(TOKENS_AT_ONCE, dtype=np.uint64)
        self._batch = _Structure()
        self._count, self._view = structure["n_tokens"], memoryview(self._batch).cast("B")
        arrays: dict[str, Any] = {"token": self._ids, "pos": self._positions, "n_seq_id": self._counts}
        arrays |= {"seq_id": self._pointers, "logits": self._wanted}
        for name, array in arrays.items():
            structure[name].write(self._view, array.ctypes.data)

    def fill(self, tokens: TokenBatch) -> _Structure:
        """Return the batch with *tokens* in it."""
        count = len(tokens.ids)
        self._count.write(self._view, count)
        self._ids[:count], self._positions[:count] = tokens.ids, tokens.positions
        self._sequences[:count], self._wanted[:count] = tokens.sequences, tokens.wanted
        return self._batch


def _load(library: Path) -> ctypes.CDLL:
    """Return the loaded *library*; BenchError if it does not load beside what this process has loaded."""
    place = library.resolve().parent
    try:
        if hasattr(os, "add_dll_directory"):
            os.add_dll_directory(str(place))
        found = ctypes.CDLL(str(library))
    except OSError as error:
        raise BenchError(f"{library} does not load: {error}.", OTHER_BUILD_HINT) from error
    if hasattr(found, "ggml_init"):
        if _computing and _computing[0] != library:
            problem = f"{library} does not run beside {_computing[0]} in one process."
            raise BenchError(problem, "Use one libllama at a time.")
        _computing[:] = [library]
    return found


def _write(structure: _Structure, fields: Structure, **wanted: Any) -> None:
    """Set the fields of *structure* that its version has."""
    view = memoryview(structure).cast("B")
    for name, value in wanted.items():
        if name in fields:
            fields[name].write(view, value)


def _count_threads() -> int:
    import torch

    return torch.get_num_threads()


def _make_error(what: str) -> BenchError:
    """Return an error of *what* with libllama's last error line."""
    words = next((line for line in reversed(_last_messages) if "error" in line.lower() or "fail" in line.lower()), "")
    return BenchError(f"{what}. {words}".strip(), "Try another `precision`, or another build.")
