"""A conversion that was killed is done by the same command; a folder that is somebody's is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitnet_bench.checkpoints.converting import LAST, create_folder
from bitnet_bench.errors import BenchError
from bitnet_bench.files import PARTIAL_FILES, PARTIAL_LOCK

PARTIAL = f".partial-{'0' * 16}"


def write(out: Path, text: str) -> None:
    """Write a checkpoint of three files to *out*."""
    with create_folder(out) as folder:
        for name in ("model.safetensors", "tokenizer.json", LAST):
            (folder / name).write_text(text, encoding="utf-8")


def leave_partial_folder(out: Path) -> None:
    """Write into *out* what a killed conversion leaves of its temporary folder."""
    (out / PARTIAL / PARTIAL_FILES).mkdir(parents=True)
    (out / PARTIAL / PARTIAL_LOCK).touch()
    (out / PARTIAL / PARTIAL_FILES / "rest.safetensors").write_text("old", encoding="utf-8")


@pytest.mark.parametrize(
    "moved", [(), ("model.safetensors",), ("model.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json")]
)
def test_a_killed_conversion_is_done_again(moved: tuple[str, ...], tmp_path: Path) -> None:
    """Killed while it wrote, or while it moved whole files to their place: nothing of it is left over."""
    out = tmp_path / "out"
    leave_partial_folder(out)
    for name in moved:
        (out / name).write_text("old", encoding="utf-8")
    write(out, "new")
    assert {file.name: file.read_text(encoding="utf-8") for file in out.iterdir()} == dict.fromkeys(
        ("model.safetensors", "tokenizer.json", LAST), "new"
    )


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", LAST])
def test_a_folder_of_somebody_s_is_refused(name: str, tmp_path: Path) -> None:
    """Whatever is in it; nothing is deleted."""
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(BenchError, match="is not empty"):
        write(tmp_path, "new")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["notes.txt", LAST])
def test_a_foreign_file_beside_what_a_kill_left_is_kept(name: str, tmp_path: Path) -> None:
    """It is no part of what was being written, or it says that the checkpoint is whole."""
    leave_partial_folder(tmp_path)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(BenchError, match="is not empty"):
        write(tmp_path, "new")
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_conversion_that_is_at_work_is_not_disturbed(tmp_path: Path) -> None:
    """A second one into the same folder is refused, and the first ends as if there had been none."""
    out = tmp_path / "out"
    with create_folder(out) as folder:
        (folder / LAST).write_text("first", encoding="utf-8")
        with pytest.raises(BenchError, match="Another process writes into"):
            write(out, "second")
    assert (out / LAST).read_text(encoding="utf-8") == "first"
