"""Learning rates from step to step: each schedule by its definition, and the first one of a real run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.schedule import SECOND_STAGE_FACTOR, is_second_stage, make_schedule

SCHEDULES = ["cosine", "linear", "constant", "two-stage"]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 1), (1, 0), (2, 1), (7, 3), (100, 5), (10, 10)])
def test_every_step_has_a_positive_rate_of_at_most_the_peak(name: str, steps: int, warmup: int) -> None:
    """The first and the last one too, however short the run; and the peak is reached."""
    factor = make_schedule(name, steps, warmup)
    factors = [factor(step) for step in range(steps)]
    assert all(0 < one <= 1 for one in factors)
    assert max(factors) == 1.0 or (name == "two-stage" and steps == 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warm_up_rises_in_equal_steps_and_ends_at_the_peak(name: str) -> None:
    factor = make_schedule(name, steps=100, warmup=4)
    assert [factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "half_way", "near_the_end"),
    [("constant", 1.0, 1.0), ("linear", 0.5, 0.1), ("cosine", 0.5, 0.5 * (1 + math.cos(0.9 * math.pi)))],
)
def test_after_the_warm_up_each_schedule_falls_as_its_name_says(
    name: str, half_way: float, near_the_end: float
) -> None:
    factor = make_schedule(name, steps=110, warmup=10)
    assert factor(60) == pytest.approx(half_way)
    assert factor(100) == pytest.approx(near_the_end)


def test_two_stages_fall_to_nothing_with_a_step_of_two_thirds_in_the_middle() -> None:
    factor = make_schedule("two-stage", steps=100, warmup=10)
    assert factor(49) == pytest.approx(51 / 90)
    assert factor(50) == pytest.approx(50 / 90 * SECOND_STAGE_FACTOR)
    assert factor(100) == 0.0
    assert [is_second_stage(step, 100) for step in (49, 50)] == [False, True]


@pytest.mark.parametrize("backend", ["hf", "trl"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_first_step_of_a_run_learns(
    tmp_path: Path, tiny_model: Callable[[str], Path], backend: str, schedule: str
) -> None:
    """Of four steps, two of warm-up: the optimizer has half of the peak in the first, and all of it in the second."""
    rows = [{"prompt": f"{i} 더하기 1은?", "response": f"{i + 1}입니다."} for i in range(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    job = FinetuneJob(
        model=str(tiny_model("llama")), data=(str(file),), out=str(tmp_path / "out"), precision="fp16", max_steps=4,
        batch_size=2, learning_rate=1e-3, schedule=schedule, warmup_ratio=0.5, track=(), compute="fp32",
    )  # fmt: skip
    rates = [point["learning_rate"] for point in finetune(job, backend).history]
    assert rates[:2] == pytest.approx([5e-4, 1e-3])
    assert all(rate > 0 for rate in rates)
