"""Distillation against its equations on full tensors, and through the `hf` backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.distillation import relation_divergence, share_frozen_tables
from bitnet_bench.training.finetune import finetune

IDS = torch.tensor([[5, 9, 5, 7, 2, 2], [3, 9, 4, 4, 8, 5]])
ROWS = [
    {"prompt": f"{i}번 문은 어디인가요?", "response": f"{i}번 문은 {'왼쪽' if i % 2 else '오른쪽'}입니다."}
    for i in range(24)
]


def naive_relations(student: Any, teacher: Any, valid: Any, heads: int, documents: Any) -> float:
    """Return the sum over valid positions of KL(teacher || student), a head and a position at a time."""
    total = 0.0
    for name in ("q_proj", "k_proj", "v_proj"):
        for b in range(valid.shape[0]):
            for t in range(valid.shape[1]):
                if not valid[b, t]:
                    continue
                earlier = [s for s in range(t + 1) if documents[b, s] == documents[b, t]]
                for h in range(heads):
                    rows = []
                    for states in (teacher, student):
                        d = states[name].shape[-1] // heads
                        x = states[name][b, :, h * d : (h + 1) * d]
                        rows.append(torch.stack([x[t] @ x[s] / d**0.5 for s in earlier]).softmax(0))
                    total += float((rows[0] * (rows[0].log() - rows[1].log())).sum()) / heads / 3
    return total


def test_relations_are_those_of_their_equations() -> None:
    """Causal, of valid positions and of one document only; student and teacher may differ in width."""
    torch.manual_seed(1)
    student = {name: torch.randn(2, 7, 8) for name in ("q_proj", "k_proj", "v_proj")}
    teacher = {name: torch.randn(2, 7, 12) for name in student}
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, 5:] = False
    documents = torch.tensor([[1, 1, 1, 2, 2, 2, 2], [1] * 7])
    found = relation_divergence(student, teacher, valid, 4, documents)
    assert found.item() == pytest.approx(naive_relations(student, teacher, valid, 4, documents), rel=1e-4)
    assert relation_divergence(teacher, teacher, valid, 4).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_teacher_uses_the_tables_that_are_frozen_in_its_student(
    family: str, tiny_model: Callable[[str], Path]
) -> None:
    """Tied or not; only where they are equal, and a rounded head is used where a step would round it again."""
    base = inspect_folder(tiny_model(family))
    student, teacher = (load_model(base, purpose, "fp32") for purpose in ("train", "run"))
    assert share_frozen_tables(student, teacher) is None
    assert teacher.get_output_embeddings().weight is not student.get_output_embeddings().weight
    for table in (student.get_input_embeddings(), student.get_output_embeddings()):
        table.requires_grad_(False)
    expected = teacher(IDS).logits
    assert share_frozen_tables(student, teacher) is None
    for of in ("get_input_embeddings", "get_output_embeddings"):
        assert getattr(teacher, of)().weight is getattr(student, of)().weight
    assert torch.equal(teacher(IDS).logits, expected)
    rounded = load_model(base, "run", "bf16")
    assert share_frozen_tables(student, rounded) is rounded.get_output_embeddings().weight
    with torch.no_grad():
        rounded.get_output_embeddings().weight[3, 3] += 1
    assert share_frozen_tables(student, rounded) is None


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Give a JSONL file of 24 rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return file


def distill(rows: Path, out: Path, **settings: Any) -> FinetuneJob:
    defaults = {"model": "demo", "data": (str(rows),), "out": str(out), "method": "distill", "teacher": "demo-fp16"}
    return FinetuneJob.model_validate(
        {**defaults, "learning_rate": 2e-3, "max_steps": 30, "batch_size": 4, "epochs": 9, **settings}
    )


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_a_student_comes_nearer_to_its_teacher(rows: Path, tmp_path: Path, compute: str) -> None:
    """Every part of the loss falls, and the result is as ternary as any."""
    record = finetune(distill(rows, tmp_path / "out", compute=compute, hold_out=0.25))
    first, last = record.history[0], record.history[-1]
    for part in ("loss", "cross_entropy", "divergence", "relations"):
        assert last[part] < first[part], part
    assert first["loss"] == pytest.approx(
        first["cross_entropy"] + 10 * first["divergence"] + first["relations"], rel=1e-3
    )
    assert record.validation[-1]["loss"] < record.validation[0]["loss"]
    assert record.result.format == "autobitlinear"


def test_an_fp16_student_of_itself_has_nothing_to_learn_from_its_teacher(rows: Path, tmp_path: Path) -> None:
    record = finetune(distill(rows, tmp_path / "out", model="demo-fp16", precision="fp16", compute="fp32", max_steps=1))
    assert record.history[0]["divergence"] == pytest.approx(0, abs=1e-5)
    assert record.history[0]["relations"] == pytest.approx(0, abs=1e-5)


def test_a_teacher_of_another_vocabulary_is_refused(
    rows: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    with pytest.raises(BenchError, match="`teacher` has another vocabulary than the `model`"):
        finetune(distill(rows, tmp_path / "out", teacher=str(tiny_model("llama"))))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"relation_layer": 9}, "`relation_layer` is 9, and the `model` has 4 layers"),
        ({"relation_heads": 7}, "cannot be split into 7 heads"),
        ({"teacher": "demo", "compute": "bf16"}, "has no bf16 weights"),
    ],
)
def test_what_cannot_be_taught_is_refused(rows: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        finetune(distill(rows, tmp_path / "out", **settings))


def test_distill_and_teacher_go_together() -> None:
    with pytest.raises(ValueError, match="needs a `teacher`"):
        FinetuneJob(model="demo", data=("x",), out="o", method="distill")
    with pytest.raises(ValueError, match="no other method has one"):
        FinetuneJob(model="demo", data=("x",), out="o", teacher="demo-fp16")


def test_packed_rows_are_taught_like_rows_alone(rows: Path, tmp_path: Path) -> None:
    """Relations stay within a document and leave padding out, so that parts of the loss keep their size."""
    alone, packed = (
        finetune(
            distill(rows, tmp_path / str(on), packing=on, max_steps=1, batch_size=24, max_length=96, compute="fp32")
        ).history[0]
        for on in (False, True)
    )
    for part in ("cross_entropy", "divergence", "relations"):
        assert packed[part] == pytest.approx(alone[part], rel=0.05), part
