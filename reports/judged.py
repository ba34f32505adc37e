"""Lay out what judges, which are models, said of the answers to open tasks: apart from measured metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bitnet_bench.reports.figures import DASH, make_missing_cell
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import NOTHING, Block, Cell, Group, Paragraph, Row, Section, Table
from bitnet_bench.runs.records import JudgeAgreement, JudgedScore, PossibleEstimate, Unavailable
from bitnet_bench.wording import Count, Text, get_text, join_texts, plain_text
from bitnet_bench.wording.estimates import format_limits, format_number_text
from bitnet_bench.wording.names import format_task_name
from bitnet_bench.wording.sentences import translate_sentence


@dataclass(frozen=True)
class _Judged:
    """A judge's score of one of the runs, and the other run if it is in the report too."""

    run: NamedRun
    score: JudgedScore
    other: NamedRun | None = None


def judged_section(runs: Sequence[NamedRun]) -> Section | None:
    """Return the scores of judges, points first, then comparisons of two runs; None if no task is open."""
    points = [_Judged(run, score) for run in runs for score in run.record.judged if score.mode == "single"]
    pairs = list(_find_pairs(runs))
    blocks: list[Block] = [Paragraph(get_text("judged.about"))] if points or pairs else []
    blocks += [*_list_point_tables(points, runs), *_list_pair_tables(pairs)]
    blocks += [Paragraph(warning, "warning") for warning in _list_warnings([*points, *pairs])]
    blocks += [
        Paragraph(get_text("judged.none", run=run.label, task=format_task_name(task), count=Count(count)))
        for run in runs
        for task, count in run.record.answered.items()
        if task not in {score.task for score in run.record.judged}
    ]
    if not blocks:
        return None
    if points or pairs:
        blocks += [_make_signature_group([*points, *pairs]), _make_hint_group()]
    return Section("judged", get_text("judged.title"), tuple(blocks))


def _find_pairs(runs: Sequence[NamedRun]) -> Iterator[_Judged]:
    """Yield the comparisons of two runs, once if both are in the report."""
    seen = set()
    for run in runs:
        for score in run.record.judged:
            if score.mode != "pairwise" or (key := (score.task, score.signature, score.verdicts_sha256)) in seen:
                continue
            seen.add(key)
            yield _Judged(run, score, _find_opponent(runs, score))


def _find_opponent(runs: Sequence[NamedRun], score: JudgedScore) -> NamedRun | None:
    wanted = (score.opponent, score.opponent_sha256)
    return next((run for run in runs if (run.record.name, run.record.checkpoint.sha256) == wanted), None)


def _list_point_tables(points: Sequence[_Judged], runs: Sequence[NamedRun]) -> Iterator[Block]:
    """Yield a table of points for each task and judge: the mean, each turn, and each category below."""
    for task, signature in dict.fromkeys((one.score.task, one.score.signature) for one in points):
        here = {one.run.key: one.score for one in points if (one.score.task, one.score.signature) == (task, signature)}
        first = next(iter(here.values()))
        named = {"task": format_task_name(task), "judge": first.judge, "prompt": first.prompt}
        low, high = (f"{limit:g}" for limit in first.scale)
        columns = [run for run in runs if run.key in here]
        scores = [here[run.key] for run in columns]
        rows = [_make_row(get_text("judged.mean"), [score.score for score in scores], "total")]
        for turn in range(max(len(score.turns) for score in scores)):
            values = [score.turns[turn] if turn < len(score.turns) else None for score in scores]
            rows.append(_make_row(get_text("judged.turn", turn=turn + 1), values))
        for category in dict.fromkeys(name for score in scores for name in score.categories):
            parts = [score.categories.get(category) for score in scores]
            rows.append(_make_row(plain_text(category), [part.score if part else None for part in parts]))
        counted = [_count_verdicts(score) for score in scores]
        rows.append(Row((Cell(get_text("judged.unparsable"), (), "strong"), *counted)))
        rows += _list_people_rows(scores, "points")
        headings = (plain_text(""), *(run.label for run in columns))
        yield Table(headings, tuple(rows), get_text("judged.points", **named, low=low, high=high))


