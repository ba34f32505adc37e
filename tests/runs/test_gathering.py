"""What a user names becomes run folders: folders, patterns, folders that hold runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_bench.errors import UsageError
from bitnet_bench.runs.gathering import gather_runs


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a folder with runs at two levels, one of them damaged, and things that are no runs."""
    for name in ("a", "b", "deep/er/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "record.json").write_text("{", encoding="utf-8")
    (tmp_path / "a" / "samples").mkdir()
    (tmp_path / "notes.txt").write_text("no run", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(found: list[Path], place: Path) -> list[str]:
    return [folder.relative_to(place).as_posix() for folder in found]


def test_a_folder_stands_for_the_runs_below_it(place: Path) -> None:
    """Whatever is in their records: a damaged one is reported when it is read."""
    found, notices = gather_runs([place])
    assert names(found, place) == ["a", "b", "deep/er/c"]
    assert notices == []


def test_a_run_named_twice_is_there_once(place: Path) -> None:
    """By its folder, by its record, by a pattern and by the folder above; in the order of the names."""
    found, _ = gather_runs([place / "b", place / "a" / "record.json", f"{place}/*", place])
    assert names(found, place) == ["b", "a", "deep/er/c"]


def test_a_folder_without_runs_is_named(place: Path) -> None:
    """It does not end the command: other names have runs."""
    found, notices = gather_runs([place / "empty", place / "a"])
    assert names(found, place) == ["a"]
    assert [(notice.where, notice.what.en) for notice in notices] == [
        (str(place / "empty"), "is not a run and holds none: it has no record.json")
    ]


@pytest.mark.parametrize("name", ["absent", "absent-*"])
def test_a_name_of_nothing_is_wrong_use(name: str, place: Path) -> None:
    """A path and a pattern alike."""
    with pytest.raises(UsageError, match="does not exist"):
        gather_runs([place / name])
    with pytest.raises(UsageError, match="No run folder"):
        gather_runs([])


def test_a_folder_with_signs_of_a_pattern_is_a_folder(place: Path) -> None:
    """Brackets are part of names."""
    (place / "x[1]").mkdir()
    (place / "x[1]" / "record.json").write_text("{", encoding="utf-8")
    assert names(gather_runs([place / "x[1]"])[0], place) == ["x[1]"]


def test_a_link_is_followed_to_a_run_and_no_further(place: Path) -> None:
    """A link to a folder above would go round in circles."""
    (place / "board").mkdir()
    (place / "board" / "linked").symlink_to(place / "a")
    (place / "board" / "round").symlink_to(place)
    assert names(gather_runs([place / "board"])[0], place) == ["board/linked"]
