"""Lay out what people said about two of the runs, in addition to metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bitnet_bench.reports.figures import format_points, make_missing_cell
from bitnet_bench.reports.judged import judged_section
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Paragraph, Row, Section, Table
from bitnet_bench.runs.records import Estimated, HumanJudgement, Unavailable
from bitnet_bench.wording import Count, get_text, plain_text
from bitnet_bench.wording.estimates import format_limits, format_number_text
from bitnet_bench.wording.sentences import translate_sentence


def list_judgement_sections(runs: Sequence[NamedRun]) -> list[Section]:
    """Return what judges that are models said of the runs, and what people said, if they said anything."""
    return [section for section in (judged_section(runs), judgement_section(runs)) if section is not None]


def judgement_section(runs: Sequence[NamedRun]) -> Section | None:
    """Return the raters' judgements of pairs of the runs (`bitnet_bench.rating`), or None if none was rated."""
    blocks: list[Block] = []
    for a, b, said in _find_rated_pairs(runs):
        names = {"a": a.label, "b": b.label, "items": Count(said.items), "raters": Count(len(said.raters))}
        counts = get_text("judgements.counts", wins_a=said.wins_a, ties=said.ties, wins_b=said.wins_b)
        headings = (plain_text(""), a.label, b.label, get_text("judgements.difference"), get_text("judgements.alpha"))
        blocks += [
            Paragraph(get_text("judgements.about", **names)),
            Table(headings, (_make_preference_row(said), *_make_scale_rows(said)), counts),
        ]
    if not blocks:
        return None
    return Section(
        "judgements", get_text("judgements.title"), (*blocks, Paragraph(get_text("judgements.hint"), "hint"))
    )


def _find_rated_pairs(runs: Sequence[NamedRun]) -> Iterator[tuple[NamedRun, NamedRun, HumanJudgement]]:
    """Yield every judgement of two runs that are both in the report, once."""
    for said in {said.sheet: said for run in runs for said in run.record.judgements}.values():
        holders = [run for run in runs if said in run.record.judgements]
        first = [run for run in holders if _is_rated_run(run, said.a, said.a_sha256)]
        second = [run for run in holders if _is_rated_run(run, said.b, said.b_sha256) and run not in first[:1]]
        if first and second:
            yield first[0], second[0], said


def _is_rated_run(run: NamedRun, name: str, weights: str) -> bool:
    return run.record.name == name and run.record.checkpoint.sha256 == weights


def _make_preference_row(said: HumanJudgement) -> Row:
    rate = said.win_rate
    low, high = rate.interval or (0.0, 100.0)
    other = Estimated(value=100 - rate.value, interval=(100 - high, 100 - low))
    difference = Cell(plain_text(format_points(2 * rate.value - 100)))
    return Row(
        (Cell(get_text("judgements.wins")), _number(rate, 1), _number(other, 1), difference, _alpha(said, "preference"))
    )


def _make_scale_rows(said: HumanJudgement) -> Iterator[Row]:
    for scale, means in said.scales.items():
        cells = (_number(means[of], 2) for of in ("a", "b", "difference"))
        yield Row((Cell(get_text(f"judgements.{scale}")), *cells, _alpha(said, scale)))


def _number(number: Estimated, digits: int) -> Cell:
    small = (format_limits(number.interval, digits),) if number.interval else ()
    return Cell(plain_text(format_number_text(number.value, digits)), small, "strong")


def _alpha(said: HumanJudgement, what: str) -> Cell:
    alpha = said.alpha[what]
    if isinstance(alpha, Unavailable):
        return make_missing_cell(translate_sentence(alpha.reason))
    return Cell(plain_text(format_number_text(alpha.value, 2)))
