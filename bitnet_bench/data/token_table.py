"""The tokens of many rows in Arrow tables, and sequences that make an example of them when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import pyarrow as pa

from bitnet_bench.data.examples import TrainingExample, label_spans


class _Lists:
    """A column of lists of integers, of which a list is a slice of what the file maps."""

    def __init__(self, chunks: Sequence[pa.ListArray]) -> None:
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy() for chunk in chunks]
        self._starts = np.cumsum([0, *map(len, chunks)])
        lengths = [np.diff(offsets) for offsets in self._offsets]
        self.lengths: np.ndarray = np.concatenate(lengths) if lengths else np.empty(0, np.int32)

    def __getitem__(self, at: int) -> np.ndarray:
        chunk = int(np.searchsorted(self._starts, at, side="right")) - 1
        offsets = self._offsets[chunk]
        within = at - self._starts[chunk]
        found: np.ndarray = self._values[chunk][offsets[within] : offsets[within + 1]]
        return found

    def flatten(self) -> np.ndarray:
        """Return all values, one list after another."""
        return np.concatenate([v[o[0] : o[-1]] for v, o in zip(self._values, self._offsets, strict=True)] or [[]])


class TokenTable:
    """Sequences of tokens by number, and which of them are of which row."""

    def __init__(
        self, ids: Sequence[pa.ListArray], spans: Sequence[pa.ListArray], counts: np.ndarray, rows: np.ndarray
    ) -> None:
        self._chunks = ids, spans, counts
        self.ids, self.spans = _Lists(ids), _Lists(spans)
        firsts = _count_before(counts)
        self.counts: np.ndarray = counts[rows]
        """How many sequences each row has."""
        self.numbers = np.repeat(firsts[rows] - _count_before(self.counts), self.counts) + np.arange(self.counts.sum())
        """The numbers of the sequences of all rows, row after row."""

    @classmethod
    def of_arrow(cls, table: pa.Table, rows: int) -> TokenTable:
        """Return the tokens that `bitnet_bench.data.mapping` wrote for *rows* rows."""
        counts = np.bincount(table["row"].to_numpy(), minlength=rows).astype(np.int64)
        return cls(table["ids"].chunks, table["spans"].chunks, counts, np.arange(rows))

    @classmethod
    def join(cls, tables: Sequence[TokenTable]) -> TokenTable:
        """Return the rows of *tables*, one table after another."""
        ids, spans, counts = zip(*(table._chunks for table in tables), strict=True)
        together = np.concatenate(counts)
        return cls([*chain(*ids)], [*chain(*spans)], together, np.arange(len(together)))

    def select_rows(self, rows: np.ndarray) -> TokenTable:
        """Return only *rows*, in that order."""
        return TokenTable(*self._chunks, rows)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each of `numbers`."""
        found: np.ndarray = self.ids.lengths[self.numbers]
        return found

    def measure(self, place: int) -> int:
        """Return the number of tokens of one of `numbers`."""
        return int(self.ids.lengths[self.numbers[place]])

    def find_learned(self, max_length: int) -> np.ndarray:
        """Return which of `numbers` have a token to learn within *max_length*, the very first one left out."""
        flat = self.spans.flatten().reshape(-1, 2)
        has = np.maximum(flat[:, 0], 1) < np.minimum(flat[:, 1], max_length)
        owners = np.repeat(np.arange(len(self.spans.lengths)), self.spans.lengths // 2)
        found: np.ndarray = np.bincount(owners, has, len(self.spans.lengths))[self.numbers] > 0
        return found


def _count_before(counts: np.ndarray) -> np.ndarray:
    """Return the sum of the *counts* before each of them."""
    found: np.ndarray = np.cumsum(counts) - counts
    return found


class Examples(Sequence[TrainingExample]):
    """Sequence of examples that are made when they are asked for; `lengths` are known without."""

    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> TrainingExample: ...
    @overload
    def __getitem__(self, at: slice) -> list[TrainingExample]: ...
    def __getitem__(self, at: int | slice) -> TrainingExample | list[TrainingExample]:
        """Return one example, or those of a slice."""
        if isinstance(at, slice):
            return [self.make(i) for i in range(len(self))[at]]
        return self.make(range(len(self))[at])

    def __iter__(self) -> Iterator[TrainingExample]:
        return map(self.make, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_is_same, self, other))

    __hash__ = None  # type: ignore[assignment]

    def make(self, at: int) -> TrainingExample:
        """Return the example at the place *at*."""
        raise NotImplementedError


