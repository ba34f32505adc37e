"""Find a build of libllama: the installed wheel's, or the user's own, with the layout that the self-test proves."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bitnet_bench.backends.libllama import self_test
from bitnet_bench.backends.libllama.layouts import Layout, list_known_layouts, read_layout
from bitnet_bench.backends.libllama.library import Calls, LlamaLibrary
from bitnet_bench.checkpoints.gguf.cache import find_cache_folder
from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole

LIBRARY_VARIABLE = "BITNET_BENCH_LIBLLAMA"
WHEELS = {"xllamacpp": "xllamacpp*.so", "llama-cpp-py-sync": "libllama.*"}
"""Packages that carry a libllama, in the order of preference, with the name of its file."""
DECLARATIONS = "_cffi_bindings.py"
"""Module of llama-cpp-py-sync whose text holds the declarations of its llama.h."""
LIBRARY_FOLDERS = (
    "",
    "build/bin",
    "build/lib",
    "build/src",
    "build/3rdparty/llama.cpp/src",
    "bin",
    "lib",
    "lib64",
    "src",
    "build",
)
LIBRARY_NAMES = ("libllama.so", "libllama.dylib", "libllama.so.*", "llama.dll")
HEADERS = ("include/llama.h", "3rdparty/llama.cpp/include/llama.h", "llama.h")
FOLDERS_ABOVE = 4
"""Folders above a library in which its header is looked for: build/3rdparty/llama.cpp/src is four deep."""
INSTALL_HINT = "pip install 'bitnet-bench[llamacpp]', or name a build of your own with `libllama`."
HEADER_HINT = "Give a folder that holds include/llama.h of the same commit beside the library."
CRASH_HINT = "Build it again, or use the wheel of the extra `llamacpp`."
TIME_LIMIT_S = 120


@dataclass(frozen=True)
class LlamaBuild:
    """A build of libllama that passed the self-test: how its structures lie, and what it is called in records."""

    library: Path
    layout: Layout
    version: str
    """Name with commit and build number; cached comparisons and kept answers depend on it."""
    computes_on_gpu: bool

    def load(self, file: Path, vocabulary_only: bool, gpu_layers: int) -> LlamaLibrary:
        """Load a GGUF *file*; BenchError if the build cannot do that."""
        if gpu_layers and not self.computes_on_gpu:
            raise BenchError(
                f"{self.version} computes on the CPU only.", "Set `gpu_layers` to 0, or name a GPU build (`libllama`)."
            )
        return LlamaLibrary(Calls(self.library), self.layout, file, vocabulary_only, gpu_layers)


def find_wheel() -> LlamaBuild:
    """Return the build of the first installed wheel that runs here; BenchError if there is none."""
    faults = []
    for package, library in _list_wheels():
        try:
            layouts = [_read_declarations(library.parent), *list_known_layouts()]
            said = _prove(library, [layout for layout in layouts if layout])
        except BenchError as error:
            faults.append(error)
            continue
        version = metadata.version(package)
        number = said.version or f"b{version.rpartition('.')[2]}"
        return LlamaBuild(library, said.layout, f"llama.cpp {number} ({package} {version})", said.gpu)
    if faults:
        raise faults[0]
    raise BenchError("llama.cpp is not installed.", INSTALL_HINT)


def find_build(named: str, runtime: str = "llama.cpp") -> LlamaBuild:
    """Return the build in the folder, or of the file, *named*; BenchError if there is none or it is not understood."""
    library = find_library(Path(named))
    header = _find_header(library)
    layouts = [_read_header(header)] if header else list_known_layouts()
    said = _prove(library, layouts)
    built = datetime.fromtimestamp(library.stat().st_mtime).isoformat(sep=" ", timespec="seconds")
    commit = said.version or _read_commit(library) or "no commit"
    return LlamaBuild(library, said.layout, f"{runtime} ({commit}, built {built})", said.gpu)


def find_library(named: Path) -> Path:
    """Return the libllama that *named* is, or that stands in one of the usual folders below it."""
    if named.is_file():
        return named
    places = (
        path for place in LIBRARY_FOLDERS for name in LIBRARY_NAMES for path in sorted((named / place).glob(name))
    )
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise BenchError(
            f"There is no libllama in {named}.",
            "Give the library's file or its folder; it is looked for in bin, lib, build/bin, build/src and the like.",
        )
    return found


@dataclass(frozen=True)
class _Proof:
    layout: Layout
    version: str | None
    gpu: bool


def _prove(library: Path, layouts: Sequence[Layout]) -> _Proof:
    """Return the first of *layouts* with which *library* passes the self-test, from the cache if it did so before."""
    state = library.stat()
    saved = [self_test.save_fields(layout) for layout in layouts]
    key = json.dumps([str(library.resolve()), state.st_size, state.st_mtime_ns, saved, _read_test()])
    kept = find_cache_folder() / "libllama" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):  # there is none, or it is damaged: it is proved again
        said = json.loads(kept.read_text(encoding="utf-8"))
        return _Proof(layouts[said["layout"]], said["version"], said["gpu"])
    faults = []
    for number, fields in enumerate(saved):
        said = _run_self_test(library, fields)
        if "fault" not in said:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps({"layout": number, **said}))
            return _Proof(layouts[number], said["version"], said["gpu"])
        faults.append(f"{fields['source']}: {said['fault']}")
        if said.get("final"):
            raise BenchError(said["fault"], CRASH_HINT)
    if len(layouts) == 1:
        raise BenchError(f"{library} is not what its header declares ({faults[0]}).", HEADER_HINT)
    raise BenchError(f"The interface of {library} is none of the {len(layouts)} known ones ({faults[0]}).", HEADER_HINT)


def _run_self_test(library: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Return what the self-test prints, or the step in which its process ended."""
    asked = json.dumps({"library": str(library), "layout": fields})
    command = [sys.executable, "-m", self_test.__name__, asked]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"fault": f"its self-test did not end in {TIME_LIMIT_S} s"}
    lines = ended.stdout.splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (ValueError, IndexError):
        step = lines[-1] if lines else "starting"
        said = ended.stderr.strip().splitlines()[-1:] if ended.returncode > 0 else []
        return {"fault": f"its process ended with {ended.returncode} while {step}. {''.join(said)}".rstrip(". ")}
    loading = len(lines) == 2  # it failed in the first step: another layout changes nothing
    return {**found, "final": True} if loading and "fault" in found else found


