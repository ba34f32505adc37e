"""Run tasks through lm-eval on an opened session and score what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.metrics import metric
from bitnet_bench.ports import Progress, Session
from bitnet_bench.records import Example, Score


@dataclass(frozen=True)
class TaskResult:
    """Scores of one task, its examples in order, the digest of its rows, and what happened to its requests."""

    name: str
    scores: tuple[Score, ...]
    examples: tuple[Example, ...]
    rows_sha256: str
    counts: dict[str, int]


def evaluate_task(
    session: Session, suite: Suite, task: Task, built: Any, limit: int | None, progress: Progress
) -> TaskResult:
    """Score *session* on one task, *built* by `tasks.build_task`, on its first *limit* rows if given."""
    from lm_eval import evaluator

    from bitnet_bench.evaluation.lm import SessionLM
    from bitnet_bench.evaluation.tasks import rows_digest

    lm = SessionLM(session, progress)
    results = evaluator.evaluate(
        lm,
        {"tasks": {built.task_name: built}, "groups": {}, "group_map": {}},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(results["samples"][built.task_name], key=lambda sample: int(sample["doc_id"]))
    name = f"{suite.name}:{task.name}"
    examples = [_example(name, sample, built) for sample in samples]
    primary = metric(task.metrics[0])
    examples = [e.model_copy(update={"correct": primary.of_one(e)}) for e in examples]
    scores = tuple(_score(name, key, task, examples) for key in task.metrics)
    return TaskResult(name, scores, tuple(examples), rows_digest(s["doc"] for s in samples), lm.counts)


def _example(task: str, sample: dict[str, Any], built: Any) -> Example:
    """Turn lm-eval's logged sample into ours."""
    doc = sample["doc"]
    if built.OUTPUT_TYPE != "multiple_choice":
        target = sample["target"]
        references = doc.get("answers") or ([target] if isinstance(target, str) else target)
        return Example(
            task=task,
            doc_id=sample["doc_id"],
            prompt=sample["arguments"][0][0],
            target=references[0],
            references=tuple(references),
            output=sample["filtered_resps"][0].strip(),
            correct=0.0,
        )
    choices = [str(choice) for choice in built.doc_to_choice(doc)]
    target_choice = _target_index(task, sample, choices)
    loglikelihoods = [float(ll) for ll, _greedy in sample["filtered_resps"]]
    output_choice = loglikelihoods.index(max(loglikelihoods))
    return Example(
        task=task,
        doc_id=sample["doc_id"],
        prompt=sample["arguments"][0][0],
        choices=tuple(choices),
        loglikelihoods=tuple(loglikelihoods),
        target=choices[target_choice],
        target_choice=target_choice,
        output=choices[output_choice],
        output_choice=output_choice,
        correct=0.0,
    )


def _target_index(task: str, sample: dict[str, Any], choices: list[str]) -> int:
    target = sample["target"]
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    if isinstance(target, int) and 0 <= target < len(choices):
        return target
    raise BenchError(
        f"Row {sample['doc_id']} of {task} has the label {target!r}, which is none of its {len(choices)} choices.",
        "Correct the row; a label outside the set cannot be scored.",
    )


def _score(name: str, key: str, task: Task, examples: Sequence[Example]) -> Score:
    found = metric(key)
    primary = key == task.metrics[0]
    return Score(
        task=name,
        metric=key,
        value=found.value(examples),
        stderr=found.stderr(examples),
        n=len(examples),
        signature=found.signature(),
        primary=primary,
        chance=task.chance if primary else None,
    )


def training_rows(suite: Suite, task: Task, data_dir: Path | None, limit: int | None) -> list[tuple[str, str]]:
    """Return (prompt, response) of a task's training split: the very text that evaluation uses, delimiter included."""
    from bitnet_bench.evaluation.tasks import build_task

    built: Any = build_task(suite, task, data_dir)
    if not built.has_training_docs():
        raise BenchError(f"{suite.name}:{task.name} has no training rows.", "Use another task or a JSONL file.")
    documents = built.dataset[built.config.training_split]
    rows = []
    for doc in list(documents)[:limit]:
        target = built.doc_to_target(doc)
        if built.OUTPUT_TYPE == "multiple_choice" and isinstance(target, int):
            target = built.doc_to_choice(doc)[target]
        rows.append((built.doc_to_text(doc), f"{built.config.target_delimiter}{target}"))
    return rows
