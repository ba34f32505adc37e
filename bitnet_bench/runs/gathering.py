"""Find the run folders that a user means: folders, patterns such as `runs/*`, and folders that hold runs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bitnet_bench.errors import UsageError
from bitnet_bench.runs.folder import RECORD_FILE
from bitnet_bench.runs.run import Notice
from bitnet_bench.runs.twins import is_run
from bitnet_bench.wording import get_text

MAX_DEPTH = 6
"""Levels of folders below a named one in which runs are looked for."""
PATTERN_SIGNS = frozenset("*?[")


def gather_runs(named: Sequence[str | Path]) -> tuple[list[Path], list[Notice]]:
    """Return the run folders that *named* stands for, each once and in order, and what is not a run.

    A name is a run folder, its record.json, a folder with runs below it, or a pattern of such. UsageError if there is
    no name, or if one names nothing.
    """
    if not named:
        raise UsageError("No run folder is named.", "Name run folders, a folder that holds them, or a pattern.")
    found: dict[Path, Path] = {}
    notices = []
    for name in map(str, named):
        places = _expand_name(name)
        folders = [folder for place in places for folder in _find_runs(place)]
        if not folders:
            notices.append(Notice(name, get_text("board.no-run")))
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    return list(found.values()), notices


def _expand_name(name: str) -> list[Path]:
    """Return the paths that *name* matches; UsageError if there are none."""
    path = Path(name)
    if path.exists() or os.path.lexists(path):
        return [path]
    matched = sorted(map(Path, glob.glob(name, recursive=True))) if PATTERN_SIGNS & set(name) else []
    if not matched:
        raise UsageError(f"{name} does not exist.", "Name run folders, a folder that holds them, or a pattern.")
    return matched


def _find_runs(place: Path) -> Iterator[Path]:
    """Yield *place* if it is a run, else the runs below it by name; a link is followed to a run only."""
    if place.name == RECORD_FILE and place.is_file():
        yield place.parent
    elif is_run(place):
        yield place
    elif place.is_dir():
        yield from _walk(place, MAX_DEPTH)


def _walk(folder: Path, depth: int) -> Iterable[Path]:
    for below in sorted(_list_folders(folder)):
        if is_run(below):
            yield below
        elif depth > 1 and not below.is_symlink():
            yield from _walk(below, depth - 1)


def _list_folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:  # a folder that may not be read holds no run that could be
        return []
