"""Compare two checkpoints as ternary models: codes, scales, all other tensors, and their logits.

Codes and float tensors must be bitwise equal. Scales must agree to 1e-6, because an inverse and an absmean are
rounded to float32. Logits of one engine then differ only where such a rounding moves an activation across a step of
int8, and must agree within `MAX_MEAN_LOGIT_ERROR`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.runs.value import Value

LogitFunction = Callable[[Checkpoint, Sequence[Tensor]], Tensor]
"""Function that returns the float32 logits [T, V] of a checkpoint for prompts of T ids in total; it keeps no model."""

PARITY_PROMPTS = (
    "안녕하세요. 오늘 서울의 날씨는 어떤가요?",
    "대한민국의 수도는 서울이고, 가장 큰 섬은 제주도이다.",
    "사용자: 김치찌개를 끓이는 방법을 알려 주세요.\n모델:",
    "이 영화는 배우들의 연기가 훌륭했지만 결말이 아쉬웠다.",
)
SCALE_TOLERANCE = 1e-6
MAX_MEAN_LOGIT_ERROR = 0.05
"""Largest mean |difference| of logits, in standard deviations of the source's logits."""


class CheckpointParity(Value):
    """Differences between a converted checkpoint and its source."""

    layers: int
    """Number of ternary layers; all their codes are equal."""
    largest_scale_error: float
    """Largest relative error of a scale, over all layers with a non-zero code."""
    prompt_tokens: int = 0
    """Tokens of the Korean prompts that both were run on; 0 if they were not run."""
    mean_logit_error: float | None = None
    """Mean |difference| in standard deviations of the source's logits; None if they were not run."""
    largest_logit_error: float | None = None


def compare_checkpoints(source: Checkpoint, output: Checkpoint, logits: LogitFunction | None) -> CheckpointParity:
    """Return the differences of *output* from *source*; BenchError names the first layer or tensor out of bounds."""
    ours, theirs = Weights(source), Weights(output)
    if source.inner_norm != output.inner_norm or source.inner_norm_eps != output.inner_norm_eps:
        raise _mismatch_error(f"the norm inside ternary layers is {output.inner_norm} instead of {source.inner_norm}")
    if source.quantizes_activations != output.quantizes_activations:
        raise _mismatch_error("only one of them rounds the inputs of its ternary layers to int8")
    _check_same_names(ours.ternary, theirs.ternary)
    _check_same_names(ours.floats, theirs.floats)
    for name in ours.floats:
        _check_same_tensor(name, ours.tensor(name), theirs.tensor(name))
    errors = [_compute_scale_error(module, ours, theirs) for module in ours.ternary]
    found = CheckpointParity(layers=len(errors), largest_scale_error=max(errors, default=0.0))
    return found if logits is None else found.model_copy(update=_compute_logit_errors(source, output, logits))


def _check_same_names(ours: Iterable[str], theirs: Iterable[str]) -> None:
    for name in sorted(set(ours) ^ set(theirs)):
        raise _mismatch_error(f"{name} is in one of them only, or ternary in one of them only")


def _check_same_tensor(name: str, ours: Tensor | None, theirs: Tensor | None) -> None:
    if (ours is None) != (theirs is None):
        raise _mismatch_error(f"{name} is in one of them only")
    if ours is not None and theirs is not None and not torch.equal(ours, theirs):
        raise _mismatch_error(f"{name} has other values")


def _compute_scale_error(module: str, ours: Weights, theirs: Weights) -> float:
    """Compare one ternary layer and return the relative error of its scale."""
    (codes, gamma), (other_codes, other_gamma) = ours.codes(module), theirs.codes(module)
    if codes.shape != other_codes.shape:
        raise _mismatch_error(f"{module} is {tuple(other_codes.shape)} instead of {tuple(codes.shape)}")
    differing = int((codes != other_codes).sum())
    if differing:
        raise _mismatch_error(f"{differing} of {codes.numel()} codes of {module} are others")
    _check_same_tensor(f"{module}'s inner norm", ours.inner_norm(module), theirs.inner_norm(module))
    _check_same_bias(module, ours.bias(module), theirs.bias(module))
    if gamma.dim():
        return _compare_group_scales(module, gamma, other_gamma)
    if not codes.any():
        return 0.0  # the scale of an all-zero layer changes nothing, and not every format keeps it
    error = abs(float(other_gamma) / float(gamma) - 1)
    if error > SCALE_TOLERANCE:
        raise _mismatch_error(f"the scale of {module} is {float(other_gamma):.9g} instead of {float(gamma):.9g}")
    return error


def _compare_group_scales(module: str, ours: Tensor, theirs: Tensor) -> float:
    """Return the largest relative error of the scales of a layer's groups."""
    if ours.shape != theirs.shape:
        raise _mismatch_error(f"{module} has scales {tuple(theirs.shape)} instead of {tuple(ours.shape)}")
    error = float(((theirs - ours).abs() / ours.clamp(min=torch.finfo(torch.float32).tiny)).max())
    if not error <= SCALE_TOLERANCE:
        raise _mismatch_error(f"a scale of {module} is off by {error:.3g}")
    return error


def _check_same_bias(module: str, ours: Tensor | None, theirs: Tensor | None) -> None:
    if ours is None or theirs is None:
        _check_same_tensor(f"{module}.bias", ours, theirs)
    elif not torch.allclose(ours, theirs, rtol=SCALE_TOLERANCE, atol=0):
        raise _mismatch_error(f"{module}.bias has other values, by up to {float((ours - theirs).abs().max()):.3g}")


def _compute_logit_errors(source: Checkpoint, output: Checkpoint, logits: LogitFunction) -> dict[str, float | int]:
    """Run one checkpoint after the other, so that only one is in memory; return the fields of `CheckpointParity`."""
    prompts = encode_prompts(source)
    ours, theirs = logits(source, prompts), logits(output, prompts)
    difference = (ours - theirs).abs() / ours.std()
    mean, largest = float(difference.mean()), float(difference.max())
    if not mean <= MAX_MEAN_LOGIT_ERROR:  # NaN fails too
        raise _mismatch_error(
            f"their logits differ by {mean:.3g} standard deviations in the mean and {largest:.3g} at most "
            f"(bound on the mean: {MAX_MEAN_LOGIT_ERROR})"
        )
    return {"prompt_tokens": len(ours), "mean_logit_error": mean, "largest_logit_error": largest}


def encode_prompts(checkpoint: Checkpoint) -> list[Tensor]:
    """Return the ids [T] of each of `PARITY_PROMPTS`: the checkpoint's tokens, or UTF-8 bytes if no tokenizer fits.

    Comparing weights needs no tokenizer; any ids will do.
    """
    from bitnet_bench.checkpoints.loading import load_tokenizer

    try:
        tokenizer = load_tokenizer(checkpoint)
    except BenchError:
        vocabulary = read_config(Path(checkpoint.path)).get("vocab_size", 256)
        return [torch.tensor([byte % vocabulary for byte in prompt.encode()]) for prompt in PARITY_PROMPTS]
    return [torch.tensor(tokenizer(prompt).input_ids) for prompt in PARITY_PROMPTS]


def _mismatch_error(what: str) -> BenchError:
    return BenchError(
        f"The converted checkpoint is not the same model: {what}. It was deleted.",
        "This is a bug of bitnet-bench: please report it with the output of `bitnet-bench inspect`.",
    )
