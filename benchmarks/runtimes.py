"""Measure a checkpoint in several runtimes, and how well it is measured; print the tables of docs/performance.md.

python benchmarks/runtimes.py table CHECKPOINT --contestant ternary:ternary --contestant llamacpp:tq2_0 ...
python benchmarks/runtimes.py agreement CHECKPOINT --contestant ternary:ternary --times 6
python benchmarks/runtimes.py share CHECKPOINT --contestant ternary:ternary
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bitnet_bench import plugins
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.cli.tables import progress_bar
from bitnet_bench.measurement.budget import parse_budget
from bitnet_bench.measurement.candidates import Candidate
from bitnet_bench.measurement.measure import measure
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.protocols import RuntimeOptions
from bitnet_bench.runs.records import Cost, Measured, Modelled

Contestants = Annotated[
    list[str], typer.Option("--contestant", help="BACKEND:PRECISION, or MODEL=BACKEND:PRECISION; can be repeated")
]
INSIDE = {
    "LlamaSession": ("library", ("read", "logits")),
    "TernarySession": ("_engine", ("hidden", "logits", "choose")),
    "HFSession": ("_model", ("forward",)),
}
"""What of a session is the runtime itself, and not the harness."""
app = typer.Typer(add_completion=False)


@app.command()
def table(
    checkpoint: str,
    contestants: Contestants,
    threads: int = 2,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    budget: str = "10m",
    rounds: int = 20,
    timeout: float = 600.0,
    allow_mismatch: bool = False,
    json_out: Path | None = None,
) -> None:
    """Print a row a contestant: median and range of the speeds, and what failed."""
    entered = [_entered(checkpoint, one) for one in contestants]
    scenario = Scenario(
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        threads=threads,
        budget_s=parse_budget(budget),
        rounds=rounds,
        timeout_s=timeout,
    )
    options = RuntimeOptions(allow_mismatch=allow_mismatch)
    records = measure(entered, scenario, options=options, steps=progress_bar)
    print(
        "| contestant | weights MiB | peak MiB | load s | prefill tokens/s | decode tokens/s | p50 / p95 / p99 ms | "
        "of floor | rounds | foreign | parity |\n|" + " --- |" * 11
    )
    for record in records:
        for cost in record.costs:
            print(_row(record.checkpoint.source, cost))
        for who, said in record.cost_errors.items():
            print(f"| {who} | not measured: {said.splitlines()[0]} |")
        for who, why in record.cost_left_out.items():
            print(f"| {who} | left out: {why} |")
    if json_out:
        json_out.write_text("[" + ",".join(record.model_dump_json() for record in records) + "]")


@app.command()
def agreement(
    checkpoint: str, contestants: Contestants, times: int = 6, threads: int = 1, allow_mismatch: bool = False
) -> None:
    """Measure each contestant again and again, each time in a new process, and print how far its medians are apart."""
    options = RuntimeOptions(allow_mismatch=allow_mismatch)
    print("| contestant | of | medians | one run and the next, mean and largest | rounds flagged |\n|" + " --- |" * 5)
    for one in contestants:
        entered = _entered(checkpoint, one)
        costs = []
        for _ in range(times):
            (record,) = measure([entered], Scenario(threads=threads), meter="none", options=options)
            costs += record.costs
        for phase, unit in (("prefill", "ms"), ("decode", "ms a token")):
            medians = [1e3 * _median(cost, f"{phase}_s") for cost in costs]
            apart = [abs(a - b) / min(a, b) for a, b in pairwise(medians)]
            shown = ", ".join(f"{median:.4g}" for median in medians)
            print(
                f"| {one} | {phase}, {unit} | {shown} | {statistics.mean(apart):.1%}, {max(apart):.1%} "
                f"| {sum(len(cost.disturbances) for cost in costs)} |",
                flush=True,
            )


@app.command()
def share(
    checkpoint: str,
    contestants: Contestants,
    threads: int = 1,
    tokens: int = 31,
    rounds: int = 20,
    allow_mismatch: bool = False,
) -> None:
    """Print how much of the time of decoding is not spent in the runtime's own calls; medians over the rounds."""
    torch.set_num_threads(threads)
    print("| contestant | decoding, ms a token | outside the runtime, us a token | share |\n|" + " --- |" * 4)
    for one in contestants:
        entered = _entered(checkpoint, one)
        backend = plugins.load_plugin("backends", entered.backend).configured(
            RuntimeOptions(allow_mismatch=allow_mismatch)
        )
        opened = open_checkpoint(entered.model)
        with backend.open(opened, entered.precision) as session:
            inside = _Watch(session)
            prompt = [[1 + i % 1000 for i in range(128)]]
            whole, outside = [], []
            for number in range(rounds + 1):
                state = session.prefill(prompt)
                inside.spent = 0.0
                began = time.perf_counter()
                session.decode(state, tokens)
                spent = time.perf_counter() - began
                if number:  # the first warms up
                    whole.append(spent / tokens)
                    outside.append((spent - inside.spent) / tokens)
        least, more = statistics.median(whole), statistics.median(outside)
        print(f"| {one} | {1e3 * least:.3f} | {1e6 * more:.1f} | {more / least:.2%} |", flush=True)


class _Watch:
    """Adds up the time inside the runtime's own calls of a session."""

    def __init__(self, session: Any) -> None:
        self.spent = 0.0
        name, calls = INSIDE[type(session).__name__]
        for call in calls:
            setattr(getattr(session, name), call, self._timed(getattr(getattr(session, name), call)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.spent += time.perf_counter() - began

        return timed


def _entered(checkpoint: str, one: str) -> Candidate:
    model, _, rest = one.rpartition("=")
    backend, _, precision = rest.partition(":")
    return Candidate(model or checkpoint, precision, None, backend)  # type: ignore[arg-type]


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
    app()
