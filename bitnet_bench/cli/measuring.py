"""The commands that measure, plan, and say what can be measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_bench.cli.options import BitnetCpp, DataDir, DespiteParity, Gguf, Json, Precision, Use
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.cli.tables import mebibytes, milliseconds, progress_bar, show, table
from bitnet_bench.errors import UsageError
from bitnet_bench.measurement.budget import DEFAULT_BUDGET, parse_budget

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.measurement.devices import Device
    from bitnet_bench.measurement.floors import Plan


def measure(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Checkpoints, or run folders, whose records gain the costs; of one run folder its twin, too. "
            "[default: demo]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="The same as an option; repeatable.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder whose record gains the costs of one checkpoint.")] = None,
    backend: Annotated[
        list[str],
        typer.Option(
            help="A runtime (`bitnet-bench backends`); auto: ternary where its engine fits, else hf. Repeatable."
        ),
    ] = ["auto"],  # noqa: B006
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
    budget: Annotated[
        str, typer.Option(help="For everything, loading included: 90s, 3m, 1h. Who does not fit is left out.")
    ] = DEFAULT_BUDGET,
    seconds: Annotated[float | None, typer.Option(min=1, hidden=True, help="The old spelling of --budget.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="The most rounds; models alternate within each.")] = 10,
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

    Each contestant runs in a process of its own, in rounds that alternate. All of it ends within --budget: one whose
    single round exceeds its share of the time is run once or left out, with the reason. A run folder's record gains
    the costs, and its twin's (RUN-fp16, or fp16-after beside ternary-after) is measured and filled with it. One that
    fails leaves the others, and the exit status is 1.
    """
    began_s = time.monotonic()
    from bitnet_bench.evaluation.select import prompts
    from bitnet_bench.measurement.candidates import contenders, with_twin
    from bitnet_bench.measurement.measure import measure as run_measure
    from bitnet_bench.measurement.scenario import Scenario, preset
    from bitnet_bench.protocols import RuntimeOptions

    budget_s = parse_budget(budget) if seconds is None else seconds
    named = [*(models or []), *(model or [])] or ["demo"]
    if out is not None and len(named) > 1:
        raise UsageError(
            "--out takes the costs of one model.", "Name run folders instead of checkpoints: each gains its own."
        )
    named = named if out else with_twin(named)
    prompt_tokens, new_tokens = preset(scenario.value) if scenario else (prompt_tokens, new_tokens)
    records = run_measure(
        contenders(
            named,
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
            budget_s=budget_s,
            timeout_s=timeout,
            batches=tuple(batch),
            texts=prompts(suite, max(batch), data_dir) if suite else (),
        ),
        meter=meter,
        model_energy=model_energy,
        options=RuntimeOptions(
            str(gguf) if gguf else None, str(bitnetcpp_dir) if bitnetcpp_dir else None, despite_parity
        ),
        steps=progress_bar,
        began_s=began_s,
    )
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        show_runs(records)
    failed = [(record.name, who, said) for record in records for who, said in record.cost_errors.items()]
    for name, who, said in failed:
        print(f"Error: {name} was not measured in {who}. {said}", file=sys.stderr)
    nothing = not failed and not any(record.costs for record in records)
    if nothing:
        print("Error: nothing was measured: no model fits into the budget. Give a longer --budget.", file=sys.stderr)
    if failed or nothing:
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
    from bitnet_bench.measurement import planning

    ceilings, plans = planning.plan(preset, model, context, batch, device, threads)
    if as_json:
        print_json({"device": ceilings.model_dump(), "plans": [one.model_dump() for one in plans]})
        return
    show(floors_table(plans, context, batch))
    print("\n".join(floors_notes(ceilings)))


def backends(as_json: Json = False) -> None:
    """List the runtimes that are installed."""
    from bitnet_bench.plugins import list_backends

    found = list_backends()
    if as_json:
        print_json(found)
        return
    rows = [
        [str(b["name"]), "yes" if b["runs"] else "no", "yes" if b["trains"] else "no", str(b["summary"])] for b in found
    ]
    show(table("Backends", ["backend", "runs", "trains", "what it is"], rows, numbers_from=99))


def doctor(as_json: Json = False) -> None:
    """Say what this machine can run and measure."""
    from bitnet_bench.cli.doctor import diagnose
    from bitnet_bench.evaluation.select import DATA_VARIABLE

    findings = diagnose(DATA_VARIABLE)
    if as_json:
        print_json([finding.model_dump() for finding in findings])
        return
    rows = [["ok" if f.ok else "--", f.what, f.found, f.remedy] for f in findings]
    show(table("This machine", ["", "what", "found", "what to do"], rows, numbers_from=99))


def floors_table(plans: Sequence[Plan], context: int, batch: int) -> Table:
    """Return what each precision of a shape takes, a row a precision."""
    rows = [
        [
            one.precision,
            one.head,
            mebibytes(one.layer_bytes),
            mebibytes(one.head_bytes + one.embedding_bytes),
            mebibytes(one.kv_bytes),
            mebibytes(one.total_bytes),
            f"{one.prefill_floor_s:.3g} s",
            milliseconds(one.decode_floor_s),
            f"{batch / one.decode_floor_s:,.0f}",
        ]
        for one in plans
    ]
    columns = ["weights", "head", "layers", "head, embedding", "KV", "together", "prefill", "a token", "tokens/s"]
    return table(f"At the least, context {context:,}, batch {batch}", columns, rows, numbers_from=2)


def floors_notes(device: Device) -> list[str]:
    """Return what a plan assumes."""
    return [
        f"{device.name}: reads {device.read_bytes_per_s / 1e9:,.0f} GB/s, int8 {device.int8_ops_per_s / 1e9:,.0f} "
        f"GOP/s, floats {device.float_ops_per_s / 1e9:,.0f} GFLOP/s ({device.source}).",
        "A token reads all weights but the embedding, and the keys and values of the whole context, once; ternary "
        "layers multiply in int8, all else in floats; nothing else takes time. No runtime is faster, most are slower.",
        "Keys and values are float32 in the backend `ternary`, and of 16 bits in the others.",
    ]
