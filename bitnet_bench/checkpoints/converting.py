"""Write a checkpoint in another format, one tensor at a time, and keep it only if it is the same model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from bitnet_bench.checkpoints.identity import TOKENIZER_PATTERNS, copy_files
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.layouts import WeightSource, check_writable, make_config, make_metadata, plan_tensors
from bitnet_bench.checkpoints.parity import CheckpointParity, LogitFunction, compare_checkpoints
from bitnet_bench.checkpoints.streaming import SHARD_BYTES, write_shards
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.files import find_partial_folders, write_folder_whole
from bitnet_bench.protocols import Progress
from bitnet_bench.runs.choices import Format
from bitnet_bench.runs.folder import LOCK_FILE, lock_folder
from bitnet_bench.runs.records import Checkpoint

SMALL_FILE_PATTERNS = (*TOKENIZER_PATTERNS, "generation_config.json")
"""Files of a checkpoint other than weights and config.json."""
LAST = "config.json"
"""File that makes a folder a checkpoint; it is written last."""

CheckpointWriter = Callable[[WeightSource, Format, Path, int, Progress], None]


def convert_checkpoint(
    source: Checkpoint,
    form: Format,
    out: Path,
    progress: Progress,
    *,
    logits: LogitFunction | None,
    shard_bytes: int = SHARD_BYTES,
    writer: CheckpointWriter | None = None,
) -> CheckpointParity:
    """Write *source* in format *form* to the new folder *out* and return the parity of the two.

    Both are read again and compared before *out* appears: without parity there is no *out*, and BenchError says where
    they differ. *logits* runs a checkpoint; None skips that comparison. *writer* defaults to `write_checkpoint`.
    """
    weights = Weights(source)
    check_writable(weights, form)
    with create_folder(out) as folder:
        (writer or write_checkpoint)(weights, form, folder, shard_bytes, progress)
        copy_small_files(Path(source.path), folder)
        return compare_checkpoints(source, inspect_folder(folder, source=str(out)), logits)


def write_checkpoint(source: WeightSource, form: Format, folder: Path, shard_bytes: int, progress: Progress) -> None:
    """Write weights and config.json of *source* in format *form* into *folder*."""
    plan = plan_tensors(source, form)
    digests = write_shards(folder, plan, make_metadata(source, form), shard_bytes, progress)
    text = json.dumps(make_config(source, form, digests), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def create_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write a checkpoint into; it becomes *out* on success. *out* must not exist yet.

    What a killed process left in *out* is cleared; a process that is still writing there is not disturbed.
    """
    _check_foreign_files(out)  # before anything is written there, a lock included
    try:
        with lock_folder(out):
            _clear(out)
            with write_folder_whole(out, last=LAST) as folder:
                yield folder
            (out / LOCK_FILE).unlink(missing_ok=True)  # a finished checkpoint folder is not locked
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, or never made
            out.rmdir()
        raise


def _check_foreign_files(out: Path) -> None:
    """Raise BenchError if *out* is a file, or a folder that holds anything but what a killed write left."""
    if out.exists() and (not out.is_dir() or ((there := _files(out)) and not _was_cut_off(out, there))):
        raise BenchError(f"{out} is not empty.", "Give another OUT, or delete the folder.")


def _clear(out: Path) -> None:
    """Delete what a killed write left in *out*, and only that."""
    _check_foreign_files(out)
    for file in _files(out):
        file.unlink()


def _files(out: Path) -> list[Path]:
    ours = {LOCK_FILE, *(folder.name for folder in find_partial_folders(out))}
    return [file for file in out.iterdir() if file.name not in ours]


def _was_cut_off(out: Path, there: Sequence[Path]) -> bool:
    """Return whether the files *there* are part of a checkpoint that a killed write moved only in part."""
    ours = ("*.safetensors", "*.safetensors.index.json", *SMALL_FILE_PATTERNS)
    known = all(file.is_file() and any(fnmatch(file.name, pattern) for pattern in ours) for file in there)
    return known and bool(find_partial_folders(out))


def copy_small_files(source: Path, folder: Path) -> None:
    """Copy tokenizer, chat template and generation settings of the checkpoint *source* into *folder*."""
    copy_files(source, folder, SMALL_FILE_PATTERNS)
