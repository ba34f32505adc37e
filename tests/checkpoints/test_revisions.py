"""A model of the hub may be named with a revision; the hub is a folder of snapshots, as in its cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitnet_bench.checkpoints.locate import HubId, load_config, open_checkpoint, parse_hub_id
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.jobs import EvaluateJob

COMMITS = {None: "1111aaa", "prequantized": "2222bbb", "refs/pr/1": "2222bbb", "2222bbb": "2222bbb"}


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Give the repositories and revisions that were asked for: the newest holds `demo`, another one `demo-fp16`."""
    found: list[tuple[str, str | None]] = []
    for commit, name in (("1111aaa", "demo"), ("2222bbb", "demo-fp16")):
        shutil.copytree(open_checkpoint(name).path, tmp_path / "snapshots" / commit)

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        found.append((repo_id, revision))
        if revision not in COMMITS:
            raise ValueError(f"404: no revision {revision}")
        return str(tmp_path / "snapshots" / COMMITS[revision])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return found


@pytest.mark.parametrize("revision", ["prequantized", "refs/pr/1", "2222bbb"])
def test_a_revision_is_a_branch_a_pull_request_or_a_commit(revision: str, asked: list[tuple[str, str | None]]) -> None:
    """The record has the name that was given, and the commit behind it."""
    found = open_checkpoint(f"ORG/NAME@{revision}")
    assert asked == [("ORG/NAME", revision)]
    assert (found.source, found.revision, found.format) == (f"ORG/NAME@{revision}", "2222bbb", "float")


def test_no_revision_is_the_newest(asked: list[tuple[str, str | None]]) -> None:
    """As before: the commit is noted all the same."""
    found = open_checkpoint("ORG/NAME")
    assert (asked, found.revision, found.is_ternary) == ([("ORG/NAME", None)], "1111aaa", True)


def test_the_config_is_that_of_the_revision(asked: list[tuple[str, str | None]]) -> None:
    """A plan of a measurement knows the shape that will be measured."""
    load_config("ORG/NAME@prequantized")
    assert asked == [("ORG/NAME", "prequantized")]


def test_a_revision_that_is_not_there_is_named() -> None:
    """In one sentence."""
    with pytest.raises(BenchError, match="ORG/NAME@missing is neither a folder here nor to be had from the hub"):
        open_checkpoint("ORG/NAME@missing")


def test_a_folder_whose_name_has_an_at_sign_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, str | None]]
) -> None:
    """What is here is not asked of the hub."""
    shutil.copytree(tmp_path / "snapshots/1111aaa", tmp_path / "ORG/NAME@v1")
    monkeypatch.chdir(tmp_path)
    assert (open_checkpoint("ORG/NAME@v1").revision, asked) == (None, [])


@pytest.mark.parametrize(
    "name", ["NAME", "../NAME", "/ORG/NAME", "~/NAME", "a/b/c", "ORG/NAME@", "@v1/NAME", "ORG/@v1"]
)
def test_what_is_no_hub_id_is_not_asked_of_the_hub(name: str, asked: list[tuple[str, str | None]]) -> None:
    """A path that was mistyped is said to be missing."""
    assert parse_hub_id(name) is None
    with pytest.raises(BenchError, match="There is no checkpoint"):
        open_checkpoint(name)
    assert asked == []


def test_a_hub_id_is_parsed_in_its_parts() -> None:
    """The first @ ends the name; a revision may hold another."""
    assert parse_hub_id("ORG/NAME") == HubId("ORG/NAME", None)
    assert parse_hub_id("ORG/NAME@a@b") == HubId("ORG/NAME", "a@b")


def test_an_evaluation_records_the_commit(tmp_path: Path) -> None:
    """So that scores of two revisions are never taken for those of one model."""
    evaluate("ORG/NAME@prequantized", select_tasks(["sample"], ["copa"]), tmp_path / "run", EvaluateJob(limit=2))
    found = load_record(tmp_path / "run").checkpoint
    assert (found.source, found.revision) == ("ORG/NAME@prequantized", "2222bbb")
