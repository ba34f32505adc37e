"""Find the run folder of a twin: the same model and data, one ternary and the other in floats."""

from __future__ import annotations

from collections.abc import Iterator
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
