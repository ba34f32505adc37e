"""Files and folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.files import explain_disk_errors, write_folder_whole, write_whole


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


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
    (out / ".partial").mkdir(parents=True)
    (out / ".partial" / "stale").write_text("")
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
