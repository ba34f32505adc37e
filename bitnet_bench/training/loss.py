"""Cross-entropy over response tokens, with logits for those tokens only, and never for all of them at once."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bitnet_bench.checkpoints.shape import PLAIN_HEADS
from bitnet_bench.data.collating import LABELLED_KEY, find_labelled_positions
from bitnet_bench.ternary.group_linear import GroupBitLinear
from bitnet_bench.training.attention import attention_inputs

ROWS_AT_ONCE = 1024
"""Rows of logits held at a time. A GEMM of this size is efficient; at V = 128k it holds 0.5 GB, not 4."""

LabelledStates = tuple[Tensor, Tensor, nn.Module]
"""(targets [n], hidden states [n, H], output head) of the n tokens of a batch that carry the loss."""


def response_loss(
    model: nn.Module, batch: dict[str, Tensor], states: LabelledStates | None = None
) -> tuple[Tensor, int]:
    """Return (sum of the cross-entropy in nats over labelled tokens, their count), in float32.

    batch: input_ids, attention_mask, labels, all [B, T]; labels are unshifted, -100 for no loss. *states*: the result
    of `labelled_states` for the batch, if it is known already.
    """
    states = states or labelled_states(model, batch)
    return _cross_entropy(states, "sum"), len(states[0])


def response_logprobs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of each row's labelled tokens [B], in nats, in float32; see `response_loss`."""
    labels = batch["labels"]
    positions = _positions(batch)
    losses = _cross_entropy(labelled_states(model, batch), "none")
    # copied to positions and then summed: index_add on a GPU adds in an order that differs from run to run
    logprobs = torch.zeros(labels.numel(), device=losses.device).index_copy(0, positions, -losses)
    return logprobs.view(labels.shape).sum(1)


def _positions(batch: dict[str, Tensor]) -> Tensor:
    """Return the `find_labelled_positions` of *batch*, which a collator may have found already."""
    return batch[LABELLED_KEY] if LABELLED_KEY in batch else find_labelled_positions(batch["labels"])


def labelled_states(model: nn.Module, batch: dict[str, Tensor]) -> LabelledStates:
    """Return targets, hidden states and head; for a family with its own head, targets, logits and an identity."""
    config: Any = model.config
    positions = _positions(batch)
    targets = batch["labels"].flatten().index_select(0, positions + 1)
    inputs = attention_inputs(model, batch)
    if config.model_type not in PLAIN_HEADS:
        # the class's forward: the instance's may be replaced by an objective
        logits = type(model).forward(model, **inputs, use_cache=False).logits
        return targets, logits.flatten(0, 1).index_select(0, positions), nn.Identity()
    base: Any = model.base_model
    hidden = base(**inputs, use_cache=False).last_hidden_state
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    return targets, hidden.flatten(0, 1).index_select(0, positions), head


def _cross_entropy(states: LabelledStates, reduction: Literal["sum", "none"]) -> Tensor:
    targets, hidden, head = states
    if isinstance(head, nn.Identity):
        return nn.functional.cross_entropy(hidden.float(), targets, reduction=reduction)
    weight: Any = head.dense_weight() if isinstance(head, GroupBitLinear) else head.weight
    bias: Any = head.bias
    floats = hidden.float(), weight.float(), None if bias is None else bias.float()
    if not hasattr(nn.functional, "linear_cross_entropy"):
        return chunked_cross_entropy(*floats, targets, reduction)
    return nn.functional.linear_cross_entropy(
        *floats[:2],
        targets,
        linear_bias=floats[2],
        reduction=reduction,
        options=nn.LinearCrossEntropyOptions(batch_chunk_size=ROWS_AT_ONCE),
    )


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: Literal["sum", "none"]
) -> Tensor:
    """Return the cross-entropy of softmax(hidden [n, H] @ weight [V, H].T + bias) in nats, as a sum or per row [n].

    It replaces `torch.nn.functional.linear_cross_entropy`, which torch has since 2.13: logits of `ROWS_AT_ONCE` rows
    are held at a time, and computed again in the backward pass.
    """

    def row_losses(rows: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(nn.functional.linear(rows, weight, bias), wanted, reduction="none")

    chunks = zip(torch.split(hidden, ROWS_AT_ONCE), torch.split(targets, ROWS_AT_ONCE), strict=True)
    losses = torch.cat(
        [checkpoint(row_losses, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )
    return losses.sum() if reduction == "sum" else losses
