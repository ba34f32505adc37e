"""Keep what steps read and write under an fsspec URL, for machines that share no folder.

A file is kept under its sha256, so that it is sent once; the manifest of a step, which is written last, names the files
of its outputs and the digests of its inputs. A step is done if its manifest says so of the same inputs.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import explain_disk_errors
from bitnet_bench.runs.value import Value
from bitnet_bench.sweeps.graph import Graph, Step, StepOutcome

BLOBS, STEPS, GIVEN = "files", "steps", "given"
CHUNK_BYTES = 8 << 20
ATOMIC_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "memory"})
"""Stores in which nobody sees a file before all of it is there; elsewhere a file is renamed when it is whole."""


class KeptFile(Value):
    """A file of a manifest."""

    sha256: str
    size: int


class Manifest(Value):
    """What a step wrote, or what a path held that no step writes."""

    files: Mapping[str, KeptFile]
    """Files by their paths, as the graph says them."""
    key: str = ""
    inputs: str = ""
    """Digest of all files that the step read."""
    outcome: StepOutcome | None = None


class ArtefactStore:
    """The files of one sweep below a URL, seen from a machine where relative paths are below *root*."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self._root = url.rstrip("/"), root
        self._digests: dict[tuple[str, int, int, int], str] = {}
        try:
            self._files, self._base = importlib.import_module("fsspec.core").url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"{url} cannot be opened: {error}.",
                "Give a URL that fsspec knows, and install its package everywhere: s3fs for s3://, gcsfs for gs://.",
            ) from error
        protocol = self._files.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._is_atomic = bool(names & ATOMIC_PROTOCOLS)

    def send_given(self, graph: Graph) -> None:
        """Send the inputs that no step writes; those that are there already are only compared."""
        written = [path for step in graph.steps for path in step.outputs]
        for path in dict.fromkeys(path for step in graph.steps for path in step.inputs):
            if any(_is_below(path, one) for one in written):
                continue
            if not (self._root / path).exists():
                continue  # the step itself says what is missing
            self._write(_name_given(path), Manifest(files=self._send((path,))).model_dump_json().encode())

    def fetch_inputs(self, graph: Graph, step: Step) -> None:
        """Fetch what *step* reads and this machine does not have."""
        for path, kept in self._list_inputs(graph, step).items():
            self._fetch(path, kept)

    def digest_inputs(self, graph: Graph, step: Step) -> str:
        """Return the digest of all that *step* reads, by names and contents, without fetching it."""
        files = self._list_inputs(graph, step)
        said = "".join(f"{path}\0{files[path].sha256}\0" for path in sorted(files))
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()

    def _list_inputs(self, graph: Graph, step: Step) -> dict[str, KeptFile]:
        """Return the files that *step* reads: given ones, and what the steps before it wrote last."""
        wanted: dict[str, KeptFile] = {}
        for path in step.inputs:
            given = self._load(_name_given(path))
            wanted |= {name: kept for name, kept in given.files.items() if _is_below(name, path)} if given else {}
        before = _find_ancestors(graph, step)
        for one in graph.steps:  # in an order in which later ones may add to the outputs of earlier ones
            manifest = self._load(_name_step(one)) if one.id in before else None
            for path, kept in manifest.files.items() if manifest else ():
                if any(_is_below(path, place) for place in step.inputs):
                    wanted[path] = kept
        return wanted

    def find_outcome(self, step: Step, inputs: str) -> StepOutcome | None:
        """Return how *step* ended with the files of the digest *inputs*; None if it is not done with them."""
        manifest = self._load(_name_step(step))
        if manifest is None or manifest.key != step.key or manifest.inputs != inputs or step.has_unseen_inputs:
            return None
        return manifest.outcome

    def send_outputs(self, step: Step, inputs: str, outcome: StepOutcome) -> None:
        """Send what *step* wrote; it counts as done when all of it is there. BenchError if an output is missing."""
        missing = next((path for path in step.outputs if not (self._root / path).exists()), None)
        if missing is not None:
            raise BenchError(f"{step.id} ended without {missing}.", "The end of its log may say more.")
        manifest = Manifest(files=self._send(step.outputs), key=step.key, inputs=inputs, outcome=outcome)
        self._write(_name_step(step), manifest.model_dump_json().encode())

    def fetch_outputs(self, step: Step) -> None:
        """Fetch what *step* wrote, as far as this machine does not have it."""
        manifest = self._load(_name_step(step))
        for path, kept in manifest.files.items() if manifest else ():
            if any(_is_below(path, place) for place in step.outputs):
                self._fetch(path, kept)

    def _send(self, paths: Iterable[str]) -> dict[str, KeptFile]:
        sent: dict[str, KeptFile] = {}
        for path in paths:
            for name, file in _list_files(path, self._root / path):
                kept = KeptFile(sha256=self._hash(file), size=file.stat().st_size)
                there = self._find(_name_blob(kept))
                if not self._files.exists(there):
                    self._put(file, there)
                sent[name] = kept
        return sent

    def _fetch(self, path: str, kept: KeptFile) -> None:
        """Fetch one file, unless it is here; its contents are compared with their digest before anyone sees them."""
        file = self._root / path
        if file.is_file() and file.stat().st_size == kept.size and self._hash(file) == kept.sha256:
            return
        partial = file.with_name(f".{secrets.token_hex(8)}.fetched")
        with explain_disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                self._files.get_file(self._find(_name_blob(kept)), str(partial))
            except FileNotFoundError as error:
                raise BenchError(f"{self.url} lacks the contents of {path}.", "Run the sweep again.") from error
            if _hash_file(partial) != kept.sha256:
                raise BenchError(
                    f"{path} in {self.url} does not have the contents that its manifest says.",
                    f"Delete {self._find(_name_blob(kept))}, and run the sweep again.",
                )
            with explain_disk_errors(file):
                partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def _hash(self, file: Path) -> str:
        seen = file.stat()
        about = (str(file), seen.st_size, seen.st_mtime_ns, seen.st_ino)
        if about not in self._digests:
            self._digests[about] = _hash_file(file)
        return self._digests[about]

    def _find(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _load(self, name: str) -> Manifest | None:
        try:
            data = self._files.cat_file(self._find(name))
        except FileNotFoundError:
            return None
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as error:
            raise BenchError(f"{self._find(name)} is not a manifest.", "Delete it, and run the sweep again.") from error
        for path in manifest.files:
            _check_path(path)
        return manifest

    def _write(self, name: str, data: bytes) -> None:
        there = self._find(name)
        self._make_parent(there)
        if self._is_atomic:
            self._files.pipe_file(there, data)
            return
        partial = f"{there}.{secrets.token_hex(8)}.tmp"
        self._files.pipe_file(partial, data)
        self._files.mv(partial, there)

    def _put(self, file: Path, there: str) -> None:
        self._make_parent(there)
        if self._is_atomic:
            self._files.put_file(str(file), there)
            return
        partial = f"{there}.{secrets.token_hex(8)}.tmp"
        try:
            self._files.put_file(str(file), partial)
            self._files.mv(partial, there)
        except BaseException:
            with suppress(Exception):
                self._files.rm_file(partial)
            raise

    def _make_parent(self, there: str) -> None:
        if not self._is_atomic or "memory" in self._files.protocol:
            self._files.makedirs(str(PurePosixPath(there).parent), exist_ok=True)


def _name_blob(kept: KeptFile) -> str:
    return f"{BLOBS}/{kept.sha256[:2]}/{kept.sha256}"


def _name_step(step: Step) -> str:
    return f"{STEPS}/{step.id}.json"


def _name_given(path: str) -> str:
    return f"{GIVEN}/{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()}.json"


def _check_path(path: str) -> None:
    """Raise BenchError for a path of a manifest that climbs out of where the sweep keeps its files."""
    if ".." in PurePosixPath(path).parts:
        raise BenchError(f"A manifest names {path}, which is no place of a sweep.", "Give another URL.")


def _is_below(path: str, place: str) -> bool:
    return PurePosixPath(path) == PurePosixPath(place) or PurePosixPath(place) in PurePosixPath(path).parents


def _find_ancestors(graph: Graph, step: Step) -> set[str]:
    found: set[str] = set()
    todo = [step.id]
    while todo:
        for before in graph.by_id[todo.pop()].after:
            if before not in found:
                found.add(before)
                todo.append(before)
    return found


def _list_files(path: str, there: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the place of the file *there*, or of each file below it that is not hidden."""
    if there.is_file():
        yield path, there
        return
    for folder, below, names in os.walk(there):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                file = Path(folder) / name
                yield str(PurePosixPath(path) / file.relative_to(there).as_posix()), file


def _hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_fault(error: Exception) -> dict[str, Any]:
    """Return the fields of an outcome that say why files could not be moved."""
    said = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
    return {"is_done": False, "problem": f"Its files could not be moved: {said}"}
