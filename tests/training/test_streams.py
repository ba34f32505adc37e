"""Training on rows that are kept in files is, bit for bit, training on rows in memory, in the order it always had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.data import arrow_files, mapping, row_reading, stored_rows, tokenizing
from bitnet_bench.data.example_digest import digest_examples
from bitnet_bench.data.examples import TrainingExample
from bitnet_bench.data.row_packing import pack_examples
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.order import SORTED_WINDOW, make_batch_order

ROWS = [{"prompt": f"{n} 더하기 {n}은?", "response": f"{2 * n}입니다. " * (n % 3 + 1)} for n in range(24)]
PAIRS = [{"prompt": f"{n}?", "chosen": "네 " * (n % 3 + 1), "rejected": "아니요"} for n in range(12)]
METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "packed": {"packing": True},
    "pretrain": {"method": "pretrain", "max_length": 32},
    "dpo": {"method": "dpo", "precision": "fp16", "model": "demo-fp16"},
    "held out": {"hold_out": 0.2},
}


def train(folder: Path, name: str, **settings: Any) -> FinetuneRecord:
    """Return the record of three steps."""
    file = folder / "rows.jsonl"
    lines = PAIRS if settings.get("method") == "dpo" else ROWS
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")
    common: dict[str, Any] = {"batch_size": 4, "max_steps": 3, "compute": "fp32", "track": ()}
    return finetune(FinetuneJob(data=(str(file),), out=str(folder / name), **common, **settings))


def refuse(some: Any, *_: Any) -> Any:
    """Fail: what this stands for should not be called; there may be no validation rows, which cost nothing."""
    assert len(some) == 0, "this was done before"
    return digest_examples(some)


@pytest.mark.parametrize("method", METHODS)
def test_rows_in_files_train_like_rows_in_memory(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of all steps, the digests of rows and tokens, and the second time nothing is read or tokenized."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    held = train(tmp_path, "held", **METHODS[method])
    assert not (tmp_path / "datasets").exists()
    for module in (arrow_files, stored_rows, tokenizing):
        monkeypatch.setattr(module, "MIN_CACHED_ROWS", 1)
    for module in (row_reading, stored_rows):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 5)
    kept = train(tmp_path, "kept", **METHODS[method])
    for module, name in ((row_reading, "read_value"), (mapping, "tokenize_sequences"), (tokenizing, "digest_examples")):
        monkeypatch.setattr(module, name, refuse)
    again = train(tmp_path, "again", **METHODS[method])
    for other in (kept, again):
        assert [point["loss"] for point in other.history] == [point["loss"] for point in held.history]
        assert other.validation == held.validation
        assert (other.inputs, other.data_sha256, other.rows) == (held.inputs, held.data_sha256, held.rows)


def order_batch_by_batch(lengths: list[int], batch: int, batches: int, seed: int) -> list[int]:
    """Return the order as it was made before it was made by columns."""
    wanted, epoch, order, sizes = batches * batch, 0, list[int](), np.asarray(lengths)
    while len(order) < wanted:
        rng = np.random.default_rng([seed, epoch])
        shuffled = rng.permutation(len(sizes))
        missing = -len(order) % batch
        order += shuffled[:missing].tolist()
        groups = []
        for start in range(missing, len(shuffled), batch * SORTED_WINDOW):
            window = shuffled[start : start + batch * SORTED_WINDOW]
            window = window[np.argsort(sizes[window], kind="stable")]
            groups += [window[i : i + batch] for i in range(0, len(window), batch)]
        whole = [group for group in groups if len(group) == batch]
        for i in rng.permutation(len(whole)):
            order += whole[i].tolist()
        for group in groups:
            order += group.tolist() if len(group) < batch else []
        epoch += 1
    return order[:wanted]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=400), st.integers(1, 7), st.integers(0, 150), st.integers(0, 3))
def test_the_order_of_training_is_what_it_was(lengths: list[int], batch: int, batches: int, seed: int) -> None:
    """For every number of examples, batch and epoch."""
    assert make_batch_order(lengths, batch, batches, seed) == order_batch_by_batch(lengths, batch, batches, seed)


@given(st.lists(st.integers(1, 14), max_size=120), st.integers(2, 12))
def test_documents_are_packed_where_first_fit_puts_them(lengths: list[int], max_length: int) -> None:
    """One by one, the longest first, into the first sequence with room."""
    room: list[int] = []
    members: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        fitting = next((i for i, left in enumerate(room) if left >= lengths[at]), len(room))
        if fitting == len(room):
            room.append(max_length)
            members.append([])
        room[fitting] -= lengths[at]
        members[fitting].append(at)
    examples = [TrainingExample([at] * length, [at] * length) for at, length in enumerate(lengths)]
    packed = pack_examples(examples, max_length)
    assert [one.input_ids for one in packed] == [[at for at in some for _ in range(lengths[at])] for some in members]
    assert packed.lengths.tolist() == [len(one.input_ids) for one in packed]
