"""Read the matrix of a sweep: axes of values, of which every combination that is not excluded is a recipe."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_bench.errors import UsageError, did_you_mean, shorten_text
from bitnet_bench.yaml_files import KeyPath, format_key_path

MATRIX = "matrix"
EXCLUDE = "exclude"
MAX_CELLS = 100_000
MAX_LABEL_CHARACTERS = 60
AXES = ("checkpoints", "precisions", "backends", "suites", "shots", "learning_rates", "seeds")
"""Axes with a name of their own, in the order in which they stand in the names of runs."""
SECTIONS = ("finetune", "evaluate")
SCIENTIFIC = re.compile(r"\d+(\.\d*)?[eE][-+]?\d+")
"""A number such as 1e-3, which YAML takes for a text."""
NOT_IN_NAMES = re.compile(r"[^\w.+=@-]+")
DOCS_HINT = "docs/sweeps.md lists the axes of a matrix."


@dataclass(frozen=True)
class Place:
    """A place of a sweep's file, for messages."""

    file: Path
    lines: Mapping[KeyPath, int]

    def locate(self, path: KeyPath) -> str:
        """Return the line of *path*, or of the nearest thing around it, as the beginning of a sentence."""
        return f"Line {self.find_line(path)} of {self.file}"

    def find_line(self, path: KeyPath) -> int:
        """Return the line of *path*, or of the nearest thing around it."""
        return next(self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines)


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis, its short form in the names of runs, and where it stands."""

    value: Any
    label: str
    path: KeyPath


@dataclass(frozen=True)
class Axis:
    """A dimension of the matrix: the key of the recipe that it sets, and its values."""

    name: str
    target: KeyPath
    values: tuple[AxisValue, ...]


@dataclass(frozen=True)
class Cell:
    """One combination of values: the fields of its recipe, and what its runs are called."""

    fields: Mapping[str, Any]
    values: Mapping[str, AxisValue]
    """The value of each axis, by the axis's name."""
    axes: tuple[Axis, ...]

    def label(self, sections: Sequence[str]) -> str:
        """Return what the names of runs end with that depend on *sections* of the recipe: `-demo-seed1`."""
        return "".join(f"-{self.values[axis.name].label}" for axis in self.axes if axis.target[0] in sections)

    def find_axis(self, place: KeyPath) -> AxisValue | None:
        """Return the value of the matrix that set *place* of the recipe, if one did."""
        for axis in self.axes:
            if place[: len(axis.target)] == axis.target:
                return self.values[axis.name]
        return None


def expand_matrix(fields: Mapping[str, Any], place: Place) -> list[Cell]:
    """Return every combination of the matrix in *fields* that is not excluded; one cell without a matrix.

    UsageError with the line of what is wrong: an unknown axis, an axis without values, everything excluded.
    """
    base = {name: value for name, value in fields.items() if name != MATRIX}
    if MATRIX not in fields:
        return [Cell(base, {}, ())]
    axes = _read_axes(fields[MATRIX], base, place)
    count = math.prod(len(axis.values) for axis in axes)
    if count > MAX_CELLS:
        raise UsageError(f"{place.locate((MATRIX,))}: the matrix has {count:,} combinations.", "Make several sweeps.")
    excluded = list(_read_exclusions(fields[MATRIX].get(EXCLUDE), axes, place))
    cells = []
    for chosen in itertools.product(*(axis.values for axis in axes)):
        values = {axis.name: value for axis, value in zip(axes, chosen, strict=True)}
        if not any(_matches(values, rule) for rule in excluded):
            cells.append(Cell(_substitute(base, axes, values), values, axes))
    if not cells:
        raise UsageError(
            f"{place.locate((MATRIX, EXCLUDE))}: {MATRIX}.{EXCLUDE} leaves no combination.", "Exclude fewer."
        )
    return cells


def _read_axes(matrix: Any, base: Mapping[str, Any], place: Place) -> tuple[Axis, ...]:
    if not isinstance(matrix, dict) or not set(matrix) - {EXCLUDE}:
        raise UsageError(f"{place.locate((MATRIX,))}: {MATRIX} names no axis.", f"There are: {', '.join(AXES)}.")
    names = sorted(matrix, key=lambda name: AXES.index(name) if name in AXES else AXES.index("seeds") - 0.5)
    axes = [_read_axis(str(name), matrix[name], base, place) for name in names if name != EXCLUDE]
    targets: dict[KeyPath, str] = {}
    for axis in axes:
        if axis.target in targets:
            raise UsageError(
                f"{place.locate((MATRIX, axis.name))}: {targets[axis.target]} and {axis.name} set the same key.",
                "Leave one of them out.",
            )
        targets[axis.target] = axis.name
    return tuple(axes)


def _read_axis(name: str, given: Any, base: Mapping[str, Any], place: Place) -> Axis:
    path: KeyPath = (MATRIX, name)
    target = _find_target(name, base, place)
    by_name = name == "checkpoints" and isinstance(given, dict)
    if not (isinstance(given, list) or by_name):
        raise UsageError(f"{place.locate(path)}: {format_key_path(path)} is not a list of values.", DOCS_HINT)
    if not given:
        raise UsageError(f"{place.locate(path)}: {format_key_path(path)} has no values.", "Give one at least.")
    listed = given.items() if by_name else enumerate(given)
    values = [_read_value(name, value, (*path, key), str(key) if by_name else None, place) for key, value in listed]
    seen: dict[str, AxisValue] = {}
    for value in values:
        if (other := seen.setdefault(value.label, value)) is not value:
            raise UsageError(
                f"{place.locate(value.path)}: {format_key_path(path)} has two values that runs would be called "
                f"{value.label} after: {other.value} and {value.value}.",
                "Leave one out; checkpoints may be given names of their own: {name: checkpoint}.",
            )
    return Axis(name, target, tuple(values))


