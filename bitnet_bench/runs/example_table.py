"""Hold the examples of a large file by column; a whole row is decoded only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from operator import lt
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from pydantic import ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.runs.records import Example

if TYPE_CHECKING:  # a small run is read without pyarrow
    import pyarrow as pa


class ExampleTable(Sequence[Example]):
    """The examples of a file: columns of their fields, and rows that are decoded from their lines."""

    def __init__(self, content: bytes, starts: np.ndarray, columns: pa.Table, name: str) -> None:
        self._content, self._starts, self._columns, self._name = content, starts, columns, name
        self._values: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        """Decode one example, or those of a slice."""
        if isinstance(at, slice):
            return [self._decode(i) for i in range(len(self))[at]]
        return self._decode(range(len(self))[at])

    def __iter__(self) -> Iterator[Example]:
        return map(self._decode, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_is_same, self, other))

    __hash__ = None  # type: ignore[assignment]

    def _decode(self, at: int) -> Example:
        try:
            return Example.model_validate_json(self._content[self._starts[at] : self._starts[at + 1]])
        except ValidationError as error:
            raise BenchError(
                f"Line {at + 1} of {self._name} cannot be read: {format_validation_error(error)}.", "Run it again."
            ) from error

    def get_column(self, name: str) -> pa.ChunkedArray:
        """Return a field of all examples."""
        return self._columns[name]

    def list_values(self, name: str) -> list[Any]:
        """Return a field of all examples as it is in an `Example`; it is kept for the next call."""
        if name not in self._values:
            values = self._columns[name].to_pylist()
            is_listed = any(isinstance(value, list) for value in values[:1])
            self._values[name] = list(map(tuple, values)) if is_listed else values
        return self._values[name]


def _is_same(one: Example, other: Any) -> bool:
    return bool(one == other)


def list_values(examples: Sequence[Example], name: str) -> list[Any]:
    """Return the field *name* of all *examples*, by column where they are a table."""
    if isinstance(examples, ExampleTable):
        return examples.list_values(name)
    return [getattr(example, name) for example in examples]


def have_equal_fields(ours: Sequence[Example], theirs: Sequence[Example], names: Sequence[str]) -> bool:
    """Return whether two tables have equal fields *names*, row by row; False if they are no tables."""
    if not (isinstance(ours, ExampleTable) and isinstance(theirs, ExampleTable)):
        return False
    return all(ours.get_column(name).equals(theirs.get_column(name)) for name in names)


def find_longest(examples: Sequence[Example], name: str) -> int:
    """Return the length of the longest list among the fields *name* of *examples*."""
    if isinstance(examples, ExampleTable):
        import pyarrow.compute as pc

        return int(pc.max(pc.list_value_length(examples.get_column(name))).as_py())
    return max(len(getattr(example, name)) for example in examples)


def sort_by_document(examples: Sequence[Example]) -> Sequence[Example]:
    """Return *examples* in the order of their documents; a table that has this order stays a table."""
    if isinstance(examples, ExampleTable):
        numbers = list_values(examples, "doc_id")
        if all(map(lt, numbers, islice(numbers, 1, None))):
            return examples
    return sorted(examples, key=lambda example: example.doc_id)
