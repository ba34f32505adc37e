"""What changes from step to step: learning rate, weight decay, how ternary a layer is yet, and its codes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.utils import parametrize

from bitnet_bench.ternary.linear import bit_linears

SECOND_STAGE = 2 / 3
"""Peak of the second stage over that of the first: 1.5e-3 to 1e-3 at 700M, 1.2e-3 to 8e-4 at 1.3B.

"The Era of 1-bit LLMs: Training Tips, Code and FAQ" (Microsoft, 2024), table 1.
"""


def two_stage(steps: int, warmup: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step: linear warm-up, linear decay, and in the second half 2/3."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        left = max(0.0, (steps - step) / max(1, steps - warmup))
        return left * (SECOND_STAGE if in_second_stage(step, steps) else 1.0)

    return factor


def in_second_stage(step: int, steps: int) -> bool:
    """Return whether *step* is in the second half, which has no weight decay."""
    return 2 * step >= steps


def set_ternary_share(model: nn.Module, step: int, warmup: int) -> None:
    """Set lambda = min(step / *warmup*, 1) of every ternary layer: the share of quantized values in its forward.

    After the 1.58-bit fine-tuning recipe of Hugging Face (Mekkouri et al. 2024), which has 1,000 steps.
    """
    share = min(step / warmup, 1.0) if warmup else 1.0
    for layer in bit_linears(model).values():
        layer.ternary_share = share


def keep_codes(model: nn.Module) -> None:
    """Let ternary layers quantize their weights once a step; adapters make new weights at each use, which cannot be."""
    for layer in bit_linears(model).values():
        layer.keeps_codes = not parametrize.is_parametrized(layer)


def forget_codes(model: nn.Module) -> None:
    """Begin a step, or look at weights that may have come from elsewhere."""
    for layer in bit_linears(model).values():
        layer.forget_codes()
