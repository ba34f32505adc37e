"""Convert rows to training sequences of a limited length, and say which rows that drops or cuts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from bitnet_bench.data.arrow_files import MIN_CACHED_ROWS, digest_code, recall
from bitnet_bench.data.example_digest import digest_examples
from bitnet_bench.data.examples import IGNORED_LABEL as IGNORED_LABEL
from bitnet_bench.data.examples import LearnedTokens as LearnedTokens
from bitnet_bench.data.examples import TrainingExample as TrainingExample
from bitnet_bench.data.examples import tokenize as tokenize
from bitnet_bench.data.mapping import Encoding, compute_fingerprint, tokenize_stored
from bitnet_bench.data.row_text import REJECTED, TEXT_ONLY, UNLEARNED
from bitnet_bench.data.rows import Row
from bitnet_bench.data.stored_rows import StoredRows, store_rows
from bitnet_bench.data.text_encoding import begins_with_bos as begins_with_bos
from bitnet_bench.data.token_table import CutExamples, JoinedExamples, TokenTable, as_examples
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import Progress, no_progress


@dataclass(frozen=True)
class EncodedRows:
    """Training sequences, and which rows were dropped or truncated."""

    examples: Sequence[TrainingExample]
    """Training sequences; for preference pairs, the chosen and the rejected sequence of each, one after the other."""
    rows: int
    lost: tuple[int, ...]
    """Indices of the rows whose response was cut off entirely by max_length."""
    truncated: int
    """Number of rows that lost some tokens and were kept."""
    key: str = ""
    """Digest of all that decides the examples, by which the digest of many is remembered; "" for few."""

    @property
    def dropped(self) -> int:
        """Return how many rows are not among the examples."""
        return len(self.lost)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each example."""
        return as_examples(self.examples).lengths

    @cached_property
    def sha256(self) -> str:
        """Sha256 over ids and labels in order: two runs with the same digest used the same data."""
        return recall(f"digest-{self.key}", bool(self.key), partial(digest_examples, self.examples))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedRows) and self._compared() == other._compared()

    __hash__ = None  # type: ignore[assignment]

    def _compared(self) -> tuple[Any, ...]:
        return self.rows, self.lost, self.truncated, self.examples


def tokenize_rows(
    rows: Iterable[Row],
    tokenizer: Any,
    template: str,
    max_length: int,
    pretrain: bool,
    progress: Progress = no_progress,
) -> EncodedRows:
    """Tokenize *rows*: sequences of each row for SFT; for pretraining, documents joined and cut into max_length pieces.

    BenchError if no row has a response, or if a row for pretraining has a response that must not be learned.
    """
    stored = store_rows(rows)
    if not pretrain and bool(np.all(stored.kinds & TEXT_ONLY)):
        raise BenchError("These rows are running text, with no prompt and response.", "Use `method=pretrain` for them.")
    encoding = Encoding(tokenizer, template, "everything" if pretrain else "responses")
    tokens = tokenize_stored(stored, encoding, progress)
    key = _find_key(stored, encoding, max_length)
    if pretrain:
        _check_all_learned(stored)
        return EncodedRows(JoinedExamples(tokens, max_length), len(stored), (), 0, key)
    is_learned = tokens.find_learned(max_length)
    owners = np.repeat(np.arange(len(stored)), tokens.counts)
    learned_of_row = np.bincount(owners, is_learned, len(stored))
    is_cut = np.bincount(owners, tokens.lengths > max_length, len(stored)) > 0
    is_lost = learned_of_row == 0
    if is_lost.all():
        raise _explain_nothing_learned(f"the {len(stored)} rows has a response token", tokens, max_length)
    truncated = int(np.sum(~is_lost & (is_cut | (learned_of_row < tokens.counts))))
    examples = CutExamples(tokens, tokens.numbers[is_learned], max_length)
    return EncodedRows(examples, len(stored), tuple(np.flatnonzero(is_lost).tolist()), truncated, key)


def _explain_nothing_learned(what: str, tokens: TokenTable, max_length: int) -> BenchError:
    """Return the error of rows that leave nothing to learn, because they are too long or because of their template."""
    if tokens.find_learned(int(tokens.lengths.max()) + 1).any():
        return BenchError(f"None of {what} within {max_length} tokens.", "Raise `max_length`, or shorten the prompts.")
    return BenchError(
        f"None of {what}: the chat template does not render the answers.",
        "Choose another `template`, or correct it; `bitnet-bench data check` says what it leaves out.",
    )


def _check_all_learned(rows: StoredRows) -> None:
    """Raise BenchError for a row with a response that must not be learned: pretraining learns every token of a row."""
    marked = np.flatnonzero(rows.kinds & UNLEARNED)
    if len(marked):
        raise BenchError(
            f"Row {marked[0] + 1} has a response of the weight 0, and pretraining learns every token of a row.",
            "Remove the response, or use `method=sft`.",
        )


def tokenize_pairs(
    rows: Iterable[Row], tokenizer: Any, template: str, max_length: int, progress: Progress = no_progress
) -> EncodedRows:
    """Tokenize preference pairs (DPO): two sequences per row, the loss on their last response only.

    A pair is dropped when *max_length* leaves no token of one of its answers, or none in which they differ.
    """
    stored = store_rows(rows)
    lacking = np.flatnonzero(~(stored.kinds & REJECTED).astype(bool))
    if len(lacking):
        raise BenchError(
            f"Row {lacking[0] + 1} has no rejected answer, and `method=dpo` learns from pairs.",
            'Rows look like {"prompt", "chosen", "rejected"}.',
        )
    encoding = Encoding(tokenizer, template, "last response", pairs=True)
    tokens = tokenize_stored(stored, encoding, progress)
    both = np.asarray(tokens.find_learned(max_length).reshape(-1, 2).all(axis=1))
    whole = CutExamples(tokens, tokens.numbers, max_length)
    for i in np.flatnonzero(both).tolist():
        both[i] = whole[2 * i] != whole[2 * i + 1]
    if not both.any():
        raise _explain_nothing_learned(f"the {len(stored)} pairs differs", tokens, max_length)
    truncated = int(np.sum(both & (tokens.lengths > max_length).reshape(-1, 2).any(axis=1)))
    examples = CutExamples(tokens, tokens.numbers[np.repeat(both, 2)], max_length)
    lost = tuple(np.flatnonzero(~both).tolist())
    return EncodedRows(examples, len(stored), lost, truncated, _find_key(stored, encoding, max_length))


def _find_key(rows: StoredRows, encoding: Encoding, max_length: int) -> str:
    """Return the digest of all that decides the examples of many rows; "" for few."""
    if len(rows) < MIN_CACHED_ROWS:
        return ""
    about = [compute_fingerprint(table, encoding) for table in rows.tables]
    return hashlib.sha256(repr((about, max_length, digest_code())).encode() + rows.places.tobytes()).hexdigest()
