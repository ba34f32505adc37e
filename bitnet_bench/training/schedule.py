"""Values that change from step to step: learning rate, weight decay, the ternary share of layers, and their codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitnet_bench.ternary.gpu.training_product import has_training_kernels
from bitnet_bench.ternary.group_linear import GroupBitLinear
from bitnet_bench.ternary.linear import BitLinear, find_bit_linears

SECOND_STAGE_FACTOR = 2 / 3
"""Peak learning rate of the second stage over that of the first: 1.5e-3 to 1e-3 at 700M, 1.2e-3 to 8e-4 at 1.3B.

"The Era of 1-bit LLMs: Training Tips, Code and FAQ" (Microsoft, 2024), table 1.
"""


def make_schedule(name: str, steps: int, warmup: int) -> Callable[[int], float]:
    """Return the factor of the peak learning rate at each step, counted from 0; it is positive at every step.

    Step s of the warm-up has (s + 1) / *warmup*, so its last step is at the peak. transformers has s / *warmup*, which
    is 0 in the first step: a run of one step would learn nothing. After the warm-up, constant: 1. linear: from 1 to 0,
    reached one step after the last. cosine: half a cosine between the same ends. two-stage: linear, times
    `SECOND_STAGE_FACTOR` in the second half (the b1.58 recipe for pre-training).
    """
    decays = {"constant": _constant_decay, "linear": _linear_decay, "cosine": _cosine_decay, "two-stage": _linear_decay}
    decay = decays[name]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = decay(min(1.0, (step - warmup) / max(1, steps - warmup)))
        return share * SECOND_STAGE_FACTOR if name == "two-stage" and is_second_stage(step, steps) else share

    return factor


def _constant_decay(_done: float) -> float:
    return 1.0


def _linear_decay(done: float) -> float:
    return 1.0 - done


def _cosine_decay(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


def is_second_stage(step: int, steps: int) -> bool:
    """Return whether *step* is in the second half, which has no weight decay."""
    return 2 * step >= steps


class StepCodes:
    """Codes of a model's ternary layers, computed once per step; on a GPU for all layers together, in two launches.

    Layers are looked up once, because walking through the modules of a large model takes a millisecond.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = find_bit_linears(model)
        self._writer: Any = None

    def refresh(self, known: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> None:
        """Forget the codes of the last step; on a GPU, compute those of this step.

        *known*: codes and scales of the present weights, by layer, which are used where a forward pass would compute
        them.
        """
        self.forget()
        plain = [layer for layer in self._layers.values() if _is_plain(layer)]
        if not plain or not has_training_kernels(plain[0].weight.device):
            for name, codes in (known or {}).items():
                if _is_plain(self._layers[name]):
                    self._layers[name].keeps_codes = True
                    self._layers[name].store_codes(*codes)
            return
        first = plain[0].weight
        together = [
            layer for layer in plain if (layer.weight.dtype, layer.weight.device) == (first.dtype, first.device)
        ]
        from bitnet_bench.ternary.gpu.training import CodesWriter

        weights = [layer.weight.detach() for layer in together]
        if self._writer is None or not self._writer.fits(weights):
            self._writer = CodesWriter(weights)
        for layer, codes in zip(together, self._writer.write(weights), strict=True):
            layer.keeps_codes = True
            layer.store_codes(*codes)

    def forget(self) -> None:
        """Make layers ternarize their weights again at their next forward."""
        for layer in self._layers.values():
            layer.forget_codes()


def _is_plain(layer: BitLinear) -> bool:
    """Return whether *layer* has one scale, and a plain tensor as weight: without adapters and not sharded."""
    if parametrize.is_parametrized(layer) or isinstance(layer, GroupBitLinear):
        return False
    return not hasattr(layer.weight, "full_tensor") and layer.weight.is_contiguous()


def set_ternary_share(model: nn.Module, step: int, warmup: int) -> None:
    """Set lambda = min(step / *warmup*, 1), the share of quantized values in the forward of every ternary layer.

    It follows the 1.58-bit fine-tuning recipe of Hugging Face (Mekkouri et al. 2024), which has 1,000 warm-up steps.
    """
    share = min(step / warmup, 1.0) if warmup else 1.0
    for layer in find_bit_linears(model).values():
        layer.ternary_share = share


def keep_codes(model: nn.Module) -> None:
    """Make ternary layers quantize their weights once per step, except layers with adapters, which make new weights."""
    for layer in find_bit_linears(model).values():
        layer.keeps_codes = not parametrize.is_parametrized(layer)


def forget_codes(model: nn.Module) -> None:
    """Make ternary layers quantize their weights again, at the beginning of a step or after weights were loaded."""
    for layer in find_bit_linears(model).values():
        layer.forget_codes()
