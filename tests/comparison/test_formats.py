"""Comparisons as other programs and papers take them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from bitnet_bench.comparison import Comparison, compare
from bitnet_bench.comparison.formats import format_csv, format_json, format_latex, format_markdown

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50


@pytest.fixture
def comparison(make_results: Any) -> Comparison:
    """Give a comparison with two tasks and a refused one."""
    a = make_results("a_1", {"s:t": BAD, "s:u": GOOD, "s:v|w": GOOD})
    b = make_results("b", {"s:t": GOOD, "s:u": GOOD, "s:v|w": GOOD[:-1]})
    return compare(a, b)


def test_json_holds_everything(comparison: Comparison) -> None:
    """The JSON is the record with its sentence, and reads back as the same comparison."""
    fields = json.loads(format_json(comparison))
    assert "20.0 points worse" in fields.pop("headline")
    assert Comparison.model_validate(fields) == comparison


def test_csv_has_numbers_that_are_not_rounded(comparison: Comparison) -> None:
    """A row a task, each with every column; a refused task has no number and its reason."""
    rows = list(csv.DictReader(io.StringIO(format_csv(comparison))))
    assert [row["task"] for row in rows] == ["s:t", "s:u", "s:v|w"]
    assert float(rows[0]["difference"]) == comparison.differences[0].difference
    assert rows[0]["verdict"] == "worse"
    assert rows[1]["effect"] == ""
    assert (rows[2]["difference"], rows[2]["verdict"]) == ("", "refused")
    assert rows[2]["differs"]


def test_markdown_is_a_table_whatever_names_hold(comparison: Comparison) -> None:
    """Every row of the table has as many cells, and a bar in a name is escaped."""
    table = [line for line in format_markdown(comparison).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {12}
    assert "s:v\\|w" in format_markdown(comparison)


def test_latex_escapes_names(comparison: Comparison) -> None:
    """Underscores are escaped, and a minus is a minus."""
    text = format_latex(comparison)
    assert r"macro\_f1" not in text
    assert r"a\_1" in text
    assert "$-$40.0" in text
    assert text.count(r"\\") == 5
