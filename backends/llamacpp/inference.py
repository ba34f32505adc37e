"""Score and generate in llama.cpp: sequences side by side in one batch of its low-level interface.

Only ids go in and logits come out, so that tokenization, choices and stop strings are those of every other backend.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Any

import llama_cpp as api
import numpy as np
import torch
from torch import Tensor

from bitnet_bench.backends.session import Row, RuntimeSession, in_budget
from bitnet_bench.errors import BenchError
from bitnet_bench.gguf.gate import compare_runtime
from bitnet_bench.gguf.layout import ACTIVATIONS
from bitnet_bench.gguf.reading import GgufFile
from bitnet_bench.records import Checkpoint, Precision, RuntimeParity
from bitnet_bench.ternary.loading import load_tokenizer

SEQUENCES = 64
"""The most sequences side by side."""
TOKENS_AT_ONCE = 2048
"""Of one call of `llama_decode`."""
_said: list[str] = []


@api.llama_log_callback
def _listen(level: int, text: bytes, data: Any) -> None:
    """Keep what llama.cpp says last, for an error message, and print nothing."""
    _said.append(text.decode("utf-8", "replace").strip())
    del _said[:-20]


def version() -> str:
    """Return the runtime's name with its version, which kept comparisons depend on."""
    return f"llama.cpp ({version_of('llama-cpp-python')} of llama-cpp-python)"


@contextmanager
def open_session(checkpoint: Checkpoint, file: GgufFile, precision: Precision) -> Iterator[LlamaCppSession]:
    """Load *file*; BenchError with llama.cpp's own words if it does not load."""
    tokenizer = load_tokenizer(checkpoint)
    session = LlamaCppSession(file, tokenizer, precision)
    try:
        yield session
    finally:
        session.close()


def compare(checkpoint: Checkpoint, file: GgufFile, precision: Precision) -> RuntimeParity:
    """Compare what llama.cpp computes from *file* with *checkpoint*."""
    loaded: list[LlamaCppSession] = [LlamaCppSession(file, load_tokenizer(checkpoint), precision)]

    def logits(prompts: Sequence[Sequence[int]]) -> Tensor:
        session = loaded.pop()  # the source needs the memory next
        try:
            return torch.cat([session.logits([ids], [(0, i) for i in range(len(ids))]) for ids in prompts])
        finally:
            session.close()

    computes = ACTIVATIONS["llama.cpp"].get(file.architecture)
    ids_of = Vocabulary(file)
    return compare_runtime(checkpoint, precision, version(), logits, ids_of, computes)


class Vocabulary:
    """llama.cpp's own tokenizer of a file, without its weights."""

    def __init__(self, file: GgufFile) -> None:
        self._model = _load(file, vocabulary_only=True)
        self._vocabulary = api.llama_model_get_vocab(self._model)

    def __call__(self, text: str) -> list[int]:
        """Return the ids of *text*, with the special tokens that the file says to add."""
        data = text.encode()
        room = (api.llama_token * (len(data) + 8))()
        count = api.llama_tokenize(self._vocabulary, data, len(data), room, len(room), True, True)
        return list(room[: max(count, 0)])


@dataclass
class Decoding:
    """Where rows are in decoding: their lengths in the cache, and the last greedy token of each [B]."""

    lengths: list[int]
    tokens: Tensor


