"""Sentences end their lines between words, colours are for terminals only, and what comes next is on standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.cli import loading
from bitnet_bench.cli.fitting_table import choose_columns, measure_table, share_width
from bitnet_bench.cli.sentences import measure_width, wrap_command, wrap_lines
from bitnet_bench.cli.tables import _LineProgress, make_table

COLOUR = re.compile(r"\x1b\[[\d;]*m")
SHOW = """
from bitnet_bench.cli.fitting_table import FittingTable
from bitnet_bench.cli.sentences import print_error, print_next, print_outcome, print_warning
from bitnet_bench.cli.tables import make_table, show
from bitnet_bench.cli.terminal import protect_streams
with protect_streams():
    print_error("it \\x1b[2J failed")
    print_warning("look")
    print_outcome("the bound is met", True)
    print_next("compare", "a b", "c")
    made = make_table("T", ["name", "verdict"], [["x", "worse"]], 99)
    made.paint("verdict", 0, "red")
    show(made)
"""


def test_a_terminal_shows_colours_and_no_foreign_code(run_in_terminal: Callable[..., str]) -> None:
    """Labels and verdicts are coloured; the text of an error steers nothing."""
    shown = run_in_terminal(SHOW, 60)
    for text in ("Error:", "Warning:", "Next:", "the bound is met", "worse"):
        assert re.search(rf"\x1b\[[\d;]*m{text}\s*\x1b\[0m", shown), text
    assert "\x1b[2J" not in shown
    assert "bitnet-bench compare 'a b' c" in shown


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_turned_off(environment: dict[str, str], run_in_terminal: Callable[..., str]) -> None:
    """NO_COLOR and a terminal without colours: the same words; rich's bold is no colour."""
    shown = run_in_terminal(SHOW, 60, **environment)
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7])m", shown)
    assert COLOUR.sub("", shown) == COLOUR.sub("", run_in_terminal(SHOW, 60))


def test_json_and_pipes_stay_clean(run_command: Callable[..., Any], tmp_path: Path) -> None:
    """With --json there is no next command; without it, it is on standard error, and nothing is coloured."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "안녕", "response": "반가워요."}\n', encoding="utf-8")
    plain = run_command("data", "check", rows)
    assert "Next: bitnet-bench finetune" in plain.stderr
    assert "Next:" not in plain.stdout
    assert "\x1b" not in plain.stdout + plain.stderr
    done = run_command("data", "check", rows, "--json")
    assert json.loads(done.stdout)[0]["rows"] == 1
    assert "Next:" not in done.stderr


@given(st.lists(st.text("ab가나/-", min_size=1, max_size=30), min_size=1), st.integers(20, 60))
def test_lines_hold_whole_words(words: list[str], width: int) -> None:
    """All words are there in their order, and only a word that is longer than a line goes beyond the width."""
    lines = wrap_lines(" ".join(words), width).split("\n")
    assert " ".join(lines).split(" ") == words
    assert all(measure_width(line) <= width or " " not in line for line in lines)


def test_a_hint_keeps_its_indent() -> None:
    """The second line of an error is indented, and so is what goes on from it."""
    assert wrap_lines("Error: no.\n  Give one of them.", 13) == "Error: no.\n  Give one of\n  them."


def test_a_long_command_can_be_copied() -> None:
    r"""It breaks before an option, with a \ before the end of the line."""
    command = "Next: bitnet-bench evaluate --model a --suite kobest --backend llamacpp"
    wrapped = wrap_command(command, 40)
    assert wrapped.replace(" \\\n   ", "") == command
    assert all(measure_width(line) <= 40 for line in wrapped.splitlines())


cells = st.text("ab가 /", max_size=25)


@given(st.lists(st.lists(cells, min_size=5, max_size=5), min_size=1, max_size=4), st.integers(30, 120))
def test_columns_fit_or_are_left_out(rows: list[list[str]], width: int) -> None:
    """What is kept and what is hidden are all columns; a part that can fit has widths that do."""
    made = make_table("", ["one", "two", "three", "four", "five"], rows, 3, keys=2, optional=("five", "three"))
    parts, hidden = choose_columns(made.columns, 2, made.optional, width)
    shown = [str(column.header) for i, part in enumerate(parts) for column in part[2 if i else 0 :]]
    assert sorted(shown + [str(column.header) for column in hidden]) == sorted(str(c.header) for c in made.columns)
    assert {str(column.header) for column in hidden} <= {"five", "three"}
    for part in parts:
        if measure_table(part) <= width:
            assert sum(share_width(part, width)) + 2 * (len(part) - 1) <= width


def test_what_is_not_counted_is_said_when_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    """A log says that a model is loaded before it is, and not again afterwards."""
    progress = _LineProgress("load demo")
    progress(0, 1)
    assert capsys.readouterr().err == "load demo ...\n"
    progress(1, 1)
    assert capsys.readouterr().err == ""


def test_libraries_are_named_while_they_are_imported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first import, and not when all of them are there."""
    monkeypatch.setitem(loading.NAMES, "colorsys", "colours")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    loading.load_libraries(("colorsys",))
    assert capsys.readouterr().err == "load colours ...\n"
    loading.load_libraries(("colorsys",))
    assert capsys.readouterr().err == ""


def test_evaluate_says_what_it_does_before_it_scores(run_command: Callable[..., Any]) -> None:
    """Rows are read, a model is loaded, a task is scored; and the next command is there at the end."""
    done = run_command("evaluate", "--suite", "sample", "--task", "copa", "--limit", "2", "--out", "r")
    assert done.returncode == 0, done.stderr
    order = [
        "read the rows of the tasks ...",
        "load demo into ternary ...",
        "r sample:copa (1/1)",
        "Next: bitnet-bench",
    ]
    assert [done.stderr.index(text) for text in order] == sorted(done.stderr.index(text) for text in order)
    assert done.stdout.endswith("Run: r\n")
