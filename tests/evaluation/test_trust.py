"""The code of a suite in a folder runs when the user has said so for exactly these files, and not before."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import bitnet_bench as bb
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import trust
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.suites import Suite, read_suite
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.evaluation.trust import find_trust_file, list_code, require_trust, trust_suites
from bitnet_bench.pipeline.recipe import read_recipe
from bitnet_bench.questions import ASK

Bench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def forget_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process was told to trust in other tests."""
    monkeypatch.setattr(trust, "_trusted_here", set())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a copy of the sample suite, of one task and of YAML alone, in a folder of somebody's."""
    ((suite, _),) = select_tasks(["sample"], ["copa"])
    folder = Path(shutil.copytree(suite.folder, tmp_path / "strange"))
    file = folder / "suite.yaml"
    fields = yaml.safe_load(file.read_text("utf-8"))
    fields["tasks"] = [task for task in fields["tasks"] if task["name"] == "copa"]
    file.write_text(yaml.safe_dump({**fields, "name": "strange"}, allow_unicode=True), "utf-8")
    for other in folder.glob("*.yaml"):
        if other.name not in ("suite.yaml", "copa.yaml"):
            other.unlink()
    return folder


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Give the file that code of the suite writes when it runs."""
    return tmp_path / "was-run"


def change_task(folder: Path, **settings: Any) -> None:
    """Set *settings* in the task's YAML; a value that begins with ! is a tag."""
    file = folder / "copa.yaml"
    blocks = re.split(r"\n(?=\w)", file.read_text("utf-8").strip())  # a setting with its indented lines
    kept = [block for block in blocks if block.split(":")[0] not in settings]
    file.write_text("\n".join([*kept, *(f"{name}: {value}" for name, value in settings.items())]) + "\n", "utf-8")


def add_code(folder: Path, mark: Path, way: str) -> None:
    """Make the suite write *mark* in one of the ways that a suite has."""
    code = f"import pathlib\npathlib.Path({str(mark)!r}).write_text('x')\n"
    if way == "module":
        (folder / "hooks.py").write_text(code, "utf-8")
        fields = yaml.safe_load((folder / "suite.yaml").read_text("utf-8"))
        fields["tasks"][0]["module"] = "hooks.py"
        (folder / "suite.yaml").write_text(yaml.safe_dump(fields, allow_unicode=True), "utf-8")
    elif way == "function":
        (folder / "evil.py").write_text(f"{code}def text(doc):\n    return doc['premise']\n", "utf-8")
        change_task(folder, doc_to_text="!function evil.text")
    elif way == "alias of the tag":
        (folder / "evil.py").write_text(f"{code}def text(doc):\n    return doc['premise']\n", "utf-8")
        change_task(folder, doc_to_text="!<!function> evil.text")
    elif way == "include":
        elsewhere = folder.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "evil.py").write_text(f"{code}def text(doc):\n    return doc['premise']\n", "utf-8")
        (elsewhere / "base.yaml").write_text("doc_to_text: !function evil.text\n", "utf-8")
        change_task(folder, doc_to_text="")
        lines = (folder / "copa.yaml").read_text("utf-8").splitlines()
        lines = [line for line in lines if not line.startswith("doc_to_text")]
        (folder / "copa.yaml").write_text("\n".join([*lines, "include: ../elsewhere/base.yaml"]) + "\n", "utf-8")
    elif way == "metric":
        (folder / "evil").mkdir()
        (folder / "evil" / "evil.py").write_text(code, "utf-8")
        change_task(folder, metric_list=f"[{{metric: {folder / 'evil'}, hf_evaluate: true}}]")


WAYS = ["module", "function", "alias of the tag", "include", "metric"]


def build(folder: Path, **settings: Any) -> Any:
    """Build the suite's task, and load its hooks, as an evaluation does."""
    suite = read_suite(folder / "suite.yaml")
    built = build_task(suite, suite.tasks[0], TaskSettings(**settings))
    return built, built.hooks


@pytest.mark.parametrize("way", WAYS)
def test_code_of_a_folder_is_not_run_unasked(way: str, folder: Path, mark: Path) -> None:
    """Whichever way it comes in; the sentence names the suite, its files, and what to give."""
    add_code(folder, mark, way)
    with pytest.raises(BenchError, match="brings code of its own") as caught:
        build(folder)
    assert "`trust_suite`" in caught.value.hint
    assert str(folder) in caught.value.problem
    assert not mark.exists()


