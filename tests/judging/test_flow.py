"""Evaluate, judge and report, from the command line, with the embedded model in both parts."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.cli.judging import _select_newest, show_pairwise
from bitnet_bench.comparison.compare_runs import compare_runs
from bitnet_bench.errors import BenchError
from bitnet_bench.judging.judge import judge_runs
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.jobs import EvaluateJob, JudgeJob
from tests.judging.made_up import FakeLM, open_fake, prefer_longer, write_open_run


def run_command(*arguments: str | Path) -> str:
    """Return what a command prints on standard output; its exit status must be 0."""
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of two runs of our own questions, and of what the demo said of them."""
    base = tmp_path_factory.mktemp("open")
    for model in ("demo", "demo-fp16"):
        arguments = ["--suite", "open", "--task", "sample", "--limit", "1", "--no-cache", "--out", base / model]
        said = run_command("evaluate", "--model", model, *arguments)
        assert "1 question is answered, and no metric scores it" in said
        assert "bitnet-bench judge" in said
    return base


def test_the_whole_flow_says_what_the_judge_could_not(folder: Path) -> None:
    """The demo is too small to judge: every verdict is unparsable, and that is what is shown, not a score."""
    runs = [folder / "demo", folder / "demo-fp16"]
    common = ["--model", "demo", "--max-new-tokens", "16", "--no-cache"]
    text = run_command("judge", *runs, "--mode", "single", *common)
    assert "2 of 2 verdicts are unparsable and in no mean" in text
    assert "models prefer their own answers" in text
    (given, _) = json.loads(run_command("judge", *runs, "--json", *common))
    assert given["judged"][-1]["mode"] == "pairwise"
    assert given["judged"][-1]["unparsable"] == given["judged"][-1]["verdicts"] == 4
    assert [score.score.kind for score in load_record(runs[0]).judged] == ["unavailable", "unavailable"]
    page = folder / "report.html"
    run_command("report", *runs, "--out", page)
    html = page.read_text()
    for words in ("심사 모델의 평가", "What a judge said", "could not be read", "single-ko@1", "읽을 수 없는 판정"):
        assert words in html


def test_a_run_that_nobody_judged_says_so_in_its_report(folder: Path, tmp_path: Path) -> None:
    """A report on open answers alone has them as samples, and says what to do."""
    out = tmp_path / "fresh"
    arguments = ["--suite", "open", "--task", "sample", "--limit", "1", "--no-cache"]
    run_command("evaluate", *arguments, "--out", out)
    page = tmp_path / "report.html"
    run_command("report", out, "--out", page)
    html = page.read_text()
    assert "has answers to 1 question and no score yet" in html
    assert "조용한 아침 독서 모임" in html


def test_too_many_runs_are_a_usage_error(folder: Path) -> None:
    result = CliRunner().invoke(app, ["judge", *[str(folder / "demo")] * 3, "--model", "demo"])
    assert type(result.exception).__name__ == "UsageError"


def test_the_command_shows_what_this_judge_said(tmp_path: Path) -> None:
    """Earlier judgements stay in the record and the report, and are not repeated."""
    run = write_open_run(tmp_path / "가", [["가", "나"]])
    opened = open_fake(FakeLM(lambda _: "[[7]]"))
    records = [
        judge_runs([run], "demo", JudgeJob(max_new_tokens=limit), EvaluateJob(), open_judge=opened)[0]
        for limit in (8, 16, 8)
    ]
    assert len(records[-1].judged) == 2
    (shown,) = _select_newest(records[-1]).judged
    assert "max_new_tokens:8" in shown.signature


def test_compare_shows_what_a_judge_said_of_both(tmp_path: Path) -> None:
    """A comparison of measured scores is followed by a table of its own for the judge's."""
    runs = [
        write_open_run(tmp_path / name, [[name, name]], model)
        for name, model in (("가", "demo"), ("나나", "demo-fp16"))
    ]
    judge_runs(runs, "demo", JudgeJob(), EvaluateJob(), open_judge=open_fake(FakeLM(prefer_longer)))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        show_pairwise(*runs)
    assert "win rate against 나나, %" in printed.getvalue()
    with pytest.raises(BenchError, match="cannot be compared") as caught:
        compare_runs(*runs)
    assert "bitnet-bench report" in caught.value.hint
