"""Push a checkpoint to the hub with a model card made from its record, and pull one from there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol

from bitnet_bench.checkpoints.hub_errors import list_hub_errors
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.locate import DOWNLOAD_PATTERNS, HubId, parse_hub_id
from bitnet_bench.checkpoints.model_card import is_card_untouched, make_card, seal_card
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import explain_disk_errors, open_partial_folder, read_text, write_whole
from bitnet_bench.json_files import read_json_object
from bitnet_bench.runs.folder import TRAINING_FILE, load_record, load_training_record
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.shared_paths import share, shorten_path

CARD_FILE = "README.md"
HUB_FILE_PATTERNS = (*DOWNLOAD_PATTERNS, CARD_FILE)
"""Patterns of the files that are pulled: weights as safetensors, configuration, tokenizer, card."""
FILES_WITH_PATHS = ("config.json", "generation_config.json", "tokenizer_config.json", TRAINING_FILE)
"""Shared files into which a library may have written where they came from."""
SHARED_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    *FILES_WITH_PATHS,
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("chat_template.jinja", "chat_template.json"),
    CARD_FILE,
)
"""The only files that are pushed, whatever else is in the folder."""
DATA_SETTINGS = ("data", "validation")
"""Settings of a training that name files of rows, of which the shared record gives the names alone."""
CARD_HINT = "Save it as UTF-8, or delete it to have one made."
_log = logging.getLogger(__name__)


class HubClient(Protocol):
    """The methods of `huggingface_hub.HfApi` that are used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Create the repository unless it exists."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **_: Any) -> Any:
        """Upload the files of a folder in one commit."""

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str], **_: Any) -> str:
        """Download a repository and return its folder."""


def push_checkpoint(
    folder: Path,
    repo: str,
    *,
    private: bool,
    runs: Sequence[Path],
    hub: HubClient | None = None,
    keep_paths: bool = False,
) -> str:
    """Upload the checkpoint in *folder* to *repo* with its card, and return the card.

    *runs* are run folders whose scores the card gives; they must be of this checkpoint. An existing card that
    bitnet-bench did not write, or that was edited, is kept. A link that leaves the folder is refused.
    Only `SHARED_FILES` are uploaded, with shortened paths unless *keep_paths*.
    """
    if folder.is_file():
        raise UsageError(
            f"{folder} is a file, and a checkpoint folder is pushed, with its card.",
            "Convert it to a folder first, or upload the file with `hf upload`.",
        )
    _check_links(folder)
    checkpoint = inspect_folder(folder)
    records = [load_record(run) for run in runs]
    for run, record in zip(runs, records, strict=True):
        if record.checkpoint.sha256 != checkpoint.sha256:
            raise BenchError(f"{run} holds scores of other weights than {folder}.", "Evaluate this checkpoint first.")
    made = make_card(checkpoint, load_training_record(folder), records, keep_paths=keep_paths)
    text = _choose_card(folder / CARD_FILE, seal_card(made))
    with tempfile.TemporaryDirectory(prefix="bitnet-bench-push-") as place:
        names = _stage_files(folder, Path(place), keep_paths, text)
        with _explain_hub_errors(repo):
            hub = hub or _make_client()
            hub.create_repo(repo, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo, folder_path=Path(place), allow_patterns=names, ignore_patterns=["*/*"])
    return text


def _choose_card(file: Path, made: str) -> str:
    """Return the card in *file* if somebody wrote or edited it, else *made*, which is written there."""
    if file.is_file():
        there = read_text(file, CARD_HINT)
        if not is_card_untouched(there):
            _log.warning("%s is uploaded as it is: it was written or edited. Delete it to have one made.", file)
            return there
    if not file.is_symlink():  # behind a link is a cache, or a file that has another use
        write_whole(file, made)
    return made


