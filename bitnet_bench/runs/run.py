"""A run as comparisons and reports take it: its record, its examples by task, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bitnet_bench.runs.records import Example, FinetuneRecord, RunRecord
from bitnet_bench.wording import Text


@dataclass(frozen=True)
class Notice:
    """Something that is missing, changed or doubtful, and where."""

    where: str
    what: Text


@dataclass(frozen=True)
class LoadedRun:
    """One run. *examples* may read a task's rows only when they are asked for, and forget them afterwards."""

    record: RunRecord
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    notices: Sequence[Notice] = ()
    """More may come while examples are read."""
    training: FinetuneRecord | None = None
    """How the checkpoint was made, where its `finetune.json` is beside it."""
    layers: Mapping[str, float] = field(default_factory=dict)
    """The share of codes that are 0 in each ternary layer, where the checkpoint is at hand."""
