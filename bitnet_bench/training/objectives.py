"""Objectives of the training methods: each turns a batch into a loss, a count, and figures for the log.

An objective is called inside the model's own forward, so that wrappers of the model (DistributedDataParallel) see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bitnet_bench.data.tokenizing import IGNORED_LABEL
from bitnet_bench.errors import BenchError
from bitnet_bench.training.distillation import (
    ProjectionRecorder,
    check_attention_layer,
    count_attention_layers,
    relation_divergence,
    share_frozen_tables,
)
from bitnet_bench.training.head_loss import Teaching, sum_head_loss
from bitnet_bench.training.loss import find_head_input, labelled_states, response_logprobs, response_loss
from bitnet_bench.training.preference import check_same_reference, dpo_loss

BatchLoss = dict[str, Any]
"""Result of an objective.

loss: a sum over what is counted, in nats. count: tokens or pairs. figures: other sums over the same, by name. Loss and
figures are tensors that have not been read from the GPU.
"""


class Objective(Protocol):
    """Function of a model and the tensors of a batch."""

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> BatchLoss:
        """Return the loss of *batch*, with its count and figures."""


def install_objective(model: nn.Module, objective: Objective, validation: Objective) -> None:
    """Make the forward of *model* return the `BatchLoss` of *objective*, or of *validation* in eval mode."""

    def forward(self: nn.Module, **batch: Tensor) -> BatchLoss:
        return (objective if self.training else validation)(self, batch)

    model.forward = MethodType(forward, model)


def supervised_loss(model: nn.Module, batch: dict[str, Tensor]) -> BatchLoss:
    """Return the cross-entropy over labelled tokens."""
    loss, count = response_loss(model, batch)
    return {"loss": loss, "count": count, "figures": {}}


@dataclass
class PreferenceObjective:
    """Direct preference optimization; `reference` in a batch holds the reference's log-probabilities."""

    beta: float
    checked: bool = field(default=False)
    """True if the first loss was checked, or need not be because the run is resumed."""

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> BatchLoss:
        """Return DPO's loss with margins and accuracy; raise BenchError if the first loss is not ln 2."""
        loss, found = dpo_loss(response_logprobs(model, batch), batch["reference"], self.beta)
        if not self.checked:
            check_same_reference(loss.item() / found.pairs)  # only the first loss is waited for
            self.checked = True
        figures = {"margin": found.margin * found.pairs, "accuracy": found.accuracy * found.pairs}
        return {"loss": loss, "count": found.pairs, "figures": figures}


class DistillationObjective:
    """BitDistill's loss (arXiv:2510.13998, eq. 13): cross-entropy + weight * logits KD + relation_weight * relations.

    The temperature's square is not a factor, as in eq. 8. Relations are a mean over all positions, added for each
    labelled token.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        weight: float,
        temperature: float,
        relation_weight: float,
        layer: int,
        heads: int,
    ) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._weight, self._temperature = weight, temperature
        self._rounded_head = share_frozen_tables(student, teacher)
        self._relation_weight, self._heads = relation_weight, heads
        if relation_weight:
            check_attention_layer("model", count_attention_layers(student), layer)
            check_attention_layer("teacher", count_attention_layers(teacher), layer)
            self._student_states, self._teacher_states = (
                ProjectionRecorder(student, layer),
                ProjectionRecorder(teacher, layer),
            )

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> BatchLoss:
        """Return the weighted sum of the losses, with its parts as figures."""
        targets, hidden, head = labelled_states(model, batch)
        with torch.no_grad():
            self._teacher.to(hidden.device)
            _, taught, teacher_head = labelled_states(self._teacher, batch)
        teaching = Teaching(find_head_input(taught, teacher_head), self._weight, self._temperature)
        given = replace(find_head_input(hidden, head), rounded=self._rounded_head)
        loss, entropy, divergence = sum_head_loss(given, targets, teaching)
        count, figures = len(targets), {"cross_entropy": entropy, "divergence": divergence}
        if self._relation_weight:
            valid = _real_tokens(batch)
            documents = batch["position_ids"].eq(0).cumsum(1) if "position_ids" in batch else None
            relations = relation_divergence(
                self._student_states.states, self._teacher_states.states, valid, self._heads, documents
            )
            mean = relations / valid.sum()
            loss = loss + self._relation_weight * mean * count
            figures["relations"] = mean.detach() * count
        return {"loss": loss, "count": count, "figures": figures}


def _real_tokens(batch: dict[str, Tensor]) -> Tensor:
    """Return which positions [B, T] are not padding; in packed rows, which have no mask, those up to the last label."""
    if "position_ids" in batch:
        return (batch["labels"] != IGNORED_LABEL).flip(1).cumsum(1).flip(1) > 0
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()


def check_same_vocabulary(student: Any, teacher: Any, name: str = "teacher") -> None:
    """Raise BenchError if two tokenizers differ: the probabilities of the field *name* are of its own tokens."""
    if student.get_vocab() != teacher.get_vocab():
        raise BenchError(
            f"The `{name}` has another vocabulary than the `model`, so its probabilities are of other tokens.",
            f"Name a `{name}` with the same tokenizer.",
        )


PATIENCE_LOGGED_STEPS = 20
"""Logged steps for which a model that becomes ternary may be far above guessing without having diverged."""


def has_diverged(losses: Sequence[float], vocabulary: int, becomes_ternary: bool) -> bool:
    """Return whether the last of *losses*, means in nats by logged step, show that training has diverged.

    It has if the loss exceeds twice that of uniform guessing and twice the lowest so far. A float model loses what it
    knows when its weights become ternary, and its loss may rise far above guessing before it falls: then the condition
    must hold for `PATIENCE_LOGGED_STEPS` logged steps in a row, with the run's first loss in place of the lowest.
    """
    needed = PATIENCE_LOGGED_STEPS if becomes_ternary else 1
    known = losses[0] if becomes_ternary else min(losses)
    bound = 2 * max(math.log(vocabulary), known)
    return len(losses) >= needed and all(loss > bound for loss in losses[-needed:])
