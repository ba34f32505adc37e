"""Build lm-eval tasks from a suite's YAMLs, on local rows or on the hub's."""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.suites import Suite, Task

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


def build_task(suite: Suite, task: Task, data_dir: Path | None) -> ConfigurableTask:
    """Return the lm-eval task `bb_<suite>_<task>` with its rows loaded.

    Rows come from the suite itself, else from *data_dir*, else from the hub.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    config = load_yaml(suite.folder / f"{task.name}.yaml", resolve_func=True)
    test = suite.rows_file(task, "test", data_dir)
    if test is not None:
        splits = {config["test_split"]: test}
        train = suite.rows_file(task, "train", data_dir)
        if train is not None and train.is_file():
            splits[config["training_split"]] = train
        config["dataset_kwargs"] = {}
        config["custom_dataset"] = lambda **_: _local(splits, suite)
        return ConfigurableTask(config=config)
    if suite.hub is None:
        raise BenchError(f"Suite {suite.name} has neither local rows nor a hub id.", "Correct its suite.yaml.")
    try:
        return ConfigurableTask(config=config)
    except (OSError, ConnectionError, RuntimeError, ValueError) as error:
        raise BenchError(
            f"{suite.name}:{task.name} has no local rows, and {suite.hub} cannot be had from the hub.",
            f"Give --data-dir (or BITNET_BENCH_DATA) with {task.local}/{task.splits['test']}.jsonl, or go online.",
        ) from error


def _local(splits: dict[str, Path], suite: Suite) -> Any:
    from datasets import Dataset, DatasetDict

    return DatasetDict({name: Dataset.from_list(read_split(file, suite)) for name, file in splits.items()})


def read_split(file: Path, suite: Suite) -> list[dict[str, Any]]:
    """Return the rows of a JSONL split in NFC; BenchError names the file, and the line of a malformed row."""
    if not file.is_file():
        where = f" It would come from {suite.hub} on the hub without --data-dir." if suite.hub else ""
        raise BenchError(f"There is no {file}.", f"Check --data-dir or BITNET_BENCH_DATA.{where}")
    rows = []
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(unicodedata.normalize("NFC", line))
            except ValueError as error:
                raise BenchError(f"Line {number} of {file} is not JSON: {error}.", "Correct or remove it.") from error
            if not isinstance(row, dict):
                raise BenchError(f"Line {number} of {file} is not a JSON object.", "Correct or remove it.")
            rows.append(row)
    if not rows:
        raise BenchError(f"{file} has no rows.", "Get the data again.")
    fields = set(rows[0])
    for number, row in enumerate(rows, start=1):
        if lacking := sorted(fields - row.keys()):
            raise BenchError(f'Line {number} of {file} has no "{lacking[0]}".', "Every row needs the same fields.")
    return rows


def rows_digest(documents: Any) -> str:
    """Return the sha256 of rows, in order, as JSON with sorted keys."""
    digest = hashlib.sha256()
    for row in documents:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()
