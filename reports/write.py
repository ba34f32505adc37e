"""Write a report on run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench import plugins
from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole
from bitnet_bench.protocols import no_progress
from bitnet_bench.reports.sections import ReportOptions
from bitnet_bench.runs.records import RunRecord
from bitnet_bench.shared_paths import share_model

if TYPE_CHECKING:
    from bitnet_bench.runs.run import LoadedRun, Notice

MAX_READ_PARAMETERS = 500_000_000
"""Number of parameters above which a checkpoint is not read for a report."""


def write_report(
    runs: Sequence[Path],
    out: Path,
    renderer: str = "html",
    options: ReportOptions | None = None,
    training: Mapping[Path, Path] | None = None,
) -> tuple[Path, list[Notice]]:
    """Write one report on the run folders *runs* to *out*; return its path, and what is wrong with the runs.

    *training* gives the folder of a run's `finetune.json` if that is not its checkpoint.
    """
    from bitnet_bench.reports.named_runs import name_runs
    from bitnet_bench.reports.pairs import pair_notices
    from bitnet_bench.runs.reading import read_runs

    found, unread = read_runs(runs, training or {})
    options = replace(options or ReportOptions(), unread=tuple(unread))
    found = [replace(run, layers=read_zero_shares(run.record)) for run in found]
    if not options.keep_paths:
        found = list(map(_share_run, found))
    write_whole(out, plugins.load_plugin("reports", renderer).render(found, options))
    return out, [*unread, *pair_notices(name_runs(found)), *(notice for run in found for notice in run.notices)]


def _share_run(run: LoadedRun) -> LoadedRun:
    """Return *run* with shortened paths in its records; a renderer does so with notices, which are added meanwhile."""
    return replace(run, record=share_model(run.record), training=run.training and share_model(run.training))


def read_zero_shares(record: RunRecord) -> dict[str, float]:
    """Return the share of codes that are 0 in each ternary layer; {} if the checkpoint is unavailable or too large."""
    from bitnet_bench.checkpoints.layers import inspect_checkpoint

    checkpoint = record.checkpoint
    if not checkpoint.is_ternary or checkpoint.parameters > MAX_READ_PARAMETERS or not Path(checkpoint.path).is_dir():
        return {}
    try:
        return {layer.name: layer.zero_density for layer in inspect_checkpoint(checkpoint, no_progress).layers}
    except (BenchError, OSError):  # the folder may have been replaced
        return {}
