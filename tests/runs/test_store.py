"""A run folder is read back as it was written, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.runs.folder import (
    RECORD_FILE,
    load_record,
    load_samples,
    load_training_record,
    save_record,
    save_samples,
)
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, Example, RunRecord, Score
from bitnet_bench.training.finetune import finetune


@pytest.fixture
def record() -> RunRecord:
    """Give a small record."""
    checkpoint = Checkpoint(
        source="demo", path="demo", architecture="BitNetForCausalLM", format="autobitlinear",
        scale_direction="multiply", dtype="float16", sha256="0" * 64, weight_bytes={"ternary": 1},
        parameters=4, ternary_parameters=4,
    )  # fmt: skip
    score = Score(task="sample:copa", metric="accuracy", value=50.0, stderr=None, n=1, signature="accuracy|v1")
    return RunRecord(
        name="run",
        checkpoint=checkpoint,
        backend="hf",
        precision="ternary",
        scores=(score,),
        environment=read_environment(),
    )


def test_a_run_survives_the_disk(record: RunRecord, tmp_path: Path) -> None:
    """Record and examples come back equal, in order; a task without samples has none."""
    examples = [
        Example(task="sample:copa", doc_id=i, prompt="가\n나", target="다", output="<b>", correct=1.0) for i in range(3)
    ]
    save_record(tmp_path, record)
    save_samples(tmp_path, "sample:copa", examples)
    assert load_record(tmp_path) == record
    assert load_samples(tmp_path, ["sample:copa", "sample:wic"]) == examples


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: json.dumps({**json.loads(text), "schema_version": 99}), "schema version 99"),
        (lambda text: json.dumps({**json.loads(text), "surprise": 1}), "cannot be read"),
        (lambda text: text.replace("50.0", "NaN"), "cannot be read"),
    ],
)
def test_a_damaged_or_foreign_record_is_refused(change, complaint, record: RunRecord, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Half a file, another version, an unknown field, a NaN: a sentence that names the file."""
    save_record(tmp_path, record)
    file = tmp_path / RECORD_FILE
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(BenchError, match=complaint) as error:
        load_record(tmp_path)
    assert str(file) in error.value.problem


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"job": 1}', b"\xff\xfe"])
def test_a_damaged_record_of_training_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    """`finetune` into the folder and `push` of it ended in a traceback."""
    (tmp_path / "finetune.json").write_bytes(content)
    with pytest.raises(BenchError, match=r"finetune.json cannot be read: ") as error:
        load_training_record(tmp_path)
    assert error.value.hint == "Delete it and train again, or get the checkpoint again."
    job = FinetuneJob(model="demo", data=(str(tmp_path / "rows.jsonl"),), out=str(tmp_path))
    with pytest.raises(BenchError, match="cannot be read"):
        finetune(job)


def test_a_folder_without_a_record_of_training_has_none(tmp_path: Path) -> None:
    """A checkpoint of somebody else is no error."""
    assert load_training_record(tmp_path) is None
