"""Find plugins by entry point, and import only the one that is asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.protocols import InferenceBackend, TrainingBackend


def names(kind: str) -> dict[str, EntryPoint]:
    """Return the plugins of *kind* (backends, meters, reports, tasks) by name; nothing is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=f"bitnet_bench.{kind}"), key=lambda e: e.name)}


def load(kind: str, name: str) -> Any:
    """Return an instance of the plugin called *name*; UsageError lists those there are."""
    found = names(kind)
    if name not in found:
        raise UsageError(f"There is no {kind.rstrip('s')} {name!r}.", f"Installed: {', '.join(found) or 'none'}.")
    try:
        return found[name].load()()
    except ImportError as error:
        package = f"`pip install 'bitnet-bench[{name}]'`"
        raise BenchError(
            f"The {kind.rstrip('s')} {name!r} needs {error.name or error}, which is not installed.",
            f"Install what it needs; for a built-in one: {package}.",
        ) from error


def task_folders() -> list[Path]:
    """Return the folders in which packages keep suites (entry points `bitnet_bench.tasks`, each naming a package)."""
    folders = []
    for entry in names("tasks").values():
        spec = find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise BenchError(f"The package {entry.value} of suites {entry.name!r} is not there.", "Reinstall it.")
        folders += [Path(place) for place in spec.submodule_search_locations]
    return folders


def list_backends() -> list[dict[str, str | bool]]:
    """Return name, summary and abilities of every installed backend; one that cannot be imported says so."""
    found: list[dict[str, str | bool]] = []
    for name in names("backends"):
        try:
            backend = load("backends", name)
        except BenchError as error:
            found.append({"name": name, "runs": False, "trains": False, "summary": error.problem})
            continue
        summary = str(getattr(backend, "summary", ""))
        runs, trains = isinstance(backend, InferenceBackend), isinstance(backend, TrainingBackend)
        found.append({"name": name, "runs": runs, "trains": trains, "summary": summary})
    return found
