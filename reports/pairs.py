"""Choose which runs are compared with which, and lay out the results of the comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from bitnet_bench.comparison.results import Comparison, Difference, MeanDifference
from bitnet_bench.comparison.training import training_notices
from bitnet_bench.comparison.words import (
    format_difference,
    format_effect,
    format_effect_size,
    format_headline,
    format_interval,
    format_p,
    format_test_name,
    format_verdict_counts,
)
from bitnet_bench.reports.charts import difference_chart
from bitnet_bench.reports.figures import DASH, format_points
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Group, Paragraph, Row, Section, Table
from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.run import LoadedRun, Notice
from bitnet_bench.wording import Text, get_text, join_texts, plain_text
from bitnet_bench.wording.names import format_metric, format_task_name

MIN_PRECISE_PAIRS = 30
"""Number of pairs below which the t and bootstrap intervals are rough."""
KEY_COLUMNS = (4, 6)
"""Columns of difference and verdict."""
Pair = tuple[NamedRun, NamedRun]


def choose_pairs(runs: Sequence[NamedRun]) -> tuple[Pair, ...]:
    """Return every ternary run with every run of another precision at its stage and seed; else the first with each.

    A run without a stage or a seed matches any.
    """
    ternary = [run for run in runs if run.record.precision in TERNARY_PRECISIONS]
    others = [run for run in runs if run.record.precision not in TERNARY_PRECISIONS]
    twins = [
        (a, b)
        for a, b in product(ternary, others)
        if _is_compatible(a.stage, b.stage) and _is_compatible(a.seed, b.seed)
    ]
    return tuple(twins or [(run, runs[0]) for run in runs[1:]])


def _is_compatible(a: object, b: object) -> bool:
    return a is None or b is None or a == b


def pair_notices(runs: Sequence[NamedRun]) -> list[Notice]:
    """Return what makes the pairs among *runs* doubtful."""
    return [notice for a, b in choose_pairs(runs) for notice in training_notices(_renamed(a), _renamed(b))]


def _renamed(run: NamedRun) -> LoadedRun:
    return replace(run.results, record=run.record.model_copy(update={"name": f"{run.key} · {run.name}"}))


def pair_section(compared: Sequence[tuple[Pair, Comparison]]) -> Section:
    """Return the section of paired differences."""
    if not compared:
        return Section("pairs", get_text("pairs.title"), (Paragraph(get_text("pairs.none")),))
    first, *others = compared
    blocks = [
        *_pair_blocks(*first),
        *(Group(get_text("pairs.other", a=a.label, b=b.label), tuple(_pair_blocks((a, b), c))) for (a, b), c in others),
        Group(get_text("how-to-read"), tuple(_explain(compared))),
    ]
    return Section("pairs", get_text("pairs.title"), tuple(blocks))


def _pair_blocks(pair: Pair, comparison: Comparison) -> list[Block]:
    a, b = pair
    if not comparison.has_tasks:
        return [Paragraph(format_headline(comparison))]
    title = plain_text(f"{a.key} − {b.key}")
    blocks: list[Block] = [
        Paragraph(format_headline(comparison)),
        *([difference_chart(title, comparison)] if any(_is_in_points(d) for d in comparison.differences) else []),
        Table(
            _headings(pair), tuple(_rows(comparison)), plain_text(f"{a.key} {a.name} − {b.key} {b.name}"), KEY_COLUMNS
        ),
        Paragraph(format_verdict_counts(comparison), "hint"),
    ]
    return blocks


def _explain(compared: Sequence[tuple[Pair, Comparison]]) -> Iterator[Block]:
    yield Paragraph(get_text("pairs.hint", margin=f"{compared[0][1].margin:g}"), "hint")
    if any(difference.n < MIN_PRECISE_PAIRS for _, comparison in compared for difference in comparison.differences):
        yield Paragraph(get_text("pairs.small", n=MIN_PRECISE_PAIRS), "hint")


def _headings(pair: Pair) -> tuple[Text, ...]:
    own = ("difference", "interval", "verdict", "p", "effect", "flips")
    letters = (plain_text(pair[0].key), plain_text(pair[1].key))
    return (get_text("column.task"), get_text("column.n"), *letters, *(get_text(f"column.{key}") for key in own))


def _rows(comparison: Comparison) -> list[Row]:
    rows = [_task_row(difference, comparison.margin) for difference in comparison.differences]
    for refused in comparison.refused:
        why = join_texts([Text(words.ko, words.en) for words in refused.differs], "; ")
        dashes = [Cell(plain_text(DASH), (), "missing")] * 9
        dashes[5] = Cell(get_text("verdict.refused"), (why,), "warning")
        rows.append(Row((Cell(format_task_name(refused.task), (), "strong"), *dashes)))
    if comparison.mean and comparison.mean.tasks > 1:
        rows.append(_mean_row(comparison.mean, comparison.margin))
    return rows


def _task_row(found: Difference, margin: float) -> Row:
    in_points = _is_in_points(found)
    figures = [format_points(v) if in_points else f"{v:.3f}" for v in (found.a, found.b)]
    metric = format_metric(found.metric) + plain_text(" ↓" if found.lower_is_better else "")
    return Row(
        (
            Cell(format_task_name(found.task), (metric,), "strong"),
            Cell(plain_text(f"{found.n:,}")),
            *(Cell(plain_text(value)) for value in figures),
            Cell(plain_text(format_difference(found)), (), "strong"),
            Cell(format_interval(found)),
            _verdict(found.verdict, margin),
            Cell(plain_text(format_p(found.p_holm)), (format_test_name(found.test),)),
            _effect(found),
            Cell(plain_text(f"{_format_flips('−', found.flipped_wrong)} / {_format_flips('+', found.flipped_right)}")),
        )
    )


def _format_flips(sign: str, count: int) -> str:
    return f"{sign}{count:,}" if count else "0"


def _effect(found: Difference) -> Cell:
    if found.effect is None:
        return Cell(plain_text(DASH), (get_text("effect.nothing"),), "missing")
    return Cell(format_effect_size(found.effect), (format_effect(found.effect),))


def _mean_row(mean: MeanDifference, margin: float) -> Row:
    nothing = Cell(plain_text(""))
    return Row(
        (
            Cell(get_text("pairs.mean", tasks=mean.tasks), (), "strong"),
            Cell(plain_text(f"{mean.n:,}")),
            nothing,
            nothing,
            Cell(plain_text(format_difference(mean)), (), "strong"),
            Cell(format_interval(mean)),
            _verdict(mean.verdict, margin),
            Cell(plain_text(format_p(mean.p))),
            nothing,
            nothing,
        ),
        "total",
    )


def _verdict(verdict: str, margin: float) -> Cell:
    return Cell(
        get_text(f"verdict.{verdict}", margin=f"{margin:g}"), (), "quiet" if verdict == "undecided" else "strong"
    )


def _is_in_points(found: Difference) -> bool:
    return found.equivalence_p is not None
