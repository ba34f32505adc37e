"""Lay out how checkpoints were trained: curves of loss, flips and zeros, and zeros layer by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bitnet_bench.reports.charts import curve_chart, layer_chart
from bitnet_bench.reports.figures import DASH, number
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Paragraph, Row, Section, Table
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.wording import Said, plain, say

CURVES = ("loss", "flips", "zeros", "near_boundary")
BLOCK = re.compile(r"\.(\d+)\.")
Line = list[tuple[float, float]]
Layers = Mapping[str, float]
"""Layer name -> share of its codes that are 0."""


def training_section(runs: Sequence[NamedRun], layers: Mapping[str, Layers]) -> Section | None:
    """Return the section of training, or None if no run's record was found; *layers* are those of each run by key."""
    trained = _distinct(runs)
    if not trained:
        return None
    blocks: list[Block] = [_table(trained)]
    blocks += [Paragraph(plain(f"{r.key}: {w}"), "warning") for r in trained for w in _training(r).warnings]
    for name in CURVES:
        curves = [(run.key, run.name, line) for run in trained if (line := _line(_training(run).history, name))]
        if curves:
            blocks.append(curve_chart(say(f"curve.{name}"), f"curve.{name}", curves))
    checked = [(r.key, r.name, line) for r in trained if (line := _line(_training(r).validation, "loss"))]
    if checked:
        blocks.append(curve_chart(say("curve.validation"), "curve.validation", checked))
    blocks += _layer_charts(trained, layers)
    if any(_line(_training(run).history, "flips") for run in trained):
        blocks.append(Paragraph(say("training.hint"), "hint"))
    return Section("training", say("training.title"), tuple(blocks))


def _distinct(runs: Sequence[NamedRun]) -> list[NamedRun]:
    """Return the runs with a training record, each checkpoint once."""
    seen: dict[str, NamedRun] = {}
    for run in runs:
        if run.results.training:
            seen.setdefault(run.record.checkpoint.sha256 + run.record.checkpoint.path, run)
    return list(seen.values())


def _training(run: NamedRun) -> FinetuneRecord:
    assert run.results.training is not None
    return run.results.training


def _line(history: Sequence[Mapping[str, float]], name: str) -> Line:
    return [(row.get("step", float(i)), row[name]) for i, row in enumerate(history) if name in row]


def _table(trained: Sequence[NamedRun]) -> Table:
    keys = ("run", "method", "precision", "steps", "rows", "learning_rate", "seed", "loss", "seconds")
    return Table(tuple(say(f"column.{key}") for key in keys), tuple(_row(run) for run in trained))


def _row(run: NamedRun) -> Row:
    record = _training(run)
    job = record.job
    validated = [row["loss"] for row in record.validation if "loss" in row]
    small: tuple[Said, ...] = (say("training.validation", loss=number(validated[-1])),) if validated else ()
    return Row(
        (
            Cell(run.label, (), "strong"),
            Cell(plain(job.method)),
            Cell(plain(job.precision)),
            Cell(plain(f"{record.steps:,}")),
            Cell(plain(f"{record.rows:,}")),
            Cell(plain(DASH if job.learning_rate is None else f"{job.learning_rate:g}")),
            Cell(plain(job.seed)),
            Cell(plain(number(record.train_loss)), small),
            Cell(plain(f"{number(record.train_seconds)} s" if record.train_seconds else DASH)),
        )
    )


def _layer_charts(trained: Sequence[NamedRun], layers: Mapping[str, Layers]) -> Iterable[Block]:
    for run in trained:
        found = [(name.rpartition(".")[2], _block(name), share) for name, share in layers.get(run.key, {}).items()]
        if found:
            yield layer_chart(say("training.layers", run=f"{run.key} · {run.name}"), found)


def _block(name: str) -> int:
    matched = BLOCK.search(name)
    return int(matched.group(1)) if matched else 0
