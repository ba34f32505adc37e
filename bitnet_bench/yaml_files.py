"""Read YAML files of foreign origin within bounds; an error names the file and the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bitnet_bench.errors import BenchError, shorten_text
from bitnet_bench.files import read_text

MAX_YAML_BYTES = 1 << 20
MAX_YAML_DEPTH = 50
MAX_YAML_VALUES = 100_000
"""Number of values up to which a file is read, where an alias counts as often as what it stands for."""
MAX_INTEGER = 2**63 - 1
WORD_CHARACTERS = 60
"""Number of characters of a file's own words that an error repeats."""
CORRECT_HINT = "Correct it there."
KeyPath = tuple[str | int, ...]
"""Path to a value, such as ("finetune", "data", 0)."""
Constructor = Callable[[str], Any]
"""Function that returns the value of a scalar with a tag of its own, such as `!function`."""
# libyaml is ten times as fast, and keeps no recursion of Python's
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class YamlFile:
    """The value of a YAML file, and the line of every value in it by its path."""

    value: Any
    lines: dict[KeyPath, int]


def read_yaml(
    file: Path,
    hint: str = CORRECT_HINT,
    tags: Mapping[str, Constructor] | None = None,
    may_repeat_keys: bool = False,
) -> YamlFile:
    """Return the value of *file*; *tags* have a function for each additional tag of a scalar.

    *may_repeat_keys*: a key may stand twice, and the last one counts, as in some files that lm-eval ships.

    BenchError for what is no YAML, and for what YAML allows and nobody means: a key that stands twice, a value within
    itself, aliases that multiply, an integer beyond 64 bits. Dates stay texts.
    """
    text = read_text(file, hint, MAX_YAML_BYTES)
    try:
        _check_size(text)
        loader = _make_loader(tags or {})(text)
        try:
            node = loader.get_single_node()
            lines = dict(_list_lines(node, may_repeat_keys))
            return YamlFile(None if node is None else loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except _RefusedError as error:
        raise BenchError(f"Line {error.line} of {file}: {error.why}.", hint) from error
    except yaml.YAMLError as error:
        raise BenchError(f"{file} is not YAML: {_explain(error)}.", hint) from error


def format_key_path(place: KeyPath) -> str:
    """Return the path to a value in one word, such as `finetune.data.0`."""
    return ".".join(map(str, place))


class _RefusedError(Exception):
    """Valid YAML that is not read, and why."""

    def __init__(self, mark: Any, why: str) -> None:
        super().__init__(why)
        self.line, self.why = mark.line + 1, why


def _check_size(text: str) -> None:
    """Raise `_RefusedError` for depth, self-reference or too many values, before anything of *text* is built."""
    whole: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0  # of the values in the node that is open
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count = 1
            if len(open_nodes) > MAX_YAML_DEPTH:
                raise _RefusedError(event.start_mark, f"values are nested more than {MAX_YAML_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            whole[anchor or ""] = count
            count += before
        elif isinstance(event, yaml.AliasEvent):
            count += _count_alias(event, whole, [anchor for anchor, _ in open_nodes])
        elif isinstance(event, yaml.ScalarEvent):
            whole[event.anchor or ""] = 1
            count += 1
        if count > MAX_YAML_VALUES:
            raise _RefusedError(event.start_mark, f"with its aliases the file has more than {MAX_YAML_VALUES:,} values")


def _count_alias(event: yaml.AliasEvent, whole: Mapping[str, int], open_anchors: Sequence[str | None]) -> int:
    """Return how many values an alias stands for; `_RefusedError` if it stands within what it stands for."""
    anchor = event.anchor or ""
    if anchor in open_anchors:
        raise _RefusedError(event.start_mark, f"*{_shorten(anchor)} stands within itself")
    return whole.get(anchor, 1)


def _list_lines(node: yaml.Node | None, may_repeat_keys: bool, place: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    """Yield the line of every value; `_RefusedError` for a duplicate key, of which YAML silently drops the first."""
    if node is None:
        return
    yield place, node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _list_lines(item, may_repeat_keys, (*place, i))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError(key.start_mark, "a key is a list or has keys itself")
            if key.value in seen and not may_repeat_keys:
                raise _RefusedError(key.start_mark, f"{_shorten(format_key_path((*place, key.value)))} stands twice")
            seen.add(key.value)
            yield from _list_lines(value, may_repeat_keys, (*place, key.value))
            yield (*place, key.value), key.start_mark.line + 1


def _make_loader(tags: Mapping[str, Constructor]) -> Any:
    class Loader(_Base):  # type: ignore[misc]
        """Safe loader that names the line of a value that cannot be read."""

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                value = super().construct_object(node, deep=deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                said = _shorten(node.value if isinstance(node, yaml.ScalarNode) else "what stands here")
                raise _RefusedError(node.start_mark, f"{said} is no {node.tag.rpartition(':')[2]}") from error
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise _RefusedError(node.start_mark, f"the integer {_shorten(node.value)} has more than 64 bits")
            return value

    def construct(call: Constructor) -> Callable[[Any, Any], Any]:
        return lambda loader, node: call(loader.construct_scalar(node))

    Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_str)
    for tag, call in tags.items():
        Loader.add_constructor(tag, construct(call))
    return Loader


def _explain(error: yaml.YAMLError) -> str:
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return " ".join(str(said).split()).rstrip(".") + where


def _shorten(word: str) -> str:
    return shorten_text(" ".join(word.split()), WORD_CHARACTERS)
