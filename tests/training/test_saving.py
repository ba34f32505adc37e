"""When states are saved: by a clock as well as by steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitnet_bench.backends.hf.training import build_trainer
from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.collating import BatchItem, Collator
from bitnet_bench.protocols import TrainingInputs
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.encoding import encode_rows
from bitnet_bench.training.inputs import read_training_rows
from bitnet_bench.training.save_timer import SaveTimer
from bitnet_bench.training.starting_model import make_starting_model
from bitnet_bench.training.trainer import TrainerSetup, TrainingPlan, make_trainer


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s


def test_a_state_is_due_when_the_minutes_are_over_and_not_again_before() -> None:
    clock = Clock()
    timer = SaveTimer(5, clock)
    seen = []
    for _ in range(8):
        clock.now_s += 100
        seen.append(timer.is_due())
        if seen[-1]:
            timer.restart()
    assert seen == [False, False, True, False, False, True, False, False]


def test_no_state_is_due_with_0_minutes() -> None:
    clock = Clock()
    timer = SaveTimer(0, clock)
    clock.now_s += 1e9
    assert not timer.is_due()


@pytest.mark.parametrize(("minutes", "saved"), [(5, [3, 6, 8]), (0, [8])])
def test_a_run_saves_every_five_minutes(tmp_path: Path, minutes: float, saved: list[int]) -> None:
    """Steps take 100 seconds each here: every third has a state, and the last one."""
    rows = tmp_path / "rows.jsonl"
    texts = [{"prompt": f"{i}번은?", "response": f"{i}번입니다."} for i in range(8)]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), encoding="utf-8")
    job = FinetuneJob(
        model="demo", data=(str(rows),), out=str(tmp_path), max_steps=8, batch_size=2, learning_rate=1e-3, track=(),
        save_every=1000, save_minutes=minutes, epochs=9, compute="fp32",
    )  # fmt: skip
    base, clock = open_checkpoint("demo"), Clock()
    tokenizer = load_tokenizer(base)
    encoded, _ = encode_rows(job, TrainingInputs(base, read_training_rows(job)[0]), tokenizer)
    states = []

    def work(done: int, total: int, note: str = "") -> None:
        clock.now_s += 100
        states.append({int(folder.name.split("-")[-1]) for folder in tmp_path.glob(".trainer/checkpoint-*")})

    plan = TrainingPlan([BatchItem((example,)) for example in encoded.examples], [], Collator(0))
    model = make_starting_model(job, base)
    start = TrainerSetup(job, model, tokenizer, plan, None, False, False, work, clock)
    make_trainer(start, tmp_path, build_trainer).train()
    states.append({int(folder.name.split("-")[-1]) for folder in tmp_path.glob(".trainer/checkpoint-*")})
    assert sorted(set().union(*states)) == saved