def _find_target(name: str, base: Mapping[str, Any], place: Place) -> KeyPath:
    """Return the key of the recipe that the axis *name* sets."""
    trains = "finetune" in base
    targets: dict[str, KeyPath] = {
        "checkpoints": ("finetune", "model") if trains else ("models",),
        "precisions": ("finetune" if trains else "evaluate", "precision"),
        "backends": ("evaluate", "backend"),
        "suites": ("evaluate", "suites"),
        "shots": ("evaluate", "shots"),
        "learning_rates": ("finetune", "learning_rate"),
        "seeds": ("finetune" if trains else "evaluate", "seed"),
    }
    section, _, key = name.partition(".")
    if name not in targets and not (section in SECTIONS and key):
        hint = f"{did_you_mean(name, [*AXES, EXCLUDE])} There are: {', '.join(AXES)}, and SECTION.KEY."
        raise UsageError(f"{place.locate((MATRIX, name))}: there is no axis {MATRIX}.{name}.", hint.strip())
    target = targets.get(name, (section, key))
    if target[0] == "finetune" and "finetune" not in base:
        raise UsageError(
            f"{place.locate((MATRIX, name))}: {MATRIX}.{name} sets {format_key_path(target)}, and the recipe has no "
            "finetune.",
            "Add the section finetune, or leave the axis out.",
        )
    return target


def _read_value(axis: str, value: Any, path: KeyPath, name: str | None, place: Place) -> AxisValue:
    if value is None or isinstance(value, dict):
        raise UsageError(f"{place.locate(path)}: {format_key_path(path)} is not a value.", DOCS_HINT)
    if axis == "suites" and not isinstance(value, list):
        value = [value]
    return AxisValue(value, _make_label(axis, value, name), path)


def _make_label(axis: str, value: Any, name: str | None) -> str:
    """Return how *value* stands in the names of runs."""
    if name is not None:
        text = name
    elif axis in ("checkpoints", "suites"):
        listed = value if isinstance(value, list) else [value]
        text = "+".join(Path(str(one).rstrip("/")).name or str(one) for one in listed)
    else:
        text = "+".join(map(_format_scalar, value)) if isinstance(value, list) else _format_scalar(value)
    forms = {"shots": "{}shot", "learning_rates": "lr{}", "seeds": "seed{}"}
    if axis not in AXES:
        text = f"{axis.partition('.')[2]}={text}"
    label = NOT_IN_NAMES.sub("-", forms.get(axis, "{}").format(text)).strip("-.")
    return shorten_text(label, MAX_LABEL_CHARACTERS).replace(" … ", "..") or "value"


def _format_scalar(value: Any) -> str:
    is_number = isinstance(value, float) or (isinstance(value, str) and SCIENTIFIC.fullmatch(value))
    return f"{float(value):g}" if is_number else str(value)


def _read_exclusions(given: Any, axes: Sequence[Axis], place: Place) -> Iterator[Mapping[str, list[Any]]]:
    """Yield each rule of *given* as lists of values by axis; a combination that has one of each is left out."""
    path: KeyPath = (MATRIX, EXCLUDE)
    if given is None:
        return
    if not isinstance(given, list):
        raise UsageError(f"{place.locate(path)}: {format_key_path(path)} is not a list of combinations.", DOCS_HINT)
    by_name = {axis.name: axis for axis in axes}
    for number, rule in enumerate(given):
        if not isinstance(rule, dict) or not rule:
            raise UsageError(f"{place.locate((*path, number))}: a combination names axes and values.", DOCS_HINT)
        named = {str(name): value for name, value in rule.items()}  # YAML takes 1 and null for other things than texts
        yield {
            name: _read_excluded(by_name, name, value, (*path, number, name), place) for name, value in named.items()
        }


def _read_excluded(axes: Mapping[str, Axis], name: str, given: Any, path: KeyPath, place: Place) -> list[str]:
    if name not in axes:
        hint = did_you_mean(name, list(axes)) or f"There are: {', '.join(axes)}."
        raise UsageError(f"{place.locate(path)}: the matrix has no axis {name} to exclude from.", hint)
    there = {label for value in axes[name].values for label in (value.label, _write_value(value.value))}
    found = []
    for one in given if isinstance(given, list) else [given]:
        if (text := _write_value(one)) not in there:
            known = [value.label for value in axes[name].values]
            hint = did_you_mean(text, known) or f"There are: {', '.join(known)}."
            raise UsageError(f"{place.locate(path)}: {one} is not among the {name} of the matrix.", hint)
        found.append(text)
    return found


def _write_value(value: Any) -> str:
    return "+".join(map(_format_scalar, value)) if isinstance(value, list) else _format_scalar(value)


def _matches(values: Mapping[str, AxisValue], rule: Mapping[str, Sequence[str]]) -> bool:
    return all({values[name].label, _write_value(values[name].value)} & set(some) for name, some in rule.items())


def _substitute(base: Mapping[str, Any], axes: Sequence[Axis], values: Mapping[str, AxisValue]) -> dict[str, Any]:
    """Return the fields of a recipe with the values of a cell."""
    fields = dict(base)
    for axis in axes:
        value = values[axis.name]
        section, *keys = axis.target
        if not keys:  # the models of a recipe, by name
            fields[str(section)] = {value.label: value.value}
            continue
        inner = fields.get(str(section))
        fields[str(section)] = {**(inner if isinstance(inner, dict) else {}), str(keys[0]): value.value}
    return fields
