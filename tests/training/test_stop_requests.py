"""A training that is asked to end, as before a time limit, saves first, and ends with the bits of one that was not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitnet_bench import processes
from bitnet_bench.processes import STOPPED_STATUS, request_stop
from bitnet_bench.protocols import Progress, no_display
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune


@contextmanager
def stop_after_two_steps(title: str) -> Iterator[Progress]:
    """Show nothing, and ask the process to end at its second step."""

    def progress(done: int, total: int, note: str = "") -> None:
        if title.startswith("fine-tune") and done == 2 and total == 4:
            request_stop()

    yield progress


def test_a_stopped_training_goes_on_from_the_step_at_which_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_stop", threading.Event())
    rows = tmp_path / "rows.jsonl"
    texts = [{"prompt": f"{i}번은?", "response": f"{i}번입니다."} for i in range(8)]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), encoding="utf-8")

    def plan(out: str) -> FinetuneJob:
        return FinetuneJob(
            model="demo", data=(str(rows),), out=str(tmp_path / out), max_steps=4, batch_size=2, learning_rate=1e-3,
            track=(), save_every=1000, save_minutes=0, epochs=9, compute="fp32",
        )  # fmt: skip

    with pytest.raises(SystemExit) as ended:
        finetune(plan("stopped"), steps=stop_after_two_steps)
    assert ended.value.code == STOPPED_STATUS
    assert [state.name for state in (tmp_path / "stopped").glob(".trainer/checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.setattr(processes, "_stop", threading.Event())
    finetune(plan("stopped"), steps=no_display)
    finetune(plan("straight"), steps=no_display)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "straight")]
    assert weights[0] == weights[1]
