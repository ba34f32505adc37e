"""Code that a suite loads from elsewhere counts as its own, however it leads there, and the search is bounded."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import tasks, trust
from bitnet_bench.evaluation.suites import Suite, read_suite
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.evaluation.trust import compute_suite_digest, list_code, require_trust, trust_suites

Bench = Callable[..., subprocess.CompletedProcess[str]]
PLAIN = """
task: bb_pick
output_type: multiple_choice
test_split: test
doc_to_target: label
doc_to_choice: ["가", "나"]
metric_list:
  - {metric: acc}
"""
PROMPT = 'doc_to_text: "{{text}}?"\n'
SUITE = """
name: strange
version: "1"
title: Strange
licence: CC0
citation: nobody
embedded: rows
tasks:
  - {name: pick, metrics: [accuracy], chance: 50.0, local: pick, files: {test: a.jsonl, train: a.jsonl}}
"""


@pytest.fixture(autouse=True)
def forget_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process was told to trust in other tests."""
    monkeypatch.setattr(trust, "_trusted_here", set())


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Give the file that code of the suite writes when it runs."""
    return tmp_path / "was-run"


@pytest.fixture
def folder(tmp_path: Path, mark: Path) -> Path:
    """Give a suite of one task, and beside it a folder `outside` with a module that writes *mark*."""
    folder = tmp_path / "s/strange"
    rows = [json.dumps({"text": text, "label": n % 2}) for n, text in enumerate("다라마")]
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n\n\ndef f(doc):\n    return doc['text']\n"
    write(folder / "rows/pick/a.jsonl", "\n".join(rows) + "\n")
    write(folder / "suite.yaml", SUITE)
    write(folder / "pick.yaml", PLAIN + PROMPT)
    write(tmp_path / "outside/utils.py", code)
    return folder


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def lead_outside(folder: Path, way: str) -> Path:
    """Make the task load a module that is not in the folder of the suite, and return it."""
    outside = folder.parent.parent / "outside"
    if way == "include without a suffix":
        write(folder / "pick.yaml", f"{PLAIN}include: ../../outside/base\n")
        write(outside / "base", "doc_to_text: !function utils.f\n")
    elif way == "include of an include":
        write(folder / "pick.yaml", f"{PLAIN}include: deep/middle.txt\n")
        write(folder / "deep/middle.txt", "include: [../../../outside/_default_template_yaml]\n")
        write(outside / "_default_template_yaml", "doc_to_text: !function utils.f\n")
    elif way == "include beside a bad date":
        write(folder / "pick.yaml", f"{PLAIN}include: ../../outside/base\n")
        write(outside / "base", "doc_to_text: !function utils.f\nmetadata: {version: 2026-99-99}\n")
    elif way == "absolute path":
        write(folder / "pick.yaml", f"{PLAIN}doc_to_text: !function .{str(outside).replace('/', '.')}.utils.f\n")
    elif way == "linked folder":
        (folder / "link").symlink_to(outside)
        write(folder / "pick.yaml", f"{PLAIN}doc_to_text: !function link.utils.f\n")
    elif way == "linked file":
        (folder / "utils.py").symlink_to(outside / "utils.py")
        write(folder / "pick.yaml", f"{PLAIN}doc_to_text: !function utils.f\n")
    elif way == "value that another replaces":
        write(folder / "pick.yaml", f"{PLAIN}{PROMPT}include: ../../outside/base\n")
        write(outside / "base", "doc_to_text: !function utils.f\n")
    elif way == "module":
        write(folder / "suite.yaml", SUITE.replace("name: pick,", "name: pick, module: ../../outside/utils.py,"))
    elif way == "module in a linked folder":
        (folder / "link").symlink_to(outside)
        write(folder / "suite.yaml", SUITE.replace("name: pick,", "name: pick, module: link/utils.py,"))
    return outside / "utils.py"


WAYS = [
    "include without a suffix",
    "include of an include",
    "absolute path",
    "linked folder",
    "linked file",
    "value that another replaces",
    "module",
    "module in a linked folder",
]


def read(folder: Path) -> Suite:
    return read_suite(folder / "suite.yaml")


def build(folder: Path, **settings: Any) -> Any:
    """Build the suite's task, and load its module, as an evaluation does."""
    built = build_task(read(folder), read(folder).tasks[0], TaskSettings(**settings))
    return built, built.module


