"""Complete names in a shell: suites, tasks, backends, presets, recipes and devices.

A shell waits for these, so they read names of files and entry points, and import neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from bitnet_bench.runs.choices import AUTO

SUITE_FILE = "suite.yaml"


def complete_suites(incomplete: str) -> list[str]:
    """Return the suites that begin with what stands behind the last comma."""
    before, comma, begun = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _starting(_list_suite_folders(), begun)]


def complete_tasks(context: typer.Context, incomplete: str) -> list[str]:
    """Return the tasks of the suites that the command line names, or of every suite."""
    from bitnet_bench.yaml_files import read_yaml

    given = {name for value in context.params.get("suite") or () for name in str(value).split(",")}
    folders = _list_suite_folders()
    chosen = [folder for name, folder in folders.items() if name in given] or list(folders.values())
    names = []
    for folder in chosen:
        names += [task["name"] for task in read_yaml(folder / SUITE_FILE).value["tasks"]]
    return _starting(dict.fromkeys(names), incomplete)


def complete_backends(incomplete: str) -> list[str]:
    """Return the backends that begin with *incomplete*, and `auto`."""
    return _starting([AUTO, *_list_entries("backends")], incomplete)


def complete_meters(incomplete: str) -> list[str]:
    """Return the meters that begin with *incomplete*, and `auto`."""
    return _starting([AUTO, *_list_entries("meters")], incomplete)


def complete_presets(incomplete: str) -> list[str]:
    """Return the shapes of published models that begin with *incomplete*."""
    return _starting(_list_stems("bitnet_bench.checkpoints", "presets", ".json"), incomplete)


def complete_recipes(incomplete: str) -> list[str]:
    """Return the shipped recipes and the YAML files of this folder that begin with *incomplete*."""
    files = (str(file) for file in sorted(Path().glob("*.yaml")))
    return _starting([*_list_stems("bitnet_bench.recipes", "", ".yaml"), *files], incomplete)


def complete_executors(incomplete: str) -> list[str]:
    """Return what can run the steps of a sweep."""
    from bitnet_bench.sweeps.executors import EXECUTORS

    return _starting(EXECUTORS, incomplete)


def complete_devices(incomplete: str) -> list[str]:
    """Return the devices that `plan` knows."""
    from bitnet_bench.measurement.devices import DEVICES

    return _starting(["cpu", *DEVICES], incomplete)


COMPLETERS: Mapping[str, Any] = {
    "backend": complete_backends,
    "backends": complete_backends,
    "baselines": complete_backends,
    "suites": complete_suites,
    "meter": complete_meters,
}
"""What completes an option that is made from a field of a job, by the field's name."""


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _list_entries(kind: str) -> list[str]:
    return sorted({entry.name for entry in entry_points(group=f"bitnet_bench.{kind}")})


def _list_stems(package: str, folder: str, ending: str) -> list[str]:
    found = resources.files(package).joinpath(folder) if folder else resources.files(package)
    return sorted(file.name.removesuffix(ending) for file in found.iterdir() if file.name.endswith(ending))


def _list_suite_folders() -> dict[str, Path]:
    """Return the folder of every installed suite, by name."""
    places = []
    for entry in entry_points(group="bitnet_bench.tasks"):
        spec = find_spec(entry.value)
        places += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    return {file.parent.name: file.parent for place in places for file in sorted(place.glob(f"*/{SUITE_FILE}"))}
