"""The commands that let people judge two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_bench.cli.help_panels import PanelCommand
from bitnet_bench.cli.options import Json
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_next, print_text
from bitnet_bench.cli.tables import DASH, make_table, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.runs.records import Estimated, HumanJudgement, Unavailable


app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Let people judge the answers of two runs blindly.")


@app.command("sheet", cls=PanelCommand)
def rate_sheet(
    run_a: Annotated[Path, typer.Argument(help="A run folder.")],
    run_b: Annotated[Path, typer.Argument(help="Another one, scored on the same rows.")],
    samples: Annotated[int, typer.Option(min=1, help="Answers to judge.")] = 50,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUITE:TASK", help="Only of this task [default: all whose answers are written].", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the answers, their order and their sides.")] = 0,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("sheet.html"),
) -> None:
    """Write a page on which a rater judges the answers of two runs.

    It needs no network. Which run wrote what is in OUT's .key.json, which raters must not see.
    """
    from bitnet_bench.rating.sheet import make_sheet

    items, key = make_sheet(run_a, run_b, out, samples=samples, seed=seed, tasks=task or ())
    show_sheet(out, items, key)


@app.command("collect", cls=PanelCommand)
def rate_collect(
    files: Annotated[list[Path], typer.Argument(help="The key of a sheet, and the files that its raters saved.")],
    as_json: Json = False,
) -> None:
    """Say what raters said: win rate, means of the scales, and how far raters agree.

    The records of both runs gain it, and so does a report about them.
    """
    from bitnet_bench.rating.collect import collect_ratings, save_judgement

    key, judgement = collect_ratings(files)
    folders = save_judgement(key, judgement)
    if as_json:
        print_json(judgement.model_dump(mode="json"))
        return
    show(judgement_table(judgement))
    print_text("\n".join(f"Kept in: {folder}" for folder in folders))


def show_sheet(out: Path, items: int, key: Path) -> None:
    """Print where a sheet and its key are, and what usually follows."""
    print_text(f"Sheet: {out} ({items} items)")
    print_text(f"Key: {key} (keep it; `bitnet-bench rate collect` needs it)")
    print_next("rate", "collect", key, "RATER.json")


def judgement_table(said: HumanJudgement) -> Table:
    """Return the human judgement of two runs: the preference first, then each scale."""
    counts = f"{said.a} {said.wins_a}, tie {said.ties}, {said.b} {said.wins_b}"
    rows = [
        ["preference", f"{_format_estimate(said.win_rate)} %", "", counts, _format_agreement(said.alpha["preference"])]
    ]
    for scale, means in said.scales.items():
        a, b, difference = (_format_estimate(means[of], 2) for of in ("a", "b", "difference"))
        rows.append([scale, a, b, difference, _format_agreement(said.alpha[scale])])
    title = f"{len(said.raters)} raters, {said.items} items; 95 % intervals over items"
    columns = ["", f"A: {said.a}", f"B: {said.b}", "A - B; or the count", "Krippendorff's alpha"]
    return make_table(title, columns, rows)


def _format_estimate(number: Estimated, digits: int = 1) -> str:
    if number.interval is None:
        return f"{number.value:.{digits}f}"
    low, high = number.interval
    return f"{number.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _format_agreement(alpha: Estimated | Unavailable) -> str:
    return f"{alpha.value:.2f}" if alpha.kind == "estimated" else f"{DASH} {alpha.reason}"
