"""The commands that measure and plan."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.completion import complete_devices, complete_presets, complete_suites
from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.option_names import name_options
from bitnet_bench.cli.options import Json
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.cli.sentences import print_error, print_evaluation, print_next, print_text
from bitnet_bench.cli.tables import format_mebibytes, format_milliseconds, make_table, progress_bar, show, show_phase
from bitnet_bench.errors import UsageError
from bitnet_bench.runs.choices import DEFAULT_MODEL, ScenarioName

RUNTIME_FIELDS = (
    "activations",
    "kv_cache",
    "gguf",
    "libllama",
    "gpu_layers",
    "bitnetcpp_dir",
    "allow_mismatch",
    "data_dir",
)
"""Fields of `EvaluateJob` that `measure` has as well."""
OPTIONAL_FLOORS = ("head, embedding", "prefill", "KV", "layers")
"""Columns of a plan that a narrow terminal can do without, the first named first."""

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.measurement.devices import Device
    from bitnet_bench.measurement.floors import PrecisionPlan
    from bitnet_bench.measurement.scenario import Scenario
    from bitnet_bench.protocols import RuntimeOptions
    from bitnet_bench.runs.jobs import MeasureJob
    from bitnet_bench.runs.records import RunRecord


@with_fields
def measure(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Checkpoints, or run folders, whose records gain the costs; of one run folder its twin, too. "
            f"[default: {DEFAULT_MODEL}]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="The same as an option; repeatable.", show_default=False)
    ] = None,
    job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:MeasureJob")],
    scenario: Annotated[
        ScenarioName | None, typer.Option(help="chat: 256 + 128 tokens; summarize: 1024 + 128; classify: 256 + 2.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Read the prompts of this suite instead of random tokens.", autocompletion=complete_suites),
    ] = None,
    workload: Annotated[dict[str, Any], Fields("bitnet_bench.measurement.scenario:Scenario")],
    seconds: Annotated[float | None, typer.Option(min=1, hidden=True, help="The old spelling of --budget.")] = None,
    runtime: Annotated[
        dict[str, Any],
        Fields("bitnet_bench.runs.jobs:EvaluateJob", RUNTIME_FIELDS),
    ],
    trust: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:SuiteTrust", ("trust_suite",))],
    as_json: Json = False,
) -> None:
    """Measure memory, speed and energy.

    Each candidate runs in a process of its own, in rounds that alternate. All of it ends within --budget: one whose
    single round exceeds its share of the time is run once or left out, with the reason. A run folder's record gains
    the costs, and its twin's (RUN-fp16, or fp16-after beside ternary-after) is measured and filled with it. One that
    fails leaves the others, and the exit status is 1.
    """
    began_s = time.monotonic()
    from bitnet_bench.evaluation.select import trust_suite_names
    from bitnet_bench.runs.jobs import MeasureJob

    given = workload if seconds is None else {**workload, "budget_s": seconds}
    if suite and trust["trust_suite"]:
        trust_suite_names([suite])
    wanted = _build_scenario(given, scenario, suite, runtime["data_dir"])
    named = [*(models or []), *(model or [])]
    records = _run(named, MeasureJob(**job), wanted, _build_runtime_options(runtime), began_s)
    _show_records(records, named or [DEFAULT_MODEL], as_json)


def _run(
    named: Sequence[str], job: MeasureJob, scenario: Scenario, options: RuntimeOptions, began_s: float
) -> list[RunRecord]:
    from bitnet_bench.measurement.candidates import make_candidates
    from bitnet_bench.measurement.measure import measure as run_measure

    out = Path(job.out) if job.out else None
    models = _name_models(named, out)
    with show_phase(f"read {' and '.join(models)}"):
        candidates = make_candidates(
            models,
            job.precisions,
            out,
            backends=job.backends,
            baselines=job.baselines,
            against_floats=job.floats,
            tokenizer=job.tokenizer,
            read_as=job.read_as,
        )
    return run_measure(
        candidates,
        scenario,
        meter=job.meter,
        model_energy=job.model_energy,
        options=options,
        steps=progress_bar,
        began_s=began_s,
    )


def _name_models(named: Sequence[str], out: Path | None) -> Sequence[str]:
    """Return what is measured: for a single run folder, also its twin."""
    from bitnet_bench.measurement.candidates import add_twin

    if out is not None and len(named) > 1:
        raise UsageError(
            "--out takes the costs of one model.", "Name run folders instead of checkpoints: each gains its own."
        )
    found = named or [DEFAULT_MODEL]
    return found if out else add_twin(found)


def _build_scenario(
    workload: Mapping[str, Any], name: ScenarioName | None, suite: str | None, data_dir: str | None
) -> Scenario:
    """Return the scenario of every candidate, from the options, a named scenario and the prompts of a suite."""
    from bitnet_bench.evaluation.select import list_prompts
    from bitnet_bench.measurement.scenario import SCENARIO_PRESETS, Scenario

    batches = workload["batch"]
    tokens = dict(zip(("prompt_tokens", "new_tokens"), SCENARIO_PRESETS[name], strict=True)) if name else {}
    texts = list_prompts(suite, max(batches), Path(data_dir) if data_dir else None) if suite else ()
    return Scenario(**{**workload, **tokens, "batch": batches[0]}, batches=batches, texts=tuple(texts))


def _build_runtime_options(runtime: Mapping[str, Any]) -> RuntimeOptions:
    from bitnet_bench.protocols import RuntimeOptions

    return RuntimeOptions(
        gguf=runtime["gguf"],
        directory=runtime["bitnetcpp_dir"],
        allow_mismatch=runtime["allow_mismatch"],
        library=runtime["libllama"],
        gpu_layers=runtime["gpu_layers"],
        activations=runtime["activations"],
        kv_cache=runtime["kv_cache"],
    )


def _show_records(records: list[RunRecord], named: Sequence[str], as_json: bool) -> None:
    """Print costs and what could not be measured; raise an exit with status 1 if there is any."""
    from bitnet_bench.runs.twins import is_run

    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        show_runs(records)
    failed = [(record.name, who, said) for record in records for who, said in record.cost_errors.items()]
    for name, who, said in failed:
        print_error(f"{name} was not measured in {who}. {name_options(said)}")
    nothing = not failed and not any(record.costs for record in records)
    if nothing:
        print_error("nothing was measured: no model fits into the budget. Give a longer --budget.")
    if failed or nothing:
        raise typer.Exit(1)
    if as_json:
        return
    folders = [name for name in named if is_run(name)]
    if folders:
        print_next("report", *folders)
    else:
        print_evaluation(named)


def plan(
    preset: Annotated[
        str | None,
        typer.Option(help="The shape of a published model, such as bitnet-2b-4t.", autocompletion=complete_presets),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The shape of a checkpoint of yours instead.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of prompt and answer together.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    device: Annotated[
        str, typer.Option(help="cpu: this machine, measured now; else a GPU by name.", autocompletion=complete_devices)
    ] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a model takes at the least, before it is there: bytes, and the least times at a device's rates."""
    from bitnet_bench.measurement import planning

    with show_phase("measure this machine" if device == "cpu" else f"look up {device}"):
        ceilings, plans = planning.plan_shape(preset, model, context, batch, device, threads)
    if as_json:
        print_json({"device": ceilings.model_dump(), "plans": [one.model_dump() for one in plans]})
        return
    show(floors_table(plans, context, batch))
    print_text("\n".join(floors_notes(ceilings)))


