"""Parse conditions such as `kobest.macro_f1 < -1.0`, and evaluate whether a comparison meets them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitnet_bench.comparison.comparing import compare, make_mean_difference
from bitnet_bench.comparison.results import MARGIN
from bitnet_bench.errors import BenchError, UsageError, did_you_mean
from bitnet_bench.runs.run import LoadedRun

CONDITION_PATTERN = re.compile(
    r"\s*(?P<scope>\S+)\.(?P<metric>[\w:-]+)\s*(?P<sign><=|>=|<|>)\s*(?P<value>[-+]?\d+(\.\d+)?)\s*"
)
SIGN_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """A bound on the first run minus the second: on one task (`kobest:boolq`), or on the mean of a suite or `all`."""

    scope: str
    metric: str
    sign: str
    value: float

    def covers(self, task: str) -> bool:
        """Return whether *task* is in the scope."""
        return self.scope in ("all", task, task.partition(":")[0])

    def holds(self, difference: float) -> bool:
        """Return whether the bound is met."""
        return SIGN_OPERATORS[self.sign](difference, self.value)


@dataclass(frozen=True)
class ConditionResult:
    """A condition with the difference that it was checked against."""

    condition: Condition
    difference: float
    tasks: tuple[str, ...]
    holds: bool


def parse_condition(text: str, a: LoadedRun, b: LoadedRun) -> Condition:
    """Return the condition in *text*; UsageError with the nearest name if it names nothing in the two runs."""
    matched = CONDITION_PATTERN.fullmatch(text)
    if not matched:
        raise UsageError(
            f"{text!r} is not a condition.", "Such as 'kobest.macro_f1 < -1.0': SUITE or SUITE:TASK, metric, bound."
        )
    condition = Condition(matched["scope"], matched["metric"], matched["sign"], float(matched["value"]))
    scores = [score for run in (a, b) for score in run.record.scores]
    tasks = list(dict.fromkeys(score.task for score in scores))
    if not any(map(condition.covers, tasks)):
        raise UsageError(
            f"Neither run has scored {condition.scope!r}.",
            _suggest_name(condition.scope, ["all", *(task.partition(":")[0] for task in tasks), *tasks]),
        )
    metrics = [score.metric for score in scores if condition.covers(score.task)]
    if condition.metric not in metrics:
        raise UsageError(
            f"{condition.scope} has no metric {condition.metric!r}.", _suggest_name(condition.metric, metrics)
        )
    return condition


def evaluate_condition(condition: Condition, a: LoadedRun, b: LoadedRun) -> ConditionResult:
    """Return whether *condition* holds; BenchError if a task in its scope cannot be compared."""
    compared = compare(_select_scores(a, condition), _select_scores(b, condition), MARGIN, condition.metric)
    if compared.refused:
        refused = compared.refused[0]
        raise BenchError(
            f"{refused.task} cannot be compared: {'; '.join(words.en for words in refused.differs)}.",
            "A condition holds or fails only where every task in its scope can be compared.",
        )
    found = compared.differences
    mean = make_mean_difference(found, MARGIN)
    value = mean.difference if mean else 0.0
    return ConditionResult(condition, value, tuple(d.task for d in found), condition.holds(value))


def _select_scores(run: LoadedRun, condition: Condition) -> LoadedRun:
    scores = tuple(s for s in run.record.scores if condition.covers(s.task) and s.metric == condition.metric)
    return LoadedRun(run.record.model_copy(update={"scores": scores}), run.examples, not_finite=run.not_finite)


def _suggest_name(name: str, there: Sequence[str]) -> str:
    known = list(dict.fromkeys(there))
    return did_you_mean(name, known, cutoff=0.4) or f"There are: {', '.join(known)}."
