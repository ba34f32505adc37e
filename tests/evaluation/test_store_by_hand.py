"""The answer store and the small parts of evaluation by hand: bytes of keys, limits at their edges, sentences."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation import answer_cache, select
from bitnet_bench.evaluation.answer_cache import (
    NullStore,
    SqliteStore,
    cache_file,
    compute_digest,
    connect,
    frame_parts,
    list_stored_models,
    prune,
    set_aside,
)
from bitnet_bench.evaluation.answer_log import list_stored_answers, prune_answers
from bitnet_bench.evaluation.document_progress import DocumentProgress
from bitnet_bench.evaluation.harness_tasks import convert_harness_scores
from bitnet_bench.evaluation.lm import _make_request_key
from bitnet_bench.evaluation.local_rows import compute_rows_digest, count_rows, read_rows_file
from bitnet_bench.evaluation.row_fields import LARGEST, check_types, find_null
from bitnet_bench.evaluation.suites import Suite, Task, choose_suite, find_suites, read_suite
from bitnet_bench.evaluation.task_hooks import find_hooks
from bitnet_bench.evaluation.tasks import normalise_text


def test_the_place_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's file, else the user's cache folder, else ~/.cache; a variable that is empty is none."""
    monkeypatch.setenv("BITNET_BENCH_CACHE", "/somewhere/else.db")
    assert cache_file() == Path("/somewhere/else.db")
    monkeypatch.setenv("BITNET_BENCH_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "bitnet-bench" / "answers.sqlite3"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_file() == tmp_path / ".cache" / "bitnet-bench" / "answers.sqlite3"


def test_the_bytes_of_a_key() -> None:
    """Each part after its length in eight bytes, the least first; text is UTF-8; parts cannot run into each other."""
    assert frame_parts("가", b"xy") == b"\x03" + bytes(7) + "가".encode() + b"\x02" + bytes(7) + b"xy"
    assert frame_parts() == b""
    assert compute_digest("a", b"b") == hashlib.sha256(frame_parts("a", "b")).digest()
    assert frame_parts("ab", "c") != frame_parts("a", "bc")
    assert _make_request_key("generate", [1, 2], "stop") == frame_parts(
        "generate", (1).to_bytes(8, "little") + (2).to_bytes(8, "little"), "stop"
    )


def test_no_store_keeps_nothing() -> None:
    """What is saved is not there."""
    store = NullStore()
    store.save([(b"a", b"1")])
    assert store.lookup([b"a"]) == {}


@pytest.mark.parametrize("count", [499, 500, 501, 1001])
def test_many_requests_are_looked_up_at_once(count: int, own_cache: Path) -> None:
    """However many there are, each has its own answer under its own place; those that are unknown have none."""
    store = SqliteStore(own_cache, b"model", {"model": "m"})
    store.save([(str(i).encode(), f"answer {i}".encode()) for i in range(0, count, 2)])
    found = store.lookup([str(i).encode() for i in range(count)])
    assert found == {i: f"answer {i}".encode() for i in range(0, count, 2)}
    assert store.lookup([]) == {}
    store.close()


def test_answers_of_one_model_are_not_anothers(own_cache: Path) -> None:
    """The same request under another identity is unknown, and a new answer takes the place of the old."""
    one, two = (SqliteStore(own_cache, identity, {"model": "m"}) for identity in (b"one", b"two"))
    one.save([(b"q", b"1")])
    assert (one.lookup([b"q"]), two.lookup([b"q"])) == ({0: b"1"}, {})
    one.save([(b"q", b"2")])
    two.save([(b"q", b"3")])
    assert (one.lookup([b"x", b"q"]), two.lookup([b"q"])) == ({1: b"2"}, {0: b"3"})
    one.close()
    assert one.lookup([b"q"]) == {}
    one.save([(b"q", b"4")])
    one.close()
    assert two.lookup([b"q"]) == {0: b"3"}
    two.close()


def stored(file: Path, *names: str, **days: str) -> None:
    for name in names:
        store = SqliteStore(file, name.encode(), {"model": name, "이름": "값"})
        store.save([(b"q", name.encode() * 10)])
        store.close()
    with sqlite3.connect(file) as database:
        for name, used in days.items():
            database.execute("UPDATE models SET used = ? WHERE identity = ?", (used, name.encode()))
    database.close()


def test_what_is_stored_is_listed_with_its_size(own_cache: Path) -> None:
    """A key of 32 bytes, a seal of 8 and the answer; who was used last comes first; what is said of it is kept."""
    stored(own_cache, "a", "bb", a="2026-01-02", bb="2026-01-01")
    SqliteStore(own_cache, b"none", {}).close()
    none, a, bb = list_stored_models(own_cache)
    assert (a.answers, a.size, a.used, dict(a.about)) == (1, 32 + 8 + 10, "2026-01-02", {"model": "a", "이름": "값"})
    assert (bb.answers, bb.size) == (1, 32 + 8 + 20)
    assert (none.answers, none.size, none.about) == (0, 0, {})
    assert none.used > a.used
    assert list_stored_answers() == (own_cache, [none, a, bb])
    with sqlite3.connect(own_cache) as database:
        assert "이름" in database.execute("SELECT about FROM models").fetchone()[0]
    database.close()


def test_a_model_is_unused_since_it_was_last_opened(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning by days takes those before that moment, and at it; times are UTC with microseconds."""
    now = answer_cache.datetime.datetime(2026, 1, 11, 12, 0, 0, 5, tzinfo=answer_cache.datetime.UTC)
    fake = SimpleNamespace(
        datetime=SimpleNamespace(now=lambda zone: now.astimezone(zone)),
        UTC=answer_cache.datetime.UTC,
        timedelta=answer_cache.datetime.timedelta,
    )
    monkeypatch.setattr(answer_cache, "datetime", fake)
    stored(
        own_cache,
        "opened",
        "at",
        "after",
        at="2026-01-10T12:00:00.000005+00:00",
        after="2026-01-10T12:00:00.000006+00:00",
    )
    assert list_stored_models(own_cache)[0].used == "2026-01-11T12:00:00.000005+00:00"
    forgotten, _ = prune_answers(1.0)
    assert [model.about["model"] for model in forgotten] == ["at"]
    assert prune(own_cache, 1.0)[0] == []
    assert [model.about["model"] for model in list_stored_models(own_cache)] == ["opened", "after"]
    with sqlite3.connect(own_cache) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (2,)
    database.close()
    (own_cache.parent / "b.sqlite3").write_bytes(b"x")
    assert set_aside(own_cache.parent / "b.sqlite3").name == "b.sqlite3.aside-20260111-120000-000005"


def test_pruning_nothing_frees_nothing(own_cache: Path) -> None:
    """No file is no error, and is not made."""
    assert prune(own_cache, 0) == ([], 0)
    assert not own_cache.exists()


def test_a_store_that_breaks_while_it_is_pruned_is_named(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was listed a moment before: file, what SQLite says, and what to do."""
    stored(own_cache, "a")
    real, calls = answer_cache.connect, []

    def fail(file: Path) -> sqlite3.Connection:
        calls.append(file)
        if len(calls) > 1:
            raise sqlite3.DatabaseError("it breaks")
        return real(file)

    monkeypatch.setattr(answer_cache, "connect", fail)
    with pytest.raises(BenchError) as error:
        prune(own_cache, 0)
    assert error.value.problem == f"{own_cache} is not a cache of answers that can be read: it breaks."
    assert calls == [own_cache, own_cache]


def test_files_beside_the_store_go_with_it(tmp_path: Path) -> None:
    """The log and the index of SQLite would be taken for those of the next file."""
    for ending in ("", "-wal", "-shm"):
        (tmp_path / f"s{ending}").write_text(ending)
    aside = set_aside(tmp_path / "s")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"{aside.name}{e}" for e in ("", "-wal", "-shm"))
    assert Path(f"{aside}-wal").read_text() == "-wal"


def test_a_new_store_says_what_it_is(tmp_path: Path) -> None:
    """ "bbac" and version 1 in its header, written ahead in a log; folders are made; opened again it is the same."""
    file = tmp_path / "deep" / "down" / "s.sqlite3"
    for _ in range(2):
        connection = connect(file)
        asked = ("application_id", "user_version", "journal_mode", "synchronous", "busy_timeout")
        assert [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked] == [
            0x62626163,
            1,
            "wal",
            1,
            60000,
        ]
        connection.close()


@pytest.mark.parametrize(("application", "version"), [(0x62626163, 2), (7, 1)])
def test_another_version_or_program_is_set_aside(
    application: int, version: int, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its number and version are named, and the new file works."""
    with sqlite3.connect(own_cache) as database:
        database.executescript(f"PRAGMA application_id={application};PRAGMA user_version={version};CREATE TABLE t (x);")
    database.close()
    with pytest.raises(BenchError, match="is not a cache of answers that can be read") as error:
        list_stored_models(own_cache)
    assert f"its application_id is {application:#x}, its version {version}" in error.value.problem
    assert "name another with BITNET_BENCH_CACHE" in error.value.hint
    store = SqliteStore(own_cache, b"m", {})
    assert f"its application_id is {application:#x}, its version {version}" in caplog.text
    assert len(list(own_cache.parent.glob("*.aside-*"))) == 1
    store.save([(b"q", b"1")])
    assert store.lookup([b"q"]) == {0: b"1"}
    store.close()


class Broken:
    """A connection whose every query fails."""

    def __init__(self, code: int | None) -> None:
        self.code, self.closed = code, False

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Note it."""
        self.closed = True

    def execute(self, *query: Any) -> Any:
        """Fail."""
        error = sqlite3.OperationalError("it fails")
        if self.code is not None:
            error.sqlite_errorcode = self.code
        raise error


@pytest.mark.parametrize("act", ["lookup", "save"])
@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (sqlite3.SQLITE_FULL, True), (sqlite3.SQLITE_BUSY, True), (sqlite3.SQLITE_IOERR_READ, True),
        (sqlite3.SQLITE_READONLY, True), (sqlite3.SQLITE_CORRUPT, False), (sqlite3.SQLITE_NOTADB, False), (None, False),
    ],
)  # fmt: skip
def test_a_full_disk_says_nothing_about_the_file(
    act: str, code: int | None, kept: bool, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the machine failed the file stays, and nothing more is kept; where the file is broken it is set aside."""
    store = SqliteStore(own_cache, b"m", {})
    store.save([(b"q", b"1")])
    store.close()
    broken = Broken(code)
    store._connection = broken  # type: ignore[assignment]
    if act == "lookup":
        assert store.lookup([b"q"]) == {}
    else:
        store.save([(b"q", b"2")])
    assert broken.closed
    assert bool(list(own_cache.parent.glob("*.aside-*"))) != kept
    assert (f"Answers are not kept: {own_cache}: it fails." in caplog.text) == kept
    store.save([(b"r", b"3")])
    assert store.lookup([b"q", b"r"]) == ({} if kept else {1: b"3"})
    store.close()


def test_a_changed_answer_is_unknown(own_cache: Path) -> None:
    """Its seal is of key and answer: neither may be another's."""
    store = SqliteStore(own_cache, b"m", {})
    store.save([(b"q", b"1"), (b"r", b"2")])
    with sqlite3.connect(own_cache) as database:
        database.execute(
            "UPDATE answers SET (answer, seal) = (SELECT answer, seal FROM answers ORDER BY answer LIMIT 1)"
        )
    database.close()
    assert store.lookup([b"q", b"r"]) == {0: b"1"}
    store.close()


ROWS = Path("rows.jsonl")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"a": 1}, {"a": "x"}], 'Line 7 of rows.jsonl has a text in "a", and line 3 has a number.'),
        ([{"a": True}, {"a": 1}], 'Line 7 of rows.jsonl has a number in "a", and line 3 has true or false.'),
        ([{"a": {"b": 1}}, {"a": {"b": "x"}}], 'Line 7 of rows.jsonl has a text in "a.b", and line 3 has a number.'),
        ([{"a": {"b": 1}}, {"a": 1}], 'Line 7 of rows.jsonl has a number in "a", and line 3 has an object.'),
        ([{"a": ["x"]}, {"a": "x"}], 'Line 7 of rows.jsonl has a text in "a", and line 3 has a list.'),
        ([{"a": ["x"]}, {"a": ["x", 1]}], 'Line 7 of rows.jsonl has a number in "a[]", and line 3 has a text.'),
        (
            [{"a": [{"b": 1}]}, {"a": [{"b": "x"}]}],
            'Line 7 of rows.jsonl has a text in "a[].b", and line 3 has a number.',
        ),
        ([{"a": 2**63}], 'Line 3 of rows.jsonl has a number too large in "a".'),
        ([{"a": -(2**63)}], 'Line 3 of rows.jsonl has a number too large in "a".'),
    ],
)
def test_two_types_in_a_field(rows: list[dict[str, Any]], said: str) -> None:
    """Both lines are named, and the field at any depth."""
    with pytest.raises(BenchError) as error:
        check_types(rows, [3, 7][: len(rows)], ROWS)
    assert error.value.problem == said


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": 1}, {"a": 1.5}], [{"a": None}, {"a": "x"}], [{"a": LARGEST}, {"a": -LARGEST}], [{"a": []}, {"a": ["x"]}],
        [{"a": 1}, {"b": "x"}], [{"a": [None, "x"]}, {"a": ["y"]}], [{}, {}],
    ],
)  # fmt: skip
def test_types_that_go_together(rows: list[dict[str, Any]]) -> None:
    """Whole numbers and fractions, a null and anything, a list that is empty, the largest number that fits."""
    check_types(rows, [1, 2], ROWS)


