"""An evaluation that is killed at any moment ends, when it is run again, as one that was not."""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.evaluation.answer_cache import list_stored_models

SCRIPT = """
import os
os.environ["BITNET_BENCH_CACHE"] = CACHE
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whose start takes longer than the moments below
from pathlib import Path
from typing import Any
import torch
from bitnet_bench.backends import batched_session as session
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.jobs import EvaluateJob

torch.set_num_threads(1)
session.TOKENS_PER_BATCH = 60
evaluate("demo-fp16", select_tasks(["sample"], ["copa", "qa"]), Path(OUT), EvaluateJob(limit=12))
"""
"""Scores two tasks of embedded rows, with answers of both kinds, in many small batches."""


def results(out: Path) -> tuple[object, list[bytes]]:
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    return (record["scores"], record["data"], record["errors"]), [
        file.read_bytes() for file in sorted((out / "samples").iterdir())
    ]


def answers(cache: Path) -> int:
    return sum(model.answers for model in list_stored_models(cache))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_change_no_byte(tmp_path: Path, forking: Any, kills: int) -> None:
    """Killed once at a random moment each time, then run again: scores and samples of an uninterrupted run."""
    (tmp_path / "evaluate.py").write_text(SCRIPT, encoding="utf-8")

    def run(name: str, kill_after: float | None = None) -> float:
        names = {"OUT": str(tmp_path / name), "CACHE": str(tmp_path / f"{name}.sqlite3")}
        process = forking.Process(target=runpy.run_path, args=(str(tmp_path / "evaluate.py"), names))
        began = time.monotonic()
        process.start()
        process.join(kill_after)
        if kill_after is None:
            assert process.exitcode == 0
        elif process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            killed.append(name)
        process.close()
        return time.monotonic() - began

    killed: list[str] = []
    run("warm")  # the server that forks has imported everything then
    seconds = run("whole")
    wanted = results(tmp_path / "whole")
    resumed = late = 0
    rng = random.Random(0)
    while len(killed) < kills:  # a moment that was too late is tried again: a busy machine is no fault
        name = f"killed-{len(killed)}-{late}"
        run(name, rng.uniform(0, seconds))
        if killed[-1:] != [name]:
            late += 1
            assert late < 5 * kills, "the moments were too late to kill"
            continue
        before = answers(tmp_path / f"{name}.sqlite3")
        run(name)
        resumed += 0 < before < answers(tmp_path / f"{name}.sqlite3")
        assert results(tmp_path / name) == wanted
    assert resumed >= kills // 4, "the kills fell outside of the scoring"
