"""Rows of Parquet are read as those of JSON Lines are."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitnet_bench.data.jsonl import read_numbered_lines
from bitnet_bench.data.row_reading import read_row_file
from bitnet_bench.data.rows import read_rows
from bitnet_bench.errors import BenchError

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"질문 {i}"}, {"role": "assistant", "content": f"답 {i}"}]}
    for i in range(3000)
]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=700)
    return folder / "rows.parquet"


def test_parquet_has_the_rows_of_jsonl(tmp_path: Path) -> None:
    """In order, by the reader in a stream and by the plain one, of several groups of rows."""
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    file = write(tmp_path, ROWS)
    assert read_rows(file) == read_rows(lines)
    assert read_row_file(file).digest == read_row_file(lines).digest


def test_a_bad_row_has_its_number(tmp_path: Path) -> None:
    """Parquet has no lines."""
    with pytest.raises(BenchError, match=r'Row 2 of rows.parquet has an empty "response"'):
        read_rows(write(tmp_path, [{"prompt": "가", "response": "나"}, {"prompt": "가", "response": " "}]))


def test_what_json_has_no_form_for_becomes_a_text_and_bytes_nothing(tmp_path: Path) -> None:
    """Dates, decimals, and an image."""
    row = {"day": datetime.date(2026, 1, 2), "price": Decimal("1.50"), "image": {"bytes": b"\xff"}, "text": "글"}
    ((number, line),) = read_numbered_lines(write(tmp_path, [row]))
    assert (number, json.loads(line)) == (
        1,
        {"day": "2026-01-02", "price": "1.50", "image": {"bytes": None}, "text": "글"},
    )


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_a_sentence(data: bytes, tmp_path: Path) -> None:
    """Whatever its name says."""
    (tmp_path / "rows.parquet").write_bytes(data)
    with pytest.raises(BenchError, match="is no Parquet file that can be read"):
        read_rows(tmp_path / "rows.parquet")


def test_parquet_has_no_other_encoding(tmp_path: Path) -> None:
    """Its texts are UTF-8."""
    with pytest.raises(BenchError, match="holds no text in cp949"):
        read_rows(write(tmp_path, ROWS[:1]), encoding="cp949")
