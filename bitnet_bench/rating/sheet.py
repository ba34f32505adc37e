"""Choose what a rater sees of two runs, in an order and on sides that do not reveal the run."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole
from bitnet_bench.rating.page import render_sheet
from bitnet_bench.rating.ratings import RatedQuestion, RatedRun, SheetKey
from bitnet_bench.runs.folder import load_record, load_samples
from bitnet_bench.runs.records import Example, RunRecord


class SheetTurn(NamedTuple):
    """One turn of an open question and both answers to it."""

    question: str
    reference: str
    left: str
    right: str


class SheetItem(NamedTuple):
    """One prompt and both answers, as the page shows them; with *turns* the page shows these instead."""

    task: str
    prompt: str
    target: str
    left: str
    right: str
    turns: tuple[SheetTurn, ...] = ()


def make_sheet(
    run_a: Path, run_b: Path, out: Path, *, samples: int = 50, seed: int = 0, tasks: Sequence[str] = ()
) -> tuple[int, Path]:
    """Write the page *out* about *samples* answers of both runs, and its key next to it; return (items, the key).

    Answers are drawn by *seed* from tasks with written answers, an equal share from each, or from *tasks* (SUITE:TASK).
    BenchError if the runs answered other questions, or none.
    """
    runs = [load_record(run) for run in (run_a, run_b)]
    shared = _find_shared_tasks(runs, (run_a, run_b), tasks)
    by_task = {task: _pair_examples(task, runs, (run_a, run_b)) for task in shared}
    if not tasks:
        by_task = {task: pairs for task, pairs in by_task.items() if pairs and pairs[0][0].target_choice is None}
    if not any(by_task.values()):
        raise BenchError(
            f"{run_a} and {run_b} have no written answers in common: their tasks choose among given ones.",
            "Evaluate both on summarization, translation or qa; or name a `task`.",
        )
    rng = random.Random(seed)
    drawn = _draw_pairs(by_task, samples, rng)
    left_is_a = [i % 2 == 0 for i in range(len(drawn))]
    rng.shuffle(left_is_a)
    items = [_make_item(a, b, left) for (a, b), left in zip(drawn, left_is_a, strict=True)]
    sheet = hashlib.sha256(json.dumps(items, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
    key = SheetKey(
        sheet=sheet,
        a=_make_rated_run(runs[0], run_a),
        b=_make_rated_run(runs[1], run_b),
        seed=seed,
        tasks=tuple(dict.fromkeys(item.task for item in items)),
        left_is_a=tuple(left_is_a),
        items=tuple(RatedQuestion(task=a.task, doc_id=a.doc_id) for a, _ in drawn),
    )
    beside = out.with_suffix(".key.json")
    write_whole(beside, key.model_dump_json(indent=1))
    write_whole(out, render_sheet(sheet, items))
    return len(items), beside


def _make_rated_run(record: RunRecord, folder: Path) -> RatedRun:
    return RatedRun(name=record.name, folder=str(folder.resolve()), checkpoint_sha256=record.checkpoint.sha256)


def _find_shared_tasks(runs: Sequence[RunRecord], folders: Sequence[Path], tasks: Sequence[str]) -> list[str]:
    """Return the tasks that both runs answered on the same rows."""
    a, b = runs
    shared = [task for task, digest in a.data.items() if b.data.get(task) == digest]
    for task in tasks:
        if task not in shared:
            there = ", ".join(shared) or "none"
            raise BenchError(
                f"{folders[0]} and {folders[1]} did not both answer {task} on the same rows.", f"They share: {there}."
            )
    if not shared:
        raise BenchError(
            f"{folders[0]} and {folders[1]} share no task on the same rows.", "Evaluate both on the same suites."
        )
    return list(tasks) or shared


def _pair_examples(task: str, runs: Sequence[RunRecord], folders: Sequence[Path]) -> list[tuple[Example, Example]]:
    """Return both runs' examples of *task*, paired by question."""
    a, b = ({e.doc_id: e for e in load_samples(folder, [task])} for folder in folders)
    pairs = [(a[doc], b[doc]) for doc in a if doc in b]
    if any(first.prompt != second.prompt for first, second in pairs):
        raise BenchError(
            f"{folders[0]} and {folders[1]} were asked {task} in other words.",
            "Evaluate both with the same `prompts`, `shots` and `chat_template`.",
        )
    return pairs


def _draw_pairs(
    by_task: dict[str, list[tuple[Example, Example]]], samples: int, rng: random.Random
) -> list[tuple[Example, Example]]:
    """Return *samples* pairs in random order, about the same number from each task; all if there are fewer."""
    decks = [rng.sample(pairs, len(pairs)) for pairs in by_task.values()]
    drawn: list[tuple[Example, Example]] = []
    while len(drawn) < samples and any(decks):
        drawn += [deck.pop() for deck in decks if deck]
    drawn = drawn[:samples]
    rng.shuffle(drawn)
    return drawn


def _make_item(a: Example, b: Example, left_is_a: bool) -> SheetItem:
    left, right = (a, b) if left_is_a else (b, a)
    turns = (
        SheetTurn(one.question, one.reference or "", one.answer, other.answer)
        for one, other in zip(left.turns, right.turns, strict=True)
    )
    return SheetItem(a.task, a.prompt, a.target, left.output, right.output, tuple(turns))