def _list_pair_tables(pairs: Sequence[_Judged]) -> Iterator[Block]:
    """Yield a table for each comparison of two runs by a judge."""
    for one in pairs:
        score, position = one.score, one.score.position
        other = one.other.label if one.other else plain_text(score.opponent)
        named = {"a": one.run.label, "b": other, "task": format_task_name(score.task), "judge": score.judge}
        rows = [_make_row(get_text("judged.wins"), [score.score], "total")]
        rows += [_make_row(get_text("judged.turn", turn=at), [turn]) for at, turn in enumerate(score.turns, 1)]
        rows += [_make_row(plain_text(name), [part.score]) for name, part in score.categories.items()]
        counts = get_text("judged.counts", wins=score.wins, ties=score.ties, losses=score.losses)
        rows.append(Row((Cell(get_text("judged.outcomes"), (), "strong"), Cell(counts))))
        if position is not None and position.flip_share is not None:
            flips = get_text(
                "judged.flips.words", flips=position.flips, pairs=position.pairs, share=f"{position.flip_share:.0f}"
            )
            rows.append(Row((Cell(get_text("judged.flips"), (), "strong"), Cell(flips))))
            rows.append(_make_row(get_text("judged.first"), [position.first]))
        rows.append(Row((Cell(get_text("judged.unparsable"), (), "strong"), _count_verdicts(score))))
        rows += _list_people_rows([score], "preference")
        yield Table((plain_text(""), get_text("judged.value")), tuple(rows), get_text("judged.pair", **named))


def _make_row(name: Text, values: Sequence[PossibleEstimate | None], kind: str = "plain") -> Row:
    return Row((Cell(name, (), "strong"), *map(_make_cell, values)), "total" if kind == "total" else "plain")


def _make_cell(number: PossibleEstimate | None) -> Cell:
    if number is None:
        return Cell(plain_text(DASH), (), "missing")
    if isinstance(number, Unavailable):
        return make_missing_cell(translate_sentence(number.reason))
    small = (format_limits(number.interval, 2),) if number.interval else ()
    return Cell(plain_text(format_number_text(number.value, 2)), small, "strong")


def _count_verdicts(score: JudgedScore) -> Cell:
    small = [translate_sentence(reason) + plain_text(f" {count}") for reason, count in score.reasons.items()]
    counted = get_text("judged.of", some=score.unparsable, all=score.verdicts)
    return Cell(counted, (join_texts(small),) if small else (), "warning" if score.unparsable else "plain")


def _list_people_rows(scores: Sequence[JudgedScore], kind: str) -> Iterator[Row]:
    """Yield a row for each agreement with people that one of *scores* has."""
    most = max(len(score.people) for score in scores)
    for at in range(most):
        cells = [_make_people_cell(score.people[at] if at < len(score.people) else None) for score in scores]
        yield Row((Cell(get_text(f"judged.people.{kind}"), (), "strong"), *cells))


def _make_people_cell(one: JudgeAgreement | None) -> Cell:
    if one is None:
        return Cell(plain_text(DASH), (), "missing")
    shown = _make_cell(one.alpha)
    about = get_text("judged.people.items", questions=Count(one.questions), raters=Count(one.raters))
    share = NOTHING if isinstance(one.share, Unavailable) else get_text("judged.share", share=f"{one.share.value:.0f}")
    return Cell(shown.text, tuple(text for text in (*shown.small, share, about) if text != NOTHING), shown.kind)


def _list_warnings(judged: Sequence[_Judged]) -> Iterator[Text]:
    """Yield what puts a judge's scores in doubt."""
    for one in judged:
        named = {"run": one.run.label, "task": format_task_name(one.score.task), "judge": one.score.judge}
        if one.score.complete < one.score.questions:
            yield get_text("judged.incomplete", **named, some=one.score.complete, all=Count(one.score.questions))
        if one.score.cut:
            yield get_text("judged.cut", **named, some=one.score.cut, all=Count(one.score.verdicts))
        if one.score.is_own:
            yield get_text("judged.own", **named)


def _make_signature_group(judged: Sequence[_Judged]) -> Group:
    rows = tuple(
        Row(
            (
                Cell(one.run.label, (), "strong"),
                Cell(format_task_name(one.score.task)),
                Cell(plain_text(one.score.signature), (), "code"),
            )
        )
        for one in judged
    )
    headings = tuple(get_text(f"column.{key}") for key in ("run", "task", "signature"))
    return Group(get_text("judged.signatures", count=Count(len(rows))), (Table(headings, rows),))


def _make_hint_group() -> Group:
    return Group(get_text("how-to-read"), (Paragraph(get_text("judged.hint"), "hint"),))
