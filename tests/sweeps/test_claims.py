"""Of several attempts at a step, one at most runs, whatever the network says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_bench.sweeps.claims import BEAT_S, CLAIMS_FOLDER, SILENT_S, Claim


class FakeTime:
    """A clock that moves when somebody sleeps; others may act meanwhile."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.meanwhile: Callable[[], object] = lambda: None

    def read(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass, and others act."""
        self.now_s += seconds
        self.meanwhile()

    def claim(self, folder: Path) -> Claim:
        """Return a claim that lives by this clock."""
        return Claim(folder, "step", self.read, self.sleep)


def make_foreign(folder: Path) -> None:
    """Let the claim look like that of another machine."""
    file = folder / CLAIMS_FOLDER / "step.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(said | {"host": "elsewhere"}), encoding="utf-8")


def test_a_first_attempt_begins_at_once(tmp_path: Path) -> None:
    time = FakeTime()
    time.claim(tmp_path).take()
    assert time.now_s == 0


def test_a_released_step_is_taken_at_once(tmp_path: Path) -> None:
    time = FakeTime()
    first = time.claim(tmp_path)
    first.take()
    first.release()
    time.claim(tmp_path).take()
    assert time.now_s == 0


def test_an_attempt_waits_until_the_former_has_noticed_it(tmp_path: Path) -> None:
    time = FakeTime()
    old, new = time.claim(tmp_path), time.claim(tmp_path)
    old.take()
    ended: list[float] = []

    def watch() -> None:
        if not ended and not old.keep():
            ended.append(time.now_s)
            old.release()

    time.meanwhile = watch
    new.take()
    assert ended, "the former attempt goes on"
    assert ended[0] <= time.now_s < SILENT_S
    assert new.keep()


def test_the_former_attempt_does_not_get_its_step_back(tmp_path: Path) -> None:
    time = FakeTime()
    old, new = time.claim(tmp_path), time.claim(tmp_path)
    old.take()
    make_foreign(tmp_path)
    new.take()
    time.now_s += BEAT_S
    assert not old.keep()
    assert new.keep()


def test_a_silent_attempt_is_waited_for_ten_beats(tmp_path: Path) -> None:
    time = FakeTime()
    time.claim(tmp_path).take()
    make_foreign(tmp_path)
    time.claim(tmp_path).take()
    assert SILENT_S <= time.now_s < SILENT_S + BEAT_S


def test_an_attempt_whose_process_has_died_here_is_not_waited_for(tmp_path: Path) -> None:
    time = FakeTime()
    time.claim(tmp_path).take()
    file = tmp_path / CLAIMS_FOLDER / "step.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(said | {"process": 2**22 + 1}), encoding="utf-8")
    time.claim(tmp_path).take()
    assert time.now_s == 0


@pytest.mark.parametrize(
    "change",
    [
        {"token": "../../x"},
        {"token": "a" * 400},
        {"token": "\ud83d"},
        {"token": None},
        {"process": 2**70},
        {"process": 0},
        {"beats": [1]},
        {"boot": {}},
        None,
    ],
)
def test_a_damaged_claim_is_none(tmp_path: Path, change: dict[str, object] | None) -> None:
    """Whatever it says: its token is a part of a file name, and its process is asked for."""
    time = FakeTime()
    time.claim(tmp_path).take()
    file = tmp_path / CLAIMS_FOLDER / "step.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    file.write_text("[" * 9000 if change is None else json.dumps(said | change), encoding="utf-8")
    claim = time.claim(tmp_path)
    claim.take()
    assert claim.keep()
