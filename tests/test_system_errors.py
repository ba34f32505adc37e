"""Errors of the system: files that may not be touched, names, memory, and text that is none, are sentences."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_bench import cli
from bitnet_bench.checkpoints.building import build_outline
from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, explain_system_error
from bitnet_bench.evaluation.answer_cache import cache_file
from bitnet_bench.files import find_user_cache, is_file, read_text

Bench = Callable[..., subprocess.CompletedProcess[str]]
LONG = "가" * 200
ERRORS: list[tuple[BaseException, str]] = [
    (PermissionError(errno.EACCES, "Permission denied", "/a/record.json"), "/a/record.json: Permission denied"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "File name too long"),
    (OSError(errno.EROFS, "Read-only file system", "a", None, "b"), "a and b: Read-only file system"),
    (OSError("no number"), "no number"),
    (MemoryError(), "not enough memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
    (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    (UnicodeEncodeError("utf-8", "\udc00", 0, 1, "surrogates not allowed"), "surrogates not allowed"),
]


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | str | None]:
    """Give what runs the command line on an app that raises, and returns the exit status."""

    def run(error: BaseException | None, *arguments: str) -> int | str | None:
        def app() -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(cli, "_build_command", lambda: app)
        monkeypatch.setattr(sys, "argv", ["bitnet-bench", *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code
        return 0

    return run


@pytest.mark.parametrize(("error", "words"), ERRORS)
def test_an_error_of_the_system_is_a_sentence(
    error: BaseException, words: str, run_main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(error) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("error", "words"), ERRORS)
def test_its_traceback_is_there_for_whoever_asks(
    error: BaseException, words: str, run_main: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    assert run_main(error) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert type(error).__name__ in said


@pytest.mark.parametrize("error", [KeyError("a bug"), RuntimeError("a bug"), AssertionError()])
def test_a_bug_keeps_its_traceback(error: Exception, run_main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The net is for the system, and hides no fault of ours."""
    assert explain_system_error(error) is None
    assert run_main(error) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert type(error).__name__ in said


def test_a_path_that_is_no_text_is_refused(run_main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """--out in EUC-KR: the run was computed, and its record could not be written."""
    assert run_main(None, "finetune", "--out", os.fsdecode("결과".encode("euc-kr"))) == 2
    assert r"\xb0\xe1\xb0\xfa is not UTF-8" in capsys.readouterr().err
    assert run_main(None, "finetune", "--out", "결과") == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", LONG],
        ["compare", LONG, LONG],
        ["data", "check", f"{LONG}.jsonl"],
        ["run", f"{LONG}.yaml"],
        ["inspect", LONG],
        ["finetune", "--data", "rows.jsonl", "--out", LONG],
        ["finetune", "--data", "rows.jsonl", "--out", "/proc/nothing/here"],
        ["report", "folder"],
        ["data", "check", "."],
        ["rate", "collect", "."],
    ],
)
def test_a_path_that_the_system_refuses_is_a_sentence(run_command: Bench, tmp_path: Path, arguments: list[str]) -> None:
    """These paths are refused to everyone, root included."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "가", "response": "나"}\n', encoding="utf-8")
    (tmp_path / "folder/record.json").mkdir(parents=True)
    done = run_command(*arguments)
    assert done.returncode == 1, done.stderr
    assert done.stderr.rpartition(" ...\n")[2].startswith("Error: "), "only progress stands before it"
    assert "Traceback" not in done.stderr
    assert arguments[-1] in done.stderr or "rows.jsonl" in arguments


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("BITNET_BENCH_CACHE")
    monkeypatch.setattr(Path, "home", fail)
    for find in (find_user_cache, cache_file):
        with pytest.raises(BenchError, match="no home folder") as raised:
            find()
        assert "XDG_CACHE_HOME" in raised.value.hint


def test_a_model_that_no_memory_is_left_for_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", fail)
    with pytest.raises(BenchError, match="not enough memory for BitNetForCausalLM"):
        build_outline(read_config(Path(open_checkpoint("demo").path)))


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything: the system's answer is made up here."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a").write_text("x", encoding="utf-8")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BenchError, match="cannot be read: Permission denied"):
        read_text(tmp_path / "a", "")
    assert not is_file(tmp_path / LONG)
