"""Fifty rows in each shape of public data sets are trained on from the command line, as they are found."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.data.row_reading import read_row_file
from bitnet_bench.data.rows import convert_data

from .public_shapes import ROWS, PublicFile, make_files

MODELS_VARIABLE, MODEL = "BITNET_BENCH_REAL_MODELS", "smollm2-135m-instruct"
FILES = make_files()
Bench = Callable[..., subprocess.CompletedProcess[str]]


def write(file: PublicFile, folder: Path) -> Path:
    """Write a file of rows, and convert it if its encoding asks for that."""
    path = folder / file.name
    path.write_bytes(file.data)
    if file.encoding is None:
        return path
    convert_data(path, folder / f"utf8-{path.stem}{path.suffix}.jsonl", file.encoding)
    return folder / f"utf8-{path.stem}{path.suffix}.jsonl"


def finetune(bench: Bench, method: str, files: list[Path], out: Path, model: str) -> dict[str, Any]:
    """Return the record of two steps on *files*."""
    data = [word for file in files for word in ("--data", str(file))]
    words = ["--model", model, "--precision", "fp16", "--method", method, "--max-steps", "2", "--batch-size", "2"]
    done = bench("finetune", *data, *words, "--max-length", "512", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    return dict(record)


@pytest.mark.parametrize("shape", FILES)
def test_every_row_of_a_public_shape_is_read(shape: str, tmp_path: Path) -> None:
    """Each has something to learn."""
    rows = read_row_file(write(FILES[shape], tmp_path))
    assert len(rows) == ROWS
    assert all(row.responses or row.turns[0].role == "text" for row in rows)


@pytest.mark.parametrize("method", ["sft", "dpo", "pretrain"])
def test_every_public_shape_is_trained_on(method: str, tmp_path: Path, run_command: Bench) -> None:
    """The embedded model takes two steps on the rows of all shapes of a method together."""
    files = [write(file, tmp_path) for file in FILES.values() if file.method == method]
    record = finetune(run_command, method, files, tmp_path / "out", "demo-fp16")
    assert (record["rows"], record["steps"]) == (ROWS * len(files), 2)
    assert math.isfinite(record["last_loss"])


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(MODELS_VARIABLE), reason=f"{MODELS_VARIABLE} names no folder with {MODEL}")
@pytest.mark.parametrize("shape", FILES)
def test_smollm_is_trained_on_every_public_shape(shape: str, tmp_path: Path, run_command: Bench) -> None:
    """A model as it is published, with its tokenizer and chat template, takes two steps on each shape alone."""
    model = str(Path(os.environ[MODELS_VARIABLE], MODEL))
    file = FILES[shape]
    record = finetune(run_command, file.method, [write(file, tmp_path)], tmp_path / "out", model)
    assert (record["rows"], record["dropped_rows"], record["steps"]) == (ROWS, 0, 2)
    assert 0 < record["last_loss"] < 20
