"""The commands that report and compare runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.judging import show_pairwise
from bitnet_bench.cli.loading import TO_SCORE, load_libraries
from bitnet_bench.cli.options import Json, Margin, Seed
from bitnet_bench.cli.output import print_document, print_json, print_json_text, show_runs
from bitnet_bench.cli.sentences import print_next, print_open, print_outcome, print_text
from bitnet_bench.cli.tables import make_table, progress_bar, show, show_phase
from bitnet_bench.errors import UsageError
from bitnet_bench.runs.choices import MARGIN

if TYPE_CHECKING:
    from bitnet_bench.comparison import Comparison
    from bitnet_bench.comparison.conditions import ConditionResult
    from bitnet_bench.comparison.results import Verdict
    from bitnet_bench.runs.run import Notice


Language = Literal["ko", "en"]
ComparisonFormat = Literal["table", "md", "csv", "json", "latex"]
OPTIONAL = ("test", "effect", "p (Holm)", "n", "metric", "A", "B")
"""Columns of a comparison that a narrow terminal can do without, the first named first."""
UNBROKEN = ("95 % interval", "p (Holm)")
VERDICT_COLOURS: dict[Verdict, str] = {
    "better": "bold green",
    "slightly-better": "green",
    "equal": "green",
    "undecided": "yellow",
    "slightly-worse": "red",
    "worse": "bold red",
}


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything it writes.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the main job on embedded tiny models.

    Evaluates the embedded pair on the `sample` suite, fine-tunes both with ternary QAT and in FP16, evaluates again,
    measures both and writes a report. No network; a few minutes on two cores.
    """
    from bitnet_bench.pipeline.quickstart import quickstart as run

    load_libraries(TO_SCORE)
    records, report_path = run(out, seed, progress_bar)
    if as_json:
        print_json({"runs": [r.model_dump(mode="json") for r in records], "report": str(report_path)})
        return
    show_runs(records)
    show_report(report_path)
    print_next("finetune", "--model", "demo", "--data", "YOUR.jsonl", "--twin", "--out", "runs/mine")


@with_fields
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, in the order of the columns.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    lang: Annotated[Language, typer.Option(help="Language that is shown first; the page switches.")] = "ko",
    margin: Margin = MARGIN,
    samples: Annotated[int, typer.Option(min=0, help="Rows to show at most; 0 for none. All are compared.")] = 20_000,
    training: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN=DIR",
            help="Where RUN's finetune.json is, if not beside its checkpoint. Repeatable.",
            show_default=False,
        ),
    ] = None,
    *,
    costs: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:CostComparison")],
    sharing: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:Sharing")],
) -> None:
    """Write one HTML file that compares runs.

    How good, how certain, how much cheaper; paired differences, costs, training, samples side by side, and what it
    takes to repeat it. It needs no network and no other file.
    """
    from bitnet_bench.reports import write
    from bitnet_bench.reports.sections import ReportOptions

    options = ReportOptions(lang, margin, samples, **costs, **sharing)
    with show_phase("compare the runs and write the report"):
        path, notices = write.write_report(runs, out, options=options, training=_parse_training_folders(training or []))
    for notice in notices:
        _print_notice(notice)
    show_report(path)


def show_report(path: Path) -> None:
    """Print where a report is, and how to open it."""
    print_text(f"Report: {path}")
    print_open(path)


def _print_notice(notice: Notice) -> None:
    print_text(f"{notice.where}: {notice.what.en}", sys.stderr)


def _parse_training_folders(given: list[str]) -> dict[Path, Path]:
    """Return the folders given with --training, by run."""
    folders = {}
    for value in given:
        run, _, folder = value.partition("=")
        if not folder:
            raise UsageError(f"--training {value} is not RUN=DIR.", "Such as runs/scored/mine=runs/mine.")
        folders[Path(run)] = Path(folder)
    return folders


@with_fields
def compare(
    a: Annotated[Path, typer.Argument(help="The run folder that is judged.")],
    b: Annotated[Path, typer.Argument(help="The run folder that it is held against.")],
    form: Annotated[ComparisonFormat, typer.Option("--format", help="How to write it.")] = "table",
    margin: Margin = MARGIN,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Exit with status 1 if A - B meets this, such as 'kobest.macro_f1 < -1.0'. Repeatable.",
            show_default=False,
        ),
    ] = None,
    *,
    sharing: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:Sharing")],
) -> None:
    """Say whether two runs differ, on which tasks, and how sure that is.

    Every example of A is paired with the same one of B. Runs over other data, prompts or versions are refused with what
    differs. docs/reports.md explains the tests.
    """
    from bitnet_bench.comparison.compare_runs import compare_runs
    from bitnet_bench.comparison.formats import FORMATS
    from bitnet_bench.shared_paths import share_model

    with show_phase("compare the runs"):
        found = compare_runs(a, b, margin, fail_if or [])
    for notice in found.notices:
        _print_notice(notice)
    if form == "table":
        show_comparison(found.comparison)
        show_pairwise(a, b)
    else:
        shared = found.comparison if sharing["keep_paths"] else share_model(found.comparison)
        text = FORMATS[form](shared).rstrip("\n")
        print_json_text(text) if form == "json" else print_document(text)
    for outcome in found.outcomes:
        show_outcome(outcome)
    if any(outcome.holds for outcome in found.outcomes):
        raise typer.Exit(1)
    if form == "table":
        print_next("report", a, b)


def show_comparison(comparison: Comparison) -> None:
    """Print the verdict, and one row per task."""
    from bitnet_bench.comparison.formats import COLUMNS, make_rows
    from bitnet_bench.comparison.words import format_headline, format_verdict_counts

    print_text(format_headline(comparison).en)
    title = f"A: {comparison.a}, B: {comparison.b}"
    rows = make_rows(comparison)
    made = make_table(
        title, COLUMNS, rows, numbers_from=99, unbroken=UNBROKEN, optional=OPTIONAL, elsewhere="--format md"
    )
    for row, difference in enumerate(comparison.differences):
        made.paint(COLUMNS[-1], row, VERDICT_COLOURS[difference.verdict])
    if comparison.mean and comparison.mean.tasks > 1:
        made.paint(COLUMNS[-1], len(rows) - 1, VERDICT_COLOURS[comparison.mean.verdict])
    show(made)
    print_text(format_verdict_counts(comparison).en)


def show_outcome(outcome: ConditionResult) -> None:
    """Print whether a condition of --fail-if holds, on standard error."""
    print_outcome(outcome_sentence(outcome), not outcome.holds)


def outcome_sentence(outcome: ConditionResult) -> str:
    """Return a sentence that says whether a condition of --fail-if holds."""
    from bitnet_bench.comparison.words import format_signed

    asked = outcome.condition
    over = f" (mean of {len(outcome.tasks)} tasks)" if len(outcome.tasks) > 1 else ""
    found = f"{asked.scope}.{asked.metric} is {format_signed(outcome.difference)}{over}"
    return f"{found}: {'fails' if outcome.holds else 'does not fail'} at {asked.sign} {asked.value:g}."
