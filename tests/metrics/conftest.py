"""Evaluated examples, made short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bitnet_bench.runs.records import Example


@pytest.fixture(scope="session")
def chosen() -> Callable[..., Example]:
    """Give a factory of multiple-choice examples: chosen(target, output, labels=2)."""

    def make(target: int, output: int, labels: int = 2, **fields: Any) -> Example:
        choices = tuple(f"선택{i}" for i in range(labels))
        defaults: dict[str, Any] = {
            "task": "t",
            "doc_id": 0,
            "prompt": "",
            "choices": choices,
            "loglikelihoods": tuple(float(i == output) for i in range(labels)),
            "target": choices[target],
            "target_choice": target,
            "output": choices[output],
            "output_choice": output,
            "correct": 0.0,
        }
        return Example(**(defaults | fields))

    return make


@pytest.fixture(scope="session")
def generated() -> Callable[..., Example]:
    """Give a factory of generation examples: generated(output, reference, ...)."""

    def make(output: str, *references: str) -> Example:
        return Example(
            task="t", doc_id=0, prompt="", target=references[0], references=references, output=output, correct=0.0
        )

    return make
