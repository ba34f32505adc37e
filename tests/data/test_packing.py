"""Packing: several documents in one sequence, each whole, and none of them aware of another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.data.collating import BatchItem, Collator
from bitnet_bench.data.row_packing import ISOLATING_ARCHITECTURES, pack_examples
from bitnet_bench.data.tokenizing import IGNORED_LABEL, TrainingExample
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.loss import response_loss

PAD = 2
MAX_LENGTH = 32


def documents(lengths: list[int], prompt: int = 1) -> list[TrainingExample]:
    """Return documents of random tokens, the loss on all but the first *prompt* of each."""
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in lengths]
    return [TrainingExample(ids, [IGNORED_LABEL] * prompt + ids[prompt:]) for ids in drawn]


def parts_of(packed: TrainingExample) -> list[TrainingExample]:
    """Return the documents of a packed sequence, taken apart by its parts."""
    found, start = [], 0
    for length in packed.parts or (len(packed.input_ids),):
        end = start + length
        found.append(TrainingExample(packed.input_ids[start:end], packed.labels[start:end]))
        start = end
    assert start == len(packed.input_ids) == len(packed.labels)
    return found


LENGTHS = st.lists(st.integers(2, MAX_LENGTH), min_size=1, max_size=60)


@settings(deadline=None)
@given(LENGTHS)
def test_every_document_is_there_once_and_whole(lengths: list[int]) -> None:
    """Taken apart again the sequences are the documents, with their labels, and no sequence is too long."""
    given_documents = documents(lengths)
    packed = pack_examples(given_documents, MAX_LENGTH)
    assert all(len(one.input_ids) <= MAX_LENGTH for one in packed)
    found = [part for one in packed for part in parts_of(one)]
    assert Counter(map(repr, found)) == Counter(map(repr, given_documents))
    assert pack_examples(given_documents, MAX_LENGTH) == packed


@settings(deadline=None)
@given(LENGTHS)
def test_no_document_would_have_fitted_into_an_earlier_sequence(lengths: list[int]) -> None:
    """First fit: the shortest document of a sequence has no room in any sequence before it."""
    packed = pack_examples(documents(lengths), MAX_LENGTH)
    for i, later in enumerate(packed):
        shortest = min(later.parts or (len(later.input_ids),))
        earlier = [sum(n for n in one.parts or (len(one.input_ids),) if n >= shortest) for one in packed[:i]]
        assert all(used + shortest > MAX_LENGTH for used in earlier)


def test_the_first_token_of_a_document_has_no_label() -> None:
    """It would be predicted from the end of another document."""
    (packed,) = pack_examples(documents([4, 3, 2], prompt=0), MAX_LENGTH)
    assert packed.parts == (4, 3, 2)
    assert [i for i, label in enumerate(packed.labels) if label == IGNORED_LABEL] == [0, 4, 7]


def test_a_document_longer_than_a_sequence_stays_alone_and_whole() -> None:
    long, short = documents([40, 5])
    assert [one.input_ids for one in pack_examples([long, short], MAX_LENGTH)] == [long.input_ids, short.input_ids]


def test_positions_restart_at_every_document_and_at_the_padding() -> None:
    """And there is no attention mask, in whose presence transformers would not keep documents apart."""
    packed = [*pack_examples(documents([3, 2]), 5), *documents([4])]
    batch = Collator(PAD)([BatchItem((one,)) for one in packed])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    assert batch["input_ids"][1, -1] == PAD
    assert batch["labels"][1, -1] == IGNORED_LABEL
    assert "attention_mask" not in batch


def test_batches_without_packed_examples_have_a_mask_and_no_positions() -> None:
    batch = Collator(PAD).pad_examples(documents([3, 2]))
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert "position_ids" not in batch
    assert set(Collator(PAD).pad_examples(documents([3, 3]))) == {"input_ids", "labels"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("architecture", sorted(ISOLATING_ARCHITECTURES))
def test_a_packed_document_is_computed_as_if_it_were_alone(
    architecture: str, batch_size: int, attention: str, tiny_model: Callable[[str], Path]
) -> None:
    """Logits and the summed loss are those of the documents one by one, whatever stands beside them."""
    from transformers import AutoModelForCausalLM

    folder = tiny_model(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    packed = pack_examples(documents([20, 17, 9, 8, 5, 2], prompt=2), MAX_LENGTH)
    assert len(packed) == 2
    assert len({len(one.input_ids) for one in packed}) == 2  # so that a batch of both is padded
    collator = Collator(PAD)
    total, count = torch.zeros(()), 0
    with torch.no_grad():
        for start in range(0, len(packed), batch_size):
            batch = collator.pad_examples(packed[start : start + batch_size])
            loss, labelled = response_loss(model, batch)
            total, count = total + loss, count + labelled
            inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
            logits = model(**inputs, use_cache=False).logits
            for row, one in zip(logits, packed[start : start + batch_size], strict=True):
                alone = [model(torch.tensor([part.input_ids])).logits[0] for part in parts_of(one)]
                torch.testing.assert_close(row[: len(one.input_ids)], torch.cat(alone), rtol=1e-4, atol=1e-4)
        apart = [response_loss(model, collator.pad_examples([part])) for one in packed for part in parts_of(one)]
    assert count == sum(labelled for _, labelled in apart)
    torch.testing.assert_close(total, torch.stack([loss for loss, _ in apart]).sum(), rtol=1e-5, atol=1e-4)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Give a JSONL file of 12 rows."""
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{i}에 둘을 더하면?", "response": f"{i + 2}입니다."}) for i in range(12)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def job(rows: Path, out: Path, **settings: Any) -> FinetuneJob:
    defaults = {"model": "demo", "data": (str(rows),), "out": str(out), "epochs": 1, "compute": "fp32"}
    return FinetuneJob.model_validate({**defaults, **settings})


def test_a_packed_step_is_the_step_of_its_rows(rows: Path, tmp_path: Path) -> None:
    """All rows in one sequence give the loss and the gradient that a batch of them gives; validation is packed too."""
    held_out = tmp_path / "held-out.jsonl"
    lines = [json.dumps({"prompt": f"{i}에 셋을 더하면?", "response": f"{i + 3}입니다."}) for i in range(5)]
    held_out.write_text("\n".join(lines), encoding="utf-8")
    both = {"max_length": 1024, "validation": (str(held_out),)}
    packed = finetune(job(rows, tmp_path / "packed", packing=True, batch_size=1, **both))
    batch = finetune(job(rows, tmp_path / "batch", batch_size=12, **both))
    for one, other in zip(packed.validation, batch.validation, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
    assert packed.steps == batch.steps == 1
    assert packed.history[0]["loss"] == pytest.approx(batch.history[0]["loss"], rel=1e-3)
    assert packed.history[0]["grad_norm"] == pytest.approx(batch.history[0]["grad_norm"], rel=2e-2)


def test_an_architecture_that_may_mix_documents_is_refused(
    rows: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    gpt2 = job(rows, tmp_path / "out", model=str(tiny_model("gpt2")), precision="fp16", packing=True)
    with pytest.raises(BenchError, match="not known whether gpt2") as caught:
        finetune(gpt2)
    assert "without `packing`" in caught.value.hint


@pytest.mark.parametrize("method", ["dpo", "pretrain"])
def test_methods_without_rows_of_their_own_have_no_packing(method: str, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`packing`"):
        job(rows, tmp_path / "out", method=method, packing=True)
