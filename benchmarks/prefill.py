"""Time a prompt by the kind of its kernel calls, against the int8 peak, a former library and llama-bench, in turns.

    python benchmarks/prefill.py CHECKPOINT --against _library.abi3.so --bench llama-bench --gguf MODEL.gguf

CHECKPOINT is packed, as `init --preset bitnet-2b-4t --format packed` makes it. Seconds are CPU seconds of the process,
which other programs change little. The former library must have the structs of this one, and give the same bits.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoConfig

from bitnet_bench.backends.ternary.engine import FEW_QUERIES, Batch, Engine, ForwardPlan
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.ternary import kernel

PEAK = r"""
#define LOOP(OP) __asm__ volatile("1:\n" OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11) \
    "dec %0\njnz 1b\n" : "+r"(n) : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
    "xmm10", "xmm11")
#define DOT(i) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #i "\n"
void dots(long n) { LOOP(DOT); }
"""
"""Twelve independent sums, which keep the instruction busy."""
app = typer.Typer(add_completion=False)


def measure_peak() -> float:
    """Return the int8 operations per second of one thread that does nothing but vpdpbusd in 512 bits."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "peak.c"), Path(folder, "peak.so")
        source.write_text(PEAK)
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        dots = ctypes.CDLL(str(library)).dots
        return max(20_000_000 * 12 * 128 / _cpu(dots, ctypes.c_long(20_000_000)) for _ in range(3))


def _cpu(work: Any, *arguments: Any) -> float:
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


def make_plan(engine: Engine, batch: Batch, queries: int | None) -> list[Any]:
    """Return the calls for *batch*, with so many *queries* in a tile of attention; None: the engine's choice."""
    calls: list[Any] = []
    if queries is not None:
        engine._count_queries = lambda tokens: queries  # type: ignore[method-assign]
    else:
        engine.__dict__.pop("_count_queries", None)
    engine._plan = None
    whole = ForwardPlan.__init__

    def make_without_calls(plan: ForwardPlan, *arguments: Any) -> None:
        whole(plan, *arguments)
        calls.extend(plan.calls)
        plan.calls = []

    ForwardPlan.__init__ = make_without_calls  # type: ignore[method-assign]
    try:
        engine.hidden(batch, engine.cache(1, len(batch.ids)))
    finally:
        ForwardPlan.__init__ = whole  # type: ignore[method-assign]
    return calls


def run_calls(calls: list[Any], library: Any) -> Counter[str]:
    """Return the CPU seconds of each kind of call."""
    spent: Counter[str] = Counter()
    gc.collect()
    for function, arguments in calls:
        name = function.__name__
        kind = f"{arguments[2]._obj.columns} -> {sum(p.rows for p in arguments[0])}" if name == "bb_linear" else name
        spent[kind] += _cpu(getattr(library, name), *arguments)
    return spent


def count_operations(calls: list[Any]) -> int:
    """Return the int8 operations of all products."""
    products = [arguments for function, arguments in calls if function.__name__ == "bb_linear"]
    return sum(2 * a[2]._obj.tokens * a[2]._obj.columns * sum(p.rows for p in a[0]) for a in products)


def time_peer(bench: str, gguf: Path, tokens: int) -> float:
    """Return the CPU seconds of one prompt in llama-bench: three repetitions less one, without what loading takes."""
    seconds = []
    for repeats in (1, 3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [bench, "-m", str(gguf), "-p", str(tokens), "-n", "0", "-t", "1", "-r", str(repeats), "-fa", "1"]
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return (seconds[1] - seconds[0]) / 2


@app.command()
def main(
    checkpoint: Path,
    against: Path | None = None,
    bench: str = "",
    gguf: Annotated[Path, typer.Option(help="model of --bench")] = Path(),
    tokens: int = 512,
    rounds: int = 3,
) -> None:
    """Alternate the contestants on one thread, and print the least CPU seconds of each."""
    torch.set_num_threads(1)
    gc.disable()
    library: Any = kernel.load_library()
    contestants = {"this library": (library, None)}
    if against:
        former = ctypes.CDLL(str(against))
        former.bb_linear.argtypes = library.bb_linear.argtypes
        contestants["former library"] = (former, FEW_QUERIES)
    engine = Engine(Weights(inspect_folder(checkpoint)), AutoConfig.from_pretrained(checkpoint))
    ids = torch.randint(0, engine.config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0))
    batch, least, hidden = Batch.from_sequences([ids.tolist()]), dict[str, Counter[str]](), []
    peer, peak, operations = float("inf"), 0.0, 0
    for _ in range(rounds):
        peak = max(peak, measure_peak())
        for name, (which, queries) in contestants.items():
            calls = make_plan(engine, batch, queries)
            operations, spent = count_operations(calls), run_calls(calls, which)
            hidden.append(engine._plan[1].hidden.clone() if engine._plan else None)
            if not torch.equal(hidden[0], hidden[-1]):
                raise AssertionError(f"{name} gives other bits")
            least[name] = Counter({k: min(s, least.get(name, spent)[k]) for k, s in spent.items()})
        peer = min(peer, time_peer(bench, gguf, tokens)) if bench else peer
    print(f"int8 peak {peak / 1e9:.0f} GOP/s, load {os.getloadavg()[0]:.1f}")
    for name, spent in least.items():
        total = sum(spent.values())
        products = sum(seconds for kind, seconds in spent.items() if "->" in kind)
        shares = operations / total / peak, operations / products / peak
        print(f"{name}: {total:.2f} s, {shares[0]:.0%} of the peak, its products {shares[1]:.0%}")
        print({kind: round(seconds, 3) for kind, seconds in spent.items()})
        if bench:
            print(f"  {peer / total:.2f} times as fast as {bench} ({peer:.2f} s)")


if __name__ == "__main__":
    app()