def floors_table(plans: Sequence[PrecisionPlan], context: int, batch: int) -> Table:
    """Return what a shape takes at each precision, one per row."""
    rows = [
        [
            one.precision,
            one.head,
            format_mebibytes(one.layer_bytes),
            format_mebibytes(one.head_bytes + one.embedding_bytes),
            format_mebibytes(one.kv_bytes),
            format_mebibytes(one.total_bytes),
            f"{one.prefill_floor_s:.3g} s",
            format_milliseconds(one.decode_floor_s),
            f"{batch / one.decode_floor_s:,.0f}",
        ]
        for one in plans
    ]
    columns = ["weights", "head", "layers", "head, embedding", "KV", "together", "prefill", "a token", "tokens/s"]
    return make_table(
        f"At the least, context {context:,}, batch {batch}", columns, rows, numbers_from=2, optional=OPTIONAL_FLOORS
    )


def floors_notes(device: Device) -> list[str]:
    """Return the assumptions of a plan."""
    return [
        f"{device.name}: reads {device.read_bytes_per_s / 1e9:,.0f} GB/s, int8 {device.int8_ops_per_s / 1e9:,.0f} "
        f"GOP/s, floats {device.float_ops_per_s / 1e9:,.0f} GFLOP/s ({device.source}).",
        "A token reads all weights but the embedding, and the keys and values of the whole context, once; ternary "
        "layers multiply in int8, all else in floats; nothing else takes time. No runtime is faster, most are slower.",
        "Keys and values are float32 in the backend `ternary`, and of 16 bits in the others.",
    ]