def task_of(text: str, target: str = "{a}", choices: list[str] | None = None) -> Any:
    return SimpleNamespace(
        OUTPUT_TYPE="multiple_choice" if choices else "generate_until",
        doc_to_text=lambda doc: text.format(**doc),
        doc_to_target=lambda doc: target.format(**doc),
        doc_to_choice=lambda doc: [choice.format(**doc) for choice in choices or []],
    )


@pytest.mark.parametrize(
    ("task", "doc", "named"),
    [
        (task_of("{a} {b}"), {"a": "x", "b": None}, "b"),
        (task_of("{a}"), {"a": "x", "b": None}, None),
        (task_of("{a}"), {"a": "None", "b": None}, None),
        (task_of("x", target="{b}"), {"a": "x", "b": None}, "b"),
        (task_of("x", choices=["{a}", "{b}"]), {"a": "x", "b": None}, "b"),
        (task_of("{b}"), {"a": "x", "b": ["y", None]}, "b"),
        (task_of("{b}"), {"a": None, "b": {"c": [None]}}, "a"),
        (task_of("{a}"), {"a": "x"}, None),
    ],
)
def test_a_null_that_shows_is_named(task: Any, doc: dict[str, Any], named: str | None) -> None:
    """In a prompt, a target or a choice, at any depth; one that does not show is nobody's business."""
    assert find_null(task, doc) == named


