"""The commands that measure, and say what can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitnet_bench.cli.options import Backend, Json, Precision
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.errors import UsageError


def measure(
    model: Annotated[list[str], typer.Option(help="A checkpoint; repeat to alternate between several.")] = ["demo"],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Run folder whose record gains the costs (with one --model).")
    ] = None,
    backend: Backend = "hf",
    precision: Annotated[
        list[Precision] | None,
        typer.Option(help="[default: ternary for ternary checkpoints, else fp16 and bf16]", show_default=False),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Prompt length.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to decode.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; models alternate within each.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure memory, speed and energy.

    Each model runs in a process of its own, in rounds that alternate. With --out the costs join that run's record.
    """
    from bitnet_bench import api, console
    from bitnet_bench.measure.run import Scenario

    if out is not None and len(model) > 1:
        raise UsageError("--out takes the costs of one --model.", "Measure without --out, or one model at a time.")
    records = api.measure(
        api.contenders(model, [p.value for p in precision or []], out),
        Scenario(prompt_tokens, new_tokens, batch, threads, rounds),
        backend=backend,
        steps=console.progress_bar,
    )
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    show_runs(records)


def backends(as_json: Json = False) -> None:
    """List the runtimes that are installed."""
    from bitnet_bench import api, console

    found = api.backends()
    if as_json:
        print_json(found)
        return
    rows = [
        [str(b["name"]), "yes" if b["runs"] else "no", "yes" if b["trains"] else "no", str(b["summary"])] for b in found
    ]
    console.show(console.table("Backends", ["backend", "runs", "trains", "what it is"], rows, numbers_from=99))


def doctor(as_json: Json = False) -> None:
    """Say what this machine can run and measure."""
    from bitnet_bench import api, console
    from bitnet_bench.doctor import diagnose

    findings = diagnose(api.DATA_VARIABLE)
    if as_json:
        print_json([finding.model_dump() for finding in findings])
        return
    rows = [["ok" if f.ok else "--", f.what, f.found, f.remedy] for f in findings]
    console.show(console.table("This machine", ["", "what", "found", "what to do"], rows, numbers_from=99))
