"""Read the YAML files that define a task: its own, and those that it includes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.harness_tasks import find_harness_folder
from bitnet_bench.files import is_file
from bitnet_bench.yaml_files import read_yaml

INCLUDE = "include"
FUNCTION_TAG = "!function"
MAX_INCLUDED_FILES = 100
"""Number of files up to which a definition and what it includes are read."""
FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "metric_list": (list,),
    "dataset_kwargs": (dict, type(None)),
    "generation_kwargs": (dict, type(None)),
    "filter_list": (list, type(None)),
    "metadata": (dict, type(None)),
}
"""Types of the fields of a definition that are read here, or by lm-eval without a check."""
CORRECT_HINT = "Correct it: docs/suites/README.md says what a task's YAML holds."


@dataclass(frozen=True)
class Definition:
    """What a definition and its included files hold, the included ones first."""

    parts: Mapping[Path, dict[str, Any]]
    """Fields by file; a `!function` is the text that names it."""
    functions: Mapping[Path, tuple[str, ...]]
    """Every function that a `!function` names, by file: also one whose value another key replaces."""

    def list_modules(self) -> set[Path]:
        """Return the Python files that lm-eval would load for the functions."""
        named = {find_module(file, name) for file, names in self.functions.items() for name in names}
        return {module for module in named if is_file(module)}


def read_definition(file: Path) -> dict[Path, dict[str, Any]]:
    """Return the fields of *file* and of what it includes, by file, the included ones first.

    A `!function` is the text that names it: nothing is imported. BenchError names the file and line of what is no
    definition.
    """
    return dict(examine_definition(file).parts)


def examine_definition(file: Path) -> Definition:
    """Return the fields and functions of *file* and of what it includes; nothing is imported."""
    parts: dict[Path, dict[str, Any]] = {}
    functions: dict[Path, tuple[str, ...]] = {}
    _read_parts(file.resolve(), (), parts, functions)
    return Definition(parts, functions)


def find_module(file: Path, function: str) -> Path:
    """Return where lm-eval looks first for the module of a *function* (`utils.f`) that *file* names."""
    module = function.rpartition(".")[0]
    return (file.parent / f"{module.replace('.', '/')}.py").resolve()


def _read_parts(
    file: Path,
    including: tuple[Path, ...],
    parts: dict[Path, dict[str, Any]],
    functions: dict[Path, tuple[str, ...]],
) -> None:
    if file in including:
        raise BenchError(f"{file} includes itself.", CORRECT_HINT)
    if len(including) + len(parts) > MAX_INCLUDED_FILES:
        raise BenchError(f"{including[0]} includes more than {MAX_INCLUDED_FILES} files.", CORRECT_HINT)
    if file in parts:
        return  # several files may include it
    fields, includes, functions[file] = _read_part(file, including[-1] if including else None, _stamp(file))
    for name in includes:
        _read_parts((file.parent / name).resolve(), (*including, file), parts, functions)
    parts[file] = fields


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return (0, 0, 0)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


@lru_cache(maxsize=1024)
def _read_part(
    file: Path, includer: Path | None, _stamp: tuple[int, int, int]
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Return the fields of one file, what it includes, and the functions that it names.

    A file is read anew when its stamp, its times and size, is another.
    """
    functions: list[str] = []

    def note_function(name: str) -> str:
        functions.append(name)
        return f"{FUNCTION_TAG} {name}"

    found = read_yaml(
        file,
        CORRECT_HINT if includer is None else f"Correct it, or the `include` of {includer}.",
        tags={FUNCTION_TAG: note_function},
        may_repeat_keys=file.is_relative_to(find_harness_folder().resolve()),
    )
    if not isinstance(found.value, dict):
        raise BenchError(f"{file} is not the definition of a task: it holds no keys.", CORRECT_HINT)
    for name, types in FIELD_TYPES.items():
        if name in found.value and not isinstance(found.value[name], types):
            line, wanted = found.lines[(name,)], types[0].__name__
            raise BenchError(f"Line {line} of {file}: `{name}` must be a {wanted}.", CORRECT_HINT)
    includes = found.value.pop(INCLUDE, [])
    includes = includes if isinstance(includes, list) else [includes]
    if not all(isinstance(name, str) and name and "\0" not in name for name in includes):
        raise BenchError(f"Line {found.lines[(INCLUDE,)]} of {file}: `{INCLUDE}` must name files.", CORRECT_HINT)
    return found.value, tuple(includes), tuple(functions)
