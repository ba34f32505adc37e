"""Read the rows of a Parquet file as JSON, a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 1 << 22


def read_parquet_rows(path: Path, take: Callable[[bytes], object] | None = None) -> Iterator[tuple[int, str]]:
    """Yield (number of the row from 1, the row as JSON); *take* gets the bytes of the file in order, before the rows.

    Bytes, as of an image, become null, because no text is in them; dates and decimals become texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if take is not None:
        with path.open("rb") as stream:
            while data := stream.read(BYTES_AT_ONCE):
                take(data)
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield number, json.dumps(row, ensure_ascii=False, default=_to_plain)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, and not of what is in the file
            raise
        reason = (str(error).splitlines() or ["it is empty"])[0].rstrip(".")
        raise BenchError(f"{path} is no Parquet file that can be read: {reason}.", "Get or write it again.") from error


def _to_plain(value: Any) -> Any:
    """Return a value that JSON has no form for as a text; None for bytes."""
    if isinstance(value, bytes):
        return None
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise ValueError(f"a field holds a value of type {type(value).__name__}")
