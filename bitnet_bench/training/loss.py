"""Cross-entropy over response tokens, with logits for those tokens only and never for all of them at once."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from bitnet_bench.data.tokenizing import IGNORED

PLAIN_HEADS = {"bitnet", "llama", "mistral", "qwen2", "qwen3"}
"""Families whose logits are lm_head(hidden) and nothing more; for others the model's own forward is used."""

ROWS_AT_ONCE = 1024
"""Rows of logits held at a time. A GEMM of this size is efficient; at V = 128k it holds 0.5 GB, not 4."""


def response_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Return (sum of the cross-entropy in nats over labelled tokens, their count), in float32.

    batch: input_ids, attention_mask, labels, all [B, T]; labels are unshifted, -100 for no loss.
    """
    wanted = batch["labels"][:, 1:] != IGNORED
    return _cross_entropy(model, batch, "sum"), int(wanted.sum())


def response_logprobs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of each row's labelled tokens [B], in nats, in float32; *batch* as above."""
    wanted = batch["labels"][:, 1:] != IGNORED
    losses = _cross_entropy(model, batch, "none")
    rows = wanted.nonzero()[:, 0]
    return torch.zeros(len(wanted), device=losses.device).index_add(0, rows, -losses)


def _cross_entropy(model: nn.Module, batch: dict[str, Tensor], reduction: Literal["sum", "none"]) -> Tensor:
    config: Any = model.config
    targets = batch["labels"][:, 1:]
    wanted = targets != IGNORED
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
    if config.model_type not in PLAIN_HEADS:
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits[wanted].float(), targets[wanted], reduction=reduction)
    base: Any = model.base_model
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    hidden = base(**inputs, use_cache=False).last_hidden_state[:, :-1][wanted]
    return nn.functional.linear_cross_entropy(
        hidden.float(),
        head.weight.float(),
        targets[wanted],
        linear_bias=None if head.bias is None else head.bias.float(),
        reduction=reduction,
        options=nn.LinearCrossEntropyOptions(batch_chunk_size=ROWS_AT_ONCE),
    )
