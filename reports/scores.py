"""Lay out scores: a row per task and metric, a cell per run, with chance and the signatures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitnet_bench.reports.charts import score_chart
from bitnet_bench.reports.figures import DASH, format_number, format_points, make_missing_cell
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.part_scores import part_blocks
from bitnet_bench.reports.sections import Block, Cell, Group, Paragraph, Row, Section, Table
from bitnet_bench.runs.records import Score
from bitnet_bench.statistics import ALIKE_STDERR, interval
from bitnet_bench.statistics.several import combine_stderrs
from bitnet_bench.wording import Count, Text, get_text, join_texts, plain_text
from bitnet_bench.wording.estimates import format_estimate, format_limits
from bitnet_bench.wording.names import format_metric, format_task_name


@dataclass(frozen=True)
class PrimaryMean:
    """The mean of primary scores over *tasks* tasks."""

    value: float
    stderr: float | None
    tasks: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval, clipped to 0..100; None without a standard error."""
        return interval(self.value, self.stderr)


def compute_primary_mean(run: NamedRun) -> PrimaryMean | None:
    """Return the mean of the primary scores of which more is better; its error treats tasks as independent."""
    scores = [score for score in run.primary.values() if not score.lower_is_better]
    if not scores:
        return None
    return PrimaryMean(
        sum(s.value for s in scores) / len(scores), combine_stderrs([s.stderr_for_means for s in scores]), len(scores)
    )


def score_section(runs: Sequence[NamedRun]) -> Section:
    """Return the section of scores, primary metrics first."""
    keys = list(dict.fromkeys(key for run in runs for key in run.scores))
    if not keys:
        return Section("scores", get_text("scores.title"), (Paragraph(get_text("scores.none")),))
    primary = [key for key in keys if any(key in run.scores and run.scores[key].primary for run in runs)]
    others = [key for key in keys if key not in primary]
    blocks: list[Block] = [*score_chart(runs), _table(primary, runs)]
    blocks += [Paragraph(conflict, "warning") for conflict in _find_conflicts(keys, runs)]
    if others:
        blocks.append(Group(get_text("scores.others", count=Count(len(others))), (_table(others, runs),)))
    if parts := part_blocks(runs):
        blocks.append(Group(get_text("parts.title"), parts))
    blocks.append(Group(get_text("how-to-read"), (Paragraph(get_text("scores.hint"), "hint"),)))
    signatures = tuple(_signature_rows(keys, runs))
    headings = tuple(get_text(f"column.{key}") for key in ("task", "metric", "signature", "runs"))
    blocks.append(Group(get_text("scores.signatures", count=Count(len(signatures))), (Table(headings, signatures),)))
    return Section("scores", get_text("scores.title"), tuple(blocks))


def _table(keys: Sequence[tuple[str, str]], runs: Sequence[NamedRun]) -> Table:
    headings = [get_text(f"column.{key}") for key in ("task", "metric", "n", "chance", "majority")]
    compared = tuple(range(len(headings), len(headings) + min(2, len(runs))))
    return Table(
        (*headings, *(run.label for run in runs)),
        tuple(_row(key, runs) for key in keys),
        keys=compared,
        labels=(*headings, *(plain_text(run.key) for run in runs)),
    )


def _row(key: tuple[str, str], runs: Sequence[NamedRun]) -> Row:
    having = [(run, run.scores[key]) for run in runs if key in run.scores]
    down = " ↓" if any(score.lower_is_better for _, score in having) else ""
    return Row(
        (
            Cell(format_task_name(key[0]), (), "strong"),
            Cell(format_metric(key[1]) + plain_text(down)),
            Cell(plain_text(_format_common((run.key, f"{score.n:,}") for run, score in having))),
            Cell(
                plain_text(_format_common((r.key, format_number(s.chance)) for r, s in having if s.chance is not None)),
                (),
                "quiet",
            ),
            Cell(
                plain_text(
                    _format_common((r.key, format_points(s.majority)) for r, s in having if s.majority is not None)
                ),
                (),
                "quiet",
            ),
            *(_cell(run.scores.get(key)) for run in runs),
        )
    )


def _format_common(values: Iterable[tuple[str, str]]) -> str:
    """Return the value that all runs share, or each run's letter with its own; a dash if there are none."""
    pairs = list(values)
    if len({value for _, value in pairs}) <= 1:
        return pairs[0][1] if pairs else DASH
    return " · ".join(f"{key} {value}" for key, value in pairs)


def _cell(score: Score | None) -> Cell:
    if score is None:
        return make_missing_cell(get_text("scores.not-scored"))
    digits = 1 if score.limits[1] else 3
    shown = format_estimate(score.value, score.stderr, score.interval, digits)
    if score.stderr is None or score.interval is None:
        return Cell(shown, (get_text("scores.no-error"),), "strong")
    alike = score.stderr <= ALIKE_STDERR
    small = get_text("scores.all-equal") if alike else format_limits(score.interval, digits)
    return Cell(shown, (small,), "strong")


def _group_signatures(key: tuple[str, str], runs: Sequence[NamedRun]) -> dict[str, list[str]]:
    """Return the signatures of a score, each with the letters of the runs that share it."""
    sharing: dict[str, list[str]] = {}
    for run in runs:
        if key in run.scores:
            sharing.setdefault(run.scores[key].signature, []).append(run.key)
    return sharing


def _signature_rows(keys: Sequence[tuple[str, str]], runs: Sequence[NamedRun]) -> Iterable[Row]:
    for task, metric in keys:
        for signature, letters in _group_signatures((task, metric), runs).items():
            yield Row(
                (
                    Cell(format_task_name(task), (), "strong"),
                    Cell(format_metric(metric)),
                    Cell(plain_text(signature), (), "code"),
                    Cell(plain_text(" ".join(letters))),
                )
            )


def _find_conflicts(keys: Sequence[tuple[str, str]], runs: Sequence[NamedRun]) -> Iterable[Text]:
    named = [
        format_task_name(task) + plain_text(" (") + format_metric(metric) + plain_text(")")
        for task, metric in keys
        if len(_group_signatures((task, metric), runs)) > 1
    ]
    if named:
        yield get_text("scores.conflicts", tasks=join_texts(named))