class LlamaCppSession(RuntimeSession):
    """An opened file; see `bitnet_bench.ports.Session`."""

    def __init__(self, file: GgufFile, tokenizer: Any, precision: Precision) -> None:
        self._file = file
        self._model = _load(file)
        self._context: Any = None
        self._capacity = (0, 0)
        self._batch = api.llama_batch_init(TOKENS_AT_ONCE, 0, 1)
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        super().__init__(tokenizer, precision, int(api.llama_model_n_ctx_train(self._model)), self._vocabulary)

    def close(self) -> None:
        """Give all memory back."""
        if self._context is not None:
            api.llama_free(self._context)
        api.llama_batch_free(self._batch)
        api.llama_model_free(self._model)

    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows* into batches, longest first, within the budget and the sequences that fit side by side."""
        for batch in in_budget(sorted(rows, key=len, reverse=True), len, self.budget):
            yield from (batch[start : start + SEQUENCES] for start in range(0, len(batch), SEQUENCES))

    def logits(self, rows: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]) -> Tensor:
        """Read *rows* side by side and return logits [len(places), V] at (row, position)."""
        self._begin(sum(map(len, rows)), len(rows))
        wanted = set(places)
        tokens = [(token, p, r, (r, p) in wanted) for r, row in enumerate(rows) for p, token in enumerate(row)]
        found: dict[tuple[int, int], Tensor] = {}
        for start in range(0, len(tokens), TOKENS_AT_ONCE):
            part = tokens[start : start + TOKENS_AT_ONCE]
            keys = [(r, p) for _, p, r, asked in part if asked]
            found |= dict(zip(keys, self._decode(part), strict=True))
        return torch.stack([found[place] for place in places])

    def prefill(self, batch: Sequence[Sequence[int]]) -> Decoding:
        """Read prompts and choose the first new token of each."""
        lengths = [len(prompt) for prompt in batch]
        logits = self.logits(batch, [(r, length - 1) for r, length in enumerate(lengths)])
        return Decoding(lengths, logits.argmax(-1))

    def decode(self, state: Decoding, steps: int) -> Decoding:
        """Choose *steps* more tokens for every row, one after the other."""
        tokens, lengths = state.tokens, list(state.lengths)
        self._grow(sum(lengths) + steps * len(lengths), lengths)
        for step in range(steps):
            ids = tokens.tolist()
            tokens = self._decode([(t, n + step, r, True) for r, (t, n) in enumerate(zip(ids, lengths, strict=True))])
            tokens = tokens.argmax(-1)
        lengths = [length + steps for length in lengths]
        self._refuse_wrong_lengths(lengths)
        return Decoding(lengths, tokens)

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in the file, bytes of key-value cache per token and row, in F16)."""
        fields, name = self._file.fields, self._file.architecture
        values = fields[f"{name}.attention.head_count_kv"] * fields[f"{name}.attention.key_length"]
        return sum(self.weights_by_kind().values()), 2 * 2 * int(values) * int(fields[f"{name}.block_count"])

    def weights_by_kind(self) -> dict[str, int]:
        """Return the bytes of the weights by kind and type."""
        found: dict[str, int] = {}
        tensors = self._file.tensors
        for name, entry in tensors.items():
            kind = next((k for part, k in KINDS.items() if part in name), "norm")
            layer = name.removesuffix(".weight").removesuffix(".scale")
            key = f"{'ternary' if f'{layer}.scale' in tensors else kind} {entry.kind.name}"
            found[key] = found.get(key, 0) + entry.bytes
        return found

    def _grow(self, tokens: int, lengths: list[int]) -> None:
        """Refuse to decode beyond the room that was made: a new context would have forgotten the prompts."""
        if tokens > self._capacity[0]:
            raise BenchError(
                f"{tokens} tokens exceed the {self._capacity[0]} that llama.cpp was given room for.",
                "Lower --new-tokens.",
            )

    def _refuse_wrong_lengths(self, lengths: list[int]) -> None:
        memory = api.llama_get_memory(self._context)
        found = [api.llama_memory_seq_pos_max(memory, row) + 1 for row in range(len(lengths))]
        if found != lengths:
            raise BenchError(f"llama.cpp holds {found} tokens where {lengths} were read.", "Report it to llama.cpp.")

    def _begin(self, tokens: int, sequences: int) -> None:
        """Make an empty context with room for *tokens*, and as many again to decode, in *sequences*."""
        if tokens > self._capacity[0] // 2 or sequences > self._capacity[1]:
            self._capacity = (2 * max(tokens, self.budget), max(sequences, self._capacity[1]))
            if self._context is not None:
                api.llama_free(self._context)
            self._context = self._new_context()
        api.llama_memory_clear(api.llama_get_memory(self._context), False)

    def _new_context(self) -> Any:
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = self._capacity
        settings.n_batch = TOKENS_AT_ONCE
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.no_perf = True
        context = api.llama_init_from_model(self._model, settings)
        if context is None:
            raise _failed("llama.cpp makes no context", MemoryError)
        return context

    def _decode(self, tokens: Sequence[tuple[int, int, int, bool]]) -> Tensor:
        """Read (id, position, sequence, whether its logits are wanted) and return the wanted logits [N, V]."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        status = api.llama_decode(self._context, batch)
        if status:
            raise _failed(f"llama.cpp's decoding failed with status {status}", RuntimeError)
        rows = sum(wanted for *_, wanted in tokens)
        if not rows:
            return torch.empty(0, self._vocabulary)
        pointer = ctypes.cast(api.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return torch.from_numpy(np.ctypeslib.as_array(pointer, (rows, self._vocabulary)).copy())


KINDS = {
    "token_embd": "embedding",
    "output.": "head",
    "norm": "norm",
    "attn_": "linear",
    "ffn_": "linear",
}
"""Kinds of `Checkpoint.weight_bytes` by what a tensor's name holds."""


def _load(file: GgufFile, vocabulary_only: bool = False) -> Any:
    api.llama_log_set(_listen, ctypes.c_void_p(0))
    api.llama_backend_init()
    settings = api.llama_model_default_params()
    settings.vocab_only = vocabulary_only
    settings.n_gpu_layers = 0
    model = api.llama_model_load_from_file(str(file.path).encode(), settings)
    if model is None:
        raise _failed(f"llama.cpp does not load {file.path}", None)
    return model


def _failed(what: str, kind: type[Exception] | None) -> Exception:
    """Return *what* with llama.cpp's last words; of a *kind* that the session takes for too little memory, if any."""
    words = next((line for line in reversed(_said) if "error" in line.lower() or "fail" in line.lower()), "")
    if kind is MemoryError:
        return MemoryError(what)
    return BenchError(f"{what}. {words}".strip(), "Try another --precision, or a newer llama-cpp-python.")
