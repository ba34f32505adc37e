"""The alarm for divergence, which must tell it from a float model that was just made ternary."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_bench.errors import DivergedError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.objectives import PATIENCE_LOGGED_STEPS, has_diverged

GEMMA = 262_144
GUESSING = math.log(GEMMA)


def test_a_loss_beyond_twice_guessing_is_divergence_at_once() -> None:
    assert has_diverged([3.0, 2.1 * GUESSING], GEMMA, becomes_ternary=False)
    assert not has_diverged([3.0, 1.9 * GUESSING], GEMMA, becomes_ternary=False)


def test_a_run_that_begins_far_above_guessing_is_held_against_its_lowest_loss() -> None:
    assert not has_diverged([40.0, 60.0], GEMMA, becomes_ternary=False)
    assert has_diverged([40.0, 20.0, 60.0], GEMMA, becomes_ternary=False)


def test_a_model_that_becomes_ternary_may_rise_far_above_guessing_before_it_falls() -> None:
    """The curve of Gemma 3 270M at a rate of 1e-4, which was once stopped at its sixth step."""
    losses = [12.9, 15.0, 18.2, 14.9, 19.8, 26.2, 17.0, 8.1, 4.0]
    assert not any(has_diverged(losses[:n], GEMMA, becomes_ternary=True) for n in range(1, len(losses) + 1))
    assert has_diverged(losses[:6], GEMMA, becomes_ternary=False)


def test_a_model_that_becomes_ternary_and_stays_there_has_diverged() -> None:
    lost = [13.0, *[30.0] * PATIENCE_LOGGED_STEPS]
    assert has_diverged(lost, GEMMA, becomes_ternary=True)
    assert not has_diverged(lost[:-1], GEMMA, becomes_ternary=True)
    assert not has_diverged([*lost[:-1], 20.0, 30.0], GEMMA, becomes_ternary=True)


@pytest.mark.parametrize("first", [13.0, 40.0])
def test_its_bound_is_of_where_it_began(first: float) -> None:
    """Quantization may leave it above twice guessing before the first step."""
    losses = [first, *[1.5 * first] * PATIENCE_LOGGED_STEPS]
    assert not has_diverged(losses, GEMMA, becomes_ternary=True)


@pytest.mark.parametrize(("precision", "stops"), [("fp16", True), ("ternary", False)])
def test_a_run_on_a_float_base_is_stopped_at_once_only_if_it_stays_float(
    precision: str, stops: bool, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """At an absurd rate both rise far above guessing in their first steps."""
    rows = tmp_path / "rows.jsonl"
    texts = [{"prompt": f"{i}번은?", "response": f"{i}번입니다."} for i in range(8)]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), encoding="utf-8")
    job = FinetuneJob.model_validate(
        {"model": str(tiny_model("llama")), "data": [str(rows)], "out": str(tmp_path / "out"), "precision": precision}
        | {"learning_rate": 1.0, "max_steps": 6, "batch_size": 4, "epochs": 9, "warmup_ratio": 0.0, "track": ()}
    )
    if stops:
        with pytest.raises(DivergedError, match="The loss rose to"):
            finetune(job)
        return
    record = finetune(job)
    assert max(point["loss"] for point in record.history) > 2 * math.log(300)
    assert "The loss ended at" in record.warnings[-1]
