"""The command that lets a model judge the answers of runs, and the tables of what judges said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.loading import TO_SCORE, load_libraries
from bitnet_bench.cli.options import Json
from bitnet_bench.cli.sentences import print_next, print_text
from bitnet_bench.cli.tables import DASH, make_table, progress_bar, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.runs.records import JudgeAgreement, JudgedScore, PossibleEstimate, RunRecord

RUNTIME_FIELDS = (
    "backend",
    "precision",
    "tokenizer",
    "read_as",
    "cache",
    "activations",
    "kv_cache",
    "gguf",
    "libllama",
    "gpu_layers",
    "bitnetcpp_dir",
    "allow_mismatch",
    "base_url",
    "api_key_variable",
    "request_timeout",
    "concurrency",
)
"""Fields of `EvaluateJob` that say how the judge is run."""
ALL = "all"
"""Stands for all categories."""


@with_fields
def judge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN2]", help="A run folder with open answers, or two.")],
    *,
    model: Annotated[
        str, typer.Option(help="The judge: a checkpoint folder, a GGUF file, a hub id, or a model on a server.")
    ],
    job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:JudgeJob")],
    runtime: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:EvaluateJob", RUNTIME_FIELDS)],
    as_json: Json = False,
) -> None:
    """Let a model judge the answers of one run, or compare those of two.

    Verdicts with their reasons go to RUN/judged, and what they say together to the record and the report, apart from
    measured metrics. Stopped at any moment, the same command asks only for what is missing.
    """
    from bitnet_bench.cli.output import print_json
    from bitnet_bench.errors import UsageError
    from bitnet_bench.judging.judge import judge_runs
    from bitnet_bench.runs.jobs import EvaluateJob, JudgeJob

    if len(runs) > 2:
        raise UsageError(f"{len(runs)} runs are named, and a judge compares two.", "Name one run or two.")
    load_libraries(TO_SCORE)
    records = judge_runs(runs, model, JudgeJob(**job), EvaluateJob(**runtime), progress_bar)
    if as_json:
        print_json([{"run": record.name, "judged": record.model_dump(mode="json")["judged"]} for record in records])
        return
    show_judged([_select_newest(record) for record in records], with_categories=True)
    print_next("report", *runs)


def show_judged(records: Sequence[RunRecord], with_categories: bool = False) -> None:
    """Print what judges said of runs, and what a reader must know about it; nothing if no judge said anything."""
    if not any(record.judged for record in records):
        return
    show(judged_table(records))
    if with_categories and any(score.categories for record in records for score in record.judged):
        show(category_table(records))
    for note in list_judge_notes(records):
        print_text(note)


def _select_newest(record: RunRecord) -> RunRecord:
    """Return *record* with only what its last judgement says; the newest scores are the last ones."""

    def name_judgement(score: JudgedScore) -> tuple[str, ...]:
        return score.signature, score.opponent, score.opponent_sha256

    newest = name_judgement(record.judged[-1])
    judged = tuple(score for score in record.judged if name_judgement(score) == newest)
    return record.model_copy(update={"judged": judged})


def show_pairwise(a: Path, b: Path) -> None:
    """Print what judges said of the runs in two folders against each other; nothing if they said nothing."""
    from bitnet_bench.runs.folder import load_record

    show_judged(_select_pairwise(load_record(a), load_record(b)))


def _select_pairwise(a: RunRecord, b: RunRecord) -> list[RunRecord]:
    """Return both records with only what judges said of the two against each other."""
    return [
        one.model_copy(
            update={
                "judged": tuple(
                    score
                    for score in one.judged
                    if (score.opponent, score.opponent_sha256) == (other.name, other.checkpoint.sha256)
                )
            }
        )
        for one, other in ((a, b), (b, a))
    ]


def judged_table(records: Sequence[RunRecord]) -> Table:
    """Return a row for each run, task and judge; scores of a judge are never in the table of measured metrics."""
    columns = ["run", "task", "judge", "what", "score", "turn 1", "turn 2", "questions", "unparsable"]
    rows = [_judged_row(name, score) for name, score in _list_shown(records)]
    title = "Scores by a judge (a model), 95 % interval over questions"
    return make_table(title, columns, rows, numbers_from=4, keys=2, optional=("turn 1", "turn 2", "questions"))


def _list_shown(records: Sequence[RunRecord]) -> list[tuple[str, JudgedScore]]:
    """Return each score with the name of its run; a comparison of two of *records* once."""
    seen, shown = set(), []
    for record in records:
        for score in record.judged:
            key = (score.task, score.mode, score.verdicts_sha256, score.signature)
            if score.mode == "pairwise" and key in seen:
                continue
            seen.add(key)
            shown.append((record.name, score))
    return shown


def _judged_row(name: str, score: JudgedScore) -> list[str]:
    turns = [*map(format_possible, score.turns[:2]), DASH, DASH][:2]
    return [
        name,
        score.task,
        score.judge,
        describe_scale(score),
        format_possible(score.score),
        *turns,
        f"{score.complete}/{score.questions}",
        f"{score.unparsable}/{score.verdicts}",
    ]


def describe_scale(score: JudgedScore) -> str:
    """Return what a score is of: points on a scale, or the win rate against another run."""
    if score.mode == "pairwise":
        return f"win rate against {score.opponent}, %"
    low, high = score.scale
    return f"points, {low:g} to {high:g}"


def category_table(records: Sequence[RunRecord]) -> Table:
    """Return the judged score of every category, one column for each run, task and judge."""
    judged = [(name, score) for name, score in _list_shown(records) if score.categories]
    names = dict.fromkeys(name for _, score in judged for name in score.categories)
    columns = ["category", *(f"{name} {score.task} ({score.mode})" for name, score in judged)]
    rows = [
        [name, *(format_possible(part.score) if (part := score.categories.get(name)) else DASH for _, score in judged)]
        for name in names
    ]
    rows.append([ALL, *(format_possible(score.score) for _, score in judged)])
    return make_table("Judged scores by category", columns, rows)


def format_possible(number: PossibleEstimate, digits: int = 2) -> str:
    """Return a number with its interval, or a dash."""
    if number.kind == "unavailable":
        return DASH
    if number.interval is None:
        return f"{number.value:.{digits}f}"
    low, high = number.interval
    return f"{number.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def list_judge_notes(records: Sequence[RunRecord]) -> list[str]:
    """Return what a reader of judged scores must know: unread and cut verdicts, position bias, agreement."""
    return [note for name, score in _list_shown(records) for note in _list_notes(name, score)]


def _list_notes(name: str, score: JudgedScore) -> list[str]:
    about = f"{name} {score.task} by {score.judge}"
    notes = []
    if score.unparsable:
        why = ", ".join(f"{reason} {count}" for reason, count in score.reasons.items())
        notes.append(f"{about}: {score.unparsable} of {score.verdicts} verdicts are unparsable and in no mean ({why}).")
    if score.cut:
        notes.append(f"{about}: {score.cut} of {score.verdicts} prompts exceed the judge's context and were cut.")
    if score.is_own:
        notes.append(f"{about}: the judge is a model that it judges, and models prefer their own answers.")
    if score.position is not None and score.position.pairs:
        first = format_possible(score.position.first, 1)
        notes.append(
            f"{about}: {score.position.flips} of {score.position.pairs} pairs flip with the order; "
            f"the answer shown first is preferred in {first} % (50 without bias)."
        )
    return notes + [f"{about}: {_describe_agreement(one)}" for one in score.people]


def _describe_agreement(one: JudgeAgreement) -> str:
    if one.kind == "points":
        said = f"Spearman's correlation with the points of people {format_possible(one.alpha)}"
    else:
        alpha = format_possible(one.alpha)
        said = f"same preference as people in {format_possible(one.share, 1)} %, Krippendorff's alpha {alpha}"
    return f"{said} ({one.questions} questions, {one.raters} raters)."
