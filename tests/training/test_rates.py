"""The table of default learning rates: which row a job has, that each has a source, and that a run keeps its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.training.rates import (
    LANGUAGE_MODEL_RATES,
    PREFERENCE_RATES,
    PRETRAINING_RATES,
    find_default_rate,
    set_default_rate,
)
from bitnet_bench.training.resume import claim_run_folder, recall_choices

JOB = FinetuneJob(model="model", data=("rows.jsonl",), out="out")


@pytest.fixture
def make_base(make_results: Callable[..., Any]) -> Callable[[str, int], Checkpoint]:
    """Give a factory of checkpoints of a format and a size."""
    one: Checkpoint = make_results("run", {"kobest:copa": [1.0]}).record.checkpoint

    def make(form: str, parameters: int) -> Checkpoint:
        return one.model_copy(update={"format": form, "parameters": parameters})

    return make


def test_every_rate_has_a_source() -> None:
    for row in (*LANGUAGE_MODEL_RATES.values(), *PRETRAINING_RATES.values(), *PREFERENCE_RATES.values()):
        for rate in (row.tiny, row.small, row.large):
            assert 1e-7 <= rate.value <= 1e-2
            assert len(rate.source) > 10


@pytest.mark.parametrize(
    ("form", "settings", "expected"),
    [
        ("float", {"precision": "fp16"}, LANGUAGE_MODEL_RATES["fp16"]),
        ("float", {"precision": "ternary"}, LANGUAGE_MODEL_RATES["becomes ternary"]),
        ("masters", {"precision": "ternary"}, LANGUAGE_MODEL_RATES["ternary"]),
        ("packed", {"precision": "ternary", "method": "distill"}, LANGUAGE_MODEL_RATES["ternary"]),
        ("packed", {"precision": "ternary", "method": "pretrain"}, PRETRAINING_RATES["ternary"]),
        ("float", {"precision": "ternary", "method": "pretrain"}, PRETRAINING_RATES["becomes ternary"]),
        ("float", {"precision": "fp16", "method": "pretrain"}, LANGUAGE_MODEL_RATES["fp16"]),
        ("float", {"precision": "fp16", "method": "dpo"}, PREFERENCE_RATES["fp16"]),
        ("autobitlinear", {"precision": "ternary", "method": "dpo"}, PREFERENCE_RATES["ternary"]),
        ("float", {"precision": "ternary", "method": "dpo"}, PREFERENCE_RATES["ternary"]),
    ],
)
def test_the_row_is_that_of_the_method_the_precision_and_the_base(
    form: str, settings: dict[str, Any], expected: Any, make_base: Callable[[str, int], Checkpoint]
) -> None:
    """And the column that of the size."""
    job = JOB.model_copy(update=settings)
    for size, rate in ((4_500_000, expected.tiny), (135_000_000, expected.small), (2 * 10**9, expected.large)):
        assert find_default_rate(job, make_base(form, size)) == rate


def test_adapters_have_ten_times_the_rate(make_base: Callable[[str, int], Checkpoint]) -> None:
    base = make_base("packed", 2 * 10**9)
    adapted = find_default_rate(JOB.model_copy(update={"lora_rank": 4}), base)
    assert adapted.value == pytest.approx(10 * find_default_rate(JOB, base).value)
    assert "adapters" in adapted.source


def test_a_rate_that_is_given_has_no_source(make_base: Callable[[str, int], Checkpoint]) -> None:
    given = JOB.model_copy(update={"learning_rate": 3e-4})
    assert set_default_rate(given, make_base("float", 10**9)) == given


def test_a_run_that_began_keeps_the_rate_and_the_batch_that_it_began_with(tmp_path: Path) -> None:
    """Whatever the table says by then, and however much memory is free."""
    asked = JOB.model_copy(update={"out": str(tmp_path), "batch_size": "auto"})
    assert recall_choices(asked, None) == asked
    begun = asked.model_copy(update={"learning_rate": 7e-5, "batch_size": 4, "gradient_accumulation": 4})
    claim_run_folder(tmp_path, begun.settings(), {"learning_rate_source": "an older table"})
    recalled = recall_choices(asked, None)
    assert recalled == begun.model_copy(update={"learning_rate_source": "an older table"})
    claim_run_folder(tmp_path, recalled.settings(), {"learning_rate_source": "an older table"})


def test_a_run_that_began_with_a_rate_of_its_own_is_not_resumed_without_it(tmp_path: Path) -> None:
    """Nor is a step of another size taken for the one that was meant."""
    begun = JOB.model_copy(update={"out": str(tmp_path), "learning_rate": 7e-5, "batch_size": 4})
    claim_run_folder(tmp_path, begun.settings(), {"learning_rate_source": None})
    asked = JOB.model_copy(update={"out": str(tmp_path), "batch_size": "auto"})
    assert recall_choices(asked, None) == asked
    with pytest.raises(BenchError, match="another `learning_rate`, `batch_size`"):
        claim_run_folder(tmp_path, asked.settings(), {})


@pytest.mark.parametrize(("method", "default"), [("sft", 1e-3), ("dpo", 1e-4)])
def test_a_run_from_before_the_table_keeps_the_default_of_then(tmp_path: Path, method: str, default: float) -> None:
    """Its mark has no source of a rate; a rate that was not the default was asked for, and is not taken over."""
    asked = JOB.model_copy(update={"out": str(tmp_path), "method": method})
    begun = asked.model_copy(update={"learning_rate": default})
    claim_run_folder(tmp_path, begun.settings(), {})
    assert recall_choices(asked, None).learning_rate == default
    other = asked.model_copy(update={"out": str(tmp_path / "other"), "learning_rate": 3 * default})
    claim_run_folder(tmp_path / "other", other.settings(), {})
    assert recall_choices(asked.model_copy(update={"out": other.out}), None).learning_rate is None
