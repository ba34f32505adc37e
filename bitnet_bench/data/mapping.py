"""Tokenize the rows of a table once, by all cores; the tokens of many are kept on disk for the next run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa

from bitnet_bench.data.arrow_files import TableWriter, digest_code, open_table, write_or_hold
from bitnet_bench.data.examples import LearnedSequence, LearnedTokens, tokenize_sequences
from bitnet_bench.data.many_processes import map_in_processes
from bitnet_bench.data.row_reading import report_rate
from bitnet_bench.data.rows import Row
from bitnet_bench.data.stored_rows import RowTable, StoredRows
from bitnet_bench.data.templates import hash_template
from bitnet_bench.data.text_encoding import TextEncoder
from bitnet_bench.data.token_table import TokenTable
from bitnet_bench.protocols import Progress, no_progress

ROWS_IN_PART = 1 << 17
"""Rows whose tokens are kept in a file of their own, so that a run that was killed goes on behind the last of these."""
Batch = tuple[int, int]
"""First row of some that are tokenized at once, and the row after the last."""
WIDEST_SHORT_ID = 0xFFFF
"""Largest id that is kept in two bytes."""


@dataclass(frozen=True)
class Encoding:
    """What decides the tokens of a row, except the maximum length, which is applied later."""

    tokenizer: Any
    template: str
    learned: LearnedTokens
    pairs: bool = False
    """True if a row is two sequences, with its chosen and with its rejected answer."""

    @cached_property
    def digest(self) -> str:
        """Return a digest of all of this, with the contents of a template's file."""
        found = hashlib.sha256()
        tokenizer = self.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        own = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
        about = (type(tokenizer).__name__, tokenizer.chat_template, tokenizer.special_tokens_map)
        for part in (*about, self.learned, self.pairs, self.template, hash_template(self.template)):
            found.update(repr(part).encode() + b"\0")
        found.update(own.encode())
        return found.hexdigest()


def tokenize_stored(rows: StoredRows, encoding: Encoding, progress: Progress = no_progress) -> TokenTable:
    """Return the tokens of *rows*; those of a table that was tokenized before are read again."""
    found = TokenTable.join([_tokenize_table(table, encoding, progress) for table in rows.tables])
    return found.select_rows(rows.places)


def _tokenize_table(rows: RowTable, encoding: Encoding, progress: Progress) -> TokenTable:
    name = f"tokens-{compute_fingerprint(rows, encoding)}"
    parts = _cut_parts(rows.list_batches(), len(rows))
    write = partial(_complete_parts, rows, encoding, parts, name, progress)
    tables: list[pa.Table] = write_or_hold(write, f"Tokens of {len(rows)} rows")
    return TokenTable.of_arrow(pa.concat_tables(tables), len(rows))


def _cut_parts(batches: Sequence[Batch], rows: int) -> list[list[Batch]]:
    """Return *batches* in parts of about equal numbers of them, and of ROWS_IN_PART rows or more."""
    count = min(max(1, rows // ROWS_IN_PART), max(1, len(batches)))
    return [[batches[int(at)] for at in some] for some in np.array_split(np.arange(len(batches)), count)]


def _complete_parts(
    rows: RowTable, encoding: Encoding, parts: Sequence[Sequence[Batch]], name: str, progress: Progress, keeps: bool
) -> list[pa.Table]:
    """Return the tokens of each of *parts*, from its file where an earlier run has finished it, else tokenized now."""
    names = [f"{name}-{part[0][0]}-{part[-1][1]}" if part else name for part in parts]
    tables = [None if kept is None else kept[0] for kept in map(open_table, names)]
    lacking = [at for at, table in enumerate(tables) if table is None]
    if not lacking:
        return tables
    schema = _find_schema(encoding.tokenizer)
    encoder = TextEncoder(encoding.tokenizer)
    report = report_rate(progress, "rows tokenized")

    def tokenize_some(batch: Batch) -> pa.RecordBatch:
        return _pack_sequences(batch[0], _tokenize_rows(rows.read_rows(*batch), encoder, encoding), schema)

    tokenized, before = 0, len(rows) - sum(stop - start for at in lacking for start, stop in parts[at])
    with closing(map_in_processes(tokenize_some, [batch for at in lacking for batch in parts[at]])) as batches:
        for at in lacking:
            with TableWriter(schema, keeps) as writer:
                for start, stop in parts[at]:
                    writer.add(next(batches), stop - start)
                    tokenized += stop - start
                    report(tokenized, before + tokenized, len(rows))
                tables[at] = writer.finish(names[at], {})
    return tables


def _tokenize_rows(rows: Sequence[Row], encoder: TextEncoder, encoding: Encoding) -> list[list[LearnedSequence]]:
    if not encoding.pairs:
        return tokenize_sequences(rows, encoder, encoding.template, encoding.learned)
    sides = [side for row in rows for side in (row, row.with_rejected())]
    sequences = [one for (one,) in tokenize_sequences(sides, encoder, encoding.template, encoding.learned)]
    return [sequences[i : i + 2] for i in range(0, len(sequences), 2)]


def _find_schema(tokenizer: Any) -> pa.Schema:
    """Return the columns of a table of tokens: a sequence has the number of its row, ids and spans that are learned."""
    widest = max(len(tokenizer) - 1, *tokenizer.all_special_ids, *tokenizer.added_tokens_decoder)
    ids = pa.uint16() if widest <= WIDEST_SHORT_ID else pa.int32()
    return pa.schema({"row": pa.int64(), "ids": pa.list_(ids), "spans": pa.list_(pa.int32())})


def _pack_sequences(start: int, of_rows: Sequence[Sequence[LearnedSequence]], schema: pa.Schema) -> pa.RecordBatch:
    """Return the sequences of rows, the first of which has the number *start*."""
    flat = [one for of_row in of_rows for one in of_row]
    numbers = np.repeat(np.arange(start, start + len(of_rows)), [len(of_row) for of_row in of_rows])
    ids = np.concatenate([one.ids for one in flat]) if flat else np.empty(0, np.int32)
    spans = np.array([place for one in flat for place in one.spans], np.int32)
    narrow = schema.field("ids").type.value_type.to_pandas_dtype()
    assert not len(ids) or ids.max() <= np.iinfo(narrow).max, "no id is wider than the vocabulary"
    columns = [
        pa.array(numbers),
        _make_lists([len(one.ids) for one in flat], ids.astype(narrow)),
        _make_lists([len(one.spans) for one in flat], spans),
    ]
    return pa.record_batch(columns, schema=schema)


def _make_lists(lengths: Sequence[int], values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int32), pa.array(values))


def compute_fingerprint(rows: RowTable, encoding: Encoding) -> str:
    """Return a digest of all that decides the tokens of *rows* before they are cut to a length."""
    return hashlib.sha256(f"{digest_code()} {rows.digest} {encoding.digest}".encode()).hexdigest()
