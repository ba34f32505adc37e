"""Find the checkpoint that a name stands for: the embedded pair, a folder, a GGUF file, or either on the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.hub_errors import list_hub_errors
from bitnet_bench.checkpoints.identity import TOKENIZER_PATTERNS
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import exists
from bitnet_bench.runs.choices import ReadAs
from bitnet_bench.runs.records import Checkpoint

EMBEDDED_CHECKPOINTS = {"demo": "ternary", "demo-fp16": "fp16"}
_log = logging.getLogger(__name__)
HUB_PREFIX = "hub:"
HUB_FILE = re.compile(r"(?P<repo>[^/@\s]+/[^/@\s]+)(@(?P<revision>[^/\s]+))?/(?P<file>\S+\.gguf)")
HUB_ID = re.compile(r"(?P<repo>[^/@\s.~][^/@\s]*/[^/@\s]+)(@(?P<revision>\S+))?")
DOWNLOAD_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja")
"""Patterns of the files that are downloaded for a model of the hub."""


class HubId(NamedTuple):
    """A repository of the hub, at a revision: a commit, a branch or a tag; None for the newest commit of `main`."""

    repo: str
    revision: str | None


class HubFile(NamedTuple):
    """A file in a repository of the hub."""

    repo: str
    file: str
    revision: str | None


def parse_hub_id(name: str) -> HubId | None:
    """Return the repository and revision that *name* means, written ORG/NAME or ORG/NAME@REVISION; None for others."""
    found = HUB_ID.fullmatch(name)
    return HubId(found["repo"], found["revision"]) if found else None


def open_checkpoint(model: str, tokenizer: str | None = None, read_as: ReadAs | None = None) -> Checkpoint:
    """Return the checkpoint *model*: `demo`, `demo-fp16`, a folder, a GGUF file, or a hub id (downloaded).

    A hub id is written `ORG/NAME`, a file of the hub `hub:ORG/NAME/FILE.gguf`, both with `@REVISION` after NAME for
    another commit, branch or tag than the newest commit of `main`; the revision of the result is the commit.
    *tokenizer* is a folder or hub id whose tokenizer a GGUF file gets instead of its own. *read_as* says what plain
    float weights are where nothing in the files says it; BenchError if they cannot be that.
    """
    from bitnet_bench.checkpoints.inspect import read_as_masters

    found = _open(model, tokenizer)
    return read_as_masters(found) if read_as == "masters" else found


def _open(model: str, tokenizer: str | None) -> Checkpoint:
    from bitnet_bench.checkpoints.inspect import inspect_folder

    if (file := _find_gguf(model)) is not None:
        return _open_gguf(model, file, tokenizer)
    if tokenizer is not None:
        _log.warning("%s has its own tokenizer: `tokenizer` is for GGUF files.", model)
    if model in EMBEDDED_CHECKPOINTS:
        return inspect_folder(_find_embedded(model), source=model)
    if _exists(model):
        _check_folder(Path(model))
        return inspect_folder(Path(model))
    place = parse_hub_id(model)
    if place is None:
        raise BenchError(
            f"There is no checkpoint {model}.",
            "Give a folder, a GGUF file, a hub id such as ORG/NAME or ORG/NAME@REVISION, or `demo` / `demo-fp16`.",
        )
    path = _download(place)
    return inspect_folder(path, source=model, revision=path.name)


def load_config(model: str) -> dict[str, Any]:
    """Return the config.json of *model*, named as for `open_checkpoint`; for a hub id nothing else is downloaded.

    BenchError for a GGUF file of the hub, whose settings are in the file itself.
    """
    if model.startswith(HUB_PREFIX):
        raise BenchError(f"{model} would have to be downloaded to know its shape.", "Download it, and name the file.")
    place = parse_hub_id(model)
    if model in EMBEDDED_CHECKPOINTS or _exists(model) or place is None:
        return read_config(Path(open_checkpoint(model).path))
    return read_config(_download(place, ["config.json"]))


def _exists(model: str) -> bool:
    """Return whether *model* is the path of something; False for a name that no path can have."""
    try:
        return exists(Path(model))
    except OSError as error:
        raise BenchError(
            f"{model} cannot be read: {error.strerror}.", "Check the permissions of its folder."
        ) from error


def is_here(model: str) -> bool:
    """Return whether *model* can be opened without a download."""
    return model in EMBEDDED_CHECKPOINTS or _exists(model)


def find_local_folder(model: str) -> Path | None:
    """Return the folder of the checkpoint *model* if it is one, or embedded; None for a file or a name of the hub."""
    if model in EMBEDDED_CHECKPOINTS:
        return _find_embedded(model)
    return Path(model) if _exists(model) and Path(model).is_dir() else None


def _find_embedded(model: str) -> Path:
    return Path(__file__).parents[1] / "demo" / EMBEDDED_CHECKPOINTS[model]


def _find_gguf(model: str) -> Path | HubFile | None:
    """Return the GGUF file that *model* names, here or on the hub, or that it is a view of; None if it is none."""
    from bitnet_bench.checkpoints.gguf.parts import is_gguf
    from bitnet_bench.checkpoints.gguf.view import find_source

    if model.startswith(HUB_PREFIX):
        found = HUB_FILE.fullmatch(model.removeprefix(HUB_PREFIX))
        if found is None:
            raise UsageError(f"{model} names no file of the hub.", "Write hub:ORG/NAME/FILE.gguf.")
        revision = unquote(found["revision"]) if found["revision"] else None  # refs%2Fpr%2F1, as the hub writes it
        return HubFile(found["repo"], found["file"], revision)
    path = Path(model)
    if _exists(model) and path.is_dir():
        return find_source(path)
    if _exists(model) and is_gguf(path):
        return path
    if path.suffix.lower() == ".gguf":
        raise BenchError(f"There is no file {model}.", "Check the name; a file of the hub is hub:ORG/NAME/FILE.gguf.")
    return None


def _open_gguf(model: str, file: Path | HubFile, tokenizer: str | None) -> Checkpoint:
    from bitnet_bench.checkpoints.gguf.view import open_gguf

    given = _find_tokenizer(tokenizer) if tokenizer else None
    if isinstance(file, HubFile):
        path, revision = _download_file(file)
        return open_gguf(path, model, given, revision)
    return open_gguf(file, str(file) if Path(model).is_dir() else model, given)


def _find_tokenizer(name: str) -> Path:
    """Return the folder of the tokenizer *name*: a folder, a hub id, or an embedded checkpoint."""
    if name in EMBEDDED_CHECKPOINTS:
        return _find_embedded(name)
    path = Path(name)
    if not _exists(name) and (place := parse_hub_id(name)) is not None:
        path = _download(place, TOKENIZER_PATTERNS)
    if not (path / "tokenizer.json").is_file():
        raise BenchError(f"{name} has no tokenizer.json.", "Give `tokenizer`: a folder, or a hub id, that has one.")
    return path


def _check_folder(path: Path) -> None:
    """Raise BenchError that names the GGUF files of a folder that holds no other model."""
    found = sorted(file.name for file in path.glob("*.gguf")) if path.is_dir() else []
    if found and not (path / "config.json").is_file():
        raise BenchError(f"{path} holds {', '.join(found)} and no config.json.", f"Name the file: {path / found[0]}")


def _download_file(file: HubFile) -> tuple[Path, str]:
    """Download a file of the hub with all its parts, and return its path and its revision."""
    from huggingface_hub import hf_hub_download

    from bitnet_bench.checkpoints.gguf.parts import list_part_names

    folder, _, name = file.file.rpartition("/")
    names = [f"{folder}/{part}" if folder else part for part in list_part_names(name)]
    try:
        paths = [Path(hf_hub_download(file.repo, one, revision=file.revision)) for one in names]
    except list_hub_errors() as error:
        raise BenchError(
            f"{file.file} of {file.repo} is not to be had from the hub: {str(error).splitlines()[0]}",
            "Check the names, the network, and `hf auth login` for a gated model.",
        ) from error
    levels = file.file.count("/")
    return paths[names.index(file.file)], paths[0].parents[levels].name  # snapshots/REVISION/FILE


def _download(place: HubId, patterns: Sequence[str] = DOWNLOAD_PATTERNS) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(place.repo, revision=place.revision, allow_patterns=list(patterns)))
    except list_hub_errors() as error:
        revision = f"@{place.revision}" if place.revision else ""
        raise BenchError(
            f"{place.repo}{revision} is neither a folder here nor to be had from the hub: {str(error).splitlines()[0]}",
            "Check the name and its revision, the network, and `hf auth login` for a gated model.",
        ) from error