def test_a_template_that_fails_for_an_empty_text_names_nothing() -> None:
    """The row is refused elsewhere, by what is wrong with it."""
    task = task_of("{b}")
    task.doc_to_target = lambda doc: {"x": "y"}[doc["a"]]
    assert find_null(task, {"a": "x", "b": None}) == "b"

    def text(doc: dict[str, Any]) -> str:
        return str(doc["b"]) if doc["b"] is None else str(1 / 0)

    task.doc_to_text = text
    assert find_null(task, {"a": "x", "b": None}) is None


def rows_file(tmp_path: Path, text: str, name: str = "rows.jsonl") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_rows_of_a_file_have_their_lines(tmp_path: Path) -> None:
    """Empty lines count as lines and hold no row; text is NFC."""
    file = rows_file(tmp_path, '{"a": "1"}\n\n{"a": "\u1100\u1161", "b": 2}\n')
    assert read_rows_file(file, "") == ([{"a": "1"}, {"a": "가", "b": 2}], [1, 3])
    assert count_rows(file) == 2


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("", "{} has no rows.", "Get the data again."),
        ("[1]\n", "Line 1 of {} is not a JSON object.", "Correct or remove it."),
        ('{"a": 1}\n{"b": 1}\n', 'Line 2 of {} has no "a".', "Every row needs the same fields."),
        (
            '{"a": 1}\n{"a": "x"}\n',
            'Line 2 of {} has a text in "a", and line 1 has a number.',
            "A field needs the same",
        ),
    ],
)
def test_rows_that_are_none(text: str, problem: str, hint: str, tmp_path: Path) -> None:
    """File and line, and what to do."""
    file = rows_file(tmp_path, text)
    with pytest.raises(BenchError) as error:
        read_rows_file(file, "")
    assert error.value.problem == problem.format(file)
    assert error.value.hint.startswith(hint)


