"""Compare a ternary run with its twin of another precision, example by example, or say why that cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from bitnet_bench.reports.figures import DASH, signed
from bitnet_bench.reports.runs import NamedRun
from bitnet_bench.reports.scores import mean_of_errors
from bitnet_bench.statistics import interval, paired_difference

SMALL = 30
"""Below this many pairs the normal interval is rough."""


@dataclass(frozen=True)
class Difference:
    """Ternary minus the other run, in points (0..100)."""

    value: float
    stderr: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval."""
        return interval(self.value, self.stderr, -100.0, 100.0)

    @property
    def found(self) -> bool | None:
        """Whether the interval excludes 0; None without an interval."""
        limits = self.interval
        return None if limits is None else not limits[0] <= 0.0 <= limits[1]


@dataclass(frozen=True)
class Refused:
    """Why two runs are not comparable on a task."""

    reason: str


@dataclass(frozen=True)
class Pair:
    """A ternary run, another run, and what they differ by on each task."""

    ternary: NamedRun
    other: NamedRun
    tasks: dict[str, Difference | Refused]

    @property
    def differences(self) -> list[Difference]:
        """The differences of the comparable tasks."""
        return [found for found in self.tasks.values() if isinstance(found, Difference)]

    @property
    def mean(self) -> Difference | None:
        """The mean of the tasks' differences, each task weighing the same; None if none is comparable."""
        found = self.differences
        if not found:
            return None
        error = mean_of_errors([difference.stderr for difference in found])
        return Difference(sum(d.value for d in found) / len(found), error, sum(d.n for d in found))


def pairs(runs: Sequence[NamedRun]) -> tuple[Pair, ...]:
    """Return every ternary run with every run of another precision at the same stage; no stage goes with any."""
    ternary = [run for run in runs if run.record.precision == "ternary"]
    others = [run for run in runs if run.record.precision != "ternary"]
    return tuple(_pair(a, b) for a, b in product(ternary, others) if a.stage == b.stage or not (a.stage and b.stage))


def _pair(ternary: NamedRun, other: NamedRun) -> Pair:
    tasks = dict.fromkeys(task for run in (ternary, other) for task in (*run.primary, *run.by_task))
    return Pair(ternary, other, {task: difference(ternary, other, task) for task in tasks})


def difference(ternary: NamedRun, other: NamedRun, task: str) -> Difference | Refused:
    """Return the paired difference of the examples' `correct` on *task*, or why the examples are no pairs."""
    reason = _obstacle(ternary, other, task)
    if reason:
        return Refused(reason)
    a, b = ({e.doc_id: e.correct for e in run.by_task[task]} for run in (ternary, other))
    value, stderr = paired_difference([a[doc] for doc in a], [b[doc] for doc in a])
    return Difference(100.0 * value, None if stderr is None else 100.0 * stderr, len(a))


def _obstacle(ternary: NamedRun, other: NamedRun, task: str) -> str | None:
    runs = (ternary, other)
    for run in runs:
        if task not in run.by_task:
            return f"{run.key}에 이 과제의 예제 기록이 없어 짝을 지을 수 없다."
        if task not in run.record.data:
            return f"{run.key}에 데이터 다이제스트가 없어 같은 문항인지 알 수 없다."
    digests = [run.record.data[task] for run in runs]
    if digests[0] != digests[1]:
        return f"채점한 데이터가 서로 다르다(다이제스트 {digests[0][:8]}… ≠ {digests[1][:8]}…)."
    documents = [sorted(example.doc_id for example in run.by_task[task]) for run in runs]
    if documents[0] != documents[1]:
        return f"채점한 문항이 서로 다르다({len(documents[0]):,}개와 {len(documents[1]):,}개)."
    if len(set(documents[0])) < len(documents[0]):
        return "같은 문항 번호가 두 번 나와 짝을 지을 수 없다."
    signatures = [run.primary[task].signature if task in run.primary else None for run in runs]
    return "주 지표의 서명이 서로 다르다." if signatures[0] != signatures[1] else None


@dataclass(frozen=True)
class PairRow:
    """A difference as it is shown."""

    label: str
    n: str
    difference: str
    interval: str
    verdict: str
    kind: Literal["found", "unsure", "refused"]


@dataclass(frozen=True)
class PairView:
    """A pair as it is shown; *small* if an interval rests on few examples."""

    ternary: NamedRun
    other: NamedRun
    rows: tuple[PairRow, ...]
    mean: PairRow | None
    small: bool


def pair_view(pair: Pair) -> PairView:
    """Return *pair* in words."""
    found = pair.differences
    mean = pair.mean if len(found) > 1 else None
    return PairView(
        ternary=pair.ternary,
        other=pair.other,
        rows=tuple(_row(task, result) for task, result in pair.tasks.items()),
        mean=_row(f"비교 가능한 {len(found)}개 과제의 평균", mean) if mean else None,
        small=any(difference.n < SMALL for difference in found),
    )


def _row(label: str, result: Difference | Refused) -> PairRow:
    if isinstance(result, Refused):
        return PairRow(label, DASH, DASH, DASH, f"비교할 수 없다: {result.reason}", "refused")
    limits = result.interval
    shown = f"{signed(limits[0])} ~ {signed(limits[1])}" if limits else DASH
    kind: Literal["found", "unsure"] = "found" if result.found else "unsure"
    return PairRow(label, f"{result.n:,}", signed(result.value), shown, in_words(result), kind)


def in_words(difference: Difference) -> str:
    """Say whether there is a difference."""
    if difference.found is None:
        return "예제가 적어 판단할 수 없다"
    return "차이가 있다" if difference.found else "차이를 확인하지 못했다"
