"""Mark saved steps of a training as complete, and find the newest whole one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from pathlib import Path

from bitnet_bench.errors import BenchError
from bitnet_bench.files import is_file, write_whole
from bitnet_bench.json_files import read_json_object

STATE_FOLDER = ".trainer"
"""Folder in a run folder with what resuming needs; removed when the run is finished."""
COMPLETE_FILE = "complete"
"""File in a saved step with the size and sha256 of each of its files; without it, the step was cut off while it was
written."""
TRAINER_STATE_FILE = "trainer_state.json"
_STEP = re.compile(r"checkpoint-(\d+)")
_log = logging.getLogger(__name__)


def mark_complete(folder: Path) -> None:
    """Mark the saved step *folder* as complete, when all of its files are on the disk."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != COMPLETE_FILE)
    digests = {}
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        digests[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    for place in {file.parent for file in files}:
        _sync_folder(place)
    write_whole(folder / COMPLETE_FILE, json.dumps(digests, indent=1, sort_keys=True) + "\n")
    _sync_folder(folder)


def find_last_state(state: Path) -> Path | None:
    """Return the newest whole saved step, after removing those that were cut off or are damaged.

    A warning names a damaged step, and the one that the run goes on from instead.
    """
    found = ((match, folder) for folder in state.glob("checkpoint-*") if (match := _STEP.fullmatch(folder.name)))
    damaged = []
    last = None
    for _, folder in sorted(((int(match[1]), folder) for match, folder in found), reverse=True):
        if not (folder / COMPLETE_FILE).exists():
            shutil.rmtree(folder)
        elif last is None and (damage := _find_damage(folder)):
            damaged.append(f"{folder} ({damage})")
            shutil.rmtree(folder)
        elif last is None:
            last = folder
    if damaged:
        instead = f"goes on from {last}" if last else "begins again"
        _log.warning("A saved step is damaged: %s. The run %s.", ", ".join(damaged), instead)
    return last


def _find_damage(folder: Path) -> str | None:
    """Return what is wrong with a saved step that was marked as complete, or None."""
    try:
        mark = (folder / COMPLETE_FILE).read_bytes()
        digests = read_json_object(folder / COMPLETE_FILE, "") if mark else None
        return _find_older_damage(folder) if digests is None else _find_changed_file(folder, digests)
    except (BenchError, OSError) as error:
        return str(error).rstrip(".")


def _find_changed_file(folder: Path, digests: dict[str, dict[str, object]]) -> str | None:
    """Return which file differs from its digest, is gone, or has none; None if the step is as it was written."""
    if TRAINER_STATE_FILE not in digests:
        return f"{COMPLETE_FILE} does not list {TRAINER_STATE_FILE}"
    for name, noted in digests.items():
        file = folder / name
        if not is_file(file):
            return f"{name} is gone"
        size = file.stat().st_size
        if not isinstance(noted, dict) or size != noted.get("bytes"):
            return f"{name} has another size than when it was written"
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != noted.get("sha256"):
                return f"{name} has changed since it was written"
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    known = {COMPLETE_FILE, *digests}
    foreign = (file.as_posix() for file in sorted(files) if not any(part.startswith(".") for part in file.parts))
    unknown = next(
        (name for name in foreign if name not in known), None
    )  # files that start with a dot are the system's
    return unknown and f"{unknown} is not among the files that were written"


def _find_older_damage(folder: Path) -> str | None:
    """Return the damage of a step whose mark has no digests, because an older version wrote it."""
    read_json_object(folder / TRAINER_STATE_FILE, "")
    cut = next((file.name for file in sorted(folder.glob("*.pt")) if not zipfile.is_zipfile(file)), None)
    return cut and f"{cut} is cut off"


def _sync_folder(folder: Path) -> None:
    """Write the names in *folder* to the disk, where a folder can be opened for that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
