"""Time the CPU kernel and engine against peers, alternating, and print the tables of docs/performance.md.

    python benchmarks/engine.py layer
    python benchmarks/engine.py model CHECKPOINT --peer NAME='COMMAND' ...

A peer's command prints one JSON object with the lists `prefill_tokens_per_s` and `decode_tokens_per_s`. The kernel's
product is compared with the exact one before it is timed; foreign load is read in each round and printed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer
from torch import Tensor

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.panels import to_panels
from bitnet_bench.ternary.quantizer import quantize_activations

ROWS, COLUMNS, TOKENS = 6912, 2560, (1, 8, 128, 512)
DENSE = {"_int_mm": torch.int8, "bf16": torch.bfloat16, "fp32": torch.float32}
COPIES = 24
"""Layers in turn, so that weights come from memory and not from cache."""
app = typer.Typer(add_completion=False)


def best_seconds(work: Callable[[int], object], repeats: int) -> float:
    """Return the shortest time of one call, over *repeats* passes through the copies."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for i in range(COPIES):
            work(i)
        times.append((time.perf_counter() - started) / COPIES)
    return min(times)


def contestants(tokens: int, names: Container[str]) -> dict[str, Callable[[int], object]]:
    """Return what multiplies *tokens* rows by the i-th copy of the weights, for each of *names*."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (ROWS, COLUMNS), generator=generator, dtype=torch.int8)
    x = torch.randn(tokens, COLUMNS, generator=generator)
    found = {name: _dense(x, codes, dtype) for name, dtype in DENSE.items() if name in names}
    return found | ({"kernel": _kernel(x, codes)} if "kernel" in names else {})


def _dense(x: Tensor, codes: Tensor, dtype: torch.dtype) -> Callable[[int], object]:
    weights = [codes.to(dtype) for _ in range(COPIES)]
    if dtype == torch.int8:
        q = quantize_activations(x)[0]
        return lambda i: torch._int_mm(q, weights[i].t())
    return lambda i: x.to(dtype) @ weights[i].t()


def _kernel(x: Tensor, codes: Tensor) -> Callable[[int], object]:
    """Return the kernel as a contestant, once its product is the exact one."""
    q, step = quantize_activations(x)
    rows, y = kernel.QuantizedRows.empty(*x.shape), torch.empty(len(x), ROWS)
    kernel.quantize_rows(x, len(x), rows)
    layers = [kernel.JoinedLayers([(to_panels(codes), 1.0, ROWS, None)], COLUMNS) for _ in range(COPIES)]
    layers[0](rows, len(x), y)
    if not torch.equal(y, (q.float() @ codes.float().t()) * step):
        raise AssertionError("the kernel is wrong")
    return lambda i: layers[i](rows, len(x), y)


def read_bandwidth() -> float:
    """Return the bytes per second at which a sum over 1 GiB of float32 reads memory."""
    data = torch.ones(1 << 28)
    return data.numel() * 4 / min(_seconds(data.sum) for _ in range(8))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@app.command()
def layer(threads: int = 1, repeats: int = 5) -> None:
    """One layer of 6912 x 2560: GOP/s of each contestant at 1, 8, 128 and 512 tokens."""
    torch.set_num_threads(threads)
    print(f"threads {threads}, path {kernel.get_instruction_set()}, read bandwidth {read_bandwidth() / 1e9:.1f} GB/s")
    for tokens in TOKENS:
        works = contestants(tokens, {"kernel", *DENSE})
        seconds = {name: best_seconds(work, 1 if tokens == 512 else repeats) for name, work in works.items()}
        rates = {name: f"{2e-9 * tokens * ROWS * COLUMNS / s:.0f}" for name, s in seconds.items()}
        print(f"M={tokens}", rates, f"kernel reads {ROWS * COLUMNS / 4e9 / seconds['kernel']:.1f} GB/s of codes")


@app.command()
def model(
    checkpoint: Path,
    peer: Annotated[list[str], typer.Option(help="NAME=COMMAND, printing JSON")] = [],  # noqa: B006 - Typer's custom
    threads: int = 2,
    rounds: int = 3,
    prompt_tokens: int = 512,
    backend: Annotated[list[str], typer.Option()] = ["ternary", "ternary-int8-head"],  # noqa: B006
) -> None:
    """Whole models: tokens of prompt, then 32 more, in alternating rounds."""
    commands = {
        name: f"bitnet-bench measure --model {checkpoint} --backend {name} --prompt-tokens {prompt_tokens} "
        f"--new-tokens 32 --threads {threads} --rounds 2 --json"
        for name in backend
    } | dict(entry.split("=", 1) for entry in peer)
    found: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "decode": [], "foreign": []} for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            reading = _run(command)
            for phase in ("prefill", "decode"):
                found[name][phase] += reading[f"{phase}_tokens_per_s"]
            found[name]["foreign"].append(reading["foreign_load"])
    print("| contestant | prefill tokens/s | decode tokens/s | foreign load |\n| --- | --- | --- | --- |")
    for name, readings in found.items():
        print(
            f"| {name} | {_spread(readings['prefill'])} | {_spread(readings['decode'])} |"
            f" {max(readings['foreign']):.0%} |"
        )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _run(command: str) -> dict[str, Any]:
    """Run a contestant; return its readings, and the share of the cores that others used meanwhile."""
    busy, own, started = _cpu_seconds(), _children_seconds(), time.perf_counter()
    output = subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, text=True).stdout
    cores = (time.perf_counter() - started) * (psutil.cpu_count() or 1)
    foreign = max(0.0, (_cpu_seconds() - busy - _children_seconds() + own) / cores)
    if not output.lstrip().startswith("["):
        return {**json.loads(output.strip().splitlines()[-1]), "foreign_load": foreign}
    cost = json.loads(output)[0]["costs"][-1]
    readings = {key: cost["metrics"][key]["readings"] for key in ("prefill_tokens_per_s", "decode_tokens_per_s")}
    return {**readings, "foreign_load": cost["foreign_load"]}


def _cpu_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system)


def _children_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


if __name__ == "__main__":
    app()
