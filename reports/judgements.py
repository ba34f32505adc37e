"""Say what people said of two of the runs, beside what metrics say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bitnet_bench.reports.figures import missing, points, span
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Paragraph, Row, Section, Table
from bitnet_bench.runs.records import Estimated, HumanJudgement, Unavailable
from bitnet_bench.wording import plain, say


def judgement_section(runs: Sequence[NamedRun]) -> Section | None:
    """Return what raters said of pairs of the runs (`bitnet_bench.rating`), or None if none of them was rated."""
    blocks: list[Block] = []
    for a, b, said in _rated(runs):
        names = {"a": a.label, "b": b.label, "items": said.items, "raters": len(said.raters)}
        counts = say("judgements.counts", wins_a=said.wins_a, ties=said.ties, wins_b=said.wins_b)
        headings = (plain(""), a.label, b.label, say("judgements.difference"), say("judgements.alpha"))
        blocks += [
            Paragraph(say("judgements.about", **names)),
            Table(headings, (_preference(said), *_scales(said)), counts),
        ]
    if not blocks:
        return None
    return Section("judgements", say("judgements.title"), (*blocks, Paragraph(say("judgements.hint"), "hint")))


def _rated(runs: Sequence[NamedRun]) -> Iterator[tuple[NamedRun, NamedRun, HumanJudgement]]:
    """Yield every judgement of two runs that are both here, once."""
    for said in {said.sheet: said for run in runs for said in run.record.judgements}.values():
        holders = [run for run in runs if said in run.record.judgements]
        first = [run for run in holders if _is(run, said.a, said.a_sha256)]
        second = [run for run in holders if _is(run, said.b, said.b_sha256) and run not in first[:1]]
        if first and second:
            yield first[0], second[0], said


def _is(run: NamedRun, name: str, weights: str) -> bool:
    return run.record.name == name and run.record.checkpoint.sha256 == weights


def _preference(said: HumanJudgement) -> Row:
    rate = said.win_rate
    low, high = rate.interval or (0.0, 100.0)
    other = Estimated(value=100 - rate.value, interval=(100 - high, 100 - low))
    difference = Cell(plain(points(2 * rate.value - 100)))
    return Row(
        (Cell(say("judgements.wins")), _number(rate, 1), _number(other, 1), difference, _alpha(said, "preference"))
    )


def _scales(said: HumanJudgement) -> Iterator[Row]:
    for scale, means in said.scales.items():
        cells = (_number(means[of], 2) for of in ("a", "b", "difference"))
        yield Row((Cell(say(f"judgements.{scale}")), *cells, _alpha(said, scale)))


def _number(number: Estimated, digits: int) -> Cell:
    value, *limits = (f"{one:.{digits}f}".replace("-", "−") for one in (number.value, *(number.interval or ())))
    return Cell(plain(value), (span(*limits),) if limits else (), "strong")


def _alpha(said: HumanJudgement, what: str) -> Cell:
    alpha = said.alpha[what]
    if isinstance(alpha, Unavailable):
        return missing(plain(alpha.reason))
    return Cell(plain(f"{alpha.value:.2f}".replace("-", "−")))
