"""Put the runs' outputs on the same row side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_bench.records import Example
from bitnet_bench.reports.figures import number
from bitnet_bench.reports.runs import NamedRun

PER_TASK = 20
LONGEST = 2000


@dataclass(frozen=True)
class Clipped:
    """Text of at most LONGEST characters; *note* says if some was cut."""

    text: str
    note: str


@dataclass(frozen=True)
class Output:
    """What one run answered. *mark* says in words and signs whether that was right."""

    run: NamedRun
    text: Clipped
    mark: str
    kind: str


@dataclass(frozen=True)
class Sample:
    """One row of a task."""

    doc_id: int
    prompt: Clipped
    target: Clipped
    outputs: tuple[Output, ...]
    differ: bool


@dataclass(frozen=True)
class TaskSamples:
    """The first rows of a task, out of *total*."""

    task: str
    total: int
    samples: tuple[Sample, ...]
    differing: int


def samples(runs: Sequence[NamedRun]) -> tuple[TaskSamples, ...]:
    """Return the first rows of each task by row number: none is picked for what it says."""
    tasks = dict.fromkeys(example.task for run in runs for example in run.examples)
    return tuple(_task(task, runs) for task in tasks)


def _task(task: str, runs: Sequence[NamedRun]) -> TaskSamples:
    """Group by number, prompt and target: rows of different data sets share a number, but are not the same."""
    rows: dict[tuple[int, str, str], list[tuple[NamedRun, Example]]] = {}
    for run in runs:
        for example in run.by_task.get(task, []):
            rows.setdefault((example.doc_id, example.prompt, example.target), []).append((run, example))
    shown = tuple(_sample(answers) for _, answers in sorted(rows.items(), key=lambda item: item[0][0])[:PER_TASK])
    return TaskSamples(task, len(rows), shown, sum(sample.differ for sample in shown))


def _sample(answers: Sequence[tuple[NamedRun, Example]]) -> Sample:
    example = answers[0][1]
    return Sample(
        doc_id=example.doc_id,
        prompt=clipped(example.prompt),
        target=clipped(example.target),
        outputs=tuple(_output(run, answer) for run, answer in answers),
        differ=len({answer.output for _, answer in answers}) > 1,
    )


def _output(run: NamedRun, example: Example) -> Output:
    mark, kind = _mark(example.correct)
    return Output(run, clipped(example.output), mark, kind)


def _mark(correct: float) -> tuple[str, str]:
    if correct >= 1.0:
        return "✓ 맞음", "right"
    if correct <= 0.0:
        return "✗ 틀림", "wrong"
    return f"◐ {number(100 * correct)}점", "partly"


def clipped(text: str) -> Clipped:
    """Return the beginning of *text*."""
    if len(text) <= LONGEST:
        return Clipped(text, "")
    return Clipped(text[:LONGEST], f"전체 {len(text):,}자 가운데 앞 {LONGEST:,}자만 보임")
