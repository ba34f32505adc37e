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
from torch import Tensor
from transformers import AutoConfig

from bitnet_bench.backends.ternary.engine import Batch, Engine
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.kernel.forward import MLP_TOKENS_AT_ONCE

PEAK = r"""
#define LOOP(OP) __asm__ volatile("1:\n" OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11) \
    "dec %0\njnz 1b\n" : "+r"(n) : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
    "xmm10", "xmm11")
#define DOT(i) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #i "\n"
void dots(long n) { LOOP(DOT); }
"""
"""Twelve independent sums, which keep the instruction busy."""
buffers: list[Any] = []
"""What the calls point to."""
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


def list_calls(engine: Engine, ids: Tensor) -> tuple[list[Any], Tensor]:
    """Return the steps of the prompt *ids* as calls of their own, and what they turn into the last hidden states."""
    tokens, config, heads = len(ids), engine.config, engine.heads * engine.dimension
    cache, most = engine.cache(1, tokens), min(tokens, MLP_TOKENS_AT_ONCE)
    engine.grow_angles(tokens)
    hidden: Tensor = engine.embedding[ids].float()
    qkv = torch.empty(tokens, heads + 2 * engine.kv_heads * engine.dimension)
    attended, gate_up = torch.empty(tokens, heads), torch.empty(most, 2 * config.intermediate_size)
    wide, headed = engine.make_rows(tokens, config.hidden_size), engine.make_rows(tokens, heads)
    gated = engine.make_rows(most, config.intermediate_size)
    where = torch.zeros(tokens).int(), torch.arange(tokens).int(), torch.empty(tokens, 2).int()
    calls: list[Any] = []
    for i, layer in enumerate(engine.layers):
        if layer.attention_out_norm or layer.mlp_out_norm:
            raise typer.BadParameter("models that normalize what their layers add are not timed by step here")
        calls += [
            kernel.rows_call(hidden, wide, norm=layer.input_norm),
            layer.qkv.call(wide, qkv),
            kernel.attention_call(
                qkv,
                attended,
                where,
                (cache.keys[i], cache.values[i], cache.capacity),
                (layer.rotary.cosines, layer.rotary.sines),
                (layer.query_norm, layer.key_norm, engine.epsilon),
                (engine.heads, engine.kv_heads, engine.dimension),
                scale=engine.score_scale,
                window=layer.window,
            ),
            kernel.rows_call(attended, headed, norm=layer.attention_norm),
            layer.out.call(headed, hidden, add=True),
        ]
        for start in range(0, tokens, most):
            part = hidden[start : start + most]
            few, half, rows = gate_up[: len(part)], gated.first(len(part)), wide.first(len(part))
            calls += [
                kernel.rows_call(part, rows, norm=layer.mlp_norm),
                layer.gate_up.call(rows, few),
                kernel.rows_call(few, half, norm=layer.gated_norm, activation=engine.activation),
                layer.down.call(half, part, add=True),
            ]
    calls.append(kernel.rows_call(hidden, None, norm=engine.final_norm, y=hidden))
    buffers.append((cache, qkv, attended, gate_up, wide, headed, gated, where))
    return calls, hidden


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
    contestants = {"this library": library}
    if against:
        former = ctypes.CDLL(str(against))
        former.bb_linear.argtypes = library.bb_linear.argtypes
        contestants["former library"] = former
    engine = Engine(Weights(inspect_folder(checkpoint)), AutoConfig.from_pretrained(checkpoint))
    ids = torch.randint(0, engine.config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0))
    least: dict[str, Counter[str]] = {}
    expected, whole = engine.hidden(Batch.from_sequences([ids.tolist()]), engine.cache(1, tokens)), float("inf")
    peer, peak, operations = float("inf"), 0.0, 0
    for _ in range(rounds):
        peak = max(peak, measure_peak())
        whole = min(whole, _cpu(engine.hidden, Batch.from_sequences([ids.tolist()]), engine.cache(1, tokens)))
        for name, which in contestants.items():
            buffers.clear()
            calls, hidden = list_calls(engine, ids)
            operations, spent = count_operations(calls), run_calls(calls, which)
            if not torch.equal(hidden, expected):
                raise AssertionError(f"{name} gives other bits")
            least[name] = Counter({k: min(s, least.get(name, spent)[k]) for k, s in spent.items()})
        peer = min(peer, time_peer(bench, gguf, tokens)) if bench else peer
    print(f"int8 peak {peak / 1e9:.0f} GOP/s, load {os.getloadavg()[0]:.1f}, all layers in one call {whole:.2f} s")
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
