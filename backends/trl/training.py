"""Train with trl's trainers, which compute the loss on this package's tokens, order of rows and reference."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from bitnet_bench.data.collating import BatchItem, Collator
from bitnet_bench.data.tokenizing import IGNORED_LABEL, TrainingExample
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import RowPacking
from bitnet_bench.training.preference import check_same_reference
from bitnet_bench.training.trainer import BenchTrainer, TrainerSetup

Row = dict[str, Any]
"""A `BatchItem` as a row of a table."""


def check_supported_by_trl(job: FinetuneJob) -> None:
    """Raise BenchError for what trl's trainers cannot do."""
    if job.method == "distill":
        raise BenchError(
            "The backend 'trl' does not distill: trl's trainers know neither BitDistill's loss nor its relations.",
            "Use `backend=hf` for `method=distill`.",
        )


def build_trainer(start: TrainerSetup, arguments: Mapping[str, Any], order: Sequence[int]) -> BenchTrainer:
    """Return the trainer of *start*."""
    if start.job.shard:
        raise BenchError(
            "The backend 'trl' does not `shard`: its forward reads the head of a model that is not gathered.",
            "Use `backend=hf`, or leave `shard` out: every process has a copy then.",
        )
    dpo = start.job.method == "dpo"
    # by default trl turns on gradient checkpointing, and bfloat16 without a warning
    values = {**arguments, "gradient_checkpointing": False, "max_length": None}
    used, places = np.unique(np.asarray(order), return_inverse=True)
    rows = Dataset.from_list([_row(start.plan.items[i]) for i in used.tolist()]).select(places)
    common = {
        "model": start.model,
        "train_dataset": rows,
        "processing_class": copy.deepcopy(start.tokenizer),  # trl adds a padding token to it; the original is saved
        "start": start,
    }
    if dpo:
        args = DPOConfig(**values, beta=start.job.beta, precompute_ref_log_probs=True)
        return PreferenceTrainer(args=args, data_collator=_PairCollator(start.plan.collator), **common)
    args = SFTConfig(**values, dataset_kwargs={"skip_prepare_dataset": True})
    return SupervisedTrainer(args=args, data_collator=_SequenceCollator(start.plan.collator), **common)


def _row(item: BatchItem) -> Row:
    return {
        "examples": [{"input_ids": e.input_ids, "labels": e.labels, "parts": e.parts} for e in item.examples],
        "reference": item.reference,
    }


def _read_examples(rows: Sequence[Row]) -> list[TrainingExample]:
    """Return the sequences of *rows*; the two of a pair follow each other."""
    return [TrainingExample(e["input_ids"], e["labels"], tuple(e["parts"])) for row in rows for e in row["examples"]]


class _SequenceCollator:
    """Makes the batch that SFTTrainer expects."""

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return the padded batch; it has the mask by which trl counts tokens, which packed sequences must not have."""
        batch = self._collator.pad_examples(_read_examples(rows))
        return batch if "position_ids" in batch else _add_mask(batch)


class _PairCollator(_SequenceCollator):
    """Makes the batch that DPOTrainer expects: the chosen answers, then the rejected ones."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        examples = _read_examples(rows)
        batch = _add_mask(self._collator.pad_examples(examples[0::2] + examples[1::2]))
        batch["completion_mask"] = (batch.pop("labels") != IGNORED_LABEL).long()
        chosen, rejected = torch.tensor([row["reference"] for row in rows]).unbind(1)
        return {**batch, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}


def _add_mask(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"attention_mask": torch.ones_like(batch["input_ids"]), **batch}


class _TRLTrainer(BenchTrainer):
    """Base of both trainers: turns off features of trl."""

    @property
    def packing(self) -> RowPacking:
        """How rows share sequences: those of a step do not, because trl counts tokens by their mask."""
        return "full" if self.job.packing else "off"

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing: model cards are made from records, not from saved steps."""

    def _send_telemetry(self) -> None:
        """Do nothing: no telemetry is sent."""


class SupervisedTrainer(_TRLTrainer, SFTTrainer):
    """SFTTrainer of tokens, for fine-tuning and for pre-training."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return a micro-batch's contribution to the step's loss, and record its figures for the log."""
        count = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()
        step_tokens = count if num_items_in_batch is None else num_items_in_batch
        mean: Tensor = super().compute_loss(model, inputs, num_items_in_batch=step_tokens)
        self.record_micro_batch(mean.detach() * step_tokens / self.accelerator.num_processes, count, inputs, {})
        return mean * step_tokens if self.job.loss_reduction == "sum" else mean


class PreferenceTrainer(_TRLTrainer, DPOTrainer):
    """DPOTrainer of tokens, whose reference is the same quantized model before the first step."""

    def __init__(self, *args: Any, start: TrainerSetup, **kwargs: Any) -> None:
        super().__init__(*args, start=start, **kwargs)
        self._checked = start.is_resumed

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Return *dataset*: its rows are already tokens."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        """Return *dataset*: its rows have their reference, and trl would load one without the quantizers."""
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the mean loss over a micro-batch's pairs; raise BenchError if the first is not ln 2."""
        mean: Tensor = super().compute_loss(model, inputs)
        pairs = len(inputs["input_ids"]) // 2
        if not self._checked:
            check_same_reference(mean.item())
            self._checked = True
        said = {name: self._metrics["train"][f"rewards/{trl}"][-1] * pairs for name, trl in TRL_FIGURE_NAMES.items()}
        self.record_micro_batch(mean * pairs, pairs, inputs, said)
        if self.job.loss_reduction == "sum":  # the mean over processes and micro-batches is taken after this
            mean = mean * (pairs * self.accelerator.num_processes * self.args.gradient_accumulation_steps)
        return mean


TRL_FIGURE_NAMES = {"margin": "margins", "accuracy": "accuracies"}
"""Names that trl gives the figures of `bitnet_bench.training.preference.PreferenceFigures`."""
