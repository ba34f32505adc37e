"""The GPU engine's kernels in Triton's interpreter, on the CPU, against the CPU engine, for every architecture."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_bench.ternary import kernel
from tests.ternary.test_engine import ARCHITECTURES, checkpoint

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(kernel.library() is None, reason="the CPU kernel is not built here"),
]
__all__ = ["ARCHITECTURES", "checkpoint"]

# the interpreter is chosen when a kernel is defined, so it has a process of its own
COMPARE = """
import sys
from pathlib import Path
import torch
from transformers import AutoConfig
from bitnet_bench.backends.ternary.gpu_engine import DecodingGraph, GpuEngine
from bitnet_bench.ternary.checkpoint import inspect
from bitnet_bench.ternary.engine import Batch, Engine
from bitnet_bench.ternary.reading import Weights

folder = Path(sys.argv[1])
config, device = AutoConfig.from_pretrained(folder), torch.device("cpu")
generator = torch.Generator().manual_seed(1)

def sequences(*lengths):
    return [torch.randint(0, config.vocab_size, (n,), generator=generator).tolist() for n in lengths]

def far(a, b):
    # one code of an activation that rounds the other way moves a logit by about a hundredth
    return (a - b).abs().max().item() / a.abs().max().item()

with torch.inference_mode():
    cpu = Engine(Weights(inspect(folder)), config)
    gpu = GpuEngine(Weights(inspect(folder)), config, device, torch.float32)
    assert gpu.weights_by_kind.keys() == cpu.weights_by_kind.keys()
    caches = [engine.cache(3, 64) for engine in (cpu, gpu)]
    read = Batch.of(sequences(3, 21, 1))
    on_cpu, on_gpu = (e.logits(e.hidden(read, c)) for e, c in zip((cpu, gpu), caches))
    print("prefill", far(on_cpu, on_gpu))
    branches, past = sequences(2, 1), [21, 3]
    copies = [c.copied([1, 0], 30) for c in caches]
    after = Batch.of(branches, past)
    on_cpu, on_gpu = (e.logits(e.hidden(after, c)) for e, c in zip((cpu, gpu), copies))
    print("branches", far(on_cpu, on_gpu))
    decoding = DecodingGraph(gpu, caches[1])
    tokens, lengths = torch.tensor([5, 6, 7]), [3, 21, 1]
    decoding.start(tokens, lengths)
    slots = torch.arange(3, dtype=torch.int32)
    for step in range(2):
        placed = Batch(tokens, slots, torch.tensor(lengths, dtype=torch.int32) + step)
        logits = cpu.logits(cpu.hidden(placed, caches[0]))
        tokens = logits.argmax(-1)
        decoding.step()
        chosen = logits.gather(1, decoding.tokens[:, None])[:, 0]
        print("decode", ((logits.max(-1).values - chosen).max() / logits.abs().max()).item())
        decoding.tokens.copy_(tokens)
"""
LARGEST_DIFFERENCE = 0.02


def test_the_interpreted_engine_agrees_with_the_cpu_engine(checkpoint: Path) -> None:
    """Prompts side by side, branches after copies of them, and greedy steps with the keys of a slot split."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(checkpoint)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    differences = {float(line.split()[1]) for line in done.stdout.splitlines()}
    assert len(done.stdout.splitlines()) == 4, done.stderr[-2000:]
    assert max(differences) < LARGEST_DIFFERENCE, done.stdout
