"""A name that no disk takes, wherever a document holds it, names nothing: it is no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fuzz.parsers import RUN

import bitnet_bench
from bitnet_bench.checkpoints.model_card import _name_only
from bitnet_bench.data.rows import read_rows
from bitnet_bench.data.templates import check_template
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.suites import read_suite
from bitnet_bench.evaluation.tasks import TaskSettings, has_local_rows
from bitnet_bench.rating.collect import save_judgement
from bitnet_bench.rating.ratings import RatedRun, SheetKey
from bitnet_bench.runs.reading import read_run
from bitnet_bench.runs.records import HumanJudgement
from bitnet_bench.runs.twins import is_run
from bitnet_bench.training.inputs import list_training_suites

LONG = "긴" * 5000


def test_rows_of_a_suite_in_a_folder_of_such_a_name_are_not_here(tmp_path: Path) -> None:
    """The suite is read; its rows are missing, as those in any folder that is not there."""
    shutil.copytree(Path(bitnet_bench.__file__).parent / "tasks" / "sample", tmp_path / "suite")
    file = tmp_path / "suite" / "suite.yaml"
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(written | {"embedded": LONG}), encoding="utf-8")
    suite = read_suite(file)
    assert not any(has_local_rows(suite, task, TaskSettings()) for task in suite.tasks)


def test_a_run_of_a_checkpoint_of_such_a_name_is_read(tmp_path: Path) -> None:
    """It is read as one whose checkpoint is gone."""
    shutil.copytree(RUN, tmp_path / "run")
    file = tmp_path / "run" / "record.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    written["checkpoint"]["path"] = LONG
    file.write_text(json.dumps(written), encoding="utf-8")
    read = read_run(tmp_path / "run")
    assert read.record.scores
    assert read.training is None


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda: is_run(LONG), False),
        (lambda: _name_only(f"hub/{LONG}"), f"hub/{LONG}"),
        (lambda: list_training_suites([f"sample:{LONG}"]), ["sample"]),
    ],
)
def test_such_a_name_is_of_nothing(ask: Callable[[], object], answer: object) -> None:
    """A run, a base model, a source of rows."""
    assert ask() == answer


@pytest.mark.parametrize("read", [lambda: read_rows(Path(LONG)), lambda: check_template(LONG)])
def test_what_is_needed_is_refused_by_a_sentence(read: Callable[[], object]) -> None:
    """Rows and a template that are named so, in a recipe or on the command line."""
    with pytest.raises(BenchError):
        read()


def test_a_rating_of_runs_of_such_names_is_kept_in_none() -> None:
    """The runs are gone, as far as the key says."""
    gone = RatedRun.model_construct(folder=LONG, checkpoint_sha256="")
    key = SheetKey.model_construct(a=gone, b=gone)
    assert save_judgement(key, HumanJudgement.model_construct(sheet="")) == []
