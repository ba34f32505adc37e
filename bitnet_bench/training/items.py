"""The items of a trainer, made from examples when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from bitnet_bench.data.collating import BatchItem
from bitnet_bench.data.token_table import Examples, as_examples


class Items(Sequence[BatchItem]):
    """Sequence of items of *size* examples each, whose `lengths` are known without making them."""

    def __init__(self, examples: Examples, size: int = 1, reference: np.ndarray | None = None) -> None:
        self.examples, self._size, self._reference = examples, size, reference
        self.lengths: np.ndarray = examples.lengths.reshape(-1, size).max(axis=1)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> BatchItem: ...
    @overload
    def __getitem__(self, at: slice) -> list[BatchItem]: ...
    def __getitem__(self, at: int | slice) -> BatchItem | list[BatchItem]:
        """Return one item, or those of a slice."""
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        first = range(len(self))[at] * self._size
        some = slice(first, first + self._size)
        reference = () if self._reference is None else self._reference[some].tolist()
        return BatchItem(tuple(self.examples[some]), reference)


def measure_items(items: Sequence[BatchItem]) -> np.ndarray:
    """Return the number of tokens of each item."""
    return items.lengths if isinstance(items, Items) else np.array([len(item) for item in items], np.int64)


def list_examples(items: Sequence[BatchItem]) -> Examples:
    """Return the examples of all items, one after another."""
    if isinstance(items, Items):
        return items.examples
    return as_examples([example for item in items for example in item.examples])
