"""Cross-entropy over response tokens, with logits for those tokens only, and never for all of them at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitnet_bench.checkpoints.shape import LOGIT_CAP, has_plain_head
from bitnet_bench.data.collating import LABELLED_KEY, find_labelled_positions
from bitnet_bench.ternary.group_linear import GroupBitLinear
from bitnet_bench.training.attention import attention_inputs
from bitnet_bench.training.head_loss import HeadInput, list_row_losses, sum_head_loss

LabelledStates = tuple[Tensor, Tensor, nn.Module]
"""(targets [n], hidden states [n, H], output head) of the n tokens of a batch that carry the loss."""


def response_loss(
    model: nn.Module, batch: dict[str, Tensor], states: LabelledStates | None = None
) -> tuple[Tensor, int]:
    """Return (sum of the cross-entropy in nats over labelled tokens, their count), in float32 at least.

    batch: input_ids, attention_mask, labels, all [B, T]; labels are unshifted, -100 for no loss. *states*: the result
    of `labelled_states` for the batch, if it is known already.
    """
    targets, hidden, head = states or labelled_states(model, batch)
    return sum_head_loss(find_head_input(hidden, head), targets)[0], len(targets)


def response_logprobs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of each row's labelled tokens [B], in nats, in float32; see `response_loss`."""
    labels = batch["labels"]
    positions = _positions(batch)
    targets, hidden, head = labelled_states(model, batch)
    losses = list_row_losses(find_head_input(hidden, head), targets)
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
    if not has_plain_head(config.model_type, getattr(config, LOGIT_CAP, None)):
        # the class's forward: the instance's may be replaced by an objective
        logits = type(model).forward(model, **inputs, use_cache=False).logits
        return targets, logits.flatten(0, 1).index_select(0, positions), nn.Identity()
    base: Any = model.base_model
    hidden = base(**inputs, use_cache=False).last_hidden_state
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    return targets, hidden.flatten(0, 1).index_select(0, positions), head


def find_head_input(hidden: Tensor, head: nn.Module) -> HeadInput:
    """Return what makes logits of *hidden*: the weights of *head*, dense if they are ternary; an identity has none."""
    if isinstance(head, nn.Identity):
        return HeadInput(hidden, None)
    made: Any = head
    if isinstance(head, GroupBitLinear):
        return HeadInput(hidden, head.dense_weight(), made.bias, keeps_dtype=True)  # bfloat16 would round the scales
    return HeadInput(hidden, made.weight, made.bias)
