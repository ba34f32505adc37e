"""Measure a checkpoint in several runtimes, alternating, and print the table of docs/performance.md.

python benchmarks/runtimes.py CHECKPOINT --contestant ternary:ternary --contestant llamacpp:tq2_0 ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitnet_bench import api, console
from bitnet_bench.measure.scenario import Scenario
from bitnet_bench.ports import RuntimeOptions
from bitnet_bench.records import Cost, Measured, Modelled


def main(
    checkpoint: str,
    contestant: Annotated[list[str], typer.Option(help="BACKEND:PRECISION, or MODEL=BACKEND:PRECISION")],
    threads: int = 2,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    seconds: float = 120.0,
    rounds: int = 20,
    timeout: float = 600.0,
    despite_parity: bool = False,
    json_out: Path | None = None,
) -> None:
    """Print a row a contestant: median and range of the speeds, and what failed."""
    entered = []
    for one in contestant:
        model, _, rest = one.rpartition("=")
        backend, _, precision = rest.partition(":")
        entered.append(api.Contender(model or checkpoint, precision, None, backend))  # type: ignore[arg-type]
    scenario = Scenario(prompt_tokens, new_tokens, threads=threads, seconds=seconds, rounds=rounds, timeout_s=timeout)
    options = RuntimeOptions(despite_parity=despite_parity)
    records = api.measure(entered, scenario, options=options, steps=console.progress_bar)
    print(
        "| contestant | weights MiB | peak MiB | load s | prefill tokens/s | decode tokens/s | p50 / p95 / p99 ms | "
        "of floor | rounds | foreign | parity |\n|" + " --- |" * 11
    )
    for record in records:
        for cost in record.costs:
            print(_row(record.checkpoint.source, cost))
        for who, said in record.cost_errors.items():
            print(f"| {who} | not measured: {said.splitlines()[0]} |")
    if json_out:
        json_out.write_text("[" + ",".join(record.model_dump_json() for record in records) + "]")


def _row(source: str, cost: Cost) -> str:
    energy = cost.metrics["energy_j"]
    assert not isinstance(energy, Modelled)
    percentiles = " / ".join(f"{1e3 * _median(cost, f'token_p{q}_s'):.3g}" for q in (50, 95, 99))
    cells = [
        f"{cost.backend} {cost.precision} ({Path(source).name})",
        f"{cost.resident_weight_bytes / 2**20:,.1f}",
        f"{_median(cost, 'peak_bytes') / 2**20:,.0f}",
        f"{_median(cost, 'load_s'):.2f}",
        _spread(cost, "prefill_tokens_per_s"),
        _spread(cost, "decode_tokens_per_s"),
        percentiles,
        f"{_share(cost, 'prefill')} / {_share(cost, 'decode')}",
        str(len(_readings(cost, "prefill_s"))),
        f"{cost.foreign_load:.0%}, {len(cost.disturbances)} flagged",
        "-" if cost.parity is None else f"{cost.parity.relative_error:.3f}" + (" FAULT" if cost.parity.fault else ""),
    ]
    return "| " + " | ".join(cells) + " |"


def _readings(cost: Cost, name: str) -> tuple[float, ...]:
    found = cost.metrics[name]
    return found.readings if isinstance(found, Measured) else ()


def _median(cost: Cost, name: str) -> float:
    found = cost.metrics[name]
    assert isinstance(found, Measured)
    return found.median


def _spread(cost: Cost, name: str) -> str:
    readings = _readings(cost, name)
    return f"{_median(cost, name):,.4g} ({min(readings):,.4g} to {max(readings):,.4g})"


def _share(cost: Cost, phase: str) -> str:
    floor = cost.metrics.get(f"{phase}_floor_s")
    return f"{floor.value / _median(cost, f'{phase}_s'):.0%}" if isinstance(floor, Modelled) else "-"


if __name__ == "__main__":
    typer.run(main)
