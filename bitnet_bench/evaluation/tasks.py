"""Build lm-eval tasks from a suite's YAMLs, on local rows or on the hub's."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from bitnet_bench.data.jsonl import nfc_json, numbered_lines
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
    files = _local_files(suite, task, data_dir, config)
    if not files and suite.hub is None:
        raise BenchError(f"Suite {suite.name} has neither local rows nor a hub id.", "Correct its suite.yaml.")
    if files:
        rows = _local(files, suite)
        config["dataset_kwargs"] = {}
        config["custom_dataset"] = lambda **_: rows
    try:
        return ConfigurableTask(config=config)
    except (OSError, RuntimeError) as error:
        raise BenchError(
            f"{suite.name}:{task.name} has no local rows, and {suite.hub} cannot be had from the hub.",
            f"Give --data-dir (or BITNET_BENCH_DATA) with {task.local}/{task.splits['test']}.jsonl, or go online.",
        ) from error
    except (LookupError, TypeError, ValueError, TemplateError) as error:
        raise BenchError(
            f"The first row of {suite.name}:{task.name} does not fit the task: {error}.",
            "Its label must be one of the choices, and it needs every field that the prompt uses.",
        ) from error


def _local_files(suite: Suite, task: Task, data_dir: Path | None, config: dict[str, Any]) -> dict[str, Path]:
    """Return the file of each split by lm-eval's name; without training rows *config* loses that split."""
    test, train = (suite.rows_file(task, split, data_dir) for split in ("test", "train"))
    if test is None:
        return {}
    files = {config["test_split"]: test}
    if train is not None and train.is_file():
        files[config["training_split"]] = train
    else:
        del config["training_split"]
    return files


def _local(splits: dict[str, Path], suite: Suite) -> Any:
    from datasets import Dataset, DatasetDict

    return DatasetDict({name: Dataset.from_list(read_split(file, suite)) for name, file in splits.items()})


def read_split(file: Path, suite: Suite) -> list[dict[str, Any]]:
    """Return the rows of a JSONL split in NFC; BenchError names the file, and the line of a malformed row."""
    if not file.is_file():
        where = f" It would come from {suite.hub} on the hub without --data-dir." if suite.hub else ""
        raise BenchError(f"There is no {file}.", f"Check --data-dir or BITNET_BENCH_DATA.{where}")
    rows: list[dict[str, Any]] = []
    for number, line in numbered_lines(file):
        try:
            row = nfc_json(line)
        except ValueError as error:
            raise BenchError(f"Line {number} of {file} is not JSON: {error}.", "Correct or remove it.") from error
        if not isinstance(row, dict):
            raise BenchError(f"Line {number} of {file} is not a JSON object.", "Correct or remove it.")
        if rows and (lacking := sorted(rows[0].keys() - row.keys())):
            raise BenchError(f'Line {number} of {file} has no "{lacking[0]}".', "Every row needs the same fields.")
        rows.append(row)
    if not rows:
        raise BenchError(f"{file} has no rows.", "Get the data again.")
    return rows


def rows_digest(documents: Any) -> str:
    """Return the sha256 of rows, in order, as JSON with sorted keys."""
    digest = hashlib.sha256()
    for row in documents:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()
