"""Time an optimizer step of a ternary 125M-shaped Llama against the plain model and two other ternary layers.

python benchmarks/training.py speed          # alternating steps, pair by pair
python benchmarks/training.py memory         # peak of each in a process of its own

And whole jobs on a real model against an earlier commit, or a folder with one, on the same rows:

python benchmarks/training.py gemma --model DIR --against REV --data-dir DIR --text raw.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # AutoBitLinear's quantizers would need minutes and a compiler

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bitnet_bench.ternary.linear import find_bit_linears, find_ternary_targets, make_trainable_ternary
from bitnet_bench.ternary.quantizer import quantize_activations, ternarize
from bitnet_bench.training.loss import response_loss

BATCH, LENGTH = 8, 256
TREE = Path(__file__).parents[1]
FIRST_LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}
"""Largest relative difference of the first loss, which both compute of the same weights."""
LATER_LOSS_TOLERANCE = 2e-2
"""The same of later losses of a float model; a ternary one rounds, so that two runs soon differ by more."""
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


def gemma_jobs(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the settings of the jobs that are compared, by name."""
    rows = {"data": ["klue:ynat"], "limit": 200, "batch_size": BATCH}
    texts = {"data": [given.text], "method": "pretrain", "batch_size": 2, "max_length": 512}
    taught = {**rows, "method": "distill", "teacher": given.model}
    frozen = {"freeze": ["embeddings"]}
    jobs = {
        "sft": rows, "sft, frozen embeddings": {**rows, **frozen},
        "pretrain": texts, "pretrain, frozen embeddings": {**texts, **frozen},
        "distill": taught, "distill, frozen embeddings": {**taught, **frozen},
    }  # fmt: skip
    common = {"model": given.model, "max_steps": given.steps, "learning_rate": 1e-5, "schedule": "constant"}
    common |= {"data_dir": given.data_dir, "track": [], "save_minutes": 0, "precision": given.precision}
    wanted = {name: job for name, job in jobs.items() if name in (given.job or jobs) and job["data"] != [None]}
    return {name: {**common, **job} for name, job in wanted.items()}


@contextmanager
def checked_out(against: str) -> Iterator[Path]:
    """Give the folder of the other commit: *against* itself, or a worktree for as long as it is needed."""
    if Path(against).is_dir():
        yield Path(against).resolve()
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", str(folder), against], cwd=TREE, check=True)
        try:
            for library in (TREE / "bitnet_bench/ternary/kernel").glob("_library*"):
                shutil.copy(library, folder / "bitnet_bench/ternary/kernel")
            yield folder
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=TREE, check=True)


def run_job(settings: dict[str, Any]) -> None:
    """Run a job with the package that is first on the path; print what its steps took and gave, as JSON."""
    from bitnet_bench.runs.jobs import FinetuneJob
    from bitnet_bench.training.finetune import finetune
    from bitnet_bench.training.trainer import BenchTrainer

    marks: list[float] = []
    tokens: list[int] = []
    peak = 0
    record_micro_batch = BenchTrainer.record_micro_batch

    def count_tokens(self: Any, loss: Any, count: Any, inputs: Any, figures: Any) -> None:
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        tokens.append(int(mask.sum()))
        record_micro_batch(self, loss, count, inputs, figures)

    @contextmanager
    def display(title: str) -> Iterator[Callable[..., None]]:
        def progress(_done: int, total: int, _note: str = "") -> None:
            nonlocal peak
            if title.split()[0] in {"fine-tune", "pre-train", "distill"} and total == settings["max_steps"]:
                marks.append(time.process_time())
                peak = peak_bytes()

        yield progress

    BenchTrainer.record_micro_batch = count_tokens  # type: ignore[method-assign]
    began = peak_bytes()
    with tempfile.TemporaryDirectory() as out:
        record = finetune(FinetuneJob.model_validate({**settings, "out": str(Path(out) / "run")}), steps=display)
    seconds = [b - a for a, b in pairwise(marks)][: settings["max_steps"] - 1]
    losses = [point["loss"] for point in record.history]
    print(json.dumps({"seconds": seconds, "tokens": sum(tokens[1:]), "peak": peak, "began": began, "losses": losses}))


def run_elsewhere(tree: Path, settings: dict[str, Any], threads: int) -> dict[str, Any]:
    """Return what `run_job` prints in a process that imports the package from *tree*."""
    environment = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "gemma", "--settings", json.dumps(settings)]
    said = subprocess.run(command, cwd=tree, env={**os.environ, **environment}, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def check_losses(job: dict[str, Any], ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Return the relative differences of the first loss and the largest of all; stop if they are not equal."""
    apart = [abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)]
    is_float = job["precision"] == "fp16"
    if apart[0] > FIRST_LOSS_TOLERANCE[job["compute"]] or (is_float and max(apart) > LATER_LOSS_TOLERANCE):
        raise SystemExit(f"losses of {job} differ: {ours} and {theirs}")
    return apart[0], max(apart)


def gemma(given: argparse.Namespace) -> None:
    """Print the CPU time, tokens/s and peak memory of each job here and in the other commit, taking turns."""
    print(f"{given.threads} threads, {given.precision}, {given.steps} steps, load {os.getloadavg()[0]:.1f}")
    print(
        "| job | compute | CPU s a step, then | now | tokens a CPU s, then | now | ratio | peak MiB, then | now ",
        end="",
    )
    print("| first loss apart | most |\n|" + " --- |" * 11)
    with checked_out(given.against) as other:
        for name, settings in gemma_jobs(given).items():
            for compute in given.compute:
                job = {**settings, "compute": compute}
                found: list[dict[str, Any]] = [{}, {}]
                for _ in range(given.rounds):
                    for i, tree in enumerate((other, TREE)):
                        one = run_elsewhere(tree, job, given.threads)
                        found[i] = {**one, "seconds": found[i].get("seconds", []) + one["seconds"]}
                then, now = (statistics.median(one["seconds"]) for one in found)
                rates = [given.rounds * one["tokens"] / sum(one["seconds"]) for one in found]
                apart = check_losses(job, found[1]["losses"], found[0]["losses"])
                peaks = [one["peak"] >> 20 for one in found]
                print(
                    f"| {name} | {compute} | {then:.2f} | {now:.2f} | {rates[0]:.0f} | {rates[1]:.0f} | "
                    f"{then / now:.2f} | {peaks[0]} | {peaks[1]} | {apart[0]:.1e} | {apart[1]:.1e} |",
                    flush=True,
                )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "gemma"])
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "DTYPE"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help="gemma: a checkpoint folder")
    parser.add_argument("--against", help="gemma: a commit, or a folder with one")
    parser.add_argument("--data-dir", help="gemma: a folder with the rows of klue:ynat")
    parser.add_argument("--text", help="gemma: a JSONL file of raw text, for pre-training")
    parser.add_argument("--job", action="append", help="gemma: this job alone; repeatable")
    parser.add_argument("--compute", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--precision", default="ternary", choices=["ternary", "fp16"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        memory_of(*given.one)
    elif given.settings:
        run_job(given.settings)
    elif given.what == "gemma":
        given.rounds = given.rounds or 1
        gemma(given)
    elif given.what == "memory":
        memory()
    else:
        speed(given.rounds or 10)


if __name__ == "__main__":
    main()
