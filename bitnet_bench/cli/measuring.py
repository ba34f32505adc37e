"""The commands that measure, plan, and say what can be measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitnet_bench.cli.options import BitnetCpp, DataDir, DespiteParity, Gguf, Json, Precision, Use
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.errors import UsageError


def measure(
    model: Annotated[list[str], typer.Option(help="A checkpoint; repeat to alternate between several.")] = ["demo"],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Run folder whose record gains the costs (with one --model).")
    ] = None,
    backend: Annotated[list[str], typer.Option(help="A runtime (`bitnet-bench backends`); repeatable.")] = ["hf"],  # noqa: B006
    precision: Annotated[
        list[Precision] | None,
        typer.Option(help="[default: ternary for ternary checkpoints, else fp16 and bf16]", show_default=False),
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Another model to measure beside it, in `hf`; repeatable.")
    ] = None,
    floats: Annotated[bool, typer.Option(help="Always measure FP16 and BF16 beside the others.")] = True,
    scenario: Annotated[
        Use | None, typer.Option(help="chat: 256 + 128 tokens; summarize: 1024 + 128; classify: 256 + 2.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Read the prompts of this suite instead of random tokens.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Prompt length; of a suite the most.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to decode.")] = 32,
    batch: Annotated[list[int], typer.Option(min=1, help="Prompts at once; repeatable.")] = [1],  # noqa: B006
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="The most rounds; models alternate within each.")] = 20,
    seconds: Annotated[float, typer.Option(min=0, help="After so long no further round begins.")] = 20.0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which one that does not answer hangs.")] = 600.0,
    meter: Annotated[str, typer.Option(help="auto, rapl, nvml, zeus, codecarbon (a model), trace or none.")] = "auto",
    model_energy: Annotated[
        bool, typer.Option("--model-energy", help="Without a counter, work joules out of operations (modelled).")
    ] = False,
    gguf: Gguf = None,
    bitnetcpp_dir: BitnetCpp = None,
    despite_parity: DespiteParity = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure memory, speed and energy.

    Each contestant runs in a process of its own, in rounds that alternate until the intervals are narrow or the time is
    up; one that fails leaves the others. With --out the costs join that run's record.
    """
    from bitnet_bench import api, console
    from bitnet_bench.measure.scenario import Scenario, preset
    from bitnet_bench.ports import RuntimeOptions

    if out is not None and len(model) > 1:
        raise UsageError("--out takes the costs of one --model.", "Measure without --out, or one model at a time.")
    prompt_tokens, new_tokens = preset(scenario.value) if scenario else (prompt_tokens, new_tokens)
    records = api.measure(
        api.contenders(
            model,
            [p.value for p in precision or []],
            out,
            backends=backend,
            baselines=baseline or [],
            against_floats=floats,
        ),
        Scenario(
            prompt_tokens,
            new_tokens,
            threads=threads,
            rounds=rounds,
            seconds=seconds,
            timeout_s=timeout,
            batches=tuple(batch),
            texts=api.prompts(suite, max(batch), data_dir) if suite else (),
        ),
        meter=meter,
        model_energy=model_energy,
        options=RuntimeOptions(
            str(gguf) if gguf else None, str(bitnetcpp_dir) if bitnetcpp_dir else None, despite_parity
        ),
        steps=console.progress_bar,
    )
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        show_runs(records)
    failed = [(record.name, who, said) for record in records for who, said in record.cost_errors.items()]
    for name, who, said in failed:
        print(f"Error: {name} was not measured in {who}. {said}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def plan(
    preset: Annotated[str | None, typer.Option(help="The shape of a published model, such as bitnet-2b-4t.")] = None,
    model: Annotated[str | None, typer.Option(help="The shape of a checkpoint of yours instead.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of prompt and answer together.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    device: Annotated[str, typer.Option(help="cpu: this machine, measured now; else a GPU by name.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a model takes at the least, before it is there: bytes, and the least times at a device's rates."""
    from bitnet_bench import api, console

    ceilings, plans = api.plan(preset, model, context, batch, device, threads)
    if as_json:
        print_json({"device": ceilings.model_dump(), "plans": [one.model_dump() for one in plans]})
        return
    console.show(console.floors_table(plans, context, batch))
    print("\n".join(console.floors_notes(ceilings)))


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
