"""The four accuracies of IFEval: of whole prompts and of single instructions, strict and loose (arXiv:2311.07911)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitnet_bench.metrics.mean import MeanMetric
from bitnet_bench.metrics.sums import BOOTSTRAP_SIGNATURE, SumMetric
from bitnet_bench.runs.records import Example

RULES = "rules:ifeval-ko1"


class PromptStrict(MeanMetric):
    """Share of prompts whose instructions are all followed."""

    name = "prompt_strict"
    labels: tuple[str, ...] = ("strict",)
    """Labels of an instruction that count as followed."""

    def score_example(self, example: Example) -> float:
        """Return 1.0 if every instruction is followed."""
        return float(all(label in self.labels for label in example.output_labels))

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|{RULES}|stderr:mean|v1"


class PromptLoose(PromptStrict):
    """Share of prompts each of whose instructions is followed in one of the eight loose variants of the text."""

    name = "prompt_loose"
    labels = ("strict", "loose")


class InstructionStrict(SumMetric):
    """Share of instructions that are followed, over all prompts."""

    name = "instruction_strict"
    labels: tuple[str, ...] = ("strict",)
    """Labels of an instruction that count as followed."""

    def additive_statistics(self, examples: Sequence[Example]) -> np.ndarray:
        """Return [n, 2]: the instructions that are followed, and all."""
        counts = [(sum(label in self.labels for label in e.output_labels), len(e.output_labels)) for e in examples]
        return np.array(counts, dtype=np.int64).reshape(-1, 2)

    def score_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return the share, 0..1."""
        share: np.ndarray = sums[..., 0] / np.maximum(sums[..., 1], 1)
        return share

    def parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the share of each instruction, 0..100, by its id."""
        found: dict[str, list[bool]] = {}
        for example in examples:
            for name, label in zip(example.target_labels, example.output_labels, strict=True):
                found.setdefault(name, []).append(label in self.labels)
        return {name: 100.0 * sum(hits) / len(hits) for name, hits in sorted(found.items())}

    def signature(self) -> str:
        """Return the signature."""
        return f"{self.name}|{RULES}|{BOOTSTRAP_SIGNATURE}|v1"


class InstructionLoose(InstructionStrict):
    """Share of instructions that are followed in one of the eight loose variants of the text."""

    name = "instruction_loose"
    labels = ("strict", "loose")
