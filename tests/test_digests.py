"""A checkpoint is read once by a command, however many of its steps ask what it is."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from bitnet_bench.checkpoints import inspect as inspecting
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.shards import Shards
from bitnet_bench.measurement import contest
from bitnet_bench.measurement.candidates import make_candidates
from bitnet_bench.measurement.contest import CandidateOutcome, Scenario
from bitnet_bench.measurement.measure import measure

YEARS_AGO_S = 1e9


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was digested, from an empty memory on."""
    counts: Counter[str] = Counter()
    digest = Shards.compute_digest

    def count(shards: Shards, noted: dict[str, str]) -> str:
        counts.update(str(file) for file in shards.files)
        return digest(shards, noted)

    monkeypatch.setattr(Shards, "compute_digest", count)
    monkeypatch.setattr(inspecting, "_inspection_cache", {})
    return counts


def copied(folder: Path, model: str) -> Path:
    """Return a copy of *model* that has long been there."""
    shutil.copytree(open_checkpoint(model).path, folder)
    for file in folder.iterdir():
        os.utime(file, (YEARS_AGO_S, YEARS_AGO_S))
    return folder


def test_measuring_digests_each_file_once(
    digested: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A checkpoint on two backends and its float twin, also where nobody passes on what was found before."""
    ours, twin = copied(tmp_path / "mine", "demo"), copied(tmp_path / "mine-fp16", "demo-fp16")
    digested.clear()
    monkeypatch.setattr(
        contest, "measure_in_rounds", lambda entered, *_: [CandidateOutcome(left_out="not today") for _ in entered]
    )
    entered = make_candidates(
        [str(ours)], [], None, backends=["ternary", "hf"], baselines=[str(twin)], against_floats=True
    )
    again = [one._replace(opened=None) for one in entered]
    measure(again, Scenario(budget_s=1))
    assert len(entered) == 4
    assert set(digested.values()) == {1}
    assert {Path(file).parent.name for file in digested} == {"mine", "mine-fp16"}


def test_a_changed_file_is_read_again(digested: Counter[str], tmp_path: Path) -> None:
    """Another time of change, or another size, and what is known of the folder is void; other names do not matter."""
    folder = copied(tmp_path / "mine", "demo")
    weights = folder / "model.safetensors"
    digested.clear()
    first = inspecting.inspect_folder(folder)
    renamed = inspecting.inspect_folder(folder, source="ORG/NAME", revision="abc")
    assert (renamed.source, renamed.revision, renamed.sha256) == ("ORG/NAME", "abc", first.sha256)
    assert digested[str(weights)] == 1
    os.utime(weights, (YEARS_AGO_S + 5, YEARS_AGO_S + 5))
    assert inspecting.inspect_folder(folder) == first
    assert digested[str(weights)] == 2


def test_a_file_that_was_just_written_is_read_each_time(digested: Counter[str], tmp_path: Path) -> None:
    """It may change once more within the grain of the file system's clock, which nobody would see."""
    folder = copied(tmp_path / "mine", "demo")
    weights = folder / "model.safetensors"
    os.utime(weights, (time.time(), time.time()))
    digested.clear()
    inspecting.inspect_folder(folder)
    inspecting.inspect_folder(folder)
    assert digested[str(weights)] == 2