@pytest.mark.parametrize("way", ["module", "function", "alias of the tag", "include"])
def test_code_that_is_trusted_runs_until_a_file_changes(way: str, folder: Path, mark: Path) -> None:
    """Also in a later process, and building the task changes no file of the suite itself."""
    add_code(folder, mark, way)
    bb.trust_suite(folder)
    build(folder)
    assert mark.exists()
    trust._trusted_here.clear()
    build(folder)
    assert [str(folder)] == list(json.loads(find_trust_file().read_text("utf-8")).values())
    assert not list(folder.rglob("__pycache__"))
    changed = folder.parent / "elsewhere/base.yaml" if way == "include" else folder / "copa.yaml"
    changed.write_text(changed.read_text("utf-8") + "# changed\n", "utf-8")
    with pytest.raises(BenchError, match="brings code of its own"):
        build(folder)


@pytest.mark.parametrize("name", ["new.py", "new.jsonl", "__pycache__/evil.cpython-311.pyc"])
def test_a_new_file_needs_trust_again(name: str, folder: Path, mark: Path) -> None:
    """A module can read or import it."""
    add_code(folder, mark, "function")
    bb.trust_suite(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x", "utf-8")
    with pytest.raises(BenchError, match="brings code of its own"):
        build(folder)


def test_a_suite_of_yaml_alone_needs_no_trust(folder: Path) -> None:
    """Its prompts run in a sandbox."""
    built, _ = build(folder)
    assert built.lm_task.doc_to_text(next(iter(built.lm_task.test_docs())))
    assert not find_trust_file().exists()


def test_installed_suites_need_no_trust() -> None:
    """Not even those with Python files: who installed the package trusted it."""
    for name in ("klue", "kobest", "qa", "sample"):
        for suite, _task in select_tasks([name], data_dir=None):
            assert list_code(suite) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dataset_path", "pandas"),
        ("dataset_path", "./rows"),
        ("dataset_kwargs", "{engine: python}"),
        ("dataset_kwargs", "{trust_remote_code: true}"),
        ("metric_list", "[{metric: org/evil, hf_evaluate: true}]"),
    ],
)
def test_settings_that_load_programs_or_pickles_need_trust(setting: str, value: str, folder: Path) -> None:
    change_task(folder, **{setting: value})
    with pytest.raises(BenchError, match=f"`({setting}|hf_evaluate)`"):
        build(folder)


