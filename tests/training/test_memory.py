"""The batch that fits: powers of two, steps of one size, and the memory model behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.checkpoints.shape import ModelShape, compute_shape
from bitnet_bench.machine.memory import USABLE_SHARE, find_free_bytes
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.head_loss import count_chunk_rows
from bitnet_bench.training.memory import fit_batch, training_bytes

JOB = FinetuneJob(model="model", data=("rows.jsonl",), out="out", batch_size="auto")
SMOLLM = ModelShape(
    hidden=576, intermediate=1536, layers=30, vocabulary=49152, matrices=106_000_000, head_weights=28_000_000
)


@given(st.integers(1, 4), st.integers(1, 512), st.integers(0, 200 * 10**9), st.sampled_from(["sft", "dpo"]))
def test_a_step_keeps_its_size_and_the_batch_is_the_largest_that_fits(
    accumulation: int, longest: int, free: int, method: Any
) -> None:
    """A power of two of at most 16; twice as many would not fit, and one fits or is the least."""
    job = JOB.model_copy(update={"gradient_accumulation": accumulation, "method": method})
    fitted = fit_batch(job, SMOLLM, longest, free)
    batch = fitted.sequences
    assert batch in (1, 2, 4, 8, 16)
    assert batch * fitted.gradient_accumulation == 16 * accumulation
    tokens = longest * (2 if method == "dpo" else 1)
    fits = {size: training_bytes(job, SMOLLM, size * tokens) <= USABLE_SHARE * free for size in (1, 2, 4, 8, 16)}
    assert fits[batch] or batch == 1
    assert batch == 16 or not fits[2 * batch]


def test_a_number_is_left_alone() -> None:
    job = JOB.model_copy(update={"batch_size": 24})
    assert fit_batch(job, SMOLLM, 256, 1.0) == job


def test_less_is_kept_with_checkpointing_and_more_by_a_head_that_holds_all_logits() -> None:
    plain = training_bytes(JOB, SMOLLM, 4096)
    assert training_bytes(JOB.model_copy(update={"gradient_checkpointing": True}), SMOLLM, 4096) < plain
    logits = 3 * 4 * 49152 * (4096 - count_chunk_rows(49152))
    assert training_bytes(JOB, replace(SMOLLM, keeps_all_logits=True), 4096) == plain + logits


def test_which_families_hold_all_logits_is_read_from_the_config() -> None:
    config = {
        "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 300, "num_hidden_layers": 2,
    }  # fmt: skip
    assert compute_shape({**config, "model_type": "gemma3_text", "final_logit_softcapping": 30.0}).keeps_all_logits
    assert not compute_shape({**config, "model_type": "gemma3_text"}).keeps_all_logits
    assert not compute_shape({**config, "model_type": "llama"}).keeps_all_logits


@pytest.mark.usefixtures("on_the_cpu")
def test_processes_share_what_is_free_here() -> None:
    assert find_free_bytes(4) == pytest.approx(find_free_bytes(1) / 4, rel=0.2)
