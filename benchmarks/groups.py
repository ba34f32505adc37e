"""Time the kernel with a scale per group beside the one with a scale per layer, in alternating runs.

    python benchmarks/groups.py layer
    python benchmarks/groups.py decode

`--cpu-time` counts the seconds that the process ran instead of those that went by, with one thread, on a machine that
others use too.

Both multiply the matrices of bitnet-b1.58-2B-4T; answers are compared with the formula before they are timed. `decode`
reads all layers and the head once per token; reading as many bytes takes turns with it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import psutil
import torch
import typer
from torch import Tensor

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.groups import DIGITS, multiply_float, multiply_int8, quantize_activation_groups
from bitnet_bench.ternary.panels import scales_to_panels, to_panels
from bitnet_bench.ternary.quantizer import quantize_activations

HIDDEN, WIDE, KV, LAYERS, VOCABULARY = 2560, 6912, 640, 30, 128256
SHAPES = ((HIDDEN + 2 * KV, HIDDEN), (HIDDEN, HIDDEN), (2 * WIDE, HIDDEN), (HIDDEN, WIDE))
"""Rows and columns of the four products of a layer: q, k and v; o; gate and up; down."""
TOKENS = (1, 8, 128, 512)
COPIES = 24
"""Layers in turn, so that weights come from memory and not from cache."""
CHECKED_ROWS = 48
app = typer.Typer(add_completion=False)
Product = Callable[[int], object]
Clock = Callable[[], float]


def random_layer(rows: int, columns: int, group: int) -> tuple[Tensor, Tensor]:
    """Return codes and scales of groups that float16 holds."""
    random = torch.Generator().manual_seed(rows)
    codes = torch.randint(-1, 2, (rows, columns), generator=random, dtype=torch.int8)
    return codes, torch.rand(rows, columns // group, generator=random).half() + 0.5


def one_scale(codes: Tensor, x: Tensor) -> tuple[Product, int]:
    """Return the kernel with one scale per layer on the i-th copy, and the bytes of its weights."""
    rows, y = kernel.QuantizedRows.empty(*x.shape), torch.empty(len(x), len(codes))
    kernel.quantize_rows(x, len(x), rows)
    copies = [to_panels(codes) for _ in range(COPIES)]
    layers = [kernel.JoinedLayers([(panels, 1.0, len(codes), None)], codes.shape[1]) for panels in copies]
    layers[0](rows, len(x), y)
    q, step = quantize_activations(x[:CHECKED_ROWS])
    _check(y[:CHECKED_ROWS], (q.float() @ codes.float().t()) * step)
    return lambda i: layers[i](rows, len(x), y), copies[0].numel()


def with_groups(codes: Tensor, scales: Tensor, x: Tensor, *, int8: bool) -> tuple[Product, int]:
    """Return the kernel with a scale per group on the i-th copy, and the bytes of its codes and scales."""
    group, y = codes.shape[1] // scales.shape[1], torch.empty(len(x), len(codes))
    rows = kernel.QuantizedRows.empty(len(x), x.shape[1], group, 1 if int8 else DIGITS)
    kernel.quantize_rows(x, len(x), rows)
    copies = [(to_panels(codes), scales_to_panels(scales)) for _ in range(COPIES)]
    layers = [kernel.JoinedLayers([(*copy, len(codes), None)], codes.shape[1]) for copy in copies]
    layers[0](rows, len(x), y)
    some = x[:CHECKED_ROWS]
    expected = (
        multiply_int8(*quantize_activation_groups(some, group), codes, scales)
        if int8
        else multiply_float(some, codes, scales)
    )
    _check(y[: len(expected)], expected)
    return lambda i: layers[i](rows, len(x), y), copies[0][0].numel() + 2 * copies[0][1].numel()


def _check(found: Tensor, expected: Tensor) -> None:
    if not torch.equal(found, expected):
        raise AssertionError("the kernel is wrong")


def alternate(works: dict[str, Product], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Return the seconds of a call of each of *works*, a mean over the copies in each round; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        spent = dict.fromkeys(works, 0.0)
        for i in range(COPIES):
            for name, work in works.items():
                started = clock()
                work(i)
                spent[name] += clock() - started
        for name, total in spent.items():
            seconds[name].append(total / COPIES)
    return seconds


def describe_load() -> str:
    """Return the load of the last minute, this process included."""
    return f"load {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores"


def read_buffers(size: int) -> Product:
    """Return what reads *size* bytes of float32 from the i-th of as many buffers as there are copies."""
    buffers = [torch.ones(size // 4) for _ in range(COPIES)]
    return lambda i: buffers[i].sum()


def _choose_clock(cpu_time: bool, threads: int) -> Clock:
    if cpu_time and threads > 1:
        raise typer.BadParameter("several threads spend their seconds at once", param_hint="--cpu-time")
    return time.thread_time if cpu_time else time.perf_counter


def _multiply_all(products: list[Product], i: int) -> None:
    for product in products:
        product(i)


@app.command()
def layer(
    threads: int = 1,
    rounds: int = 9,
    group: int = 128,
    rows: int = WIDE,
    columns: int = HIDDEN,
    cpu_time: bool = False,
) -> None:
    """One layer: GOP/s of each kernel, the median of alternating rounds, and the share of the one with one scale."""
    torch.set_num_threads(threads)
    codes, scales = random_layer(rows, columns, group)
    print(
        f"threads {threads}, path {kernel.get_instruction_set()}, groups of {group}, load {psutil.getloadavg()[0]:.1f}"
    )
    for tokens in TOKENS:
        x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(0))
        works = {
            "one scale": one_scale(codes, x)[0],
            "int8": with_groups(codes, scales, x, int8=True)[0],
            "float": with_groups(codes, scales, x, int8=False)[0],
        }
        found = alternate(works, 3 if tokens == 512 else rounds, _choose_clock(cpu_time, threads))
        seconds = {name: statistics.median(times) for name, times in found.items()}
        ratios = [a / b for a, b in zip(found["one scale"], found["int8"], strict=True)]
        rates = {name: f"{2e-9 * tokens * rows * columns / s:.0f}" for name, s in seconds.items()}
        print(f"M={tokens}", rates, f"int8 at {statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})")


@app.command()
def decode(threads: int = 2, rounds: int = 7, group: int = 128, cpu_time: bool = False) -> None:
    """All matrices of a token, one row each: milliseconds, and the share of the floor that memory sets."""
    torch.set_num_threads(threads)
    sizes: dict[str, int] = {}
    works: dict[str, Product] = {}
    for kind in ("one scale", "int8", "float"):
        products: list[Product] = []
        size = 0
        for rows, columns in (*SHAPES, (VOCABULARY // COPIES // 16 * 16, HIDDEN)):
            codes, scales = random_layer(rows, columns, group)
            x = torch.randn(1, columns, generator=torch.Generator().manual_seed(0))
            work, held = (
                one_scale(codes, x) if kind == "one scale" else with_groups(codes, scales, x, int8=kind == "int8")
            )
            products.append(work)
            size += held
        works[kind] = partial(_multiply_all, products)
        sizes[kind] = size
    works["read"] = read_buffers(sizes["int8"])
    found = alternate(works, rounds, _choose_clock(cpu_time, threads))
    reads = found.pop("read")
    print(f"threads {threads}, reads {sizes['int8'] / statistics.median(reads) / 1e9:.1f} GB/s, {describe_load()}")
    for kind, times in found.items():
        share = [sizes[kind] / sizes["int8"] * read / own for read, own in zip(reads, times, strict=True)]
        print(
            f"{kind}: {statistics.median(times) * COPIES * 1e3:.1f} ms for {sizes[kind] * COPIES / 1e6:.0f} MB, "
            f"{statistics.median(share):.0%} of the floor ({min(share):.0%} to {max(share):.0%})"
        )


if __name__ == "__main__":
    app()
