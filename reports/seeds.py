"""Show how much scores vary with the seed, over runs that differ in nothing else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence

from bitnet_bench.reports.figures import format_points
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Paragraph, Row, Section, Table
from bitnet_bench.wording import get_text, plain_text
from bitnet_bench.wording.estimates import format_limits
from bitnet_bench.wording.names import format_metric, format_task_name

IGNORED_SETTINGS = {"seed", "out", "save_every", "track", "model"}
"""Settings of a training that may differ between seeds of one experiment."""


def find_seed_groups(runs: Sequence[NamedRun]) -> list[list[NamedRun]]:
    """Return groups of two or more runs whose trainings and settings differ only in the seed."""
    groups: dict[str, list[NamedRun]] = {}
    for run in runs:
        if run.results.training:
            groups.setdefault(_make_group_key(run), []).append(run)
    return [group for group in groups.values() if len({run.seed for run in group}) > 1]


def _make_group_key(run: NamedRun) -> str:
    training, record = run.results.training, run.record
    assert training is not None
    job = training.job.model_dump(mode="json", exclude=IGNORED_SETTINGS)
    settings = {key: value for key, value in record.settings.items() if key != "data_dir"}
    about = [job, training.base.sha256, settings, record.precision, record.backend, sorted(record.data.items())]
    return json.dumps(about, sort_keys=True, default=str)


def seed_section(runs: Sequence[NamedRun]) -> Section | None:
    """Return mean, spread and range over seeds, or None if no runs differ only in the seed."""
    groups = find_seed_groups(runs)
    if not groups:
        return None
    blocks: list[Block] = []
    headings = tuple(get_text(f"column.{key}") for key in ("task", "metric", "seeds", "mean", "deviation", "range"))
    for group in groups:
        names = ", ".join(f"{run.key} ({run.seed})" for run in group)
        blocks += [Paragraph(get_text("seeds.group", runs=names)), Table(headings, tuple(_rows(group)))]
    return Section("seeds", get_text("seeds.title"), (*blocks, Paragraph(get_text("seeds.hint"), "hint")))


def _rows(group: Sequence[NamedRun]) -> Iterable[Row]:
    for task in dict.fromkeys(task for run in group for task in run.primary):
        scores = [run.primary[task] for run in group if task in run.primary]
        values = [score.value for score in scores]
        if len(values) < 2:
            continue
        yield Row(
            (
                Cell(format_task_name(task), (), "strong"),
                Cell(format_metric(scores[0].metric)),
                Cell(plain_text(len(values))),
                Cell(plain_text(format_points(statistics.mean(values))), (), "strong"),
                Cell(plain_text(format_points(statistics.stdev(values)))),
                Cell(format_limits((min(values), max(values)))),
            )
        )
