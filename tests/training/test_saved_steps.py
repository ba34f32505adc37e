"""Saved steps: a damaged newest one falls back to the whole one beside it, with a warning that names both."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.saved_steps import COMPLETE_FILE, find_last_state, mark_complete

Damage = Callable[[Path], object]


def save_step(state: Path, step: int) -> Path:
    """Write a saved step like those of the trainer, and mark it."""
    folder = state / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    torch.save({"step": step, "moments": torch.arange(1000.0)}, folder / "optimizer.pt")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    mark_complete(folder)
    return folder


def cut(file: Path) -> None:
    """Cut a file in half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """Change one bit in the middle of a file, which keeps its size."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def leave_out(step: Path, name: str) -> None:
    """Take a file out of the list of those that were written."""
    digests = json.loads((step / COMPLETE_FILE).read_text(encoding="utf-8"))
    del digests[name]
    (step / COMPLETE_FILE).write_text(json.dumps(digests), encoding="utf-8")


DAMAGES: dict[str, Damage] = {
    "a cut optimizer": lambda step: cut(step / "optimizer.pt"),
    "a changed optimizer": lambda step: flip(step / "optimizer.pt"),
    "a broken state": lambda step: (step / "trainer_state.json").write_text("{", encoding="utf-8"),
    "an empty state": lambda step: (step / "trainer_state.json").write_bytes(b""),
    "changed weights": lambda step: flip(step / "model.safetensors"),
    "a file that is gone": lambda step: (step / "model.safetensors").unlink(),
    "a broken mark": lambda step: (step / COMPLETE_FILE).write_text("{", encoding="utf-8"),
    "a mark that lists nothing": lambda step: (step / COMPLETE_FILE).write_text("{}", encoding="utf-8"),
    "a cut optimizer that the mark does not list": lambda step: (
        leave_out(step, "optimizer.pt"),
        cut(step / "optimizer.pt"),
    ),
    "an optimizer that the mark does not list": lambda step: leave_out(step, "optimizer.pt"),
    "a file that was added": lambda step: (step / "scheduler.pt").write_bytes(b"x"),
    "a foreign mark": lambda step: (step / COMPLETE_FILE).write_text('{"optimizer.pt": 1}', encoding="utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_step_falls_back_to_the_whole_one(
    tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = save_step(tmp_path, 9), save_step(tmp_path, 10)
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert find_last_state(tmp_path) == older
    (message,) = caplog.messages
    assert str(newest) in message
    assert f"goes on from {older}" in message
    assert not newest.exists()


def test_whole_steps_give_the_newest_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By number: step 10 comes after step 9. What is no step is left alone."""
    older, newest = save_step(tmp_path, 9), save_step(tmp_path, 10)
    (tmp_path / "checkpoint-tmp").mkdir()
    (newest / ".DS_Store").write_bytes(b"of the system")
    assert find_last_state(tmp_path) == newest
    assert older.exists()
    assert (tmp_path / "checkpoint-tmp").exists()
    assert not caplog.messages


def test_the_only_step_may_be_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    step = save_step(tmp_path, 9)
    flip(step / "optimizer.pt")
    assert find_last_state(tmp_path) is None
    assert "The run begins again" in caplog.text


def test_a_step_without_its_mark_was_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is removed without a warning, as before: a kill while writing is no damage."""
    older, newest = save_step(tmp_path, 9), save_step(tmp_path, 10)
    (newest / COMPLETE_FILE).unlink()
    assert find_last_state(tmp_path) == older
    assert not newest.exists()
    assert not caplog.messages


@pytest.mark.parametrize(("damage", "falls_back"), [("a cut optimizer", True), ("a broken state", True), (None, False)])
def test_the_empty_mark_of_an_older_version_is_still_read(tmp_path: Path, damage: str | None, falls_back: bool) -> None:
    """Without digests, what cannot be opened is found."""
    older, newest = save_step(tmp_path, 9), save_step(tmp_path, 10)
    for step in (older, newest):
        (step / COMPLETE_FILE).write_bytes(b"")
    if damage:
        DAMAGES[damage](newest)
    assert find_last_state(tmp_path) == (older if falls_back else newest)


def test_the_mark_is_written_after_the_files_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of every file and folder comes before the mark has its name."""
    import os
    import re

    step = save_step(tmp_path, 9)
    (step / COMPLETE_FILE).unlink()
    synced: list[str] = []
    original = os.fsync

    def note(descriptor: int) -> None:
        assert not (step / COMPLETE_FILE).exists() or synced[-1].endswith(f"{COMPLETE_FILE}.tmp")
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(re.sub(r"\.[0-9a-f]{16}\.tmp$", ".tmp", place))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    mark_complete(step)
    files = [str(step / name) for name in ("model.safetensors", "optimizer.pt", "trainer_state.json")]
    assert synced == [*files, str(step), str(step / f"{COMPLETE_FILE}.tmp"), str(step)]


class Killed(BaseException):
    """A kill in the middle of a run."""


def test_a_run_whose_newest_step_is_damaged_ends_as_if_it_had_not_been(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights are those of a run that was never stopped, bit by bit."""
    rows = tmp_path / "rows.jsonl"
    texts = [{"prompt": f"{i}번은?", "response": f"{i}번입니다."} for i in range(8)]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), encoding="utf-8")

    def train(out: str, kill_at: int | None = None) -> Path:
        @contextmanager
        def steps(_title: str) -> Any:
            def work(done: int, total: int, note: str = "") -> None:
                if done == kill_at:
                    raise Killed

            yield work

        finetune(
            FinetuneJob(
                model="demo", data=(str(rows),), out=str(tmp_path / out), max_steps=7, batch_size=2,
                learning_rate=1e-3, track=(), save_every=2, save_minutes=0, epochs=9, compute="fp32",
            ),
            "hf", steps,
        )  # fmt: skip
        return tmp_path / out

    whole = train("whole")
    with pytest.raises(Killed):
        train("killed", kill_at=6)
    newest = tmp_path / "killed/.trainer/checkpoint-4"
    assert (newest.with_name("checkpoint-2") / COMPLETE_FILE).exists()
    cut(newest / "optimizer.pt")
    caplog.clear()
    resumed = train("killed")
    assert "checkpoint-4 (optimizer.pt has another size" in caplog.text
    assert "goes on from" in caplog.text
    ours, theirs = load_file(resumed / "model.safetensors"), load_file(whole / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    shutil.rmtree(resumed)


@pytest.mark.parametrize("claim", ["[]", "{", "{}", '{"batch_size": "x", "gradient_accumulation": 1}'])
def test_broken_settings_of_an_unfinished_run_are_a_sentence(tmp_path: Path, claim: str) -> None:
    from bitnet_bench.errors import BenchError
    from bitnet_bench.training.resume import read_started_settings

    (tmp_path / ".trainer").mkdir()
    (tmp_path / ".trainer/job.json").write_text(claim, encoding="utf-8")
    with pytest.raises(BenchError, match=r"job\.json") as raised:
        read_started_settings(tmp_path)
    assert "delete the folder" in raised.value.hint
