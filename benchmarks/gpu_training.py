"""Time the optimizer step of a ternary model against the plain one on a GPU, eager and compiled, answers checked.

python benchmarks/gpu_training.py --eager              # half a minute
python benchmarks/gpu_training.py --compiled           # minutes, most of them compilation
python benchmarks/gpu_training.py --device cpu --tiny  # that the script itself runs
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bitnet_bench.data.collating import LABELLED_KEY, find_labelled_positions
from bitnet_bench.ternary.linear import BitLinear, find_bit_linears, make_trainable_ternary
from bitnet_bench.training.attention import assume_causal
from bitnet_bench.training.loss import response_loss
from bitnet_bench.training.schedule import StepCodes

BATCH, LENGTH, VOCABULARY = 8, 256, 32000
SHAPES = {
    "125M": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "tie_word_embeddings": True,
    },
    "4 layers of 2B-4T": {
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 4,
        "num_attention_heads": 20,
        "num_key_value_heads": 5,
        "tie_word_embeddings": True,
    },
}
TINY = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    }
}


@dataclass(frozen=True)
class Row:
    """The steps of one shape: medians in milliseconds, and their ratio."""

    shape: str
    mode: str
    ternary_ms: float
    plain_ms: float
    ratio: float
    least: float
    most: float
    kernels: str
    """Launches of a ternary and of a plain step and their time on the GPU, where they could be counted."""


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured."""

    device: str
    rounds: int
    steps: int
    batch: int = BATCH
    length: int = LENGTH
    vocabulary: int = VOCABULARY


class Arm:
    """A model with its optimizer, and what takes a step of it."""

    def __init__(self, shape: dict[str, Any], ternary: bool, compiled: bool, setting: Setting) -> None:
        torch.manual_seed(0)
        with torch.device(setting.device):
            self.model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=setting.vocabulary, **shape))
        if ternary:
            make_trainable_ternary(self.model)
        self.model.train()
        assume_causal(self.model, setting.length)
        self.codes = StepCodes(self.model)
        if compiled:
            for layer in self.model.model.layers:
                layer.compile()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        ids = torch.randint(
            0, setting.vocabulary, (setting.batch, setting.length), generator=torch.Generator().manual_seed(1)
        )
        batch = {"input_ids": ids, "labels": ids, LABELLED_KEY: find_labelled_positions(ids)}
        self.batch = {name: tensor.to(setting.device) for name, tensor in batch.items()}
        self.device = torch.device(setting.device).type

    def loss(self) -> Tensor:
        """Return the mean loss, with its graph."""
        self.codes.refresh()
        with torch.autocast(self.device, torch.bfloat16):
            total, count = response_loss(self.model, self.batch)
        return total / count

    def step(self) -> Tensor:
        """Take one optimizer step."""
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def time_steps(arm: Arm, setting: Setting) -> float:
    """Return the milliseconds of one of several steps, waiting for the GPU before the first and after the last."""
    synchronize(setting.device)
    if setting.device == "cpu":
        began = time.perf_counter()
        for _ in range(setting.steps):
            arm.step()
        return 1000 * (time.perf_counter() - began) / setting.steps
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(setting.steps):
        arm.step()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / setting.steps


@contextmanager
def no_waiting(device: str) -> Any:
    """Make every wait of the host for the GPU an error."""
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def find_waits(arms: list[Arm], device: str) -> str:
    """Return "none", or where the first arm that waits does so."""
    for arm, name in zip(arms, ("ternary", "plain"), strict=True):
        try:
            with no_waiting(device):
                arm.step()
        except RuntimeError as error:
            frames = traceback.extract_tb(error.__traceback__)
            return f"{name}: {error}, at " + " < ".join(
                f"{f.filename.split('site-packages/')[-1]}:{f.lineno}" for f in frames[:-5:-1]
            )
    return "none"


