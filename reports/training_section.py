"""Lay out how checkpoints were trained: curves of loss, flips and zeros, and zeros by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bitnet_bench.reports.charts import curve_chart, layer_chart
from bitnet_bench.reports.figures import DASH, format_number
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Group, Paragraph, Row, Section, Table
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.wording import Text, get_text, plain_text
from bitnet_bench.wording.names import format_method, format_precision
from bitnet_bench.wording.sentences import translate_sentence

CURVE_METRICS = ("loss", "flips", "zeros", "near_boundary")
BLOCK_PATTERN = re.compile(r"\.(\d+)\.")
CurveLine = list[tuple[float, float]]
Layers = Mapping[str, float]
"""Layer name -> share of its codes that are 0."""


def training_section(runs: Sequence[NamedRun], layers: Mapping[str, Layers]) -> Section | None:
    """Return the section of training, or None if no run has a record; *layers* are those of each run by key."""
    trained = _select_distinct(runs)
    if not trained:
        return None
    blocks: list[Block] = [_table(trained)]
    blocks += [
        Paragraph(plain_text(f"{run.key}: ") + translate_sentence(warning), "warning")
        for run in trained
        for warning in _get_training(run).warnings
    ]
    codes: list[Block] = []
    for name in CURVE_METRICS:
        curves = [
            (run.key, run.name, line) for run in trained if (line := _extract_line(_get_training(run).history, name))
        ]
        if curves:
            chart = curve_chart(get_text(f"curve.{name}"), f"curve.{name}", curves)
            (blocks if name == "loss" else codes).append(chart)
    checked = [(r.key, r.name, line) for r in trained if (line := _extract_line(_get_training(r).validation, "loss"))]
    if checked:
        blocks.append(curve_chart(get_text("curve.validation"), "curve.validation", checked))
    codes += _draw_layer_charts(trained, layers)
    if any(_extract_line(_get_training(run).history, "flips") for run in trained):
        codes.append(Paragraph(get_text("training.hint"), "hint"))
    if codes:
        blocks.append(Group(get_text("training.codes"), tuple(codes)))
    return Section("training", get_text("training.title"), tuple(blocks))


def _select_distinct(runs: Sequence[NamedRun]) -> list[NamedRun]:
    """Return the runs with a training record, one for each checkpoint."""
    seen: dict[str, NamedRun] = {}
    for run in runs:
        if run.results.training:
            seen.setdefault(run.record.checkpoint.sha256 + run.record.checkpoint.path, run)
    return list(seen.values())


def _get_training(run: NamedRun) -> FinetuneRecord:
    assert run.results.training is not None
    return run.results.training


def _extract_line(history: Sequence[Mapping[str, float]], name: str) -> CurveLine:
    return [(row.get("step", float(i)), row[name]) for i, row in enumerate(history) if name in row]


def _table(trained: Sequence[NamedRun]) -> Table:
    keys = ("run", "method", "precision", "steps", "rows", "learning_rate", "seed", "loss", "seconds")
    return Table(tuple(get_text(f"column.{key}") for key in keys), tuple(_row(run) for run in trained), keys=(3, 7))


def _row(run: NamedRun) -> Row:
    record = _get_training(run)
    job = record.job
    validated = [row["loss"] for row in record.validation if "loss" in row]
    small: tuple[Text, ...] = (get_text("training.validation", loss=format_number(validated[-1])),) if validated else ()
    return Row(
        (
            Cell(run.label, (), "strong"),
            Cell(format_method(job.method)),
            Cell(format_precision(job.precision)),
            Cell(plain_text(f"{record.steps:,}")),
            Cell(plain_text(f"{record.rows:,}")),
            Cell(plain_text(DASH if job.learning_rate is None else f"{job.learning_rate:g}")),
            Cell(plain_text(job.seed)),
            Cell(plain_text(format_number(record.train_loss)), small),
            Cell(plain_text(f"{format_number(record.train_seconds)} s" if record.train_seconds else DASH)),
        )
    )


def _draw_layer_charts(trained: Sequence[NamedRun], layers: Mapping[str, Layers]) -> Iterable[Block]:
    for run in trained:
        found = [
            (name.rpartition(".")[2], _parse_block(name), share) for name, share in layers.get(run.key, {}).items()
        ]
        if found:
            yield layer_chart(get_text("training.layers", run=f"{run.key} · {run.name}"), found)


def _parse_block(name: str) -> int:
    matched = BLOCK_PATTERN.search(name)
    return int(matched.group(1)) if matched else 0
