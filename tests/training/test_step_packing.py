"""Rows of a step share sequences by default: what is learned is the same, and what cannot be packed is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.data.collating import BatchItem, Collator
from bitnet_bench.data.examples import IGNORED_LABEL, TrainingExample
from bitnet_bench.data.row_packing import ISOLATING_ARCHITECTURES
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.encoding import joins_step_rows
from bitnet_bench.training.finetune import finetune, make_twin_job
from bitnet_bench.training.loss import response_loss

PAD = 2


def make_items(lengths: list[int]) -> list[BatchItem]:
    """Return rows of random tokens, the loss on the second half of each."""
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in lengths]
    examples = [TrainingExample(ids, [IGNORED_LABEL] * (len(ids) // 2) + ids[len(ids) // 2 :]) for ids in drawn]
    return [BatchItem((example,)) for example in examples]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=20))
def test_a_joined_batch_has_the_same_labels_and_is_never_larger(lengths: list[int]) -> None:
    """No sequence is longer than the longest row, so attention costs no more either."""
    apart, joined = (Collator(PAD, joins)(make_items(lengths)) for joins in (False, True))
    assert joined["input_ids"].shape[0] <= apart["input_ids"].shape[0]
    assert joined["input_ids"].shape[1] == apart["input_ids"].shape[1]
    kept = [batch["labels"].flatten()[batch["labelled"] + 1].sort().values for batch in (apart, joined)]
    assert torch.equal(*kept)


def test_rows_that_do_not_fit_beside_others_stay_as_they_are() -> None:
    """Rows of similar length, as batches have them, keep the tensors of old: the same bits, and their order."""
    items = make_items([20, 19, 11])
    apart, joined = (Collator(PAD, joins)(items) for joins in (False, True))
    assert all(torch.equal(apart[name], joined[name]) for name in apart)
    assert "position_ids" in Collator(PAD, joins_rows=True)(make_items([20, 9, 11]))


@pytest.mark.parametrize("architecture", sorted(ISOLATING_ARCHITECTURES))
def test_loss_and_gradients_of_a_step_are_those_of_its_rows_apart(
    architecture: str, tiny_model: Callable[[str], Path]
) -> None:
    """Up to rounding, in every family that is packed."""
    model: Any = load_model(inspect_folder(tiny_model(architecture)), "train", "fp32").eval()
    found = []
    for joins in (False, True):
        batch = Collator(PAD, joins)(make_items([30, 7, 12, 5, 3, 21]))
        assert len(batch["input_ids"]) == (3 if joins else 6)
        model.zero_grad()
        loss, count = response_loss(model, batch)
        (loss / count).backward()  # type: ignore[no-untyped-call]
        found.append((loss.detach(), {name: one.grad.clone() for name, one in model.named_parameters()}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_when_rows_are_joined() -> None:
    """Rows of responses, of families that keep them apart, unless the job says how to pack them."""

    def joins(architecture: str = "llama", **settings: Any) -> bool:
        teacher = {"teacher": "demo-fp16"} if settings.get("method") == "distill" else {}
        job = FinetuneJob.model_validate({"data": ("x",), "out": "o", **settings, **teacher})
        return joins_step_rows(job, architecture)

    assert joins()
    assert joins(method="distill")
    assert joins("gemma3_text", precision="fp16")
    assert not joins(method="dpo")
    assert not joins(method="pretrain")
    assert not joins("gpt2")
    assert not joins(packing=True)
    assert not joins(packing=False)
    assert not joins(neftune_alpha=5)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Give a JSONL file of 24 rows whose responses are of two lengths."""
    file = tmp_path / "rows.jsonl"
    lines = [
        json.dumps({"prompt": f"{i}에 둘을 더하면?", "response": f"{i + 2}입니다. " * (1 + i % 4 * 3)})
        for i in range(24)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def run(rows: Path, out: Path, **settings: Any) -> FinetuneRecord:
    defaults = {"model": "demo-fp16", "precision": "fp16", "data": (str(rows),), "out": str(out), "batch_size": 8}
    return finetune(FinetuneJob.model_validate({**defaults, "epochs": 1, "compute": "fp32", "track": (), **settings}))


def test_a_joined_run_learns_what_one_of_rows_apart_learns(rows: Path, tmp_path: Path) -> None:
    """The same steps and, up to rounding, losses and gradients; the record says how rows shared sequences."""
    apart, joined = run(rows, tmp_path / "apart", packing=False), run(rows, tmp_path / "joined")
    assert (apart.packing, joined.packing) == ("off", "step")
    assert apart.steps == joined.steps == 3
    for one, other in zip(apart.history, joined.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)
    assert FinetuneRecord.model_validate_json(joined.model_dump_json()).packing == "step"


def test_a_twin_is_packed_like_its_job() -> None:
    for packing in (None, True, False):
        assert make_twin_job(FinetuneJob(data=("x",), out="o", packing=packing), None).packing is packing


def test_a_run_that_was_started_with_rows_apart_goes_on_so(rows: Path, tmp_path: Path) -> None:
    """Rows apart were the default once: the same command must not find another setting."""
    apart = run(rows, tmp_path / "out", packing=False)
    again = run(rows, tmp_path / "out")
    assert again == apart
