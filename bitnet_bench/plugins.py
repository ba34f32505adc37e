"""Find plugins by entry point, and import only those that are used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from bitnet_bench.errors import BenchError, UsageError, did_you_mean
from bitnet_bench.protocols import (
    Backend,
    CheckedBackend,
    Contract,
    EnergyModel,
    EnergySource,
    InferenceBackend,
    Meter,
    RemoteBackend,
    Session,
    TrainingBackend,
)
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

_log = logging.getLogger(__name__)
Kind = TypeVar("Kind", bound=Contract)


def list_plugins(kind: str) -> dict[str, EntryPoint]:
    """Return the plugins of *kind* (backends, meters, reports, tasks) by name; nothing is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=f"bitnet_bench.{kind}"), key=lambda e: e.name)}


def load_plugin(kind: str, name: str) -> Any:
    """Return an instance of the plugin *name*; UsageError lists the installed ones."""
    found = list_plugins(kind)
    if name not in found:
        hint = f"{did_you_mean(name, list(found))} There are: {', '.join(found) or 'none'}."
        raise UsageError(f"There is no {kind.rstrip('s')} {name!r}.", hint.lstrip())
    try:
        return _create(kind, found[name].load())
    except ImportError as error:
        raise BenchError(
            f"The {kind.rstrip('s')} {name!r} needs {error.name or error}, which is not installed.",
            _hint_install(name, found[name]),
        ) from error


def _hint_install(name: str, entry: EntryPoint) -> str:
    """Return how to install what a plugin needs: the extra of its own name, if its package has one."""
    package = entry.dist.name if entry.dist else "bitnet-bench"
    if entry.dist and name in (entry.dist.metadata.get_all("Provides-Extra") or ()):
        return f"pip install '{package}[{name}]'"
    return f"Install what the package {package} needs for it."


def create_backend(path: str) -> Any:
    """Return an instance of the backend class at *path* (`module:Class`), which another process passed on."""
    return _create("backends", resolve_name(path))


def create_meter(path: str) -> EnergySource:
    """Return an instance of the meter class at *path* (`module:Class`), which another process passed on."""
    found: EnergySource = _create("meters", resolve_name(path))
    return found


@contextmanager
def open_session(backend: InferenceBackend, checkpoint: Checkpoint, precision: Precision) -> Iterator[Session]:
    """Open *checkpoint* in *backend* and yield its session, with the defaults of `Session`."""
    with backend.open(checkpoint, precision) as session:
        yield session if isinstance(session, Session) else _adopt(session, Session)


def _create(kind: str, plugin: Any) -> Any:
    """Return an instance of the class *plugin*, with the defaults of the base classes of its *kind*."""
    found = plugin()
    if kind == "backends" and not isinstance(found, Backend):
        return _adopt(found, *_find_abilities(found))
    if kind == "meters" and not isinstance(found, EnergySource):
        return _adopt(found, EnergyModel if getattr(found, "modelled", False) else Meter)
    return found


def _find_abilities(backend: object) -> list[type[Backend]]:
    """Return the base classes that fit the methods of a backend that inherits from none."""
    able = {name for name in ("open", "check", "finetune") if callable(getattr(backend, name, None))}
    runs: list[type[Backend]] = [CheckedBackend if "check" in able else InferenceBackend] if "open" in able else []
    trains: list[type[Backend]] = [TrainingBackend] if "finetune" in able else []
    return [*runs, *trains] or [Backend]


def _adopt(found: Any, *bases: type[Contract]) -> Any:
    """Add the defaults of *bases* to an object whose class lacks them, and warn: the next release refuses it."""
    found.__class__ = _find_adopted_class(type(found), bases)  # type: ignore[arg-type] # classes have a hash
    return found


@cache
def _find_adopted_class(plain: type, bases: tuple[type[Contract], ...]) -> type:
    """Return a class that inherits from *plain* and *bases*; BenchError if it lacks a method that they require."""
    names = " and ".join(f"`bitnet_bench.protocols.{base.__name__}`" for base in bases)
    hint = f"Its author lets it inherit from {names}."
    try:
        adopted = type(plain.__name__, (plain, *bases), {"__module__": plain.__module__})
    except TypeError as error:
        raise BenchError(f"The class {plain.__qualname__} cannot be used as a plugin: {error}.", hint) from error
    if missing := sorted(getattr(adopted, "__abstractmethods__", ())):
        raise BenchError(f"The class {plain.__qualname__} has no method {', '.join(missing)}.", hint)
    _log.warning(
        "%s does not inherit from %s. It works once more; the next release refuses it.", plain.__qualname__, names
    )
    return adopted


def find_task_folders() -> list[Path]:
    """Return the folders in which packages keep suites (entry points `bitnet_bench.tasks`, each naming a package)."""
    folders = []
    for entry in list_plugins("tasks").values():
        spec = find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise BenchError(f"The package {entry.value} of suites {entry.name!r} is not there.", "Reinstall it.")
        folders += [Path(place) for place in spec.submodule_search_locations]
    return folders


def list_backends() -> list[dict[str, str | bool]]:
    """Return name, summary and abilities of every backend, and whether what it needs is installed on this machine.

    `runtime` is what computes, or what is missing; `hint` says how to get that.
    """
    return [_describe_backend(name) for name in list_plugins("backends")]


def _describe_backend(name: str) -> dict[str, str | bool]:
    about: dict[str, str | bool] = {"name": name, "runs": False, "trains": False, "summary": ""}
    try:
        backend = load_plugin("backends", name)
        about |= {
            "runs": isinstance(backend, InferenceBackend | RemoteBackend),
            "trains": isinstance(backend, TrainingBackend),
            "summary": str(backend.summary),
        }
        return {**about, "installed": True, "runtime": backend.find_runtime(), "hint": ""}
    except BenchError as error:
        return {**about, "installed": False, "runtime": error.problem, "hint": error.hint}
