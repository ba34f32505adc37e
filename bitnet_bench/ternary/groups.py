"""Ternary weights with a scale per row and group of inputs, w = s_g * t, in PyTorch.

Codes are int8 [N, K] and scales float [N, K / G] for groups of G inputs. A scale is 0 exactly where all codes of its
group are, so that equal weights have equal codes and scales. The two products are what the CPU kernel computes, to the
bit; `kernel/groups.c` has the same formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitnet_bench.ternary.quantizer import SMALLEST_SCALE, quantize_activations

GROUP_SIZES = (128, 64)
"""Inputs of a group in known formats, widest first: Ternary Bonsai and PQ2_0 have 128, llama.cpp's Q2_0 has 64."""
DIGITS, DIGIT_BASE = 3, 128
"""The int8 digits that stand for a float activation: exact integer sums of each, and as precise as float sums."""
SMALLEST_GROUP = 1e-30


def scale_groups(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 weights t * s [N, K]."""
    return (codes.view(*scales.shape, -1) * scales.float().unsqueeze(-1)).view(codes.shape)


def canonical_scales(codes: Tensor, scales: Tensor) -> Tensor:
    """Return *scales* with 0 for every group without a non-zero code."""
    return scales * codes.view(*scales.shape, -1).any(dim=-1)


def split_into_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor] | None:
    """Return (codes, scales) of *weight* [N, K], scales in its dtype, or None if it is not s * {-1, 0, +1} by group."""
    if weight.shape[-1] % group:
        return None
    groups = weight.view(len(weight), -1, group)
    scales = groups.abs().amax(dim=-1)
    if not bool(((groups.abs() == scales.unsqueeze(-1)) | (groups == 0)).all()):
        return None
    return weight.sign().to(torch.int8), scales


def absmean_by_group(weight: Tensor, group: int) -> Tensor:
    """Return float32 [N, K / G]: mean |w| of every group, at least 1e-5, rounded to float16.

    It is the scale of BitNet b1.58 (arXiv:2402.17764, eq. 3) for each group, and that of llama.cpp's Q1_0
    (`quantize_row_q1_0_ref`). How PrismML trained Ternary Bonsai is not published. Scales are float16 in its files.
    """
    means = weight.float().view(len(weight), -1, group).abs().mean(dim=-1)
    return means.clamp(min=SMALLEST_SCALE).half().float()


def ternarize_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return (codes, scales) of *weight* [N, K]: clip(round(w / s), -1, 1), half to even, s by `absmean_by_group`."""
    scales = absmean_by_group(weight, group)
    ratios = weight.float().view(*scales.shape, group) / scales.unsqueeze(-1)
    codes = ratios.round().clamp(-1, 1).to(torch.int8).view(weight.shape)
    return codes, canonical_scales(codes, scales)


def masters_from_groups(codes: Tensor, scales: Tensor) -> Tensor:
    """Return float32 weights [N, K] whose codes and scales by `ternarize_groups` are *codes* and *scales* again.

    Each group is t * s / (its share of non-zeros), whose mean magnitude is s. A scale that float16 does not hold is
    rounded when it is computed again.
    """
    groups = codes.view(*scales.shape, -1)
    density = groups.ne(0).float().mean(dim=-1).clamp(min=1 / groups.shape[-1])
    return (groups * (scales.float() / density).unsqueeze(-1)).view(codes.shape)


def quantize_activation_groups(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return (q, steps): int8 q of x's shape [..., K], and float32 steps [..., K / G], one absmax / 127 per group."""
    q, steps = quantize_activations(x.reshape(*x.shape[:-1], -1, group))
    return q.view(x.shape), steps.squeeze(-1)


def multiply_int8(q: Tensor, steps: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Return float32 y [T, N] of int8 q [T, K] with steps [T, K / G]: exact integer sums by group, then floats.

    y = 0; for every group g in order: y = y + float(sum of q * t over g) * (s_g * step_g). Each operation is rounded
    to float32 by itself, so that every processor gives the same bits.
    """
    y = torch.zeros(len(q), len(codes), device=q.device)
    group = codes.shape[1] // scales.shape[1]
    for g in range(scales.shape[1]):
        part = slice(g * group, (g + 1) * group)
        sums = q[:, part].float() @ codes[:, part].float().t()  # exact: at most 128 * 128 in magnitude
        y = y + sums * (scales[:, g].float() * steps[:, g : g + 1])
    return y


def split_digits(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return (q, steps): int8 q [T, 3, K] and float32 steps [T, 3, K / G], whose products add up to float32 x [T, K].

    A group's first step is the least power of two s with |x| <= 127 s, the others s / 128 and s / 128^2; each digit
    rounds what is left, half to even. What is left in the end is at most s / 2^15, and the largest |x| above 63.5 s: at
    most 1.008 x 2^-21 of it.
    """
    groups = x.view(len(x), -1, group)
    largest = groups.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_GROUP)
    mantissa, exponent = torch.frexp(largest)
    step = torch.ldexp(torch.ones_like(largest), exponent - 7)
    step = torch.where(largest > 127 * step, 2 * step, step) + mantissa * 0  # NaN where the largest is not finite
    digits, steps, rest = [], [], groups
    for _ in range(DIGITS):
        digit = (rest / step).round()
        rest = rest - digit * step
        digits.append(digit.to(torch.int8).view(x.shape))
        steps.append(step.squeeze(-1))
        step = step / DIGIT_BASE
    return torch.stack(digits, dim=1), torch.stack(steps, dim=1)


def multiply_float(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Return float32 y [T, N] of float32 x [T, K] as the CPU kernel does: the sum of `multiply_int8` of each digit."""
    q, steps = split_digits(x, codes.shape[1] // scales.shape[1])
    first, second, third = (multiply_int8(q[:, d], steps[:, d], codes, scales) for d in range(DIGITS))
    return (first + second) + third