def profile_step(arm: Arm, name: str, top: int = 8) -> tuple[int, float]:
    """Return how many kernels one step launches and their milliseconds; print which take longest."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        arm.step()
        torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent[event.name] += event.time_range.elapsed_us()
            calls[event.name] += 1
    print(f"{name}: " + "; ".join(f"{calls[k]} x {k[:60]} {us / 1000:.2f} ms" for k, us in spent.most_common(top)))
    return calls.total(), spent.total() / 1000


def compare(shape: str, config: dict[str, Any], compiled: bool, setting: Setting) -> Row:
    """Return the row of one shape: rounds of both arms in turn, after steps that are not counted."""
    arms = [Arm(config, ternary, compiled, setting) for ternary in (True, False)]
    began = time.perf_counter()
    for arm in arms:
        for _ in range(3):
            arm.step()
    synchronize(setting.device)
    print(
        f"{shape}, {'compiled' if compiled else 'eager'}: first steps {time.perf_counter() - began:.1f} s", flush=True
    )
    print(f"waits for the GPU within a step: {find_waits(arms, setting.device)}", flush=True)
    times = [[time_steps(arm, setting) for arm in arms] for _ in range(setting.rounds)]
    ratios = [ternary / plain for ternary, plain in times]
    ternary, plain = (statistics.median(column) for column in zip(*times, strict=True))
    kernels = "-"
    if setting.device != "cpu":
        try:
            both = [profile_step(arm, name) for arm, name in zip(arms, ("ternary", "plain"), strict=True)]
            kernels = ", ".join(f"{count} in {ms:.1f} ms" for count, ms in both)
        except Exception:
            traceback.print_exc(file=sys.stdout)
    mode = "compiled" if compiled else "eager"
    return Row(shape, mode, ternary, plain, statistics.median(ratios), min(ratios), max(ratios), kernels)


def measure(setting: Setting, modes: tuple[bool, ...] = (False, True), tiny: bool = False) -> list[Row]:
    """Return the rows of all shapes; one that fails prints its traceback and leaves the others."""
    rows = []
    for shape, config in (TINY if tiny else SHAPES).items():
        for compiled in modes:
            try:
                rows.append(compare(shape, config, compiled, setting))
            except Exception:
                traceback.print_exc(file=sys.stdout)
            torch._dynamo.reset()
    return rows


LOSS_BOUND, GRADIENT_BOUND, FORWARD_BOUND = 2e-3, 0.02, 2**-8
"""Relative to the reference: a loss; the norm of a difference of gradients; one rounding to bfloat16 of an output."""


def check_layer(setting: Setting, compiled: bool, shape: tuple[int, int, int] = (300, 2560, 640)) -> list[str]:
    """Return how a layer on the device differs from the definitions in float32 on the CPU; a broken bound says so."""
    rows, inputs, outputs = shape
    torch.manual_seed(2)
    reference = BitLinear(inputs, outputs, bias=False)
    x, towards = torch.randn(rows, inputs), torch.randn(rows, outputs)
    layer = BitLinear(inputs, outputs, bias=False).to(setting.device)
    layer.load_state_dict(reference.state_dict())
    if compiled:
        layer.compile()
    found = {}
    for name, module, device in (("CPU", reference, "cpu"), ("device", layer, setting.device)):
        mine = x.clone().to(device).requires_grad_()
        casting: Any = nullcontext() if name == "CPU" else torch.autocast(torch.device(device).type, torch.bfloat16)
        with casting:
            y = module(mine)
        y.backward(towards.to(device, y.dtype))
        found[name] = [t.detach().float().cpu() for t in (y, mine.grad, module.weight.grad)]  # type: ignore[union-attr]
    bounds = (("y", FORWARD_BOUND), ("dx", GRADIENT_BOUND), ("dw", GRADIENT_BOUND))
    lines = []
    for (name, bound), ours, theirs in zip(bounds, found["device"], found["CPU"], strict=True):
        error = float((ours - theirs).norm() / theirs.norm())
        lines.append(f"{name} {error:.1e}{'' if error <= bound else f' ABOVE {bound:.1e}: WRONG'}")
    return lines


def check_bits(setting: Setting) -> list[str]:
    """Return how many values the Triton quantizers give otherwise than the definitions."""
    from bitnet_bench.ternary.gpu import training
    from bitnet_bench.ternary.quantizer import quantize_activations, ternarize

    lines = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(3)
        x = torch.randn(257, 2560, dtype=torch.float32).mul(3).to(dtype)
        x[0], x[1, 5], x[2, 7] = 0, float("nan"), float("inf")
        (q, step), (expected, expected_step) = training.quantize_rows(x.to(setting.device)), quantize_activations(x)
        other = int((q.cpu().to(torch.int8) != expected).sum())
        other_steps = int((step.cpu().nan_to_num(-1) != expected_step.nan_to_num(-1)).sum())
        lines.append(f"{dtype}: {other} of q and {other_steps} steps differ")
    weights = [torch.randn(6912, 2560) * 0.02, torch.randn(33, 77), torch.zeros(4, 4)]
    on_device = [weight.to(setting.device) for weight in weights]
    each = [training.ternarize(weight) for weight in on_device]
    together = training.CodesWriter(on_device).write(on_device)
    for weight, (codes, gamma), (again, again_gamma) in zip(weights, each, together, strict=True):
        expected_codes, expected_gamma = ternarize(weight)
        other = int((codes.cpu().to(torch.int8) != expected_codes).sum())
        alike = torch.equal(codes, again) and torch.equal(gamma, again_gamma)
        drift = abs(float(gamma) / float(expected_gamma) - 1)
        lines.append(
            f"{tuple(weight.shape)}: {other} codes differ, gamma by {drift:.1e}, alone and together alike: {alike}"
        )
    return lines


def check_models(setting: Setting, tiny: bool) -> list[str]:
    """Return first losses: of the same masters on the CPU in float32, and on the device in bfloat16."""
    config = next(iter((TINY if tiny else SHAPES).values()))
    small = Setting(setting.device, 1, 1, 2, min(64, setting.length), setting.vocabulary)
    arm = Arm(config, True, False, small)
    reference: Any = LlamaForCausalLM(LlamaConfig(vocab_size=small.vocabulary, **config))
    reference.load_state_dict({name: tensor.cpu() for name, tensor in arm.model.state_dict().items()})
    make_trainable_ternary(reference)
    total, count = response_loss(reference, {name: tensor.cpu() for name, tensor in arm.batch.items()})
    expected = total / count
    expected.backward()
    loss = arm.loss()
    loss.backward()
    error = abs(float(loss.detach()) / float(expected.detach()) - 1)
    lines = [f"loss {loss.item():.5f}, on the CPU {expected.item():.5f}{'' if error < LOSS_BOUND else ': WRONG'}"]
    ours, theirs = find_bit_linears(arm.model), find_bit_linears(reference)
    angles = [
        float(nn.functional.cosine_similarity(_gradient(ours[name]), _gradient(theirs[name]), dim=0)) for name in ours
    ]
    lines.append(
        f"cosine of gradients of {len(angles)} layers: least {min(angles):.4f}, mean {statistics.mean(angles):.4f}"
    )
    return lines


def check_trainer(setting: Setting) -> list[str]:
    """Return where `finetune` waits for the GPU between the beginning of a step and its optimizer's end."""
    from transformers import TrainerCallback

    from bitnet_bench.backends.hf import training
    from bitnet_bench.checkpoints.locate import open_checkpoint
    from bitnet_bench.protocols import TrainingInputs
    from bitnet_bench.runs.jobs import FinetuneJob
    from bitnet_bench.training.inputs import read_training_rows
    from bitnet_bench.training.job import run_finetune_job

    class During(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if setting.device != "cpu" and state.global_step:
                torch.cuda.set_sync_debug_mode("warn")

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if setting.device != "cpu":
                torch.cuda.set_sync_debug_mode("default")

    def build(start: Any, arguments: Any, order: Any) -> Any:
        trainer = training.build_trainer(start, arguments, order)
        trainer.add_callback(During())
        return trainer

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        rows = Path(folder) / "rows.jsonl"
        lines = [json.dumps({"prompt": f"{i}?", "response": f"{i} " * (1 + i % 5)}) for i in range(32)]
        rows.write_text("\n".join(lines), encoding="utf-8")
        job = FinetuneJob(
            model="demo", data=(str(rows),), out=f"{folder}/out", max_steps=12, epochs=99, batch_size=4,
            gradient_accumulation=2, learning_rate=1e-3, compute="bf16", track=(), compile="off",
        )  # fmt: skip
        given = TrainingInputs(open_checkpoint(job.model), read_training_rows(job)[0], (), None, 0)
        began = time.perf_counter()
        record = run_finetune_job(job, given, lambda *_: None, "hf", build)
        seconds = time.perf_counter() - began
    waits = Counter(
        f"{w.filename.split('site-packages/')[-1]}:{w.lineno}" for w in found if "synchroniz" in str(w.message)
    )
    losses = [point["loss"] for point in record.history]
    waited = ", ".join(f"{place} {times} times" for place, times in waits.most_common(5)) or "nowhere"
    return [f"{record.steps} steps in {seconds:.1f} s, loss {losses[0]:.3f} to {losses[-1]:.3f}, waits {waited}"]


def _gradient(layer: nn.Module) -> Tensor:
    gradient: Any = layer.weight.grad
    return gradient.float().cpu().flatten()  # type: ignore[no-any-return]


def checks(setting: Setting, tiny: bool, modes: tuple[bool, ...]) -> None:
    """Print what the answers are; a check that fails prints its traceback."""
    named: list[tuple[str, Callable[[], list[str]]]] = []
    if setting.device != "cpu":
        named.append(("bits", lambda: check_bits(setting)))
    named += [(f"layer, {'compiled' if c else 'eager'}", lambda c=c: check_layer(setting, c)) for c in modes]  # type: ignore[misc]
    named.append(("model", lambda: check_models(setting, tiny)))
    named.append(("finetune", lambda: check_trainer(setting)))
    for name, check in named:
        try:
            print(f"{name}: " + "; ".join(check()), flush=True)
        except Exception:
            print(f"{name} FAILED")
            traceback.print_exc(file=sys.stdout)


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--no-checks", action="store_true")
    given = parser.parse_args()
    setting = Setting(given.device, given.rounds, given.steps)
    if given.tiny:
        setting = Setting(given.device, 2, 2, 2, 16, 300)
    modes = (False,) if given.eager else (True,) if given.compiled else (False, True)
    where = torch.cuda.get_device_name() if given.device != "cpu" else "CPU"
    print(f"{where}, torch {torch.__version__}, {setting}")
    if not given.no_checks:
        checks(setting, given.tiny, modes)
    rows = measure(setting, modes, given.tiny)
    print("| shape | mode | ternary, ms | plain, ms | ratio | least | most | kernels |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row.shape} | {row.mode} | {row.ternary_ms:.2f} | {row.plain_ms:.2f} | {row.ratio:.2f} | "
            f"{row.least:.2f} | {row.most:.2f} | {row.kernels} |"
        )


if __name__ == "__main__":
    main()
