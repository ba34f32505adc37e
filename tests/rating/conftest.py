"""Runs whose answers are made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.runs.folder import save_record, save_samples
from bitnet_bench.runs.records import Example, RunRecord


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Give a function that writes a run folder."""
    return _write_run


def _write_run(folder: Path, says: str, *, rows: int = 12, task: str = "qa", prompt: str = "질문") -> Path:
    """Write a run whose answers are *says* and the question's number."""
    name = f"sample:{task}"
    examples = [
        Example(
            task=name, doc_id=i, prompt=f"{prompt} {i}", target=f"정답 {i}", output=f"{says} {i}", correct=0.0,
            target_choice=0 if task == "copa" else None,
        )
        for i in range(rows)
    ]  # fmt: skip
    record = RunRecord(
        name=folder.name,
        checkpoint=open_checkpoint("demo"),
        backend="hf",
        precision="ternary",
        data={name: "digest"},
        environment=read_environment(),
    )
    save_samples(folder, name, examples)
    save_record(folder, record)
    return folder
