"""A language model that knows the answers, or none of them: it tests a task's own path from prompt to score."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from lm_eval.api.model import LM

from bitnet_bench.evaluation.task_run import IMPOSSIBLE_LOGLIKELIHOOD
from bitnet_bench.evaluation.tasks import BuiltTask


class AnswerLM(LM):
    """Answers each document as *choose* (log-likelihoods of its choices) or *write* (text) says."""

    def __init__(
        self, choose: Callable[[dict[str, Any], list[str]], list[float]], write: Callable[[dict[str, Any]], str]
    ) -> None:
        super().__init__()
        self._choose, self._write = choose, write
        self.choices: Callable[[dict[str, Any]], list[str]] = lambda doc: []

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-likelihood of the choice that each request asks about."""
        return [(self._choose(r.doc, self.choices(r.doc))[r.idx], False) for r in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return 0 nats: certain of every text."""
        return [0.0 for _ in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return text, cut at the task's stops as every real model's is."""
        return [_until(self._write(r.doc), r.args[1]["until"]) for r in requests]


def _until(text: str, stops: list[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text


def gold_lm(built: BuiltTask) -> AnswerLM:
    """Return the model that gives every gold answer of a task."""
    task, module = built.lm_task, built.module

    def choose(doc: dict[str, Any], choices: list[str]) -> list[float]:
        if hasattr(module, "value"):
            return graded(module.value(doc), module.VALUES)
        target = task.doc_to_target(doc)
        at = target if isinstance(target, int) else choices.index(target)
        return [0.0 if i == at else IMPOSSIBLE_LOGLIKELIHOOD for i in range(len(choices))]

    def write(doc: dict[str, Any]) -> str:
        target = task.doc_to_target(doc)
        if isinstance(target, int):
            return f" {task.doc_to_choice(doc)[target]}"
        return " " + (target if isinstance(target, str) else target[0])

    return _with_choices(AnswerLM(choose, write), task)


def graded(value: float, values: tuple[float, ...]) -> list[float]:
    """Return log-probabilities of *values* whose mean is *value*."""
    below = max(v for v in values if v <= value)
    above = min(v for v in values if v >= value)
    share = 0.0 if above == below else (value - below) / (above - below)
    weights = {above: share, below: 1.0 - share} if above != below else {below: 1.0}
    return [math.log(weights[v]) if weights.get(v, 0.0) > 0.0 else IMPOSSIBLE_LOGLIKELIHOOD for v in values]


def noise_lm(built: BuiltTask, seed: int = 0) -> AnswerLM:
    """Return the model that answers at random: a random choice, or the gold text with characters lost and swapped."""
    rng = random.Random(seed)
    right = gold_lm(built)

    def choose(doc: dict[str, Any], choices: list[str]) -> list[float]:
        return [-random.Random(f"{seed}{doc}{i}").random() for i in range(len(choices))]

    def write(doc: dict[str, Any]) -> str:
        text = list(right._write(doc))
        for _ in range(rng.randrange(4) if text else 0):
            text[rng.randrange(len(text))] = rng.choice("가나다 :;-3")
        return "".join(text)

    return _with_choices(AnswerLM(choose, write), built.lm_task)


def empty_lm(built: BuiltTask) -> AnswerLM:
    """Return the model that writes nothing and finds every choice equally likely."""
    return _with_choices(AnswerLM(lambda doc, choices: [-1.0] * len(choices), lambda doc: ""), built.lm_task)


def _with_choices(lm: AnswerLM, task: Any) -> AnswerLM:
    lm.choices = lambda doc: [str(choice) for choice in task.doc_to_choice(doc)]
    return lm


@pytest.fixture
def gold() -> Callable[[BuiltTask], AnswerLM]:
    """Give what makes a model that knows every answer of a task."""
    return gold_lm


@pytest.fixture
def noise() -> Callable[[BuiltTask], AnswerLM]:
    """Give what makes a model that answers a task at random."""
    return noise_lm


@pytest.fixture
def empty() -> Callable[[BuiltTask], AnswerLM]:
    """Give what makes a model that writes nothing."""
    return empty_lm
