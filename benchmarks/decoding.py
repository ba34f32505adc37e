"""Set a model of what a decoded token costs beside the measured time, for contexts, batches and threads.

    python benchmarks/decoding.py CHECKPOINT --threads 1 --threads 2 --context 128 --batch 1 --batch 32

The model takes the larger of two times for the layers' weights and for the head: that of reading their bytes, at the
bandwidth at which the same threads read memory in the same round, and that of their operations, at the rate of the
products of one layer, and of a piece of the head that a cache holds, in the same round. Keys and values are read:

    s = max(codes / bandwidth, batch x 2 x weights / rate) + max(head / bandwidth, batch x 2 x head / its rate)
        + batch x context x keys and values / bandwidth

Caches are filled with random numbers: the time does not depend on values, and tests/ternary/test_long_contexts.py
compares attention with float64 in many shapes. Steps are compared with those on one thread before they are timed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bitnet_bench.backends.ternary.engine import Batch, Engine
from bitnet_bench.checkpoints.building import load_config_object
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.weights import Weights

READ_BYTES = 1 << 28
app = typer.Typer(add_completion=False)


def measure_seconds(work: Callable[[], object]) -> float:
    """Return how long *work* takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Decoder:
    """An engine that decodes one token for each of *batch* sequences of *context* positions."""

    def __init__(self, engine: Engine, context: int, batch: int) -> None:
        """Fill the cache with random numbers."""
        self.engine = engine
        self.cache = engine.cache(batch, context + 1)
        for tensor in (*self.cache.keys, *self.cache.values):
            tensor.copy_(torch.randn(1).expand_as(tensor) if tensor.numel() > READ_BYTES else torch.randn(tensor.shape))
        ids = torch.arange(batch) % 100 + 3
        slots = torch.arange(batch, dtype=torch.int32)
        self.batch = Batch(ids, slots, torch.full((batch,), context, dtype=torch.int32))

    def decode(self) -> Any:
        """Compute the logits of one token of every sequence; the position is written again each time."""
        return self.engine.logits(self.engine.hidden(self.batch, self.cache))


def estimate_seconds(engine: Engine, context: int, batch: int, bandwidth: float) -> float:
    """Return what one step costs by the model; see the module's text."""
    kinds, table = engine.weights_by_kind, engine.head_table
    codes = sum(size for kind, size in kinds.items() if kind.startswith("ternary"))
    layers = max(codes / bandwidth, batch * 2 * 4 * codes / read_rate(engine))
    head = max(table.nbytes / bandwidth, batch * 2 * table.numel() / read_head_rate(engine, batch))
    return layers + head + batch * context * engine.kv_bytes / bandwidth


def read_rate(engine: Engine, tokens: int = 32) -> float:
    """Return operations a second of the largest product of the first layer for *tokens* tokens."""
    from bitnet_bench.ternary import kernel

    product = engine.layers[0].gate_up
    x, y = torch.randn(tokens, product.columns), torch.empty(tokens, product.rows)
    rows = engine.make_rows(tokens, product.columns)
    kernel.quantize_rows(x, tokens, rows)
    best = min(measure_seconds(lambda: product(rows, tokens, y)) for _ in range(5))
    return 2 * tokens * product.columns * product.rows / best


def read_head_rate(engine: Engine, tokens: int) -> float:
    """Return operations a second of the head's product for *tokens* tokens, of rows that a cache holds."""
    from bitnet_bench.ternary import kernel

    rows = max(64, (1 << 19) // engine.head_table.shape[1] // 64 * 64)
    table = engine.head_table[:rows].clone()
    x, y = torch.randn(tokens, table.shape[1]), torch.empty(tokens, len(table))
    best = min(measure_seconds(lambda: kernel.multiply_head(table, x, y)) for _ in range(5))
    return 2 * tokens * table.numel() / best


@app.command()
def run(
    checkpoint: Path,
    threads: Annotated[list[int], typer.Option()] = [1, 2],  # noqa: B006 - Typer's custom
    context: Annotated[list[int], typer.Option()] = [128, 1024, 4096, 8192],  # noqa: B006
    batch: Annotated[list[int], typer.Option()] = [1, 4, 32],  # noqa: B006
    kv_cache: str = "exact",
    rounds: int = 5,
    most_gb: Annotated[float, typer.Option(help="Skip shapes whose cache is larger")] = 4.0,
) -> None:
    """Print milliseconds a step: by the model, measured (least and median of the rounds), and the ratio."""
    found = open_checkpoint(str(checkpoint))
    dtype = torch.bfloat16 if kv_cache == "bf16" else torch.float32
    engine = Engine(Weights(found), load_config_object(found.path), cache_dtype=dtype)
    data = torch.ones(READ_BYTES // 4)
    print("load before:", os.getloadavg())
    print("| threads | context | batch | GB/s read | model ms | least ms | median ms | least / model |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with torch.inference_mode():
        for positions, sequences in ((c, b) for c in context for b in batch):
            if sequences * positions * engine.kv_bytes > most_gb * 1e9:
                continue
            decoder = Decoder(engine, positions, sequences)
            torch.set_num_threads(1)
            expected = decoder.decode().clone()
            for count in threads:
                torch.set_num_threads(count)
                torch.testing.assert_close(decoder.decode(), expected, rtol=1e-3, atol=1e-3)
                readings, bandwidths = [], []
                for _ in range(rounds):
                    readings.append(measure_seconds(decoder.decode))
                    bandwidths.append(READ_BYTES / measure_seconds(data.sum))
                modelled = estimate_seconds(engine, positions, sequences, max(bandwidths))
                print(
                    f"| {count} | {positions:,} | {sequences} | {max(bandwidths) / 1e9:.1f} | {modelled * 1e3:.2f} |"
                    f" {min(readings) * 1e3:.2f} | {statistics.median(readings) * 1e3:.2f} |"
                    f" {min(readings) / modelled:.2f} |",
                    flush=True,
                )
    print("load after:", os.getloadavg())


if __name__ == "__main__":
    app()
