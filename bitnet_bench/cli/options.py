"""The options that several commands share and that are not fields of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of local rows; else $BITNET_BENCH_DATA, else the hub.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")]
ShardSize = Annotated[float, typer.Option(min=0.001, help="Largest weight file, in GB (10^9 bytes).")]
Margin = Annotated[float, typer.Option(min=0.0, help="Points of a score that are too few to matter.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Files = Annotated[list[str], typer.Argument(help="Files of training rows, or hub:ORG/NAME[:SPLIT].")]
