"""Collate examples into the tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitnet_bench.data.examples import IGNORED_LABEL, TrainingExample
from bitnet_bench.data.row_packing import pack_examples


@dataclass(frozen=True)
class BatchItem:
    """One item of a batch: a sequence, or the chosen and the rejected sequence of a pair with their reference."""

    examples: Sequence[TrainingExample]
    reference: Sequence[float] = ()
    """Log-probability of each answer before training, in nats."""

    def __len__(self) -> int:
        return max(len(example.input_ids) for example in self.examples)


LABELLED_KEY = "labelled"
"""Key in a batch of the positions in flattened [B, T] whose next token has a label (`find_labelled_positions`)."""


def find_labelled_positions(labels: Tensor) -> Tensor:
    """Return the positions [n] in flattened [B, T] whose next token has a label.

    Call it before *labels* are moved to a GPU: there, getting their number waits for all work queued before.
    """
    wanted = torch.zeros_like(labels, dtype=torch.bool)
    wanted[:, :-1] = labels[:, 1:] != IGNORED_LABEL
    return wanted.flatten().nonzero()[:, 0]


class Collator:
    """Collator that pads on the right to the longest sequence of the batch.

    *joins_rows*: rows that fit beside others within that length share a sequence, where none sees another.
    """

    def __init__(self, pad: int, joins_rows: bool = False) -> None:
        self._pad = pad
        self.joins_rows = joins_rows

    def __call__(self, items: Sequence[BatchItem]) -> dict[str, Tensor]:
        """Return the batch of *items*, with its `LABELLED_KEY` positions, and the `reference` [2B] for pairs."""
        examples = [example for item in items for example in item.examples]
        batch = self.pad_examples(join_short_rows(examples) if self.joins_rows else examples)
        batch[LABELLED_KEY] = find_labelled_positions(batch["labels"])
        if items[0].reference:
            batch["reference"] = torch.tensor([logprob for item in items for logprob in item.reference])
        return batch

    def pad_examples(self, examples: Sequence[TrainingExample]) -> dict[str, Tensor]:
        """Return input_ids, labels and, if their lengths differ, attention_mask, all [B, T].

        For packed examples, position_ids that restart at every document are returned and never an attention_mask:
        transformers builds the block-diagonal mask from position_ids only if there is no attention_mask.
        """
        longest = max(len(e.input_ids) for e in examples)
        batch = {"input_ids": self._pad_rows([e.input_ids for e in examples], longest, self._pad)}
        batch["labels"] = self._pad_rows([[IGNORED_LABEL, *e.labels[1:]] for e in examples], longest, IGNORED_LABEL)
        if any(e.parts for e in examples):
            batch["position_ids"] = torch.tensor([_make_position_ids(e, longest) for e in examples])
        elif any(len(e.input_ids) < longest for e in examples):
            batch["attention_mask"] = self._pad_rows([[1] * len(e.input_ids) for e in examples], longest, 0)
        return batch

    @staticmethod
    def _pad_rows(rows: list[list[int]], length: int, fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


def join_short_rows(examples: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
    """Return *examples* in fewer sequences, none longer than the longest, or as they are if fewer cannot hold them."""
    packed = pack_examples(examples, max(len(example.input_ids) for example in examples))
    return packed if len(packed) < len(examples) else examples


def _make_position_ids(example: TrainingExample, length: int) -> list[int]:
    """Return positions within each document; the padding is a document of its own."""
    used = len(example.input_ids)
    return [position for part in (*(example.parts or (used,)), length - used) for position in range(part)]
