"""Read the YAML files that define a task: its own, and those that it includes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.harness_tasks import find_harness_folder
from bitnet_bench.yaml_files import read_yaml

INCLUDE = "include"
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


def read_definition(file: Path) -> dict[Path, dict[str, Any]]:
    """Return the fields of *file* and of what it includes, by file, the included ones first.

    A `!function` is the text that names it: nothing is imported. BenchError names the file and line of what is no
    definition.
    """
    return _read_parts(file.resolve(), ())


def _read_parts(file: Path, including: tuple[Path, ...]) -> dict[Path, dict[str, Any]]:
    if file in including:
        raise BenchError(f"{file} includes itself.", CORRECT_HINT)
    found = read_yaml(
        file,
        CORRECT_HINT if not including else f"Correct it, or the `include` of {including[-1]}.",
        tags={"!function": "!function {}".format},
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
    parts: dict[Path, dict[str, Any]] = {}
    for name in includes:
        parts |= _read_parts((file.parent / name).resolve(), (*including, file))
    return {**parts, file: found.value}


def find_modules(file: Path, fields: Any) -> set[Path]:
    """Return the Python files beside *file* that the `!function` texts in its *fields* name."""
    if isinstance(fields, str) and fields.startswith("!function "):
        module = fields.removeprefix("!function ").rpartition(".")[0]
        found = file.parent / f"{module.replace('.', '/')}.py"
        return {found} if found.is_file() else set()
    inner = fields.values() if isinstance(fields, dict) else fields if isinstance(fields, list) else ()
    return {module for one in inner for module in find_modules(file, one)}
