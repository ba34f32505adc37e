"""The command line as a person meets it: help, errors in a sentence, exit statuses, JSON."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bench(run_command: Bench) -> Bench:
    """Give what runs the command line in a process of its own, with no local rows unless it is told of them."""

    def run(*arguments: str, **environment: Any) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, BITNET_BENCH_DATA=None, **environment)

    return run


@pytest.mark.parametrize(
    "command", ["quickstart", "run", "rate", "finetune", "evaluate", "measure", "report", "suites", "doctor"]
)
def test_every_command_has_help(bench: Bench, command: str) -> None:
    """--help names the command's options and ends with status 0."""
    done = bench(command, "--help")
    assert done.returncode == 0
    assert "--help" in done.stdout


def test_the_options_of_finetune_are_in_panels(bench: Bench) -> None:
    """In this order, each option in one, and within 80 columns."""
    done = bench("finetune", "--help", COLUMNS="80")
    panels = re.split(r"^(?=\w+:\n)", done.stdout, flags=re.MULTILINE)[1:]
    names = [panel.partition(":")[0] for panel in panels]
    assert names == ["Data", "Method", "Optimization", "Ternary", "Distillation", "Output", "Stages", "Options"]
    options = [re.findall(r"^  (--[a-z-]+|-h)", panel, flags=re.MULTILINE) for panel in panels]
    assert [listed[0] for listed in options] == [
        "--data", "--model", "--epochs", "--ternary-warmup", "--teacher", "--out", "--preset", "-h",
    ]  # fmt: skip
    assert options[-1] == ["-h"]
    assert sum(map(len, options)) > 45
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "table of published rates" in " ".join(panels[2].split())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["evaluate", "--suite", "kobset"], 2, ["no suite 'kobset'", "Did you mean kobest?"]),
        (["evaluate", "--suite", "sample", "--task", "bolq"], 2, ["No task 'bolq'", "boolq"]),
        (["evaluate", "--suite", "sample", "--backend", "hg"], 2, ["no backend 'hg'", "hf"]),
        (
            ["finetune", "--data", "good.jsonl", "--out", "o", "--batch-size", "many"],
            2,
            ["--batch-size must be a number above 0, or auto"],
        ),
        (["evaluate", "--suite", "sample", "--model", "./nothing"], 1, ["There is no checkpoint ./nothing"]),
        (["evaluate", "--suite", "sample", "--model", "."], 1, ["not a checkpoint", "config.json"]),
        (["evaluate", "--suite", "sample", "--model", "nobody/nothing"], 1, ["nobody/nothing", "hub"]),
        (["evaluate", "--suite", "kobest", "--data-dir", "nowhere"], 1, ["no data folder nowhere"]),
        (["evaluate", "--suite", "kobest", "--task", "copa"], 1, ["no local rows", "--data-dir"]),
        (["evaluate", "--suite", "sample", "--precision", "bf16"], 1, ["packed ternary", "--precision ternary"]),
        (["evaluate", "--suite", "sample", "--precision", "int3"], 2, ["int3"]),
        (["evaluate", "--suite", "sample", "--rows", "copa=a.jsonl"], 2, ["SUITE:TASK=FILE"]),
        (["evaluate", "--suite", "sample", "--rows", "sample:copa=no.jsonl"], 1, ["no no.jsonl", "--rows"]),
        (["evaluate", "--suite", "sample", "--rows", "sample:copa=bad.jsonl"], 1, ["bad.jsonl"]),
        (["evaluate", "--suite", "sample", "--prompts", "other"], 2, ["no prompts called 'other'", "default"]),
        (["evaluate", "--suite", "sample", "--task", "copa", "--chat-template"], 1, ["no chat template"]),
        (["evaluate", "--suite", "sample", "--task", "copa", "--shots", "99999"], 1, ["training rows", "99999 shots"]),
        (["finetune", "--data", "nothing.jsonl", "--out", "o"], 1, ["no file nothing.jsonl"]),
        (["finetune", "--data", "bad.jsonl", "--out", "o"], 1, ['Line 2 of bad.jsonl has no "response"', "prompt"]),
        (["finetune", "--data", "kobest:nsmc", "--out", "o"], 2, ["No task 'nsmc'"]),
        (["finetune", "--data", "good.jsonl", "--out", "o", "--lr", "-1"], 2, ["--lr must be greater than 0, not -1"]),
        (["finetune", "--data", "good.jsonl", "--out", "full"], 1, ["full is not empty"]),
        (
            ["finetune", "--data", "good.jsonl", "--out", "o", "--max-length", "2"],
            1,
            ["response token", "--max-length"],
        ),
        (["finetune", "--data", "text.jsonl", "--out", "o"], 1, ["running text", "--method pretrain"]),
        (["measure", "--prompt-tokens", "9999"], 2, ["exceed the context", "--prompt-tokens"]),
        (["measure", "--budget", "3"], 2, ["'3' is not a budget", "90s, 3m or 1h"]),
        (["measure", "demo", "--model", "demo-fp16", "--out", "x"], 2, ["--out takes the costs of one model"]),
        (["report", "full"], 1, ["full is not a run", "record.json"]),
        (["evaluate", "--out"], 2, ["--out"]),
        (["run", "nothing.yaml"], 1, ["no recipe nothing.yaml", "understanding"]),
        (["rate", "sheet", "full", "full"], 1, ["full is not a run"]),
        (["rate", "collect", "nothing.json"], 1, ["no file nothing.json"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_bad_input_is_a_sentence(
    bench: Bench, arguments: list[str], status: int, words: list[str], tmp_path: Path
) -> None:
    """What happened and what to do, status 1 or 2, no traceback, and nothing left behind."""
    (tmp_path / "bad.jsonl").write_text('{"prompt": "가", "response": "나"}\n{"prompt": "다"}\n', encoding="utf-8")
    (tmp_path / "good.jsonl").write_text('{"prompt": "가", "response": "나"}\n', encoding="utf-8")
    (tmp_path / "text.jsonl").write_text('{"text": "가나다"}\n', encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/keep.txt").write_text("mine", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    done = bench(*arguments)
    assert done.returncode == status, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_results_can_be_had_as_json(bench: Bench) -> None:
    """--json prints one JSON document and nothing else on standard output."""
    for arguments in (["suites"], ["backends"], ["doctor"]):
        done = bench(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


def test_evaluate_measure_and_report_work_together(bench: Bench, tmp_path: Path) -> None:
    """Costs and scores of one run stand in one record, a second call does not score again, and the report has both."""
    run = tmp_path / "run"
    quick = ["--prompt-tokens", "16", "--new-tokens", "4", "--rounds", "1", "--no-floats"]
    measured = bench("measure", *quick, "--json", "--out", str(run))
    assert measured.returncode == 0, measured.stderr
    scored = ["evaluate", "--suite", "sample", "--task", "copa", "--limit", "4", "--out", str(run), "--json"]
    first = bench(*scored)
    assert first.returncode == 0, first.stderr
    (record,) = json.loads(first.stdout)
    assert {score["metric"] for score in record["scores"]} == {"macro_f1", "accuracy"}
    assert all(score["stderr"] is not None and score["signature"] for score in record["scores"])
    assert len((run / "samples/sample-copa.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    assert len(record["costs"]) == 1, "costs that were measured first must stay"
    again = bench(*scored)
    assert json.loads(again.stdout)[0]["scores"] == record["scores"]
    assert json.loads(again.stdout)[0]["environment"] == record["environment"]
    assert json.loads(again.stdout)[0]["costs"] == record["costs"]
    assert bench("report", str(run), "--out", "r.html").returncode == 0
    assert "sample:copa" in (tmp_path / "r.html").read_text(encoding="utf-8")
    other = bench("evaluate", "--suite", "sample", "--task", "wic", "--out", str(run))
    assert other.returncode == 1
    assert "another --limit, `tasks`" in other.stderr
