"""Answers in files of one writer: whole entries survive every cut, and several processes share a folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_bench.cli.cache import answers_table
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.answer_cache import CACHE_FILE_VARIABLE, compute_digest
from bitnet_bench.evaluation.answer_log import (
    HEAD,
    MAGIC,
    AnswerLog,
    FolderStore,
    KnownAnswers,
    list_stored_answers,
    open_store,
    prune_answers,
    read_answers,
)

PAIRS = [(b"first", b"1"), (b"second", b""), (b"third", "셋".encode())]


def write(file: Path, pairs: list[tuple[bytes, bytes]], identity: bytes = b"model") -> None:
    with AnswerLog(file, identity, {"model": "m"}) as log:
        for pair in pairs:
            log.save([pair])


def lookup(file: Path) -> dict[int, bytes]:
    return KnownAnswers([file]).lookup([request for request, _ in PAIRS])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """By another process too: everything is in the file when `save` returns."""
    file = tmp_path / "deep" / "answers"
    with AnswerLog(file, b"model", {"model": "m"}) as log:
        log.save(PAIRS)
        assert lookup(file) == dict(enumerate(answer for _, answer in PAIRS))
        assert log.lookup([b"third", b"fourth"]) == {0: PAIRS[2][1]}
    assert read_answers(file)[0] == {"identity": b"model".hex(), "about": {"model": "m"}}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), flip=st.integers(0, 400), wrote=st.lists(st.binary(max_size=20), max_size=6))
def test_a_file_that_was_cut_or_changed_gives_no_wrong_answer(
    tmp_path: Path, cut: int, flip: int, wrote: list[bytes]
) -> None:
    """What is read is what was written, up to the fault; then the file can be written on."""
    file = tmp_path / "answers"
    file.unlink(missing_ok=True)
    pairs = [(f"request {i}".encode(), answer) for i, answer in enumerate(wrote)]
    write(file, pairs)
    data = bytearray(file.read_bytes()[: max(0, file.stat().st_size - cut)])
    if flip < len(data):
        data[flip] ^= 0x40
    file.write_bytes(bytes(data))
    try:
        known = read_answers(file)[1]
    except BenchError:  # the fault is in the header
        known = {}
    assert known.items() <= {compute_digest(request): answer for request, answer in pairs}.items()
    write(file, [(b"more", b"yes")])
    assert read_answers(file)[1][compute_digest(b"more")] == b"yes"


def test_a_torn_entry_is_replaced(tmp_path: Path) -> None:
    """A kill within an entry loses that entry, and not those that follow."""
    file = tmp_path / "answers"
    write(file, PAIRS)
    file.write_bytes(file.read_bytes()[:-2])
    assert lookup(file) == {0: b"1", 1: b""}
    write(file, PAIRS[2:])
    assert lookup(file) == {0: b"1", 1: b"", 2: PAIRS[2][1]}


def test_a_full_disk_leaves_no_part_of_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not get to the disk is not in the file, and what is saved afterwards can be read."""
    file = tmp_path / "answers"
    real = os.fsync

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with AnswerLog(file, b"model", {}) as log:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(BenchError):
            log.save(PAIRS[:1])
        monkeypatch.setattr(os, "fsync", real)
        log.save(PAIRS[1:])
    assert lookup(file) == {1: b"", 2: PAIRS[2][1]}


def test_answers_of_other_software_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another identity: the file is renamed with a word, and none of its answers is used."""
    file = tmp_path / "answers"
    write(file, PAIRS)
    with AnswerLog(file, b"changed", {}) as log:
        assert log.lookup([b"first"]) == {}
    assert "holds answers of other software" in caplog.text
    assert len(list(tmp_path.glob("answers.aside-*"))) == 1


def test_a_folder_of_answers_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writer has its own file, reads the others', and no other model's; all are listed and pruned."""
    monkeypatch.setenv("BITNET_BENCH_CACHE", str(tmp_path))
    one, two = open_store(b"model", {"model": "m"}), open_store(b"model", {"model": "m"})
    other = open_store(b"other", {"model": "n"})
    assert isinstance(one, FolderStore)
    one.save(PAIRS[:1])
    two.save(PAIRS[1:])
    other.save([(b"first", b"another's")])
    for store in (one, two, other):
        store.close()
    requests = [request for request, _ in PAIRS]
    again = open_store(b"model", {"model": "m"})
    assert again.lookup(requests) == dict(enumerate(answer for _, answer in PAIRS))
    again.close()
    assert len(list(tmp_path.glob("*/*.answers"))) == 3  # one that wrote nothing has no file
    place, models = list_stored_answers()
    assert place == tmp_path
    assert {(model.about["model"], model.answers) for model in models} == {("m", 3), ("n", 1)}
    for file in tmp_path.glob("*/*.answers"):
        if open_store(b"other", {}).lookup([b"first"]) and read_answers(file)[0]["about"] == {"model": "n"}:
            os.utime(file, (0, 0))
    forgotten, freed = prune_answers(1.0)
    assert [model.about["model"] for model in forgotten] == ["n"]
    assert freed > 0
    assert open_store(b"other", {}).lookup([b"first"]) == {}
    assert open_store(b"model", {}).lookup(requests[:1]) == {0: b"1"}


def test_a_damaged_file_of_a_folder_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a word; the others are read."""
    monkeypatch.setenv("BITNET_BENCH_CACHE", str(tmp_path))
    store = open_store(b"model", {})
    store.save(PAIRS)
    store.close()
    (file,) = tmp_path.glob("*/*.answers")
    file.with_name("zz.answers").write_bytes(b"something else")
    assert open_store(b"model", {}).lookup([b"first"]) == {0: b"1"}
    assert "is not a file of answers" in caplog.text
    assert [model.answers for model in list_stored_answers()[1]] == [3]


def test_a_folder_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Evaluation goes on without a store, which is said once."""
    monkeypatch.setenv("BITNET_BENCH_CACHE", str(tmp_path))
    store: Any = open_store(b"model", {})
    (tmp_path / b"model".hex()[:32]).write_text("a file where the folder would be", encoding="utf-8")
    store.save(PAIRS)
    store.save(PAIRS)
    assert caplog.text.count("Answers are not kept") == 1


@pytest.mark.parametrize(
    "header", [b"[" * 60_000, b"{}", b'{"identity": "aa", "about": [1]}', b'{"about": null}', b"3"]
)
def test_a_header_that_says_nothing_is_no_file_of_answers(
    tmp_path: Path, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out where answers are listed, and named where they are read."""
    file = tmp_path / "model" / "one.answers"
    file.parent.mkdir()
    file.write_bytes(MAGIC + HEAD.pack(len(header)) + header)
    with pytest.raises(BenchError, match="is not a file of answers"):
        read_answers(file)
    monkeypatch.setenv(CACHE_FILE_VARIABLE, str(tmp_path))
    answers_table(list_stored_answers()[1])
