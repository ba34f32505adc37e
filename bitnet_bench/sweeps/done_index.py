"""Remember which steps are done, so that a finished sweep is recognized by the times of its files alone.

As in git's index, a step counts as done as long as the size, the times and the inode of every file that it read or
wrote are those of when it ended. If one differs, the step itself is run: it compares digests, as the plain command
does, and then is skipped, resumed or refused. A wrong answer would take a file that was changed in place, to the same
size, within one tick of the file system's clock; such young files are looked at again when the tick is over.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bitnet_bench.errors import BenchError
from bitnet_bench.files import is_file, read_text, write_whole
from bitnet_bench.runs.value import Value
from bitnet_bench.sweeps.graph import Graph, Step

INDEX_FILE = "done.jsonl"
TICK_NS = 20_000_000
"""Longest tick of the clock of a file system that keeps nanoseconds."""
COARSE_TICK_NS = 2_000_000_000
"""Tick of a file system that keeps whole seconds, or two."""
MAX_FOLDER_FILES = 100_000
UNREAD_FOLDERS = frozenset({"tensorboard", "wandb", "trackio", "__pycache__"})
"""Folders of a checkpoint in which nothing decides a result."""
DAMAGED_HINT = "Delete the file: every step then compares its inputs itself once."


@dataclass(frozen=True)
class _Sight:
    """What was seen of some paths: a digest, when one of them last changed, and whether all of them were there."""

    digest: str
    newest_ns: int
    is_whole: bool


class _Entry(Value):
    """A line of the index: a step that was done, and what its files looked like then."""

    id: str
    key: str
    inputs: str
    outputs: str


class FileIndex:
    """Index of done steps in the folder of a sweep; one process writes it."""

    def __init__(self, graph: Graph, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._graph, self._clock_ns = graph, clock_ns
        self._file = Path(graph.folder) / INDEX_FILE
        self._entries = _read_entries(self._file)
        self._begins_line = False
        self._begun: dict[str, _Sight] = {}
        self._extended: dict[str, list[str]] = {}
        self._young: list[tuple[Step, _Sight]] = []
        self._seen: dict[str, list[Any]] = {}
        """What was seen of each path since the last step began or ended."""

    def is_current(self, step: Step) -> bool:
        """Return whether *step* is done, and nothing that it read or wrote has changed since."""
        entry = self._entries.get(step.id)
        if entry is None or entry.key != step.key or step.has_unseen_inputs:
            return False
        return self._look(step.inputs).digest == entry.inputs and self._has_outputs(step, entry)

    def _has_outputs(self, step: Step, entry: _Entry) -> bool:
        sight = self._look(step.outputs)
        return sight.is_whole and sight.digest == entry.outputs

    def begin(self, step: Step) -> None:
        """Remember the inputs of *step*, which starts now."""
        self._seen.clear()
        sight = self._look(step.inputs)
        while (wait_ns := self._find_age_missing(sight)) > 0:
            time.sleep(wait_ns / 1e9)
            self._seen.clear()
            sight = self._look(step.inputs)
        self._begun[step.id] = sight
        self._extended[step.id] = [name for name in step.extends if self._is_recorded(name)]

    def _is_recorded(self, name: str) -> bool:
        """Return whether the outputs of the step *name* are those that the index has, or will have at `flush`."""
        self.flush()
        entry = self._entries.get(name)
        return entry is not None and self._has_outputs(self._graph.by_id[name], entry)

    def finish(self, step: Step) -> None:
        """Record that *step* is done, with its inputs as `begin` saw them."""
        self._seen.clear()
        begun = self._begun.pop(step.id, None)
        if begun is not None:
            self._young.append((step, begun))
        for name in self._extended.pop(step.id, ()):
            other = self._graph.by_id[name]
            self._record(other, self._entries[name].inputs, self._look(other.outputs).digest)
        self._write_settled()

    def flush(self) -> None:
        """Record the steps whose files were too young, when they no longer are."""
        while self._young:
            self._seen.clear()
            waits = [self._find_age_missing(self._look(step.outputs)) for step, _ in self._young]
            if max(waits) > 0:
                time.sleep(max(waits) / 1e9)
            self._write_settled()

    def _write_settled(self) -> None:
        left = []
        self._seen.clear()
        for step, begun in self._young:
            inputs, outputs = self._look(step.inputs), self._look(step.outputs)
            if self._find_age_missing(outputs) > 0:
                left.append((step, begun))
            elif inputs.digest == begun.digest and outputs.is_whole:  # else an input changed while the step ran
                self._record(step, inputs.digest, outputs.digest)
        self._young = left

    def _record(self, step: Step, inputs: str, outputs: str) -> None:
        entry = _Entry(id=step.id, key=step.key, inputs=inputs, outputs=outputs)
        self._entries[step.id] = entry
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if not self._begins_line:
            self._drop_cut_line()
            self._begins_line = True
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")

    def _drop_cut_line(self) -> None:
        """Write the index anew without a last line that a kill cut short: the next one would be appended to it."""
        there = read_text(self._file, DAMAGED_HINT) if is_file(self._file) else ""
        if there and not there.endswith("\n"):
            write_whole(self._file, "".join(line + "\n" for line in there.split("\n")[:-1]))

    def _look(self, paths: Sequence[str]) -> _Sight:
        seen = [file for path in paths for file in self._look_at(path)]
        digest = hashlib.sha256(json.dumps(seen).encode("utf-8", "surrogatepass")).hexdigest()
        newest = max((one[3] for one in seen), default=0)
        return _Sight(digest, newest, all(one[1] is not None for one in seen))

    def _look_at(self, path: str) -> list[Any]:
        if path not in self._seen:
            self._seen[path] = list(_list_files(path))
        return self._seen[path]

    def _find_age_missing(self, sight: _Sight) -> int:
        """Return the nanoseconds until the newest file of *sight* could not be changed without a new time."""
        coarse = sight.newest_ns % 1_000_000_000 == 0
        age = self._clock_ns() - sight.newest_ns
        tick = COARSE_TICK_NS if coarse else TICK_NS
        return tick - age if -tick < age < tick else 0  # a clock that is wrong by more is not waited for


def _list_files(path: str) -> Iterator[tuple[str, int | None, int, int, int]]:
    """Yield (name, size, modified, changed, inode) of the file *path*, or of all files below it; size None if gone."""
    try:
        there = os.stat(path)
    except OSError:
        yield path, None, 0, 0, 0
        return
    if not os.path.isdir(path):
        yield path, there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino
        return
    for count, file in enumerate(_walk(path)):
        if count >= MAX_FOLDER_FILES:
            raise BenchError(f"{path} holds more than {MAX_FOLDER_FILES:,} files.", "Name a smaller folder.")
        found = None
        with suppress(OSError):
            found = os.stat(file)
        if found is not None:
            yield file, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _walk(folder: str) -> Iterator[str]:
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if name not in UNREAD_FOLDERS and not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(names) if not name.startswith("."))


def _read_entries(file: Path) -> dict[str, _Entry]:
    """Return the entries of an index by id; a last line that a kill cut short is ignored."""
    if not is_file(file):
        return {}
    entries: dict[str, _Entry] = {}
    lines = read_text(file, DAMAGED_HINT).splitlines()
    for entry in _parse_entries(file, lines):
        entries[entry.id] = entry
    return entries


def _parse_entries(file: Path, lines: Sequence[str]) -> Iterable[_Entry]:
    for number, line in enumerate(lines, 1):
        try:
            yield _Entry.model_validate_json(line)
        except ValidationError as error:
            if number < len(lines):
                raise BenchError(f"Line {number} of {file} cannot be read.", DAMAGED_HINT) from error
