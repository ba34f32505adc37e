"""Choose which runs are compared with which, and lay out what the comparison found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from bitnet_bench.comparison.results import Comparison, Difference, MeanDifference
from bitnet_bench.comparison.training import training_notices
from bitnet_bench.comparison.words import (
    counts_words,
    difference_words,
    effect_size,
    effect_words,
    headline,
    interval_words,
    p_words,
    test_words,
)
from bitnet_bench.reports.charts import difference_chart
from bitnet_bench.reports.figures import DASH, points
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Paragraph, Row, Section, Table
from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.run import Notice, Results
from bitnet_bench.wording import Said, joined, plain, say

SMALL = 30
"""Below this many pairs the t and bootstrap intervals are rough."""
Pair = tuple[NamedRun, NamedRun]


def chosen_pairs(runs: Sequence[NamedRun]) -> tuple[Pair, ...]:
    """Return every ternary run with every run of another precision at its stage and seed; else the first with each.

    A run without a stage or a seed goes with any.
    """
    ternary = [run for run in runs if run.record.precision in TERNARY_PRECISIONS]
    others = [run for run in runs if run.record.precision not in TERNARY_PRECISIONS]
    twins = [(a, b) for a, b in product(ternary, others) if _alike(a.stage, b.stage) and _alike(a.seed, b.seed)]
    return tuple(twins or [(run, runs[0]) for run in runs[1:]])


def _alike(a: object, b: object) -> bool:
    return a is None or b is None or a == b


def pair_notices(runs: Sequence[NamedRun]) -> list[Notice]:
    """Return what makes the pairs among *runs* doubtful as pairs."""
    return [notice for a, b in chosen_pairs(runs) for notice in training_notices(_renamed(a), _renamed(b))]


def _renamed(run: NamedRun) -> Results:
    return replace(run.results, record=run.record.model_copy(update={"name": f"{run.key} · {run.name}"}))


def pair_section(compared: Sequence[tuple[Pair, Comparison]]) -> Section:
    """Return the section of paired differences."""
    blocks: list[Block] = []
    for pair, comparison in compared:
        blocks += _pair_blocks(pair, comparison)
    if not blocks:
        blocks.append(Paragraph(say("pairs.none")))
    else:
        blocks.append(Paragraph(say("pairs.hint", margin=f"{compared[0][1].margin:g}"), "hint"))
    return Section("pairs", say("pairs.title"), tuple(blocks))


def _pair_blocks(pair: Pair, comparison: Comparison) -> list[Block]:
    a, b = pair
    title = plain(f"{a.key} − {b.key}")
    blocks: list[Block] = [
        Paragraph(headline(comparison)),
        *([difference_chart(title, comparison)] if any(_in_points(d) for d in comparison.differences) else []),
        Table(_headings(pair), tuple(_rows(comparison)), plain(f"{a.key} {a.name} − {b.key} {b.name}")),
        Paragraph(counts_words(comparison), "hint"),
    ]
    if any(difference.n < SMALL for difference in comparison.differences):
        blocks.append(Paragraph(say("pairs.small", n=SMALL), "hint"))
    return blocks


def _headings(pair: Pair) -> tuple[Said, ...]:
    own = ("difference", "interval", "verdict", "p", "effect", "flips")
    letters = (plain(pair[0].key), plain(pair[1].key))
    return (say("column.task"), say("column.n"), *letters, *(say(f"column.{key}") for key in own))


def _rows(comparison: Comparison) -> list[Row]:
    rows = [_task_row(difference, comparison.margin) for difference in comparison.differences]
    for refused in comparison.refused:
        why = joined([Said(words.ko, words.en) for words in refused.differs], "; ")
        dashes = [Cell(plain(DASH), (), "missing")] * 9
        dashes[5] = Cell(say("verdict.refused"), (why,), "warning")
        rows.append(Row((Cell(plain(refused.task), (), "strong"), *dashes)))
    if comparison.mean and comparison.mean.tasks > 1:
        rows.append(_mean_row(comparison.mean, comparison.margin))
    return rows


def _task_row(found: Difference, margin: float) -> Row:
    in_points = _in_points(found)
    figures = [points(v) if in_points else f"{v:.3f}" for v in (found.a, found.b)]
    metric = plain(found.metric + (" ↓" if found.lower_is_better else ""))
    return Row(
        (
            Cell(plain(found.task), (metric,), "strong"),
            Cell(plain(f"{found.n:,}")),
            *(Cell(plain(value)) for value in figures),
            Cell(plain(difference_words(found)), (), "strong"),
            Cell(interval_words(found)),
            _verdict(found.verdict, margin),
            Cell(plain(p_words(found.p_holm)), (test_words(found.test),)),
            _effect(found),
            Cell(plain(f"{_flips('−', found.flipped_wrong)} / {_flips('+', found.flipped_right)}")),
        )
    )


def _flips(sign: str, count: int) -> str:
    return f"{sign}{count:,}" if count else "0"


def _effect(found: Difference) -> Cell:
    if found.effect is None:
        return Cell(plain(DASH), (say("effect.nothing"),), "missing")
    return Cell(effect_size(found.effect), (effect_words(found.effect),))


def _mean_row(mean: MeanDifference, margin: float) -> Row:
    nothing = Cell(plain(""))
    return Row(
        (
            Cell(say("pairs.mean", tasks=mean.tasks), (), "strong"),
            Cell(plain(f"{mean.n:,}")),
            nothing,
            nothing,
            Cell(plain(difference_words(mean)), (), "strong"),
            Cell(interval_words(mean)),
            _verdict(mean.verdict, margin),
            Cell(plain(p_words(mean.p))),
            nothing,
            nothing,
        ),
        "total",
    )


def _verdict(verdict: str, margin: float) -> Cell:
    return Cell(say(f"verdict.{verdict}", margin=f"{margin:g}"), (), "quiet" if verdict == "undecided" else "strong")


def _in_points(found: Difference) -> bool:
    return found.equivalence_p is not None
