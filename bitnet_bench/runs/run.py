"""Define a run as comparisons and reports take it: its record, its examples by task, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bitnet_bench.runs.records import Example, FinetuneRecord, RunRecord
from bitnet_bench.wording import Text


@dataclass(frozen=True)
class Notice:
    """Something that is missing, changed or doubtful, and its place."""

    where: str
    what: Text


@dataclass(frozen=True)
class LoadedRun:
    """A run that was read. *examples* may read a task's rows on access, without keeping them."""

    record: RunRecord
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    notices: Sequence[Notice] = ()
    """Notices on the run; more may be added while examples are read."""
    training: FinetuneRecord | None = None
    """Record of the training that made the checkpoint, if its `finetune.json` is next to it."""
    layers: Mapping[str, float] = field(default_factory=dict)
    """Share of codes that are 0 in each ternary layer, if the checkpoint is available."""
    not_finite: set[str] = field(default_factory=set)
    """Tasks with examples that are left out, because the model computed NaN or infinity; it grows like *notices*."""
