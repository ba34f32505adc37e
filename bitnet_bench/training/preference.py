"""Direct preference optimization (DPO; Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitnet_bench.errors import BenchError

LN2 = math.log(2)
"""Loss of a policy that equals its reference, as before the first step."""
LN2_TOLERANCE = 0.02
"""Tolerance of the first loss in nats, for the effect of padding and bfloat16 on a ternary model's log-probabilities;
without its quantizer, the loss is off by more."""


@dataclass(frozen=True)
class PreferenceFigures:
    """Figures of a batch of pairs, as tensors, so that they need not wait for the GPU."""

    pairs: int
    margin: Tensor
    """Mean difference of the implicit rewards beta * log(policy / reference), chosen minus rejected, in nats."""
    accuracy: Tensor
    """Share of pairs whose chosen answer has the higher implicit reward."""


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, PreferenceFigures]:
    """Return the loss (eq. 7 of the paper), in nats summed over pairs, for log-probabilities [2B] of answers.

    Chosen and rejected answers alternate.
    """
    rewards = beta * (policy - reference)
    margins = rewards[0::2] - rewards[1::2]
    with torch.no_grad():
        margin, accuracy = margins.mean(), (margins > 0).float().mean()
    return -nn.functional.logsigmoid(margins).sum(), PreferenceFigures(len(margins), margin, accuracy)


def check_same_reference(first_loss: float) -> None:
    """Raise BenchError unless *first_loss* (nats per pair, before any step) is near ln 2: policy equals reference."""
    if abs(first_loss - LN2) > LN2_TOLERANCE:
        raise BenchError(
            f"DPO's first loss is {first_loss:.4f}, not ln 2 = {LN2:.4f}: the reference is not the model that trains.",
            "This is an error of bitnet-bench, or the model is not the same twice (dropout); please report it.",
        )
