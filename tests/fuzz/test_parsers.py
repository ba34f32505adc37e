"""Every parser of a foreign file ends in a value or in a sentence, for damaged files of every kind."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_bench.errors import BenchError
from fuzz import running
from fuzz.parsers import PARSERS, Parser, mutate_case

EXAMPLES = 6
"""Cases of each parser; `make fuzz` runs a thousand and more."""


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_ends_in_a_sentence(parser: Parser, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No traceback, no hang, no GiB of memory, and a message that is short and names the file.

    The file is valid before it is damaged: one that is refused as it is would make every case pass.
    """
    folder = tmp_path_factory.mktemp(parser.name)
    parser.prepare(folder)
    seed = (folder / parser.file).read_bytes()
    parser.read(folder)

    @settings(
        max_examples=min(EXAMPLES, 2 * parser.share),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32))
    def read(number: int) -> None:
        fault = running.run_case(parser, mutate_case(parser, seed, number, 0), number, folder / "case")
        assert fault is None

    read()
    gc.collect()  # what a damaged answer left open is warned of here, and not in the next test


def _judge(tmp_path: Path, read: object) -> running.Fault | None:
    """Return the fault of a parser that reads with *read*."""

    def prepare(folder: Path) -> None:
        (folder / "file.json").write_text("{}", encoding="utf-8")

    parser = Parser("own", "file.json", lambda data, _rng: data, prepare, read, 1)  # type: ignore[arg-type]
    return running.run_case(parser, b"{}", 0, tmp_path / "case")


def test_the_harness_notices_a_traceback(tmp_path: Path) -> None:
    fault = _judge(tmp_path, lambda folder: {}["gone"])
    assert fault is not None
    assert "KeyError" in fault.kind


def test_the_harness_notices_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "HANG_S", 0.5)

    def read(folder: Path) -> None:
        began = time.process_time()
        while time.process_time() - began < 20:
            pass

    fault = _judge(tmp_path, read)
    assert fault is not None
    assert fault.kind == "hangs"


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak of memory is Linux's")
def test_the_harness_notices_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MAX_BYTES", 32 << 20)
    fault = _judge(tmp_path, lambda folder: len(b"x" * (64 << 20)))
    assert fault is not None
    assert "MiB" in fault.kind


@pytest.mark.parametrize(
    ("said", "kind"), [("It is damaged.", "names no file"), ("file.json is damaged." + 3000 * "x", "")]
)
def test_the_harness_reads_the_message(tmp_path: Path, said: str, kind: str) -> None:
    """A message without the file is a fault; a long one is cut by `BenchError` itself."""

    def read(folder: Path) -> None:
        raise BenchError(said, said)

    fault = _judge(tmp_path, read)
    assert (kind in fault.kind) if kind else fault is None  # type: ignore[union-attr]


def test_a_case_is_the_same_every_time() -> None:
    """A fault is found again by its number."""
    parser = next(one for one in PARSERS if one.name == "recipe")
    seed = b"finetune: {data: [a]}\nevaluate: {suites: [sample]}\n"
    assert [mutate_case(parser, seed, n, 3) for n in range(9)] == [mutate_case(parser, seed, n, 3) for n in range(9)]
    assert len({mutate_case(parser, seed, n, 3) for n in range(50)}) > 25