def test_an_unknown_metric_is_not_looked_for_in_folders_or_on_the_hub(
    folder: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval would load a program of that name."""
    evil = folder.parent / "evil"
    evil.mkdir()
    (evil / "evil.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).write_text('x')\n", "utf-8")
    monkeypatch.chdir(folder.parent)
    change_task(folder, metric_list=f"[{{metric: {evil}}}]")
    with pytest.raises(BenchError, match="names the metric"):
        build(folder)
    assert not mark.exists()


def test_who_builds_only_to_look_runs_no_code_even_of_trusted_suites(folder: Path, mark: Path) -> None:
    add_code(folder, mark, "function")
    bb.trust_suite(folder)
    with pytest.raises(BenchError, match="and an estimate runs none"):
        build(folder, without_code="an estimate")
    assert not mark.exists()


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked_and_the_answer_is_remembered(answer: bool, folder: Path, mark: Path) -> None:
    """The question names the files; a no runs nothing and is asked again."""
    add_code(folder, mark, "function")
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return answer

    token = ASK.set(ask)
    try:
        for _ in range(2):
            if answer:
                build(folder)
            else:
                with pytest.raises(BenchError):
                    build(folder)
    finally:
        ASK.reset(token)
    assert len(asked) == (1 if answer else 2)
    assert "evil.py" in asked[0]
    assert mark.exists() == answer


def test_a_state_folder_that_cannot_be_written_is_no_obstacle(
    folder: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITNET_BENCH_STATE", str(tmp_path / "file"))
    add_code(folder, mark, "function")
    trust_suites([read_suite(folder / "suite.yaml")])
    require_trust(read_suite(folder / "suite.yaml"))
    assert "is not remembered" in caplog.text


def write_recipe(folder: Path, **scoring: Any) -> Path:
    """Write a recipe that scores the suite."""
    file = folder.parent / "recipe.yaml"
    fields = {"models": {"demo": "demo"}, "evaluate": {"suites": [str(folder)], "limit": 2, **scoring}}
    file.write_text(yaml.safe_dump(fields), "utf-8")
    return file


@pytest.fixture
def bench(run_command: Bench, own_state: Path) -> Bench:
    """Give what runs the command line without rows of the user's."""
    return lambda *words: run_command(*words, BITNET_BENCH_DATA=None, BITNET_BENCH_STATE=str(own_state))


def test_what_only_looks_runs_nothing(bench: Bench, folder: Path, mark: Path) -> None:
    """A dry run, the list of suites, and the check of training rows; trusted or not."""
    add_code(folder, mark, "function")
    rows = folder.parent / "rows.jsonl"
    rows.write_text('{"prompt": "a", "response": "b"}\n', "utf-8")
    recipe = write_recipe(folder)
    for _ in range(2):
        planned = bench("run", recipe, "--dry-run", "--tflops", "1")
        assert planned.returncode == 0, planned.stderr
        assert "runs none" in " ".join(planned.stdout.replace("│", " ").replace("┃", " ").split())
        assert bench("suites").returncode == 0
        assert "runs none" in bench("data", "check", rows, "--suite", folder).stderr
        assert not mark.exists()
        bb.trust_suite(folder)


def test_a_recipe_does_not_vouch_for_itself(bench: Bench, folder: Path, mark: Path) -> None:
    """The command line does; before anything is trained or scored."""
    add_code(folder, mark, "function")
    with pytest.raises(BenchError, match=r"no key evaluate\.trust_suite"):
        read_recipe(write_recipe(folder, trust_suite=True))
    recipe, out = write_recipe(folder), folder.parent / "out"
    refused = bench("run", recipe, "--out", out)
    assert refused.returncode == 1
    assert "--trust-suite" in refused.stderr
    assert not mark.exists()
    assert not out.exists()
    assert bench("run", recipe, "--out", out, "--trust-suite").returncode == 0
    assert mark.exists()


def test_a_recipe_is_refused_before_its_training_where_rows_are_in_a_data_folder(
    bench: Bench, folder: Path, mark: Path
) -> None:
    """A suite without rows of its own was asked about only after the training."""
    add_code(folder, mark, "function")
    fields = yaml.safe_load((folder / "suite.yaml").read_text("utf-8"))
    rows = folder / fields.pop("embedded")
    rows.rename(folder.parent / "rows")
    (folder / "suite.yaml").write_text(yaml.safe_dump(fields, allow_unicode=True), "utf-8")
    out = folder.parent / "out"
    refused = bench("run", write_recipe(folder), "--out", out, "--data-dir", folder.parent / "rows")
    assert refused.returncode == 1
    assert "--trust-suite" in refused.stderr
    assert not mark.exists()
    assert not out.exists()


def test_evaluate_asks_for_trust_once(bench: Bench, folder: Path, mark: Path) -> None:
    """What was given once is remembered for the next command."""
    add_code(folder, mark, "module")
    words = ("evaluate", "--suite", folder, "--limit", "2", "--out")
    refused = bench(*words, folder.parent / "a")
    assert refused.returncode == 1
    assert "hooks.py" in refused.stderr
    assert not mark.exists()
    assert bench(*words, folder.parent / "a", "--trust-suite").returncode == 0
    assert bench(*words, folder.parent / "b").returncode == 0


def test_what_shows_a_task_asks_for_trust_as_what_scores_it_does(bench: Bench, folder: Path, mark: Path) -> None:
    """Its fields are what its functions read; the refusal names the code, and not one function."""
    add_code(folder, mark, "function")
    shown, scored = bench("suites", "show", folder), bench("evaluate", "--suite", folder, "--out", folder.parent / "a")
    assert (shown.returncode, scored.returncode) == (1, 1)
    assert shown.stderr.splitlines()[0] in scored.stderr.splitlines()
    assert "evil.py" in shown.stderr
    assert not mark.exists()


def test_a_terminal_is_asked(folder: Path, mark: Path, own_state: Path) -> None:
    """A person at a terminal answers y."""
    add_code(folder, mark, "module")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bitnet_bench", "evaluate", "--suite", folder, "--limit", "2", "--out", folder / "../a"],
        stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "BITNET_BENCH_STATE": str(own_state), "BITNET_BENCH_DATA": ""},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:
            break
        shown += part
        if re.search(rb"\[y/N\]:", shown) and not shown.endswith(b"answered"):
            os.write(controller, b"y\n")
            shown = b"answered"
    os.close(controller)
    assert process.wait() == 0
    assert mark.exists()


def test_trust_is_of_files_and_not_of_a_name(folder: Path, mark: Path) -> None:
    """Another suite of the same name in another folder is another program."""
    add_code(folder, mark, "function")
    bb.trust_suite(folder)
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    (other / "evil.py").write_text("raise SystemExit\n", "utf-8")
    stranger: Suite = read_suite(other / "suite.yaml")
    with pytest.raises(BenchError, match="brings code of its own"):
        require_trust(stranger)