def test_a_missing_file_has_its_own_hint(tmp_path: Path) -> None:
    """Only the caller knows where it would come from."""
    with pytest.raises(BenchError) as error:
        read_rows_file(tmp_path / "none.jsonl", "Buy it.")
    assert (error.value.problem, error.value.hint) == (f"There is no {tmp_path / 'none.jsonl'}.", "Buy it.")


def test_squad_is_flat(tmp_path: Path) -> None:
    """A row for each question, with its article's title, its paragraph, and its answers in two lists."""
    answers = [{"text": "서울", "answer_start": 3}, {"text": "서울시", "answer_start": 3}]
    paragraphs = [{"context": "수도는 서울", "qas": [{"id": "1", "question": "수도?", "answers": answers}]}]
    file = rows_file(tmp_path, json.dumps({"data": [{"title": "한국", "paragraphs": paragraphs}]}), "a.json")
    row = {
        "id": "1", "title": "한국", "context": "수도는 서울", "question": "수도?",
        "answers": {"text": ["서울", "서울시"], "answer_start": [3, 3]},
    }  # fmt: skip
    assert read_rows_file(file, "") == ([row], [1])
    assert count_rows(file) == 1
    with pytest.raises(BenchError, match="is not in SQuAD's layout: KeyError"):
        read_rows_file(rows_file(tmp_path, '{"version": 1}', "b.json"), "")


