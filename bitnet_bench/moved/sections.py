"""The former name of `bitnet_bench.reports.sections`."""

from __future__ import annotations

from typing import Any

from bitnet_bench.moved import find_moved

_NAMES = ("NOTHING", "Block", "Cell", "Chart", "Facts", "Group", "Paragraph", "Row", "Section", "Spec", "Table")
_PLACES = dict.fromkeys(_NAMES, "bitnet_bench.reports.sections")


def __getattr__(name: str) -> Any:
    """Return *name* from where it is now."""
    return find_moved("bitnet_bench.sections", name, _PLACES)