@pytest.mark.parametrize("way", [*WAYS, "include beside a bad date"])
def test_code_from_elsewhere_is_not_run_unasked(way: str, folder: Path, mark: Path) -> None:
    """Neither to score nor to look."""
    lead_outside(folder, way)
    with pytest.raises(BenchError, match="brings code of its own"):
        build(folder)
    with pytest.raises(BenchError, match="and a dry run runs none"):
        build(folder, without_code="a dry run")
    assert not mark.exists()


@pytest.mark.parametrize("change", ["module", "helper", "new helper"])
@pytest.mark.parametrize("way", WAYS)
def test_code_from_elsewhere_that_changes_needs_trust_again(way: str, change: str, folder: Path, mark: Path) -> None:
    """So does a change of what lies beside it, which it can import."""
    module = lead_outside(folder, way)
    write(module.with_name("helper.py"), "X = 1\n")
    trust_suites([read(folder)])
    build(folder)
    assert mark.exists()
    mark.unlink()
    changed = {"module": module, "helper": module.with_name("helper.py"), "new helper": module.with_name("more.py")}
    write(changed[change], f"{module.read_text('utf-8')}# changed\n")
    with pytest.raises(BenchError, match="brings code of its own"):
        build(folder)
    assert not mark.exists()


@pytest.mark.parametrize("seen", ["nothing", "other code"])
@pytest.mark.parametrize("way", ["include without a suffix", "linked file", "value that another replaces"])
def test_a_function_that_no_scan_found_does_not_run(
    way: str, seen: str, folder: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is checked again when it is loaded; a suite whose other code is trusted is no exception."""
    lead_outside(folder, way)
    monkeypatch.setattr(trust, "_examine_definitions", lambda suite: ([], []))
    monkeypatch.setattr(trust, "CODE_SUFFIXES", (".pyc",))
    if seen == "other code":
        (folder / "a.pyc").touch()
        trust_suites([read(folder)])
        if way == "linked file":
            write(folder / "rows/new.txt", "the digest is another when the function is loaded")
            monkeypatch.setattr(tasks, "require_trust", lambda suite: None)
    with pytest.raises(BenchError, match=r"`!function utils\.f` in .* is not run"):
        build(folder)
    with pytest.raises(BenchError, match=r"is not run|runs none"):
        build(folder, without_code="a dry run")
    assert not mark.exists()


@pytest.mark.parametrize(("name", "may"), [("operator.itemgetter", True), ("planted.f", False)])
def test_a_function_of_no_file_is_of_an_installed_package(
    name: str, may: bool, folder: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of a module that happens to lie where Python looks, such as the current folder."""
    write(folder.parent / "path/planted.py", (folder.parent.parent / "outside/utils.py").read_text("utf-8"))
    monkeypatch.syspath_prepend(folder.parent / "path")
    write(folder / "pick.yaml", f"{PLAIN}{PROMPT}process_docs: !function {name}\n")
    trust_suites([read(folder)])
    with pytest.raises(BenchError) as caught:
        build(folder)
    assert ("is not run" not in caught.value.problem) == may
    assert not mark.exists()


def test_a_broken_definition_is_named_by_its_line_and_not_called_code(folder: Path) -> None:
    write(folder / "pick.yaml", f"{PLAIN}{PROMPT}metadata: 3\n")
    with pytest.raises(BenchError, match=r"Line \d+ of .*pick\.yaml: `metadata` must be a dict"):
        build(folder)


@pytest.mark.parametrize("text", ["[" * 200_000, "a: " + "x" * (16 << 20)])
def test_yaml_that_no_task_names_is_not_parsed(text: str, folder: Path) -> None:
    write(folder / "stray.yaml", text)
    assert list_code(read(folder)) == []
    build(folder)


@pytest.mark.parametrize("text", ["[" * 200_000, "a: " + "x" * (16 << 20)])
def test_a_definition_beyond_the_bounds_counts_as_code(text: str, folder: Path) -> None:
    """And ends in a sentence when its task is built."""
    write(folder / "pick.yaml", text)
    assert list_code(read(folder)) == ["pick.yaml (cannot be read)"]
    with pytest.raises(BenchError, match=r"nest(ed|ing)|more than 1,024 KiB"):
        build(folder)


@pytest.mark.parametrize("place", ["inside", "linked", "beside a module"])
def test_files_are_bounded_in_number(place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_SUITE_FILES", 20)
    outside = lead_outside(folder, {"linked": "linked folder", "beside a module": "module"}.get(place, "")).parent
    list_code(read(folder))
    for n in range(21):
        ((folder if place == "inside" else outside) / f"{n}.txt").touch()
    with pytest.raises(BenchError, match="has more than 20 files") as caught:
        list_code(read(folder))
    assert caught.value.hint == trust.SMALLER_HINT


def test_files_that_are_trusted_are_bounded_in_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite without code may have more."""
    monkeypatch.setattr(trust, "MAX_SUITE_BYTES", 1 << 20)
    with (folder / "rows/big").open("wb") as stream:
        stream.truncate(2 << 20)
    require_trust(read(folder))
    (folder / "a.py").touch()
    with pytest.raises(BenchError, match="has more than 1 MiB"):
        require_trust(read(folder))


def test_definitions_are_bounded_in_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a suite together, each once."""
    size = (folder / "pick.yaml").stat().st_size
    monkeypatch.setattr(trust, "MAX_DEFINITION_BYTES", size)
    list_code(read(folder))
    monkeypatch.setattr(trust, "MAX_DEFINITION_BYTES", size - 1)
    with pytest.raises(BenchError, match="The definitions of the suite strange have more than"):
        list_code(read(folder))


def test_links_in_circles_end(folder: Path) -> None:
    (folder / "again").symlink_to(folder)
    (folder / "rows/up").symlink_to(folder.parent)
    assert list_code(read(folder)) == []
    assert compute_suite_digest(read(folder)) == compute_suite_digest(read(folder))


def test_no_command_runs_it_unasked(
    run_command: Bench, own_state: Path, folder: Path, mark: Path, tmp_path: Path
) -> None:
    """Neither what only looks, nor what scores or trains."""
    lead_outside(folder, "include without a suffix")
    write(tmp_path / "rows.jsonl", '{"prompt": "a", "response": "b"}\n')
    recipe = tmp_path / "recipe.yaml"
    write(recipe, json.dumps({"models": {"demo": "demo"}, "evaluate": {"suites": [str(folder)], "limit": 2}}))
    for words in (
        ("evaluate", "--suite", folder, "--limit", "2", "--out", tmp_path / "a"),
        ("run", recipe, "--dry-run", "--tflops", "1"),
        ("run", recipe, "--out", tmp_path / "b"),
        ("data", "check", tmp_path / "rows.jsonl", "--suite", folder),
        ("finetune", "--model", "demo", "--data", f"{folder}:pick", "--out", tmp_path / "c"),
    ):
        done = run_command(*words, BITNET_BENCH_DATA=None, BITNET_BENCH_STATE=str(own_state))
        said = " ".join(re.sub("[│┃]", " ", done.stdout + done.stderr).split())
        assert "The suite strange" in said, words
        assert re.search("runs none|--trust-suite", said), (words, said)
        assert not mark.exists(), words
