"""The commands that check, describe and convert training rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli import tables
from bitnet_bench.cli.completion import complete_suites
from bitnet_bench.cli.help_panels import PanelCommand
from bitnet_bench.cli.job_options import Fields, JobCommand, with_fields
from bitnet_bench.cli.options import Files, Json
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_next, print_text
from bitnet_bench.cli.tables import make_table, progress_bar
from bitnet_bench.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.data.checking import FileFindings, Finding

LINES_SHOWN = 3
"""Lines to name of findings that say the same."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at training rows before training on them.")


@app.command("check", cls=JobCommand)
@with_fields
def data_check(
    *,
    files: Files,
    job: Annotated[
        dict[str, Any],
        Fields("bitnet_bench.runs.jobs:FinetuneJob", ("model", "tokenizer", "template", "max_length", "data_dir")),
    ],
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="Find rows that hold a text of this suite's test rows. Repeatable.", autocompletion=complete_suites
        ),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Findings to print of each file; --json prints all.")] = 40,
    as_json: Json = False,
) -> None:
    """Say what is wrong with training rows.

    Rows that cannot be read, fields whose text is not learned from, special tokens within rows, duplicates, decomposed
    (NFD) text, invisible, damaged and control characters, answers that seem to be cut off, rows that are too long, and
    rows that hold what an evaluation asks. The exit status is 1 if a row cannot be read or overlaps, or a file has
    no rows.
    """
    from bitnet_bench.training.inputs import inspect_data_files

    checked = inspect_data_files(
        files,
        job["model"],
        tokenizer=job["tokenizer"],
        template=job["template"],
        max_length=job["max_length"],
        suites_named=[name for value in suite or [] for name in value.split(",")],
        data_dir=Path(job["data_dir"]) if job["data_dir"] else None,
        steps=progress_bar,
    )
    if as_json:
        print_json(
            [
                {"file": c.file, "rows": c.lines, "counts": c.counts, "findings": [vars(f) for f in c.findings]}
                for c in checked
            ]
        )
    else:
        _show_findings(checked, show)
    if any({"bad", "overlap"} & one.counts.keys() or not one.lines for one in checked):
        raise typer.Exit(1)
    if not as_json:
        print_next("finetune", "--model", job["model"], *(word for file in files for word in ("--data", file)))


def _show_findings(checked: Sequence[FileFindings], shown: int) -> None:
    for one in checked:
        if one.findings:
            tables.show(findings_table(one, shown))
        else:
            print_text(f"{one.file}: {one.lines:,} rows; nothing found" if one.lines else f"{one.file} has no rows")


@app.command("stats", cls=JobCommand)
@with_fields
def data_stats(
    *,
    files: Files,
    job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:FinetuneJob", ("model", "tokenizer", "template"))],
    as_json: Json = False,
) -> None:
    """Say how long training rows are, in tokens of a model, with a histogram."""
    from bitnet_bench.data.checking import length_quantiles
    from bitnet_bench.training.inputs import inspect_data_files

    checked = inspect_data_files(
        files, job["model"], tokenizer=job["tokenizer"], template=job["template"], steps=progress_bar
    )
    if as_json:
        lengths = [
            {"file": c.file, "tokens": length_quantiles(c.tokens), "with_loss": length_quantiles(c.response_tokens)}
            for c in checked
        ]
        print_json(lengths)
        return
    for one in checked:
        tables.show(lengths_table(one))
        tables.show(histogram_table(one))


@app.command("convert", cls=PanelCommand)
def data_convert(
    file: Annotated[str, typer.Argument(help="A file of any shape that `finetune` reads, or hub:ORG/NAME[:SPLIT].")],
    out: Annotated[Path, typer.Argument(help="The file to write; it must not exist yet.")],
    encoding: Annotated[
        str | None, typer.Option(help="What FILE is saved in, such as cp949; UTF-8 without this.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Read the field OLD as NEW, such as 질문=prompt. Repeatable."),
    ] = None,
) -> None:
    """Write training rows as {"messages": [...]}, in NFC; pairs as {"prompt", "chosen", "rejected"}."""
    from bitnet_bench.data.rows import convert_data

    print_text(f"Wrote {convert_data(file, out, encoding, _parse_renames(rename or [])):,} rows to {out}")
    print_next("data", "check", out)


def _parse_renames(options: list[str]) -> dict[str, str]:
    """Return the new name of each field by its old one; UsageError if an option is not OLD=NEW."""
    renames: dict[str, str] = {}
    for option in options:
        old, _, new = option.rpartition("=")
        if not old or not new or old in renames or new in renames.values():
            raise UsageError(f"{option!r} does not rename a field, or one that is renamed already.", "Give OLD=NEW.")
        renames[old] = new
    return renames


def findings_table(checked: FileFindings, shown: int) -> Table:
    """Return *shown* findings of a file, those that stop training first, with the lines of those that are alike."""
    from bitnet_bench.data.checking import FINDING_KINDS

    order = sorted(checked.findings, key=lambda finding: list(FINDING_KINDS).index(finding.kind))
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in order:
        alike.setdefault((finding.kind, finding.reason), []).append(finding)
    rows = [[_name_lines(found), kind, reason] for (kind, reason), found in list(alike.items())[:shown]]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in checked.counts.items())
    title = f"{checked.file}: {checked.lines:,} rows; {counts or 'nothing found'}"
    left = len(alike) - shown
    made = make_table(title, ["line", "what", "why"], rows, numbers_from=99)
    made.caption = f"{left:,} more: --show, or --json for all" if left > 0 else None
    return made


def _name_lines(alike: list[Finding]) -> str:
    """Return the lines of findings that say the same: a few, and how many more there are."""
    rows = sum(finding.rows for finding in alike)
    lines = ", ".join(f"{finding.line}" for finding in alike[:LINES_SHOWN])
    more = rows - min(len(alike), LINES_SHOWN)
    return f"{lines} and {more:,} more" if more else lines


def lengths_table(checked: FileFindings) -> Table:
    """Return the lengths of rows in tokens."""
    from bitnet_bench.data.checking import length_quantiles

    whole, learned = length_quantiles(checked.tokens), length_quantiles(checked.response_tokens)
    rows = [[name, f"{whole[name]:,.0f}", f"{learned[name]:,.0f}"] for name in whole]
    return make_table(f"{checked.file}: tokens a row", ["", "whole", "with loss"], rows)


def histogram_table(checked: FileFindings) -> Table:
    """Return the histogram of row lengths in tokens, as bars."""
    from bitnet_bench.data.checking import length_histogram

    bars = length_histogram(checked.tokens)
    most = max((count for _, _, count in bars), default=1)
    rows = [[f"{low:,}-{high:,}", f"{count:,}", "█" * round(40 * count / most)] for low, high, count in bars]
    return make_table("", ["tokens", "rows", ""], rows, numbers_from=99)
