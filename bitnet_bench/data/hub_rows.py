"""Fetch a split of a data set of the hub at one commit, and keep it as a Parquet file that is read like any other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import explain_disk_errors, replace_file

HUB_PREFIX = "hub:"
FORM = "hub:ORG/NAME[@REVISION][/SUBSET][:SPLIT]"
DEFAULT_SPLIT = "train"
_PARTS = re.compile(
    r"hub:(?P<repo>[^/@:\s]+/[^/@:\s]+)(@(?P<revision>[^/:\s]+))?(/(?P<subset>[^:\s]+))?(:(?P<split>\S+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubRows(NamedTuple):
    """A split of a data set of the hub; None: the newest commit, the only subset, `train` or the only split."""

    repo: str
    revision: str | None
    subset: str | None
    split: str | None

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        subset = f"/{self.subset}" if self.subset else ""
        return f"{HUB_PREFIX}{self.repo}{revision}{subset}{f':{self.split}' if self.split else ''}"


def is_on_hub(source: str) -> bool:
    """Return whether *source* names rows of the hub; everything else is a file, or a task's rows."""
    return source.startswith(HUB_PREFIX)


def parse_hub_rows(source: str) -> HubRows:
    """Return the parts of *source*; UsageError if it has another form than `FORM`.

    A slash in a revision is written %2F, as the hub does.
    """
    found = _PARTS.fullmatch(source)
    if found is None:
        raise UsageError(f"{source} names no rows of the hub.", f"Write {FORM}.")
    revision = unquote(found["revision"]) if found["revision"] else None
    return HubRows(found["repo"], revision, found["subset"], found["split"])


def pin_source(source: str) -> str:
    """Return *source* with the commit that its revision means now; a file or a task stays as it is."""
    if not is_on_hub(source):
        return source
    rows = parse_hub_rows(source)
    return str(rows._replace(revision=_find_commit(rows)))


def open_source(source: str | Path) -> Path:
    """Return the file of *source*: itself, or that of rows of the hub, which are fetched once for each commit."""
    name = source.as_posix() if isinstance(source, Path) else source
    if not is_on_hub(name):
        return Path(source)
    from bitnet_bench.data.arrow_files import find_cache_folder

    rows = parse_hub_rows(name)
    commit = _find_commit(rows)
    stem = quote(str(rows._replace(revision=None)).removeprefix(HUB_PREFIX), safe="").replace("%2F", "--")
    kept = find_cache_folder() / "hub" / commit / f"{stem}.parquet"
    if not kept.is_file():
        dataset = _load_split(rows, commit)
        with explain_disk_errors(kept), replace_file(kept) as stream:
            dataset.to_parquet(stream.buffer)
    return kept


def _find_commit(rows: HubRows) -> str:
    """Return the commit of a revision; without a network that which its name meant when it was last asked for."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if rows.revision and _COMMIT.fullmatch(rows.revision):
        return rows.revision
    try:
        try:  # the client notes the commit of a branch where it keeps the file, and finds it there without a network
            card = hf_hub_download(rows.repo, "README.md", repo_type="dataset", revision=rows.revision)
            return Path(card).parent.name
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return str(HfApi().dataset_info(rows.repo, revision=rows.revision).sha)
    except Exception as error:  # of the client and of its HTTP library, which depends on its version
        raise _explain_failure(rows, error) from error


def _load_split(rows: HubRows, commit: str) -> Any:
    """Return the rows of a split at *commit* as a `datasets.Dataset`."""
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(f"hf://datasets/{rows.repo}", rows.subset, revision=commit)
        if builder.hash != commit:  # where the hub does not answer, `datasets` takes what it has of any revision
            raise ConnectionError(f"the hub does not answer, and commit {commit} is not in the cache")
        builder.download_and_prepare()
        splits = [str(name) for name in builder.info.splits]
    except Exception as error:  # `datasets` reads files of many kinds, and raises what their readers do
        raise _explain_failure(rows, error) from error
    wanted = rows.split or (DEFAULT_SPLIT if DEFAULT_SPLIT in splits or len(splits) != 1 else splits[0])
    if wanted.partition("[")[0] not in splits:
        raise UsageError(f"{rows.repo} has no split {wanted!r}.", f"There are: {', '.join(splits)}. Write {FORM}.")
    try:
        return builder.as_dataset(split=wanted)
    except Exception as error:  # a slice such as train[:10%] is a small language of its own
        raise _explain_failure(rows, error) from error


def _explain_failure(rows: HubRows, error: Exception) -> BenchError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return BenchError(
        f"{rows} cannot be fetched from the hub: {' '.join(lines[:2]).rstrip('.')}.",
        f"Check the name ({FORM}), the network, and `hf auth login` for a gated data set.",
    )
