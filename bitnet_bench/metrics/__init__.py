"""One metric per file, each over evaluated examples, each with a signature that says what was computed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from bitnet_bench.errors import BenchError
from bitnet_bench.records import Example


class Metric(Protocol):
    """A figure in 0..100 over all examples of a task, and on one of them alone in 0..1."""

    def of_one(self, example: Example) -> float:
        """Return the figure of one example, 0..1; for a corpus metric, that of a corpus of this example alone."""

    def value(self, examples: Sequence[Example]) -> float:
        """Return the figure, 0..100."""

    def stderr(self, examples: Sequence[Example]) -> float | None:
        """Return its standard error in the same unit, or None where there are too few examples for one."""

    def signature(self) -> str:
        """Return name, tokenizer, normalisation, kind of standard error, and version."""


_METRICS = {
    "accuracy": "accuracy:Accuracy",
    "accuracy_norm": "accuracy:LengthNormalisedAccuracy",
    "macro_f1": "f1:MacroF1",
    "exact_match": "korquad:ExactMatch",
    "char_f1": "korquad:CharacterF1",
    "rouge_l": "rouge:RougeL",
    "bleu": "bleu:Bleu",
    "chrf": "chrf:ChrfPlusPlus",
}


def metric(name: str) -> Metric:
    """Return the metric called *name*; BenchError lists those there are."""
    if name not in _METRICS:
        raise BenchError(f"There is no metric {name!r}.", f"There are: {', '.join(sorted(_METRICS))}.")
    module, attribute = _METRICS[name].split(":")
    found: Metric = getattr(import_module(f"bitnet_bench.metrics.{module}"), attribute)()
    return found
