"""Tokenizing that is killed: what was finished is kept, the rest is done once, and nothing broken is read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from bitnet_bench.data import arrow_files, mapping, stored_rows
from bitnet_bench.data.mapping import Encoding, tokenize_stored
from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.data.stored_rows import ROWS_SCHEMA, pack_rows, store_rows
from bitnet_bench.data.token_table import CutExamples
from bitnet_bench.data.tokenizing import TrainingExample, tokenize

ROWS = [Row((Turn("user", f"{i}번 안녕"), Turn("model", "네 " * (i % 4 + 1)))) for i in range(30)]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a fork and a lock of Linux")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tokens of 30 rows in three files of 14, 14 and 2 rows, in a folder of the test."""
    monkeypatch.setattr(arrow_files, "MIN_CACHED_ROWS", 1)
    monkeypatch.setattr(arrow_files, "ABANDONED_SECONDS", -1.0)
    monkeypatch.setattr(stored_rows, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(mapping, "ROWS_IN_PART", 10)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


def tokenize_all(tokenizer: Any, progress: Callable[..., None]) -> list[TrainingExample]:
    tokens = tokenize_stored(store_rows(ROWS), Encoding(tokenizer, "dialogue", "responses"), progress)
    return list(CutExamples(tokens, tokens.numbers, 10_000))


def list_names(cache: Path, pattern: str) -> list[str]:
    return sorted(file.name for file in cache.rglob(pattern))


def kill_after(rows: int, tokenizer: Any) -> int:
    """Tokenize in a process that is killed when *rows* rows are done; return how it ended."""

    def die(done: int, total: int, note: str = "") -> None:
        if done >= rows:
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=tokenize_all, args=(tokenizer, die))
    process.start()
    process.join()
    return process.exitcode or 0


def test_a_run_that_was_killed_goes_on_behind_what_it_had_finished(tokenizer: Any, cache: Path) -> None:
    """Of 30 rows 14 are kept, and 7 of the next 14 were for nothing; no file of the killed process is left."""
    assert kill_after(21, tokenizer) == -signal.SIGKILL
    assert len(list_names(cache, "tokens-*.arrow")) == 1
    assert len(list_names(cache, "*.partial")) == 1
    told: list[tuple[int, int, str]] = []
    found = tokenize_all(tokenizer, lambda done, total, note="": told.append((done, total, note.split(",")[0])))
    assert found == [one for (one,) in tokenize(ROWS, tokenizer, "dialogue", "responses")]
    assert told[0] == (21, 30, "7 rows tokenized")
    assert told[-1] == (30, 30, "16 rows tokenized")
    assert len(list_names(cache, "tokens-*.arrow")) == 3
    assert list_names(cache, "*.partial") == []


def test_a_whole_run_leaves_nothing_to_tokenize(tokenizer: Any, cache: Path) -> None:
    """Nor does another with the same rows, which reports no progress."""
    told: list[int] = []
    first = tokenize_all(tokenizer, lambda done, total, note="": told.append(done))
    assert told == [7, 14, 21, 28, 30]
    assert tokenize_all(tokenizer, lambda done, total, note="": told.append(done)) == first
    assert len(told) == 5


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: b"", lambda data: data[:40]])
def test_a_damaged_part_is_tokenized_again_alone(damage: Callable[[bytes], bytes], tokenizer: Any, cache: Path) -> None:
    """The others are read as they are."""
    expected = tokenize_all(tokenizer, lambda *_: None)
    middle = next(file for file in cache.rglob("tokens-*-14-28.arrow"))
    middle.write_bytes(damage(middle.read_bytes()))
    told: list[str] = []
    assert tokenize_all(tokenizer, lambda done, total, note="": told.append(note.split(",")[0])) == expected
    assert told == ["7 rows tokenized", "14 rows tokenized"]


def test_an_unfinished_file_of_a_living_process_stays(cache: Path) -> None:
    """Two runs may fill the cache at once."""
    with arrow_files.TableWriter(ROWS_SCHEMA) as writer:
        writer.add(pack_rows(ROWS[:3]).stored)
        (held,) = list_names(cache, "*.partial")
        with arrow_files.TableWriter(ROWS_SCHEMA) as other:
            other.add(pack_rows(ROWS[3:5]).stored)
            assert held in list_names(cache, "*.partial")
            assert other.finish("other", {}).num_rows == 2
        assert writer.finish("writer", {}).num_rows == 3
    assert list_names(cache, "*.arrow") == ["other.arrow", "writer.arrow"]


def test_a_young_file_stays_whoever_holds_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has just made its file has perhaps not locked it yet."""
    monkeypatch.setattr(arrow_files, "ABANDONED_SECONDS", 3600.0)
    folder = arrow_files.find_cache_folder()
    folder.mkdir(parents=True)
    (folder / "rows-young.partial").touch()
    with arrow_files.TableWriter(ROWS_SCHEMA) as writer:
        writer.add(pack_rows(ROWS[:3]).stored)
    assert list_names(cache, "*.partial") == ["rows-young.partial"]