def test_a_digest_of_rows_is_of_their_content_in_order() -> None:
    """Whatever the order of fields; Korean as it is; what JSON does not know by its text."""
    rows = [{"b": 1, "a": "가"}, {"a": Path("x")}]
    expected = hashlib.sha256('{"a": "가", "b": 1}{"a": "x"}'.encode()).hexdigest()
    assert compute_rows_digest(rows) == expected
    assert compute_rows_digest([{"a": "가", "b": 1}, rows[1]]) == expected
    assert compute_rows_digest(rows[::-1]) != expected


def suite(folder: Path, name: str, tasks: str = "[{name: t, metrics: [accuracy], chance: 50}]", **more: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"name": name, "version": "'1'", "title": "T", "licence": "L", "citation": "C", **more, "tasks": tasks}
    (folder / "suite.yaml").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return folder


def test_suites_are_found_by_name(tmp_path: Path) -> None:
    """Each folder once; two of one name are an error that names both; a folder may be named itself."""
    suite(tmp_path / "a" / "one", "one")
    suite(tmp_path / "b" / "two", "two")
    found = find_suites([tmp_path / "a", tmp_path / "b"])
    assert list(found) == ["one", "two"]
    assert choose_suite(found, "two") is found["two"]
    assert choose_suite({}, str(tmp_path / "a" / "one")) == found["one"]
    assert found["one"].folder == (tmp_path / "a" / "one").resolve()
    with pytest.raises(UsageError, match="There is no suite 'tow'") as error:
        choose_suite(found, "tow")
    assert error.value.hint == "Did you mean two? There are: one, two."
    with pytest.raises(UsageError, match="Suite one has no task 's'") as error:
        found["one"].task("s")
    assert error.value.hint == "There are: t."
    suite(tmp_path / "b" / "again", "two")
    with pytest.raises(BenchError, match="Two suites are called two") as twice:
        find_suites([tmp_path / "b"])
    assert str(tmp_path / "b" / "two") in twice.value.hint


