"""A session on any build of libllama, with several sequences in one batch of its low-level interface.

Only ids go in and logits come out, so tokenization, choices and stop strings are the same as in every other backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bitnet_bench.backends.batched_session import (
    BatchedSession,
    Ids,
    Prompt,
    Row,
    Tree,
    TreePosition,
    Writing,
    split_by_budget,
)
from bitnet_bench.backends.libllama.token_batch import TOKENS_AT_ONCE, Logits, TokenBatch
from bitnet_bench.backends.runtime_parity import compare_runtime, describe_file, find_or_compare
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.types import TERNARY_TENSOR_TYPES
from bitnet_bench.checkpoints.loading import find_end_ids, load_tokenizer
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import Completion
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint, RuntimeParity

SEQUENCES = 64
"""Most sequences of a batch."""
KINDS = {
    "token_embd": "embedding",
    "output.": "head",
    "norm": "norm",
    "attn_": "linear",
    "ffn_": "linear",
}
"""Kinds of `Checkpoint.weight_bytes` by a part of a tensor's name."""


class Library(Protocol):
    """A build of libllama that has loaded a file, or the vocabulary of one."""

    vocabulary: int
    trained_context: int

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of *text*, with the special tokens that the file specifies."""

    def make_room(self, tokens: int, sequences: int) -> None:
        """Make an empty context for *tokens* in all of *sequences*; raise MemoryError if there is no memory for it."""

    def forget(self) -> None:
        """Empty the context."""

    def read(self, tokens: TokenBatch) -> None:
        """Read at most `TOKENS_AT_ONCE` tokens; raise BenchError with the library's own message if that fails."""

    def logits(self, rows: int) -> Logits:
        """Return the logits [rows, V] of the tokens that are `wanted`, valid until the next `read`."""

    def count_held_tokens(self, sequence: int) -> int:
        """Return how many tokens of *sequence* the context holds."""

    def close(self) -> None:
        """Free all memory."""


Load = Callable[[bool], Library]
"""Function that loads a file, or only its vocabulary if the argument is true."""


@contextmanager
def open_session(
    checkpoint: Checkpoint, file: GgufFile, precision: Precision, load: Load, runtime: str
) -> Iterator[LlamaSession]:
    """Yield a session on *file*, and free its memory afterwards; *runtime* names the build and its version."""
    tokenizer = load_tokenizer(checkpoint)
    with closing(LlamaSession(load(False), file, tokenizer, precision)) as session:
        session.ends = find_end_ids(checkpoint, tokenizer)
        session.arithmetic = f"{runtime}, {describe_file(file)}"  # others share no answers with it
        session.runtime = runtime
        yield session


def compare_cached(
    checkpoint: Checkpoint, file: GgufFile, precision: Precision, version: str, load: Load
) -> RuntimeParity:
    """Return `compare_with_checkpoint`, cached for this file and *version* of the runtime."""
    return find_or_compare(
        checkpoint, file, version, lambda: compare_with_checkpoint(checkpoint, file, precision, version, load)
    )


def compare_with_checkpoint(
    checkpoint: Checkpoint,
    file: GgufFile,
    precision: Precision,
    runtime: str,
    load: Load,
) -> RuntimeParity:
    """Compare what a build of libllama computes from *file* with *checkpoint*; see `compare_runtime`."""

    def logits(prompts: Sequence[Sequence[int]]) -> Tensor:
        with open_session(checkpoint, file, precision, load, runtime) as session:
            # side by side, as scoring reads them
            return session.logits(prompts, [(row, i) for row, ids in enumerate(prompts) for i in range(len(ids))])

    with closing(load(True)) as vocabulary:
        return compare_runtime(checkpoint, precision, runtime, logits, vocabulary.tokenize)


@dataclass
class DecodingState:
    """State of decoding: the lengths of rows in the cache, and the last token of each [B]."""

    lengths: list[int]
    tokens: Tensor


