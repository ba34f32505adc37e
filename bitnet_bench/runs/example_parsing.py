"""Parse a large file of examples by column, where its bytes are known to be those that were written."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from bitnet_bench.runs.example_table import ExampleTable

BLOCK_BYTES = 1 << 20
"""Bytes that are parsed at once, unless a line has more."""
_TEXTS = pa.list_(pa.string())
WRITTEN = {
    "task": pa.string(),
    "doc_id": pa.int64(),
    "prompt": pa.string(),
    "choices": _TEXTS,
    "loglikelihoods": pa.list_(pa.float64()),
    "target": pa.string(),
    "references": _TEXTS,
    "output": pa.string(),
    "target_labels": _TEXTS,
    "output_labels": _TEXTS,
    "malformed": pa.bool_(),
    "correct": pa.float64(),
}
"""Fields that every line holds, and their types."""
NULLABLE = {
    "target_choice": pa.int64(),
    "output_choice": pa.int64(),
    "target_value": pa.float64(),
    "output_value": pa.float64(),
}
LEFT_OUT = {"cut": pa.bool_(), "thought": pa.string(), "unfinished": pa.bool_()}
"""Fields that a line lacks if they have their default."""
_NULL_ROW = re.compile(rb"\}[ \t\r]*null")
"""A null after an object; within a text it is none, and that file is then read line by line."""
GROUPS = "groups"
"""Field whose names differ from task to task, so that its type is inferred."""
SCHEMA = pa.schema({**WRITTEN, **NULLABLE, **LEFT_OUT})


def parse_examples(content: bytes, name: str) -> ExampleTable | None:
    """Return the examples of a samples file by column, or None if only a reading line by line can judge them.

    *content* must be what `save_samples` wrote. Fields of another type, missing or unknown fields, numbers that are not
    finite, several answers to a row and open tasks are left to that reading. *name* is the file's in messages.
    """
    starts = _find_line_starts(content)
    if starts is None:
        return None
    try:
        columns = pyarrow.json.read_json(
            pa.BufferReader(content),
            pyarrow.json.ReadOptions(block_size=max(BLOCK_BYTES, 2 * int(np.diff(starts).max()))),
            pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="infer"),
        )
        columns.validate(full=True)  # finds text that is not UTF-8
    except (pa.ArrowException, UnicodeDecodeError):  # the second for the name of a field
        return None
    if columns.num_rows != len(starts) - 1 or not (_has_known_fields(columns.schema) and _has_valid_values(columns)):
        return None
    return ExampleTable(content, starts, columns, name)


def _find_line_starts(content: bytes) -> np.ndarray | None:
    """Return where each line starts, and the end of the last; None unless each line has an end and begins an object.

    None too for what may be a null beside an object, which Arrow's reader dies of: no exception, a segmentation fault.
    """
    found = np.frombuffer(content, np.uint8)
    starts = np.append(0, np.flatnonzero(found == ord("\n")) + 1)
    is_whole = len(starts) > 1 and starts[-1] == len(content) and bool((found[starts[:-1]] == ord("{")).all())
    return starts if is_whole and not _NULL_ROW.search(content) else None


def _has_known_fields(schema: pa.Schema) -> bool:
    """Return whether the fields beside those of `SCHEMA` are the groups of the rows."""
    others = [field for field in schema if field.name not in SCHEMA.names]
    return all(
        field.name == GROUPS
        and pa.types.is_struct(field.type)
        and all(pa.types.is_string(one.type) for one in field.type.fields)
        for field in others
    )


def _has_valid_values(columns: pa.Table) -> bool:
    """Return whether nothing is missing that every line holds, and all numbers are finite."""
    inner = [pc.list_flatten(columns[name]) for name, kind in WRITTEN.items() if pa.types.is_list(kind)]
    if any(column.null_count for column in (*(columns[name] for name in WRITTEN), *inner)):
        return False
    listed = (*inner, *(columns[name] for name in SCHEMA.names))
    numbers = [column for column in listed if pa.types.is_floating(column.type)]
    return all(pc.all(pc.is_finite(column), min_count=0).as_py() for column in numbers)
