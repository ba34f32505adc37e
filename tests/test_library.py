"""What `import bitnet_bench as bb` promises."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import bitnet_bench as bb

FUNCTIONS = ("open", "finetune", "evaluate", "measure", "compare", "report")
QUICK = bb.Scenario(prompt_tokens=8, new_tokens=2, rounds=1, threads=1)


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Names are loaded when they are used, and `dir` shows them before that."""
    code = (
        "import sys, bitnet_bench as bb\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'numpy', 'pydantic', 'typer', 'yaml'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "assert set(bb.__all__) <= set(dir(bb))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", bb.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """What `__all__` lists can be had, and says what it is."""
    assert inspect.getdoc(getattr(bb, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_typed_and_has_an_example(name: str) -> None:
    """Six functions, each with a type for every argument and lines to copy."""
    function = getattr(bb, name)
    hints = get_type_hints(function)
    assert hints.keys() == {*inspect.signature(function).parameters, "return"}
    assert ">>>" in (inspect.getdoc(function) or "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="frobnicate"):
        bb.frobnicate  # noqa: B018


def test_evaluate_measure_compare_and_report_need_no_other_import(tmp_path: Path) -> None:
    """The way from a checkpoint to a report; a run compared with itself shows no difference."""
    runs = [tmp_path / "ternary", tmp_path / "again"]
    for run in runs:
        record = bb.evaluate("demo", "sample", run, bb.EvaluateJob(limit=6), tasks=["copa", "wic"])
    assert {score.task for score in record.scores} == {"sample:copa", "sample:wic"}
    measured = bb.measure({"demo": runs[0]}, QUICK)
    assert bb.load_run(runs[0]).costs == measured[0].costs
    assert bb.load_run(runs[0]).scores == record.scores, "scores that were there before the costs must stay"
    found = bb.compare(runs[0], runs[1])
    assert [(d.task, d.n, d.difference, d.p_holm) for d in found.differences] == [
        ("sample:copa", 6, 0.0, 1.0),
        ("sample:wic", 6, 0.0, 1.0),
    ]
    assert "sample:copa" in bb.report(runs, tmp_path / "r.html").read_text(encoding="utf-8")


def test_runs_without_a_common_task_are_not_compared(tmp_path: Path) -> None:
    """A sentence, and no empty table."""
    for task in ("copa", "wic"):
        bb.evaluate("demo", "sample", tmp_path / task, bb.EvaluateJob(limit=2), tasks=[task])
    with pytest.raises(bb.BenchError, match="cannot be compared"):
        bb.compare(tmp_path / "copa", tmp_path / "wic")


def test_a_suite_may_be_a_folder(tmp_path: Path) -> None:
    """A suite.yaml and a task's YAML are enough: no package has to be installed for a try."""
    suite = tmp_path / "capitals"
    (suite / "rows").mkdir(parents=True)
    (suite / "rows/test.jsonl").write_text(
        '{"country": "한국", "cities": ["서울", "부산"], "answer": 0}\n'
        '{"country": "일본", "cities": ["오사카", "도쿄"], "answer": 1}\n',
        encoding="utf-8",
    )
    (suite / "suite.yaml").write_text(
        "name: capitals\nversion: '1'\ntitle: Capitals\nlicence: CC0-1.0\ncitation: none\nembedded: rows\n"
        "tasks:\n  - {name: asia, metrics: [accuracy], chance: 50.0, local: '.', files: {test: test.jsonl}}\n",
        encoding="utf-8",
    )
    (suite / "asia.yaml").write_text(
        "task: bb_capitals_asia\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{country}}의 수도는"\ndoc_to_choice: "{{cities}}"\ndoc_to_target: answer\n'
        "metric_list:\n  - {metric: acc}\n",
        encoding="utf-8",
    )
    record = bb.evaluate("demo", str(suite), tmp_path / "run")
    assert [(score.task, score.n) for score in record.scores] == [("capitals:asia", 2)]
    assert record.sources["capitals:asia"].endswith("rows/test.jsonl")