def test_where_the_rows_of_a_task_are(tmp_path: Path) -> None:
    """The task's own hub, licence and folder before the suite's; a run takes what has rows, here or on the hub."""
    tasks = """
    - {name: local, metrics: [m], chance: 0, local: folder, files: {test: t.jsonl}}
    - {name: hub, metrics: [m], chance: 0, hub: a/b, licence: other}
    - {name: own, metrics: [m], chance: 0, own_rows: true, local: folder}"""
    found = read_suite(suite(tmp_path / "s", "s", tasks) / "suite.yaml")
    local, hub, own = found.tasks
    assert found.find_rows_file(local, "test", tmp_path) == tmp_path / "folder" / "t.jsonl"
    assert found.find_rows_file(local, "train", tmp_path) is None
    assert found.find_rows_file(local, "test", None) is None
    assert found.find_rows_file(hub, "test", tmp_path) is None
    assert (found.find_hub_id(hub), found.find_hub_id(local)) == ("a/b", None)
    assert (found.find_licence(hub), found.find_licence(local)) == ("other", "L")
    assert found.list_runnable_tasks(tmp_path) == (local,)
    assert found.list_runnable_tasks(None) == (hub,)
    assert own not in found.list_runnable_tasks(tmp_path)
    inside = read_suite(suite(tmp_path / "e", "e", tasks, embedded="rows", hub="c/d") / "suite.yaml")
    assert inside.find_rows_file(inside.tasks[0], "test", None) == (tmp_path / "e").resolve() / "rows/folder/t.jsonl"
    assert inside.list_runnable_tasks(None) == (inside.tasks[0],)
    assert inside.find_hub_id(inside.tasks[0]) == "c/d"


def test_what_there_is_to_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task with its rows if they are here, and where they come from if they are not."""
    tasks = """
    - {name: here, metrics: [m, n], chance: 50, local: folder, files: {test: t.jsonl}, citation: own}
    - {name: away, metrics: [m], chance: 0, local: gone, files: {test: t.jsonl}}
    - {name: mine, metrics: [m], chance: 0, own_rows: true, licence: yours}"""
    given = suite(tmp_path / "s", "s", tasks, prompts="{other: x}")
    found = read_suite(given / "suite.yaml")
    monkeypatch.setattr(select, "load_suites", lambda: {"s": found})
    rows_file(tmp_path, "").rename(tmp_path / "empty")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "t.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    here, away, mine = select.list_tasks(tmp_path)
    assert here == {
        "suite": "s", "version": "1", "task": "here", "rows": 2, "from": "folder/t.jsonl", "metrics": ["m", "n"],
        "primary_metric": "m", "chance": 50.0, "prompts": ["default", "other"], "licence": "L", "citation": "own",
    }  # fmt: skip
    assert (away["rows"], away["from"], away["citation"]) == (None, "`data_dir`", "C")
    assert (mine["from"], mine["licence"]) == ("`rows=s:mine=FILE`", "yours")
    monkeypatch.setenv("BITNET_BENCH_DATA", str(tmp_path))
    assert [one["rows"] for one in select.list_tasks()] == [2, None, None]
    assert select.find_data_directory(None) == tmp_path
    assert select.find_data_directory(tmp_path / "folder") == tmp_path / "folder"
    with pytest.raises(BenchError, match="There is no data folder") as error:
        select.find_data_directory(tmp_path / "none")
    assert error.value.hint == "Check `data_dir` or BITNET_BENCH_DATA."
    monkeypatch.setenv("BITNET_BENCH_DATA", "")
    assert select.find_data_directory(None) is None


def test_tasks_are_selected_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that have rows, or those that are named, in the order of their names, from each suite that has them."""
    tasks = "[{name: a, metrics: [m], chance: 0, hub: x/y}, {name: b, metrics: [m], chance: 0}]"
    one, two = (read_suite(suite(tmp_path / name, name, tasks) / "suite.yaml") for name in ("one", "two"))
    monkeypatch.setattr(select, "load_suites", lambda: {"one": one, "two": two})

    def names(found: list[tuple[Suite, Task]]) -> list[str]:
        return [f"{owner.name}:{task.name}" for owner, task in found]

    assert names(select.select_tasks(["one"])) == ["one:a"]
    assert names(select.select_tasks(["two", "one"], ["b", "a"])) == ["two:b", "one:b", "two:a", "one:a"]
    with pytest.raises(UsageError, match="No task 'c' in one, two") as error:
        select.select_tasks(["one", "two"], ["c"])
    assert error.value.hint.endswith("There are: a, b, a, b.")


