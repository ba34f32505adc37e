"""Place the bars of small charts, one chart per task: numbers in, coordinates out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_bench.records import Score
from bitnet_bench.reports.figures import number, points, span
from bitnet_bench.reports.runs import NamedRun
from bitnet_bench.reports.scores import score_interval

LEFT, PLOT, TOP, STEP, BAR = 24.0, 240.0, 8.0, 22.0, 14.0


@dataclass(frozen=True)
class Whisker:
    """The 95 % interval of a bar."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Bar:
    """One run's score."""

    key: str
    colour: str
    value: str
    y: float
    middle: float
    width: float
    whisker: Whisker | None


@dataclass(frozen=True)
class Tick:
    """A labelled position on the axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """The primary scores of one task, 0..100, in a drawing of 320 x *height*."""

    task: str
    metric: str
    title: str
    height: float
    bottom: float
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    chance: Tick | None


def charts(runs: Sequence[NamedRun]) -> tuple[Chart, ...]:
    """Return a chart of the primary metric of every task whose values are at most 100."""
    tasks = dict.fromkeys(task for run in runs for task, score in run.primary.items() if score.limits[1] == 100.0)
    return tuple(_chart(task, [(run, run.primary[task]) for run in runs if task in run.primary]) for task in tasks)


def _chart(task: str, scores: Sequence[tuple[NamedRun, Score]]) -> Chart:
    bottom = TOP + STEP * len(scores)
    chances = [score.chance for _, score in scores if score.chance]
    metric = scores[0][1].metric
    spoken = ", ".join(f"{run.name} {points(s.value)} (95% 구간 {span(score_interval(s))})" for run, s in scores)
    return Chart(
        task=task,
        metric=metric,
        title=f"{task} {metric}: {spoken}" + (f", 우연 수준 {number(chances[0])}" if chances else ""),
        height=bottom + 22,
        bottom=bottom,
        bars=tuple(_bar(run, score, TOP + STEP * i) for i, (run, score) in enumerate(scores)),
        ticks=tuple(Tick(_x(value), str(value)) for value in (0, 50, 100)),
        chance=Tick(_x(chances[0]), number(chances[0])) if chances else None,
    )


def _bar(run: NamedRun, score: Score, top: float) -> Bar:
    middle = top + STEP / 2
    limits = score_interval(score)
    whisker = Whisker(_x(limits[0]), _x(limits[1]), middle - 4, middle + 4) if limits else None
    width = round(_x(score.value) - LEFT, 1)
    return Bar(run.key, run.colour, points(score.value), middle - BAR / 2, middle, width, whisker)


def _x(value: float) -> float:
    return round(LEFT + PLOT * min(100.0, max(0.0, value)) / 100, 1)
