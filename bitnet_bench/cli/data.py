"""The commands that look at training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitnet_bench.cli.options import DataDir, Files, FormOf, Json, Model, Tokens
from bitnet_bench.cli.output import print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at training rows before training on them.")


@app.command("check")
def data_check(
    files: Files,
    model: Model = "demo",
    template: FormOf = "auto",
    max_length: Tokens = 256,
    suite: Annotated[
        list[str] | None, typer.Option(help="Find rows that hold a text of this suite's test rows. Repeatable.")
    ] = None,
    data_dir: DataDir = None,
    show: Annotated[int, typer.Option(min=0, help="Findings to print of each file; --json prints all.")] = 40,
    as_json: Json = False,
) -> None:
    """Say what is wrong with training rows.

    Rows that cannot be read, duplicates, decomposed (NFD) text, answers that seem to be cut off, rows that are too
    long, and rows that hold what an evaluation asks. The exit status is 1 if a row cannot be read or overlaps.
    """
    from bitnet_bench import console
    from bitnet_bench.training.inputs import check_data

    checked = check_data(
        files,
        model,
        template=template,
        max_length=max_length,
        suites_named=[name for value in suite or [] for name in value.split(",")],
        data_dir=data_dir,
        steps=console.progress_bar,
    )
    if as_json:
        print_json(
            [
                {"file": c.file, "rows": c.lines, "counts": c.counts, "findings": [vars(f) for f in c.findings]}
                for c in checked
            ]
        )
    else:
        for one in checked:
            if one.findings:
                console.show(console.findings_table(one, show))
            else:
                print(f"{one.file}: {one.lines:,} rows; nothing found")
    if any({"bad", "overlap"} & one.counts.keys() for one in checked):
        raise typer.Exit(1)


@app.command("stats")
def data_stats(files: Files, model: Model = "demo", template: FormOf = "auto", as_json: Json = False) -> None:
    """Say how long training rows are, in tokens of a model, with a histogram."""
    from bitnet_bench import console
    from bitnet_bench.data.checking import quantiles
    from bitnet_bench.training.inputs import check_data

    checked = check_data(files, model, template=template, steps=console.progress_bar)
    if as_json:
        lengths = [
            {"file": c.file, "tokens": quantiles(c.tokens), "with_loss": quantiles(c.response_tokens)} for c in checked
        ]
        print_json(lengths)
        return
    for one in checked:
        console.show(console.lengths_table(one))
        console.show(console.histogram_table(one))


@app.command("convert")
def data_convert(
    file: Annotated[Path, typer.Argument(help="A JSONL file of any shape that `finetune` reads.")],
    out: Annotated[Path, typer.Argument(help="The file to write; it must not exist yet.")],
) -> None:
    """Write training rows as {"messages": [...]}, in NFC; pairs as {"prompt", "chosen", "rejected"}."""
    from bitnet_bench.data.rows import convert_data

    print(f"Wrote {convert_data(file, out):,} rows to {out}")