def _read_test() -> str:
    return hashlib.sha256(Path(self_test.__file__).read_bytes()).hexdigest()


def _list_wheels() -> Iterator[tuple[str, Path]]:
    """Yield (package, library) of the installed packages of `WHEELS`."""
    for package, pattern in WHEELS.items():
        spec = find_spec(package.replace("-", "_"))
        for folder in (spec and spec.submodule_search_locations) or ():
            yield from ((package, path) for path in sorted(Path(folder).glob(pattern))[:1])


def _read_declarations(folder: Path) -> Layout | None:
    """Return the layout that a wheel declares itself, None if it declares none."""
    declared = folder / DECLARATIONS
    if not declared.is_file():
        return None
    return read_layout(declared.read_text(encoding="utf-8"), f"the wheel of {folder.name}")


def _find_header(library: Path) -> Path | None:
    """Return the llama.h beside *library*, None if there is none in a folder above it."""
    folders = library.resolve().parents[: FOLDERS_ABOVE + 1]
    return next((folder / name for folder in folders for name in HEADERS if (folder / name).is_file()), None)


def _read_header(header: Path) -> Layout:
    return read_layout(header.read_text(encoding="utf-8", errors="replace"), str(header))


def _read_commit(library: Path) -> str | None:
    """Return the commit of the sources that *library* was built in, None if git does not say."""
    top = next((p for p in library.resolve().parents[: FOLDERS_ABOVE + 2] if (p / ".git").exists()), None)
    if top is None or not shutil.which("git"):
        return None
    command = ["git", "-C", str(top), "rev-parse", "--short", "HEAD"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return said if re.fullmatch(r"[0-9a-f]+", said) else None
