"""Find the run folder of a twin: the same model and data, one ternary and the other in floats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bitnet_bench.errors import BenchError
from bitnet_bench.files import is_file
from bitnet_bench.runs.folder import RECORD_FILE, load_record
from bitnet_bench.runs.records import RunRecord

TWIN_SUFFIX = "-fp16"
"""Suffix of a twin's checkpoint and of its run folder, if `finetune --twin` and `evaluate` named them."""
RUN_PREFIXES = ("ternary", "fp16")
"""Prefixes of the run folders of a recipe, such as `ternary-after` and `fp16-after`."""


def is_run(name: str | Path) -> bool:
    """Return whether *name* is a run folder."""
    return is_file(Path(name) / RECORD_FILE)


def find_twin(folder: Path) -> Path | None:
    """Return the run folder of the twin of *folder* that is next to it, or None.

    The folder or its checkpoint has the name of the twin; one of the two runs is ternary, and the other is not.
    """
    own = load_record(folder)
    for candidate in (*_list_named_twins(folder), *_list_checkpoint_twins(folder, own)):
        other = _find_record(candidate)
        if other and other.checkpoint.is_ternary != own.checkpoint.is_ternary:
            return candidate
    return None


def list_twins_among(runs: Mapping[Path, RunRecord]) -> dict[Path, tuple[list[Path], list[Path]]]:
    """Return for each ternary run of *runs* the float runs that may be its twin: by folder, and by checkpoint alone.

    The names are those of `find_twin`, but no file is read, and a checkpoint's twin may be in any folder.
    """
    by_place = {folder.resolve(): folder for folder in runs}
    by_source: dict[str, list[Path]] = {}
    for folder, record in runs.items():
        if not record.checkpoint.is_ternary:
            by_source.setdefault(record.checkpoint.source, []).append(folder)
    found = {}
    for folder, record in runs.items():
        if record.checkpoint.is_ternary:
            places = [by_place.get(place.resolve()) for place in _list_named_twins(folder)]
            named = [one for one in places if one and not runs[one].checkpoint.is_ternary]
            source = record.checkpoint.source
            sources = (source + TWIN_SUFFIX, source.removesuffix(TWIN_SUFFIX))
            found[folder] = (named, [one for name in sources for one in by_source.get(name, ()) if one not in named])
    return found


def _list_named_twins(folder: Path) -> Iterator[Path]:
    name = folder.resolve().name
    ternary, fp16 = RUN_PREFIXES
    for begins, other in ((ternary, fp16), (fp16, ternary)):
        if name == begins or name.startswith(f"{begins}-"):
            yield folder.parent / (other + name.removeprefix(begins))
    yield folder.parent / (name.removesuffix(TWIN_SUFFIX) if name.endswith(TWIN_SUFFIX) else name + TWIN_SUFFIX)


def _list_checkpoint_twins(folder: Path, own: RunRecord) -> Iterator[Path]:
    """Yield the runs next to *folder* of its checkpoint's twin, those on the same suites first."""
    beside = [path.parent for path in sorted(folder.resolve().parent.glob(f"*/{RECORD_FILE}"))]
    for candidate in sorted(beside, key=lambda path: _read_suites(path) != own.suites):
        other = _find_record(candidate)
        names = {own.checkpoint.source, other.checkpoint.source} if other else set()
        if len(names) == 2 and max(names, key=len) == min(names, key=len) + TWIN_SUFFIX:
            yield candidate


def _read_suites(folder: Path) -> dict[str, str]:
    record = _find_record(folder)
    return record.suites if record else {}


def _find_record(folder: Path) -> RunRecord | None:
    try:
        return load_record(folder)
    except BenchError:
        return None
