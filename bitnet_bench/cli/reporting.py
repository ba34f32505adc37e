"""The commands that show runs to a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitnet_bench.cli.options import Json, Seed
from bitnet_bench.cli.output import print_json, show_runs


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything it writes.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the main job on embedded tiny models.

    Evaluates the embedded pair on the `sample` suite, fine-tunes both with ternary QAT and in FP16, evaluates again,
    measures both and writes a report. No network; a few minutes on two cores.
    """
    from bitnet_bench import console
    from bitnet_bench.quickstart import quickstart as run

    records, report_path = run(out, seed, console.progress_bar)
    if as_json:
        print_json({"runs": [r.model_dump(mode="json") for r in records], "report": str(report_path)})
        return
    show_runs(records)
    print(f"Report: {report_path}")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, in the order of the columns.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
) -> None:
    """Write one HTML file that compares runs.

    It needs no network and no other file.
    """
    from bitnet_bench import api

    print(f"Report: {api.report(runs, out)}")
