"""What a run said before it was killed is in the record of the run that continues it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune

STILL = "No code differed so far."


class KilledError(Exception):
    """Ends a run in the middle of a step."""


def kill_at_step_four(title: str) -> Any:
    """Return progress that ends the run after its fourth step."""

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 4:
            raise KilledError

    return nullcontext(stop)


def test_a_warning_of_a_step_before_the_kill_is_kept(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second step is warned of, and a state is saved after the third: a continued run says and records it too."""

    def warn_at_second_step(points: list[Any], *_: Any) -> tuple[str, ...]:
        return (STILL,) if len(points) == 2 else ()

    monkeypatch.setattr("bitnet_bench.training.trainer.warn_about_codes", warn_at_second_step)
    rows = tmp_path / "rows.jsonl"
    row = {"prompt": "1 더하기 1은?", "response": "2입니다."}
    rows.write_text((json.dumps(row, ensure_ascii=False) + "\n") * 8, encoding="utf-8")
    whole, killed = (
        FinetuneJob(
            model=str(tiny_model("bitnet")), data=(str(rows),), out=str(tmp_path / name), max_steps=6, epochs=9,
            batch_size=4, learning_rate=1e-3, save_every=3, compute="fp32",
        )
        for name in ("whole", "killed")
    )  # fmt: skip
    with pytest.raises(KilledError):
        finetune(killed, steps=kill_at_step_four)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        record = finetune(killed)
    assert record.resumed_from_step == 3
    assert f"Step 2: {STILL}" in record.warnings
    assert f"Step 2: {STILL}" in [line.getMessage() for line in caplog.records]
    assert finetune(whole).warnings == record.warnings
