"""Lay out the primary scores by category and subject, for tasks whose rows belong to some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bitnet_bench.reports.figures import make_missing_cell
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Paragraph, Row, Table
from bitnet_bench.runs.records import Score
from bitnet_bench.statistics import interval
from bitnet_bench.wording import get_text, plain_text
from bitnet_bench.wording.estimates import format_estimate, format_limits
from bitnet_bench.wording.names import format_group_kind, format_task_name


def part_blocks(runs: Sequence[NamedRun]) -> tuple[Block, ...]:
    """Return a table of the primary scores for each kind of part of each task, such as its categories; () without."""
    tasks = dict.fromkeys(task for run in runs for task, score in run.primary.items() if score.part_counts)
    blocks: list[Block] = []
    for task in tasks:
        scores = [run.primary.get(task) for run in runs]
        for kind, names in _list_kinds(scores).items():
            title = format_task_name(task) + plain_text(" · ") + format_group_kind(kind)
            blocks += [Paragraph(title), _make_table(kind, names, runs, scores)]
    return (Paragraph(get_text("parts.hint"), "hint"), *blocks) if blocks else ()


def _list_kinds(scores: Sequence[Score | None]) -> dict[str, list[str]]:
    """Return the names of the parts by their kind, such as category."""
    found: dict[str, list[str]] = {}
    for part in dict.fromkeys(part for score in scores if score for part in score.part_counts):
        kind, _, name = part.partition("=")
        found.setdefault(kind, []).append(name)
    return {kind: sorted(names) for kind, names in found.items()}


def _make_table(kind: str, names: Sequence[str], runs: Sequence[NamedRun], scores: Sequence[Score | None]) -> Table:
    headings = (format_group_kind(kind), get_text("column.n"), *(run.label for run in runs))
    labels = (*headings[:2], *(plain_text(run.key) for run in runs))
    return Table(headings, tuple(_make_rows(kind, names, scores)), keys=tuple(range(2, 2 + len(runs))), labels=labels)


def _make_rows(kind: str, names: Sequence[str], scores: Sequence[Score | None]) -> Iterator[Row]:
    for name in names:
        part = f"{kind}={name}"
        counts = {f"{score.part_counts[part]:,}" for score in scores if score and part in score.part_counts}
        cells = (_make_cell(score, part) for score in scores)
        yield Row((Cell(plain_text(name), (), "strong"), Cell(plain_text(" · ".join(sorted(counts)))), *cells))


def _make_cell(score: Score | None, part: str) -> Cell:
    if score is None or part not in score.part_counts:
        return make_missing_cell(get_text("scores.not-scored"))
    value, error, n = score.parts[part], score.part_errors.get(part), score.part_counts[part]
    limits = interval(value, error, *score.limits, n=n)
    small = (format_limits(limits, 1),) if limits else ()
    return Cell(format_estimate(value, error, limits, 1), small, "strong")
