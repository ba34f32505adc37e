"""A model whose answers stand in the test, and what asks it the rows of a task."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lm_eval.api.model import LM

from bitnet_bench.evaluation.select import load_suites
from bitnet_bench.evaluation.task_run import TaskResult, check_rows, evaluate_task, list_training_pairs
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task


class ScriptedLM(LM):
    """Answers row by row: a text is the choice that it prefers, or what it writes; numbers are log-probabilities.

    It asks nothing of the task: which choice is right, it is told by nobody.
    """

    def __init__(self, answers: Sequence[Any]) -> None:
        super().__init__()
        self._answers = answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the number of each choice, or -1 for the preferred one and what is as good as never for the others."""
        return [(self._score(r.args[1].strip(), r.idx, self._answers[r.doc_id]), False) for r in requests]

    @staticmethod
    def _score(choice: str, place: int, answer: str | Sequence[float]) -> float:
        if isinstance(answer, str):
            return -1.0 if choice == answer else -10_000.0
        return answer[place]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the number of each row."""
        return [float(self._answers[r.doc_id]) for r in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the text of each row."""
        return [self._answers[r.doc_id] for r in requests]


read_suites = cache(load_suites)
"""The suites that the package ships, read once: eight YAML files take a second on a busy machine."""


def has_output_type(definition: Path, output_type: str) -> bool:
    """Return whether a task's YAML says *output_type*."""
    return f"output_type: {output_type}" in definition.read_text(encoding="utf-8")


def write_rows(file: Path, content: Any) -> None:
    """Write the rows of a file as its name says: a table, Parquet, one JSON value, or JSON Lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), file)
        return
    if file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, list(content[0]) if content else ["question"])
            table.writeheader()
            table.writerows(content)
        return
    lines = [content] if file.suffix == ".json" else content
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def build(folder: Path, name: str, files: dict[str, Any], **settings: Any) -> BuiltTask:
    """Write *files* (by their paths in a data directory) and return the task *name* on them, with *settings*."""
    for place, content in files.items():
        write_rows(folder / place, content)
    suite, _, task = name.partition(":")
    found = read_suites()[suite]
    (one,) = (other for other in found.tasks if other.name == task)
    own = {name: folder / next(iter(files))} if found.embedded or one.own_rows or not one.local else {}
    return build_task(found, one, TaskSettings(folder, own, **settings))


@pytest.fixture
def answer_rows(tmp_path: Path) -> Callable[..., TaskResult]:
    """Give what asks the rows of a task, by their file in the data directory, and scores *answers*."""

    def answer(name: str, files: dict[str, Any], answers: Sequence[Any], **settings: Any) -> TaskResult:
        built = build(tmp_path, name, files, **settings)
        check_rows(built, None)
        return evaluate_task(ScriptedLM(answers), built)

    return answer


@pytest.fixture
def build_rows(tmp_path: Path) -> Callable[..., BuiltTask]:
    """Give what writes the rows of a task, and returns the task on them."""
    return lambda name, files, **settings: build(tmp_path, name, files, **settings)


@pytest.fixture
def teach_rows(tmp_path: Path) -> Callable[[str, dict[str, Any]], list[tuple[str, str]]]:
    """Give what returns (prompt, response) of a task's training rows."""

    def teach(name: str, files: dict[str, Any]) -> list[tuple[str, str]]:
        return list_training_pairs(build(tmp_path, name, files), None)[0]

    return teach