def _is_same(one: TrainingExample, other: Any) -> bool:
    return bool(one == other)


class CutExamples(Examples):
    """The sequences *numbers* of a table, each cut to *max_length*."""

    def __init__(self, table: TokenTable, numbers: np.ndarray, max_length: int) -> None:
        self._table, self._numbers, self._max_length = table, numbers, max_length
        self.lengths = np.minimum(table.ids.lengths[numbers], max_length)

    def make(self, at: int) -> TrainingExample:
        """Return the example at the place *at*."""
        number = int(self._numbers[at])
        ids = self._table.ids[number].tolist()
        labels = label_spans(ids, self._table.spans[number].tolist())
        return TrainingExample(ids[: self._max_length], labels[: self._max_length])

    def gather(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the ids of the examples from *start* to *stop*, one after another, which are learned, and lengths."""
        numbers, lengths = self._numbers[start:stop].tolist(), self.lengths[start:stop]
        ids = np.concatenate([self._table.ids[number][: self._max_length] for number in numbers])
        is_learned = np.zeros(len(ids), bool)
        begin = 0
        for number, length in zip(numbers, lengths.tolist(), strict=True):
            spans = self._table.spans[number].tolist()
            for first, last in zip(spans[::2], spans[1::2], strict=True):
                is_learned[begin + first : begin + min(last, length)] = True
            begin += length
        return ids, is_learned, lengths


class JoinedExamples(Examples):
    """All sequences of a table, joined end to end and cut to *length*, every token of which is learned.

    A last piece of one token has nothing to predict and is left out.
    """

    def __init__(self, table: TokenTable, length: int) -> None:
        self._table, self._length = table, length
        self._ends = np.cumsum(table.lengths)
        total = int(self._ends[-1]) if len(self._ends) else 0
        whole, rest = divmod(total, length)
        self.lengths = np.append(np.full(whole, length), [rest] if rest > 1 else []).astype(np.int64)

    def make(self, at: int) -> TrainingExample:
        """Return the example at the place *at*."""
        ids: list[int] = self.gather(at, at + 1)[0].tolist()
        return TrainingExample(ids, ids)

    def gather(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the ids of the examples from *start* to *stop*, one after another, which are learned, and lengths."""
        lengths = self.lengths[start:stop]
        first, last = start * self._length, start * self._length + int(lengths.sum())
        member, end = np.searchsorted(self._ends, [first, last - 1], side="right").tolist()
        members = range(member, end + 1)
        ids = np.concatenate([self._table.ids[int(self._table.numbers[member])] for member in members])
        before = first - (int(self._ends[members[0]]) - self._table.measure(members[0]))
        ids = ids[before : before + last - first]
        return ids, np.ones(len(ids), bool), lengths


class HeldExamples(Examples):
    """Examples that are all in memory."""

    def __init__(self, examples: Sequence[TrainingExample]) -> None:
        self._examples = examples
        self.lengths = np.array([len(example.input_ids) for example in examples], np.int64)

    def make(self, at: int) -> TrainingExample:
        """Return the example at the place *at*."""
        return self._examples[at]


def as_examples(examples: Sequence[TrainingExample]) -> Examples:
    """Return *examples* with their lengths."""
    return examples if isinstance(examples, Examples) else HeldExamples(examples)