def _check_links(folder: Path) -> None:
    """Raise BenchError for a file to upload that is a link out of *folder*, or to nothing.

    A snapshot of the hub's cache may link to the files of its own repository.
    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        allowed.append(root.parent.parent / "blobs")
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not file.is_symlink() or not _has_shared_name(file):
            continue
        target = Path(os.path.realpath(file))
        if not target.is_file() or not any(map(target.is_relative_to, allowed)):
            raise BenchError(
                f"{file} is a link {'out of its folder' if target.is_file() else 'to no file'}, and is not uploaded.",
                "Put the file itself there, or remove the link.",
            )


def list_left_out(folder: Path) -> list[str]:
    """Return the names in *folder* that `push_checkpoint` does not upload."""
    return sorted(f"{file.name}/" if file.is_dir() else file.name for file in folder.iterdir() if not _is_shared(file))


def _is_shared(file: Path) -> bool:
    return file.is_file() and _has_shared_name(file)


def _has_shared_name(file: Path) -> bool:
    return any(fnmatchcase(file.name, pattern) for pattern in SHARED_FILES)


def _stage_files(folder: Path, place: Path, keep_paths: bool, card: str) -> list[str]:
    """Fill *place* with the *card* and links to the files to upload, or copies with shortened paths; return names."""
    (place / CARD_FILE).write_text(card, encoding="utf-8")
    shared = sorted(file for file in folder.iterdir() if _is_shared(file) and file.name != CARD_FILE)
    for file in shared:
        if keep_paths or file.name not in FILES_WITH_PATHS:
            (place / file.name).symlink_to(file.resolve())
            continue
        (place / file.name).write_text(_read_shareable(file), encoding="utf-8")
    return [CARD_FILE, *(file.name for file in shared)]


def _read_shareable(file: Path) -> str:
    """Return the text of a JSON file with shortened paths, unchanged if it has none."""
    text = read_text(file, "Write it again.")
    fields = read_json_object(file, "Write it again.")
    if file.name == TRAINING_FILE:
        shortened = share(fields)
        shortened["job"] |= {name: [Path(one).name for one in shortened["job"].get(name, [])] for name in DATA_SETTINGS}
    else:  # a path within a text, such as a chat template, is part of it
        shortened = _shorten_whole_paths(fields)
    return text if shortened == fields else json.dumps(shortened, indent=2, ensure_ascii=False) + "\n"


def _shorten_whole_paths(value: Any) -> Any:
    """Return a value of JSON with each text shortened that is an absolute path and nothing else."""
    if isinstance(value, dict):
        return {name: _shorten_whole_paths(one) for name, one in value.items()}
    if isinstance(value, list):
        return list(map(_shorten_whole_paths, value))
    is_path = isinstance(value, str) and "\n" not in value and (value.startswith("/") or PureWindowsPath(value).drive)
    return shorten_path(value) if is_path and value.count("/") + value.count("\\") > 1 else value


def pull_checkpoint(repo: str, out: Path, hub: HubClient | None = None) -> Checkpoint:
    """Download the checkpoint *repo*, safetensors only, into the new folder *out*, and return its description.

    *repo* may end in `@REVISION`: a commit, a branch or a tag. A pull that was killed is resumed by the same command.
    """
    place = parse_hub_id(repo) or HubId(repo, None)
    if not repo.isprintable():
        raise BenchError(f"{repo!r} is no name of the hub.", "Write it as ORG/NAME or ORG/NAME@REVISION.")
    with explain_disk_errors(out):
        _check_target(out)
    with explain_disk_errors(out), open_partial_folder(out.absolute().parent, f"pull {repo} {out.name}") as partial:
        with _explain_hub_errors(repo):
            hub = hub or _make_client()
            hub.snapshot_download(
                place.repo, revision=place.revision, allow_patterns=list(HUB_FILE_PATTERNS), local_dir=partial
            )
        inspect_folder(partial)  # raises before *out* exists if this is not a checkpoint
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    return inspect_folder(out)


def _check_target(out: Path) -> None:
    """Raise BenchError if *out* cannot become a new folder, before anything is downloaded."""
    hint = "Name a folder that does not exist yet, or an empty one."
    try:
        if "\0" in os.fsencode(out).decode("utf-8"):
            raise ValueError
    except ValueError as error:
        raise BenchError(f"{str(out)!r} cannot be the name of a folder.", hint) from error
    if out.is_symlink():
        raise BenchError(f"{out} is a link, and a new folder takes its place.", hint)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BenchError(f"{out} is not empty.", hint)
    place = out.resolve()
    if place == Path.cwd() or (place.is_dir() and place.is_mount()):
        what = "is the current folder" if place == Path.cwd() else "is mounted"
        raise BenchError(f"{out} {what}, and a new folder takes its place.", hint)


def _make_client() -> Any:
    from huggingface_hub import HfApi

    return HfApi()


@contextmanager
def _explain_hub_errors(repo: str) -> Iterator[None]:
    """Raise BenchError instead of an error of the hub or the network."""
    try:
        yield
    except list_hub_errors() as error:
        raise BenchError(
            f"The hub did not take or give {repo}: {(str(error) or type(error).__name__).splitlines()[0]}",
            "Check the name, the network, and `hf auth login`.",
        ) from error
