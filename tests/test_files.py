"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.files import (
    PARTIAL_FILES,
    PARTIAL_LOCK,
    PARTIAL_PURPOSE,
    create_temporary_file,
    explain_disk_errors,
    open_partial_folder,
    write_folder_whole,
    write_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def leave_partial_folder(parent: Path, purpose: str = "") -> Path:
    """Write what a killed process leaves in *parent*, and return it."""
    partial = parent / ".partial-0123456789abcdef"
    (partial / PARTIAL_FILES).mkdir(parents=True)
    (partial / PARTIAL_FILES / "stale").write_text("")
    (partial / PARTIAL_LOCK).touch()
    if purpose:
        (partial / PARTIAL_PURPOSE).write_text(purpose)
    return partial


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    """Korean text arrives byte for byte, in folders that are made on the way, with nothing beside it."""
    path = tmp_path / "a" / "b" / "글.json"
    write_whole(path, "한국어\n")
    assert path.read_bytes() == "한국어\n".encode()
    assert names(path.parent) == ["글.json"]


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    """Written again, a file holds the new text alone, even where it is shorter."""
    path = tmp_path / "a.json"
    write_whole(path, "a longer text")
    write_whole(path, "short")
    assert path.read_text() == "short"


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    """Text that cannot be encoded leaves the old file whole, and no temporary one."""
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_reader_sees_one_whole_version(tmp_path: Path) -> None:
    """A file that was opened before a write still reads as it was: the new one is another file."""
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with path.open() as stream:
        write_whole(path, "new")
        assert stream.read() == "old"
    assert path.read_text() == "new"


def test_a_path_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """A file in the place of a folder is reported with the path and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"Cannot write .*a\.json") as caught:
        write_whole(tmp_path / "file" / "a.json", "text")
    assert "`out`" in caught.value.hint


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """Nothing is in the folder until the block ends; then all files are, and no temporary one."""
    out = tmp_path / "out"
    with write_folder_whole(out, last="config.json") as folder:
        (folder / "config.json").write_text("c")
        (folder / "weights").write_text("w")
        assert not any(file.is_file() for file in out.iterdir())
    assert names(out) == ["config.json", "weights"]


def fill(out: Path, *files: str, then: type[BaseException] | None = None) -> None:
    """Write *files* into *out* as a whole folder marked by config.json, and raise *then* inside the block."""
    with write_folder_whole(out, last="config.json") as folder:
        for name in files:
            (folder / name).write_text("new")
        if then is not None:
            raise then


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_folder_keeps_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    """Whatever stops the block, the old files stay as they were and the new ones are gone."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "weights").write_text("old")
    with pytest.raises(error):
        fill(out, "weights", "config.json", then=error)
    assert names(out) == ["weights"]
    assert (out / "weights").read_text() == "old"


def test_the_last_file_comes_last(tmp_path: Path) -> None:
    """If a file cannot be moved, the one that marks the folder as finished is not there."""
    out = tmp_path / "out"
    (out / "weights" / "in the way").mkdir(parents=True)
    with pytest.raises(BenchError):
        fill(out, "config.json", "weights")
    assert names(out) == ["weights"]


def test_an_old_mark_does_not_stand_beside_new_files(tmp_path: Path) -> None:
    """Overwriting a finished folder never leaves its old mark beside some new and some old files."""
    out = tmp_path / "out"
    (out / "z").mkdir(parents=True)
    (out / "config.json").write_text("old")
    for i in range(8):
        (out / f"a{i}").write_text("old")
    with pytest.raises(BenchError):
        fill(out, "config.json", "a0", "a1", "a2", "a3", "z", "a4", "a5", "a6", "a7")
    versions = {(out / f"a{i}").read_text() for i in range(8)}
    assert versions == {"old"} or not (out / "config.json").exists()


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    """Temporary files of a run that was killed do not get into the next one's folder."""
    out = tmp_path / "out"
    leave_partial_folder(out)
    with write_folder_whole(out, last="config.json") as folder:
        assert names(folder) == []
        (folder / "config.json").write_text("c")
    assert names(out) == ["config.json"]


def test_disk_errors_say_the_path_and_the_reason(tmp_path: Path) -> None:
    """A full disk is a sentence with its cause; other errors pass as they are."""
    with pytest.raises(BenchError, match="No space left on device") as caught, explain_disk_errors(tmp_path):
        raise OSError(28, "No space left on device")
    assert str(tmp_path) in caught.value.problem
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(KeyError), explain_disk_errors(tmp_path):
        raise KeyError("ours")


@pytest.mark.parametrize("name", ["a.json.tmp", "a.json.partial", ".a.json.tmp"])
def test_a_file_of_the_user_beside_the_target_is_not_touched(name: str, tmp_path: Path) -> None:
    """Whatever a temporary file might be called."""
    (tmp_path / name).write_text("mine")
    write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / name).read_text() == "mine"


def test_a_link_with_a_foreseen_name_is_not_followed(tmp_path: Path) -> None:
    """Somebody else's link in a shared folder does not make a write overwrite the file that it names."""
    (tmp_path / "precious").write_text("mine")
    for name in ("a.json.tmp", "a.json.partial"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "a.json").is_symlink()


def test_a_link_with_the_very_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the name be guessed, the write fails and the target stays."""
    monkeypatch.setattr("bitnet_bench.files.secrets.token_hex", lambda size: "0" * 2 * size)
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f"a.json.{'0' * 16}.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(BenchError, match="File exists"):
        write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "precious").read_text() == "mine"


def test_temporary_files_have_a_name_of_their_own(tmp_path: Path) -> None:
    made = [create_temporary_file(tmp_path / "a.json") for _ in range(8)]
    for _, descriptor in made:
        os.close(descriptor)
    assert len({path.name for path, _ in made}) == 8


def test_a_written_file_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    """A temporary file that only its owner may read would make a private file of a shared one."""
    old = os.umask(0o022)
    try:
        write_whole(tmp_path / "a.json", "new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


def test_a_folder_of_the_user_beside_whole_files_is_not_touched(tmp_path: Path) -> None:
    """Neither one that is called .partial, nor one whose name alone is like ours."""
    kept = [tmp_path / ".partial" / "mine", tmp_path / f".partial-{'a' * 16}" / "mine"]
    for file in kept:
        file.parent.mkdir()
        file.write_text("mine")
    fill(tmp_path, "config.json")
    assert [file.read_text() for file in kept] == ["mine", "mine"]


def test_a_folder_that_is_being_filled_is_left_alone(tmp_path: Path) -> None:
    """A second writer into the same folder clears what is left over, and only that."""
    with open_partial_folder(tmp_path) as first:
        first.write_text("first")
        with open_partial_folder(tmp_path) as second:
            assert second != first
        assert first.read_text() == "first"
    assert names(tmp_path) == []


def test_what_is_left_of_a_purpose_is_used_for_that_purpose_only(tmp_path: Path) -> None:
    """A killed download of one repository is resumed, and is no part of another's."""
    left = leave_partial_folder(tmp_path, "pull a/b out")
    with open_partial_folder(tmp_path, "pull c/d out") as other:
        assert not other.exists()
    with open_partial_folder(tmp_path) as other:
        assert not other.exists()
    with open_partial_folder(tmp_path, "pull a/b out") as found:
        assert found.parent == left
        assert names(found) == ["stale"]
        with (
            pytest.raises(BenchError, match="Another process writes into"),
            open_partial_folder(tmp_path, "pull a/b out"),
        ):
            pass
        assert names(found) == ["stale"]
    assert names(tmp_path) == []