def module(**members: Any) -> ModuleType:
    made = ModuleType("task")
    made.__file__ = "task.py"
    for name, member in members.items():
        if callable(member):
            member.__module__ = "task"
        setattr(made, name, member)
    return made


def test_hooks_of_a_task() -> None:
    """What a file defines is taken, the rest has a default; what is nearly a hook is an error, other names are not."""
    nothing = find_hooks(None)
    assert (nothing.labels({}), nothing.references({}), nothing.value({})) == ((), None, None)
    assert (nothing.read("x"), nothing.parse, nothing.values) == ("x", None, ())
    found = find_hooks(module(VALUES=(1.0, 2.0), read=lambda text: text.upper(), help_out=lambda: None, _label=1))
    assert (found.values, found.read("x"), found.parse) == ((1.0, 2.0), "X", None)
    for misspelt in ("label", "reference", "valeu"):
        with pytest.raises(BenchError, match=f"task.py has '{misspelt}', which nothing looks for") as error:
            find_hooks(module(**{misspelt: lambda row: None}))
        assert "If it is the file's own, start its name with an underscore." in error.value.hint
    borrowed = module()
    borrowed.label = math.sqrt  # type: ignore[attr-defined]
    borrowed.labl = math  # type: ignore[attr-defined]
    assert find_hooks(borrowed).labels({}) == ()


def test_scores_of_lm_eval_are_per_cent() -> None:
    """The first is primary; what is no figure, and standard errors, are none; an error that is not computed is None."""
    from importlib.metadata import version

    found = convert_harness_scores(
        "lm-eval:x",
        {
            "alias": "x", "acc,none": 0.25, "acc_stderr,none": 0.05, "f1,strict": 0.5, "f1_stderr,strict": "N/A",
            "name,none": "text",
        },
        40,
    )  # fmt: skip
    assert [(s.task, s.metric, s.value, s.stderr, s.n, s.primary) for s in found] == [
        ("lm-eval:x", "acc", 25.0, pytest.approx(5.0), 40, True), ("lm-eval:x", "f1", 50.0, None, 40, False)
    ]  # fmt: skip
    assert found[1].signature == f"f1|lm-eval:{version('lm_eval')}|filter:strict"
    assert convert_harness_scores("lm-eval:x", {}, 0) == ()


def test_progress_counts_documents_that_have_all_their_answers() -> None:
    """Two documents of two requests; of two workers each is as far, and the end is told only at the end."""
    told: list[tuple[int, int]] = []
    one = DocumentProgress([7, 7, 8, 8], lambda done, total, note="": told.append((done, total)), 1)
    for documents in ([7], [7, 8], [8]):
        one.mark_answered(documents)
    assert told == [(0, 2), (1, 2), (2, 2)]
    told.clear()
    two = DocumentProgress([1, 2, 3, 4], lambda done, total, note="": told.append((done, total)), 2)
    for document in ([1], [2], [3, 4]):
        two.mark_answered(document)
    assert told == [(2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("text", "same"), [("가 나.", "가나"), ("ＡＢＣ １２", "abc12"), ("\u1100\u1161!", "가"), ("...", "")]
)
def test_rows_are_compared_by_letters_and_digits(text: str, same: str) -> None:
    """Width, case, marks and white space do not make another row."""
    assert normalise_text(text) == same
