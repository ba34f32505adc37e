"""Files of rows that are read in a stream by several processes, once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import psutil
import pytest

from bitnet_bench.data import arrow_files, many_processes, row_reading, stored_rows
from bitnet_bench.data.many_processes import WAITING_PER_PROCESS, map_in_processes
from bitnet_bench.data.row_reading import read_row_file, report_rate
from bitnet_bench.data.row_text import decode_row, digest_line, encode_row
from bitnet_bench.data.rows import Row, Turn, read_rows
from bitnet_bench.data.stored_rows import store_rows
from bitnet_bench.errors import BenchError

LINES = [{"prompt": f"{n} 더하기 {n}은?", "response": f"{2 * n}입니다.", "note": "읽지 않음"} for n in range(40)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep however few rows in a folder of the test, and let two processes read a few at once."""
    monkeypatch.setattr(arrow_files, "MIN_CACHED_ROWS", 20)
    monkeypatch.setattr(row_reading, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(stored_rows, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(many_processes, "count_usable_cores", lambda: 2)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets" / "bitnet_bench"


def write(file: Path, lines: list[Any]) -> Path:
    """Write *lines* as JSON Lines; a text is written as it is."""
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return file


def as_tuples(value: Any) -> Any:
    """Return a row as names and values of the fields that are not at their default, as digests have always been of."""
    if dataclasses.is_dataclass(value):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return tuple((field.name, as_tuples(held)) for field, held in fields if held != field.default)
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
def test_a_file_read_by_processes_gives_the_rows_of_one_reading(name: str, tmp_path: Path) -> None:
    """In order, from memory or from the kept file, and their digest is that of all rows."""
    file = write(tmp_path / "rows.jsonl", LINES)
    if name == "rows.csv":
        file = tmp_path / name
        file.write_text("prompt,response\n" + "".join(f'"{n}은\n?",{n}\n' for n in range(40)), encoding="utf-8")
    elif name == "rows.json":
        file = write(tmp_path / name, [json.dumps(LINES, ensure_ascii=False)])
    expected = read_rows(file)
    assert len(expected) == 40
    for limit in (None, None, 3, 25):
        found = read_row_file(file, limit)
        assert found == expected[:limit]
        assert found.digest == store_rows(expected[:limit]).digest


def test_a_file_is_parsed_once_and_a_changed_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if it has the same size and the same time; what is not read is named each time."""
    file = write(tmp_path / "rows.jsonl", LINES)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    expected = list(read_row_file(file))
    with monkeypatch.context() as patch:
        patch.setattr(row_reading, "_parse_batch", None)
        caplog.clear()
        assert read_row_file(file) == expected
        assert 'text that is not read: "note" (40 rows)' in caplog.text
    write(file, [*LINES[:-1], {**LINES[-1], "response": "79입니다."}])
    os.utime(file, ns=times)
    assert read_row_file(file)[39].turns[1].text == "79입니다."


def test_few_rows_leave_no_file(tmp_path: Path, cache: Path) -> None:
    """Nor do many of which only the first are read."""
    read_row_file(write(tmp_path / "few.jsonl", LINES[:19]))
    read_row_file(write(tmp_path / "many.jsonl", LINES), limit=30)
    assert not cache.is_dir() or list(cache.iterdir()) == []


def test_a_bad_line_is_named_by_its_number_in_the_file(tmp_path: Path, cache: Path) -> None:
    """The first one, blank lines counted, and nothing is kept."""
    file = write(tmp_path / "rows.jsonl", [*LINES[:30], "", "{", *LINES[30:], "["])
    with pytest.raises(BenchError, match=r"Line 32 of rows\.jsonl is not JSON"):
        read_row_file(file)
    assert list(cache.iterdir()) == []
    assert read_row_file(file, limit=30) == read_rows(write(tmp_path / "good.jsonl", LINES[:30]))


def test_long_rows_are_kept_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes a bounded number of characters, not of rows."""
    monkeypatch.setattr(row_reading, "CHARACTERS_AT_ONCE", 1000)
    lines = [{**line, "prompt": "가" * (900 if n == 3 else 10)} for n, line in enumerate(LINES)]
    found = read_row_file(write(tmp_path / "rows.jsonl", lines))
    assert found.tables[0].list_batches()[:2] == [(0, 4), (4, 11)]
    assert found == read_rows(tmp_path / "rows.jsonl")


def test_a_limit_stops_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one line further, however long the file is."""

    def lines(path: Path, **_: Any) -> Iterator[tuple[int, str]]:
        yield from ((n, json.dumps(line)) for n, line in enumerate(LINES[:10], 1))
        raise AssertionError("an eleventh line was asked for")

    monkeypatch.setattr(row_reading, "read_numbered_lines", lines)
    assert len(read_row_file(write(tmp_path / "rows.jsonl", LINES), limit=10)) == 10


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, cache: Path) -> None:
    """Half of one file and half of another are the rows of neither."""
    file = write(tmp_path / "rows.jsonl", LINES)

    def change(done: int, total: int, note: str = "") -> None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n")

    with pytest.raises(BenchError, match="changed while it was read"):
        read_row_file(file, progress=change)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "row",
    [
        Row((Turn("user", "가\u2028'\"\\"), Turn("model", "나", learned=False), Turn("model", "다"))),
        Row((Turn("text", "가"),)),
        Row((Turn("system", "가"), Turn("user", "나"), Turn("model", "다")), verbatim=True),
        Row((Turn("user", "가"), Turn("model", "나")), rejected=""),
    ],
)
def test_a_row_is_kept_whole_and_digested_as_before(row: Row) -> None:
    """Records of earlier runs hold digests of rows."""
    assert decode_row(encode_row(row)) == row
    assert digest_line(row) == repr(as_tuples(row)).encode("utf-8", "surrogatepass") + b"\n"
    assert store_rows([row]).digest == hashlib.sha256(digest_line(row)).hexdigest()


def test_progress_tells_rows_a_second_from_the_first_batch() -> None:
    """By the clock it is given."""
    told: list[tuple[int, int, str]] = []
    times = iter([10.0, 10.5, 12.0])
    progress = lambda done, total, note="": told.append((done, total, note))  # noqa: E731
    report = report_rate(progress, clock=lambda: next(times))
    report(1024, 1, 25)
    report(4096, 4, 25)
    assert told == [(1, 25, "1,024 rows, 2,048 rows/s"), (4, 25, "4,096 rows, 2,048 rows/s")]


def test_processes_answer_in_order_and_take_few_tasks_ahead() -> None:
    """Memory is bounded, whatever the number of tasks; the work is done elsewhere."""
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    answers = map_in_processes(lambda n: (n * n, os.getpid()), tasks(), processes=2)
    first = next(answers)
    assert len(taken) <= 2 * WAITING_PER_PROCESS + 2
    found = [first, *answers]
    assert [square for square, _ in found] == [n * n for n in range(100)]
    assert os.getpid() not in {pid for _, pid in found}


def test_an_error_in_a_process_is_raised_with_its_hint() -> None:
    """As if the work had been done here."""

    def fail(n: int) -> int:
        if n == 5:
            raise BenchError("Five is too much.", "Take four.")
        return n

    with pytest.raises(BenchError) as caught:
        list(map_in_processes(fail, range(9), processes=2))
    assert (caught.value.problem, caught.value.hint) == ("Five is too much.", "Take four.")


def test_a_killed_process_ends_in_a_sentence() -> None:
    """As the kernel kills one when memory runs out."""
    with pytest.raises(BenchError, match="was killed"):
        list(map_in_processes(lambda n: os.kill(os.getpid(), signal.SIGKILL), range(9), processes=2))


@pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux only, where they are")
def test_processes_die_with_their_parent(tmp_path: Path) -> None:
    """A command that is killed leaves nothing computing behind it."""
    code = (
        "import os, time\n"
        "from bitnet_bench.data.many_processes import map_in_processes\n"
        "def work(n):\n"
        "    if n < 2: return os.getpid()\n"
        "    time.sleep(600)\n"
        "for pid in map_in_processes(work, range(4), processes=2): print(pid, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = {int(parent.stdout.readline()) for _ in range(2)}
        parent.kill()
    while any(map(psutil.pid_exists, children)):
        time.sleep(0.05)
    assert children
