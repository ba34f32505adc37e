"""The GPU engine's kernels in Triton's interpreter, on the CPU, against the CPU engine, for every architecture."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model
from bitnet_bench.checkpoints.saving import save_checkpoint
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.ternary import kernel

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here"),
]
COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bitnet": {"model_type": "bitnet", "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "qwen3": {
        "model_type": "qwen3",
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "attention_bias": True,
        "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64},
    },
}


@pytest.fixture(params=["bitnet", pytest.param("qwen3", marks=pytest.mark.slow)])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A ternary random checkpoint of each architecture; norms and biases are random too."""
    torch.manual_seed(0)
    fields = COMMON | ARCHITECTURES[request.param]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand_like(parameter) + (0.5 if "norm" in name else -0.5))
    model.save_pretrained(tmp_path / "float")
    save_checkpoint(
        load_model(inspect_folder(tmp_path / "float"), "train", "ternary"),
        tmp_path / "ternary",
        "autobitlinear",
        "float32",
    )
    return tmp_path / "ternary"


# the interpreter is chosen when a kernel is defined, so it has a process of its own
COMPARE = """
import sys
from pathlib import Path
import torch
from transformers import AutoConfig
from bitnet_bench.backends.ternary.gpu_engine import GpuEngine, SlotGraphs
from bitnet_bench.backends.ternary.gpu_inference import GpuTernarySession
from bitnet_bench.backends.ternary.inference import TernarySession
from bitnet_bench.machine.gpu import Gpu
from bitnet_bench.protocols import sort_answers
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.backends.ternary.engine import Batch, Engine
from bitnet_bench.checkpoints.weights import Weights

folder, device, dtype = Path(sys.argv[1]), torch.device(sys.argv[2]), getattr(torch, sys.argv[3])
config = AutoConfig.from_pretrained(folder)
generator = torch.Generator().manual_seed(1)

def sequences(*lengths):
    return [torch.randint(0, config.vocab_size, (n,), generator=generator).tolist() for n in lengths]

def logits(engine, batch, cache):
    return engine.logits(engine.hidden(batch, cache)).cpu()

class Words:
    eos_token_id, name_or_path = -1, "words"
    def decode(self, ids, **_):
        return " ".join(map(str, ids))

def compare(what, a, b):
    print(what, (a - b).abs().max().item() / a.abs().max().item())

with torch.inference_mode():
    cpu = Engine(Weights(inspect_folder(folder)), config)
    gpu = GpuEngine(Weights(inspect_folder(folder)), config, device, dtype)
    assert gpu.weights_by_kind.keys() == cpu.weights_by_kind.keys()
    caches = [engine.cache(3, 16) for engine in (cpu, gpu)]
    prompts, lengths = sequences(2, 6, 1), [2, 6, 1]
    compare("prefill", *(logits(e, Batch.from_sequences(prompts), c) for e, c in zip((cpu, gpu), caches)))
    branches = Batch.from_sequences(sequences(2, 1), [6, 2])
    compare("branches", *(logits(e, branches, c.copy_slots([1, 0], 16)) for e, c in zip((cpu, gpu), caches)))
    slots = SlotGraphs(gpu, 3, 16)
    on_gpu = device.type == "cuda"  # the interpreter takes half a second for each product, and has no graphs
    for _ in range(3 if on_gpu else 1):  # eager, captured, replayed
        slots.prefill(prompts)
    found = logits(cpu, Batch.from_sequences(prompts), caches[0])[torch.tensor(lengths).cumsum(0) - 1]
    for step in range(3):
        # what was chosen on the GPU is as good as the best on the CPU
        chosen = found.gather(1, slots.tokens.cpu()[:, None])[:, 0]
        compare("step", found.max(-1).values, chosen)
        places = torch.arange(3, dtype=torch.int32), torch.tensor(slots.lengths, dtype=torch.int32)
        found = logits(cpu, Batch(slots.tokens.cpu(), *places), caches[0])
        slots.step()
    session = GpuTernarySession(gpu, Words(), Gpu(0, "a card", (9, 0), 2**30, 2**30))
    asked = [([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([7, 8], [9, 10, 11])]
    wanted, found = (sort_answers(s.loglikelihood(asked)) for s in (TernarySession(cpu, Words()), session))
    compare("scores", torch.tensor([score for score, _ in wanted]), torch.tensor([score for score, _ in found]))
    prompts, new = (prompts, 3) if on_gpu else (prompts[1:], 2)
    alone = [sort_answers(session.generate([prompt], new, []))[0] for prompt in prompts]
    print("texts", float(sort_answers(session.generate(prompts, new, [])) != alone))
"""
LARGEST_DIFFERENCE = {"float32": 0.02, "bfloat16": 0.08}
"""Of the largest logit: one code of an activation that rounds the other way moves a logit by about a hundredth."""


PARTS = ("prefill", "branches", "step", "step", "step", "scores", "texts")


def compare(checkpoint: Path, device: str, dtype: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(checkpoint), device, dtype],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*PARTS], done.stderr[-2000:]
    assert max(float(line.split()[1]) for line in lines) < LARGEST_DIFFERENCE[dtype], done.stdout


def test_the_interpreted_engine_agrees_with_the_cpu_engine(checkpoint: Path) -> None:
    """Prompts side by side, branches after copies of them, greedy steps with a slot's keys split; and the session."""
    compare(checkpoint, "cpu", "float32", {"TRITON_INTERPRET": "1"})


@pytest.mark.skipif(find_gpu() is None, reason="there is no GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_on_a_gpu_agrees_with_the_cpu_engine(checkpoint: Path, dtype: str) -> None:
    """Compiled kernels and CUDA graphs give what the CPU gives, up to the order of float sums."""
    compare(checkpoint, "cuda", dtype, {})
