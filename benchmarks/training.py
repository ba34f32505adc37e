"""Time an optimizer step of a ternary 125M-shaped Llama against the plain model and two other ternary layers.

python benchmarks/training.py speed          # alternating steps, pair by pair
python benchmarks/training.py memory         # peak of each in a process of its own
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # AutoBitLinear's quantizers would need minutes and a compiler

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bitnet_bench.ternary.linear import find_bit_linears, find_ternary_targets, make_trainable_ternary
from bitnet_bench.ternary.quantizer import quantize_activations, ternarize
from bitnet_bench.training.loss import response_loss

BATCH, LENGTH = 8, 256
VARIANTS = ("plain", "ternary", "faq", "autobitlinear")


class FaqBitLinear(nn.Linear):
    """The layer of Microsoft's b1.58 FAQ: plain PyTorch, both quantizers straight-through by `detach`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., N]."""
        scale = 127.0 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        x_quant = x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()
        gamma = 1.0 / self.weight.abs().mean().clamp(min=1e-5)
        w_quant = self.weight + ((self.weight * gamma).round().clamp(-1, 1) / gamma - self.weight).detach()
        return nn.functional.linear(x_quant, w_quant, self.bias)


def build(variant: str) -> Any:
    """Return the model; every variant begins with the same masters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if variant == "ternary":
        make_trainable_ternary(model)
    elif variant == "faq":
        for layer in find_ternary_targets(model).values():
            layer.__class__ = FaqBitLinear
    elif variant == "autobitlinear":
        from transformers.integrations.bitnet import AutoBitLinear

        for name, layer in find_ternary_targets(model).items():
            made = AutoBitLinear(layer.in_features, layer.out_features, bias=False, online_quant=True)
            made.weight = layer.weight
            model.set_submodule(name, made)
    return model.train()


def stepper(variant: str, dtype: str) -> Callable[[], float]:
    """Return what takes one optimizer step and returns its mean loss."""
    model = build(variant)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, 32000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "labels": ids}

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else nullcontext():
            total, count = response_loss(model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        return total.item() / count

    return step


def check_exact(model: Any) -> None:
    """Stop if a ternary layer is anything but integers times one scale."""
    name, layer = next(iter(find_bit_linears(model).items()))
    x = torch.randn(5, layer.in_features)
    (q, step), (codes, gamma) = quantize_activations(x), ternarize(layer.weight)
    expected = (q.long() @ codes.long().T).float() * (step * gamma)
    if not torch.equal(layer(x), expected):
        raise SystemExit(f"{name} is not exactly ternary")


def speed(rounds: int) -> None:
    """Print the ratio of each variant's step to the plain one of the same dtype, steps alternating."""
    check_exact(build("ternary"))
    print(
        f"{torch.get_num_threads()} threads, batch {BATCH} x {LENGTH}, {rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    print("| dtype | layer | step, s | plain step, s | ratio | least | most | first loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for dtype in ("fp32", "bf16"):
        for variant in VARIANTS[1:]:
            ours, plain = stepper(variant, dtype), stepper("plain", dtype)
            first = ours()
            plain()
            times = [(timed(ours), timed(plain)) for _ in range(rounds)]
            ratios = [a / b for a, b in times]
            a, b = (statistics.median(column) for column in zip(*times, strict=True))
            print(
                f"| {dtype} | {variant} | {a:.2f} | {b:.2f} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | "
                f"{max(ratios):.2f} | {first:.4f} |",
                flush=True,
            )


def timed(step: Callable[[], float]) -> float:
    """Return how long one call takes, in seconds."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_bytes() -> int:
    """Return the greatest resident memory that this process has had."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def memory_of(variant: str, dtype: str) -> None:
    """Print the peak over what importing took, in MiB, of three steps in this process."""
    before = peak_bytes()
    step = stepper(variant, dtype)
    for _ in range(3):
        step()
    print((peak_bytes() - before) >> 20)


def memory() -> None:
    """Print the peak of each variant, measured in a process of its own."""
    print("| dtype | layer | peak, MiB | to plain |")
    print("| --- | --- | --- | --- |")
    for dtype in ("fp32", "bf16"):
        peaks = {}
        for variant in VARIANTS:
            command = [sys.executable, __file__, "memory", "--one", variant, dtype]
            peaks[variant] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"| {dtype} | {variant} | {peaks[variant]} | {peaks[variant] / peaks['plain']:.2f} |", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "DTYPE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        memory_of(*given.one)
    elif given.what == "memory":
        memory()
    else:
        speed(given.rounds)


if __name__ == "__main__":
    main()
