"""Call libllama as llama-cpp-python ships it."""

from __future__ import annotations

import ctypes
from importlib.metadata import version as version_of
from typing import Any

import llama_cpp as api
import numpy as np
import torch

from bitnet_bench.backends.llama_session import TOKENS_AT_ONCE, Logits, TokenBatch
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.errors import BenchError

_last_messages: list[str] = []


@api.llama_log_callback
def _listen(level: int, text: bytes, data: Any) -> None:
    """Keep llama.cpp's last log lines for an error message instead of printing them."""
    _last_messages.append(text.decode("utf-8", "replace").strip())
    del _last_messages[:-20]


def version() -> str:
    """Return the runtime's name with its version, which cached comparisons depend on."""
    return f"llama.cpp ({version_of('llama-cpp-python')} of llama-cpp-python)"


class PythonLibrary:
    """A GGUF file loaded by llama.cpp; see `bitnet_bench.backends.llama_session.Library`."""

    def __init__(self, file: GgufFile, vocabulary_only: bool = False) -> None:
        """Load *file*; raise BenchError with llama.cpp's own message if that fails."""
        api.llama_log_set(_listen, ctypes.c_void_p(0))
        api.llama_backend_init()
        settings = api.llama_model_default_params()
        settings.vocab_only = vocabulary_only
        settings.n_gpu_layers = 0
        self._context: Any = None
        self._model = api.llama_model_load_from_file(str(file.path).encode(), settings)
        if self._model is None:
            raise _make_error(f"llama.cpp does not load {file.path}")
        self._words = api.llama_model_get_vocab(self._model)
        self.vocabulary = api.llama_vocab_n_tokens(self._words)
        self.trained_context = int(api.llama_model_n_ctx_train(self._model))
        self._batch = _Batch()

    def close(self) -> None:
        """Free all memory."""
        if self._context is not None:
            api.llama_free(self._context)
        api.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of *text*, with the special tokens that the file specifies."""
        data = text.encode()
        room = (api.llama_token * (len(data) + 8))()
        count = api.llama_tokenize(self._words, data, len(data), room, len(room), True, True)
        return list(room[: max(count, 0)])

    def make_room(self, tokens: int, sequences: int) -> None:
        """Make an empty context; raise MemoryError if there is no memory for it."""
        if self._context is not None:
            api.llama_free(self._context)
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = tokens, sequences
        settings.n_batch = TOKENS_AT_ONCE
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.no_perf = True
        self._context = api.llama_init_from_model(self._model, settings)
        if self._context is None:
            raise MemoryError(f"llama.cpp makes no context for {tokens} tokens")

    def forget(self) -> None:
        """Empty the context."""
        api.llama_memory_clear(api.llama_get_memory(self._context), False)

    def read(self, tokens: TokenBatch) -> None:
        """Read at most `TOKENS_AT_ONCE` tokens; raise BenchError with llama.cpp's own message if that fails."""
        status = api.llama_decode(self._context, self._batch.fill(tokens))
        if status:
            raise _make_error(f"llama.cpp's decoding failed with status {status}")

    def logits(self, rows: int) -> Logits:
        """Return the requested logits [rows, V], valid until the next `read`."""
        pointer = ctypes.cast(api.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (rows, self.vocabulary))

    def count_held_tokens(self, sequence: int) -> int:
        """Return how many tokens of *sequence* the context holds."""
        return int(api.llama_memory_seq_pos_max(api.llama_get_memory(self._context), sequence)) + 1


class _Batch:
    """A `llama_batch` over numpy arrays, which is filled at once instead of token by token."""

    def __init__(self) -> None:
        self._ids, self._positions, self._sequences, self._counts = (
            np.ones(TOKENS_AT_ONCE, np.int32) for _ in range(4)
        )
        self._wanted = np.zeros(TOKENS_AT_ONCE, np.int8)
        first = self._sequences.ctypes.data
        self._pointers = first + 4 * np.arange(TOKENS_AT_ONCE, dtype=np.uint64)
        self._batch = api.llama_batch()
        numbers = ctypes.POINTER(ctypes.c_int32)
        self._batch.token = self._ids.ctypes.data_as(numbers)
        self._batch.pos = self._positions.ctypes.data_as(numbers)
        self._batch.n_seq_id = self._counts.ctypes.data_as(numbers)
        self._batch.seq_id = self._pointers.ctypes.data_as(ctypes.POINTER(numbers))
        self._batch.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(self, tokens: TokenBatch) -> Any:
        """Return the batch with *tokens* in it."""
        count = self._batch.n_tokens = len(tokens.ids)
        self._ids[:count], self._positions[:count] = tokens.ids, tokens.positions
        self._sequences[:count], self._wanted[:count] = tokens.sequences, tokens.wanted
        return self._batch


def _make_error(what: str) -> BenchError:
    """Return an error of *what* with llama.cpp's last error line."""
    words = next((line for line in reversed(_last_messages) if "error" in line.lower() or "fail" in line.lower()), "")
    return BenchError(f"{what}. {words}".strip(), "Try another `precision`, or a newer llama-cpp-python.")
