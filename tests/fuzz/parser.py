"""Describe a parser of a foreign file: valid files, how one of them is damaged, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz import mutations


@dataclass(frozen=True)
class Parser:
    """A parser, and the file that is mutated for it."""

    name: str
    file: str
    """The mutated file, below the folder."""
    mutate: mutations.Mutate
    prepare: Callable[[Path], None]
    """Write valid files into a folder."""
    read: Callable[[Path], Any]
    """Read them: BenchError, or a value."""
    share: int
    """Its part of the cases: less for what builds models."""
    says: tuple[str, ...] = field(default=())
    """What else than the file's name may name the place in a message."""
