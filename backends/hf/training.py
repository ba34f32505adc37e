"""Train with transformers' Trainer; the objective of a job replaces the model's forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments

from bitnet_bench.data.collating import BatchItem
from bitnet_bench.training.attention import assume_causal
from bitnet_bench.training.lookup import give_row_gradients
from bitnet_bench.training.objectives import (
    BatchLoss,
    DistillationObjective,
    Objective,
    PreferenceObjective,
    install_objective,
    supervised_loss,
)
from bitnet_bench.training.trainer import BenchTrainer, TrainerSetup, validation_objective


def build_trainer(start: TrainerSetup, arguments: Mapping[str, Any], order: Sequence[int]) -> BenchTrainer:
    """Return the trainer of *start*, whose model returns a `BatchLoss` from now on."""
    if torch.cuda.is_available():
        for model in (start.model, start.teacher):
            if model is not None:
                assume_causal(model, start.job.max_length)
    give_row_gradients(start.model)
    install_objective(start.model, _objective(start), validation_objective(start.job))
    return HFTrainer(
        model=start.model,
        args=TrainingArguments(**arguments),
        train_dataset=_OrderedItems(start.plan.items, order),
        data_collator=start.plan.collator,
        start=start,
    )


def _objective(start: TrainerSetup) -> Objective:
    job = start.job
    if job.method == "dpo":
        return PreferenceObjective(job.beta, checked=start.is_resumed)
    if start.teacher is None:
        return supervised_loss
    return DistillationObjective(
        start.teacher,
        start.model,
        weight=job.distill_weight,
        temperature=job.temperature,
        relation_weight=job.relation_weight,
        layer=job.relation_layer,
        heads=job.relation_heads,
    )


class _OrderedItems(Dataset[BatchItem]):
    """Items in training order, repeated over epochs."""

    def __init__(self, items: Sequence[BatchItem], order: Sequence[int]) -> None:
        self._items, self._order = items, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, i: int) -> BatchItem:
        return self._items[self._order[i]]


class HFTrainer(BenchTrainer):
    """Trainer whose model returns a `BatchLoss`."""

    loss_is_scaled_for_ga = True  # the loss is divided by the tokens of the whole accumulated batch

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # counts a step's tokens over all processes

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return a micro-batch's contribution to the step's loss, and record its figures for the log."""
        outcome = model(**inputs)
        total: Tensor = outcome["loss"]
        self.record_micro_batch(total, outcome["count"], inputs, outcome["figures"])
        scaled: Tensor = total * self._scale(outcome["count"], num_items_in_batch)
        return scaled

    def compute_batch_loss(self, inputs: dict[str, Tensor]) -> BatchLoss:
        """Return the result of the model's forward: outside it, a sharded model does not have its whole weights."""
        found: BatchLoss = self.model(**inputs)
        return found

    def _scale(self, count: int, step_tokens: Tensor | int | None) -> Any:
        """Return the factor of a sum over *count*, given the tokens of the whole step on all processes."""
        processes = self.accelerator.num_processes  # gradients are averaged over them
        if self.job.loss_reduction == "sum":
            return processes
        if self.job.method == "dpo":  # pairs count equally, whatever their length, and all batches have equally many
            return 1 / (count * self.args.gradient_accumulation_steps)
        return processes / (count if step_tokens is None else step_tokens)
