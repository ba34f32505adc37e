"""Decide whether a run's layers are compiled, and compile them: equal layers share compiled code."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from torch import nn

from bitnet_bench.machine.environment import find_compiler
from bitnet_bench.runs.jobs import FinetuneJob

MIN_STEPS_TO_COMPILE = 500
"""Least steps of a run for which compiling pays. On an H200 a shape compiles in 7 s (forward and backward), a run has
about three shapes (another length, validation), and a compiled step of 2,048 tokens saves 14 to 36 ms."""
RECOMPILE_LIMIT = 64
"""Most variants of a layer that are compiled; torch runs further ones uncompiled."""


def choose_compile(job: FinetuneJob, steps: int, on_gpu: bool) -> Literal["on", "off"]:
    """Return the setting of *job*; for auto, on if compiling pays and is known to work with the job."""
    if job.compile != "auto":
        return job.compile
    known = not (job.ternary_warmup or job.lora_rank or job.shard or job.teacher)
    can = on_gpu and find_spec("triton") is not None and find_compiler() is not None
    return "on" if known and can and steps >= MIN_STEPS_TO_COMPILE else "off"


def compile_layers(model: nn.Module) -> int:
    """Compile each decoder layer of *model* in place, at its first forward, and return how many there are."""
    from torch._dynamo import config  # takes a second to import

    # the variants are all combinations of lengths, training or validation, and kinds of layers
    config.recompile_limit = max(RECOMPILE_LIMIT, config.recompile_limit)
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    for layer in layers:
        layer.compile()
    return len(layers)