class LlamaSession(BatchedSession, adds=("close", "logits")):
    """A session on a GGUF file; see `bitnet_bench.protocols.Session`.

    Whole rows are read, and `hidden` returns the logits of the library's own head.
    """

    shares_contexts = False
    runtime: str | None = None
    """Name and version of the build, and the layers on a GPU."""

    def __init__(self, library: Library, file: GgufFile, tokenizer: Any, precision: Precision) -> None:
        self.library, self._file = library, file
        self._room = (0, 0)
        super().__init__(tokenizer, precision, library.trained_context, library.vocabulary)

    def close(self) -> None:
        """Free all memory."""
        self.library.close()

    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows* into batches, longest first, within the budget and `SEQUENCES`."""
        for batch in split_by_budget(sorted(rows, key=len, reverse=True), len, self.budget):
            yield from (batch[start : start + SEQUENCES] for start in range(0, len(batch), SEQUENCES))

    def read_prefix(self, prefix: Ids) -> None:
        """Do nothing: contexts are not shared."""

    def hidden(self, batch: list[Tree], places: list[TreePosition]) -> Tensor:
        """Return logits [len(places), V], which `head` leaves as they are."""
        rows = [(*tree.context, *chain(*tree.branches)) for tree in batch]
        return self.logits(rows, [(t, len(batch[t].context) + offset) for t, _, offset in places])

    def head(self, hidden: Tensor) -> Tensor:
        """Return *hidden*: the library has already applied the head."""
        return hidden

    def logits(self, rows: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]) -> Tensor:
        """Read *rows* in one context and return logits [len(places), V] at (row, position)."""
        lengths = [len(row) for row in rows]
        self._begin(sum(lengths), len(rows))
        starts = np.cumsum([0, *lengths])
        at = np.array([starts[row] + position for row, position in places])
        wanted = np.zeros(starts[-1], np.int8)
        wanted[at] = 1
        ids = np.concatenate([np.asarray(row, np.int32) for row in rows])
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        sequences = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
        found = []
        for start in range(0, len(ids), TOKENS_AT_ONCE):
            part = slice(start, start + TOKENS_AT_ONCE)
            self.library.read(TokenBatch(ids[part], positions[part], sequences[part], wanted[part]))
            if count := int(wanted[part].sum()):
                found.append(self.library.logits(count).copy())
        return torch.from_numpy(np.concatenate(found)[np.cumsum(wanted)[at] - 1])

    def _write_texts(self, batch: Sequence[Prompt], writing: Writing) -> list[Completion]:
        """Continue *batch* in a context with room for all answers."""
        self._to_write = sum(row.limit for row in batch)
        try:
            return super()._write_texts(batch, writing)
        finally:
            self._to_write = 0

    def prefill(self, batch: Sequence[Sequence[int]]) -> DecodingState:
        """Read prompts and choose the first new token of each."""
        lengths = [len(prompt) for prompt in batch]
        logits = self.logits(batch, [(r, length - 1) for r, length in enumerate(lengths)])
        return DecodingState(lengths, self._choose(logits))

    def decode(self, state: DecodingState, steps: int) -> DecodingState:
        """Choose *steps* more tokens for every row, one after the other."""
        rows = len(state.lengths)
        self._check_room(sum(state.lengths) + steps * rows)
        sequences, wanted = np.arange(rows, dtype=np.int32), np.ones(rows, np.int8)
        ids = state.tokens
        positions = np.array(state.lengths, np.int32)
        for _ in range(steps):
            read = ids.clamp(min=0).numpy().astype(np.int32)
            self.library.read(TokenBatch(read, positions, sequences, wanted))
            ids = self._choose(torch.from_numpy(np.asarray(self.library.logits(rows))))
            positions += 1
        lengths = positions.tolist()
        self._check_lengths(lengths)
        return DecodingState(lengths, ids)

    def describe_runtime(self) -> str | None:
        """Return the name and version of the build."""
        return self.runtime

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in the file, bytes of key-value cache per token and row, in F16)."""
        fields, name = self._file.fields, self._file.architecture
        heads = fields[f"{name}.attention.head_count"]
        width = fields.get(f"{name}.attention.key_length", fields[f"{name}.embedding_length"] // heads)
        values = fields.get(f"{name}.attention.head_count_kv", heads) * width
        return sum(self.weights_by_kind().values()), 2 * 2 * int(values) * int(fields[f"{name}.block_count"])

    def weights_by_kind(self) -> dict[str, int]:
        """Return the bytes of the weights by kind and type."""
        found: dict[str, int] = {}
        tensors = self._file.tensors
        for name, entry in tensors.items():
            layer = name.removesuffix(".weight").removesuffix(".scale")
            ternary = entry.kind in TERNARY_TENSOR_TYPES or f"{layer}.scale" in tensors
            kind = "ternary" if ternary else next((k for part, k in KINDS.items() if part in name), "norm")
            key = f"{kind} {entry.kind.name}"
            found[key] = found.get(key, 0) + entry.bytes
        return found

    def _begin(self, tokens: int, sequences: int) -> None:
        """Make room for *tokens* in *sequences*, and at least as many again for decoding; forget what was read."""
        needed = tokens + max(tokens, self._to_write)
        if needed > self._room[0] or sequences > self._room[1]:
            self._room = (max(needed, 2 * self.budget), max(sequences, self._room[1]))
            self.library.make_room(*self._room)
        self.library.forget()

    def _check_room(self, tokens: int) -> None:
        """Raise BenchError if *tokens* exceed the context: a new one would not hold the prompts."""
        if tokens > self._room[0]:
            raise BenchError(
                f"{tokens} tokens exceed the {self._room[0]} that the runtime was given room for.",
                "Lower `new_tokens`.",
            )

    def _check_lengths(self, lengths: list[int]) -> None:
        found = [self.library.count_held_tokens(row) for row in range(len(lengths))]
        if found != lengths:
            raise BenchError(f"The runtime holds {found} tokens where {lengths} were read.", "Its build is broken.")
