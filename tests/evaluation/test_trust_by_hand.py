"""What counts as code of a suite, how files are named and digested, and where trust is kept: nothing is run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import trust
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.evaluation.trust import (
    compute_suite_digest,
    find_trust_file,
    leave_no_bytecode,
    list_code,
    refuse_code,
    require_trust,
    trust_suites,
)
from bitnet_bench.questions import ASK


@pytest.fixture(autouse=True)
def forget_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process was told to trust in other tests."""
    monkeypatch.setattr(trust, "_trusted_here", set())


@pytest.fixture
def make_suite(tmp_path: Path) -> Callable[..., Suite]:
    """Give what writes the files of a suite, by name, and returns it."""

    def make(files: dict[str, str] | None = None, module: str | None = None) -> Suite:
        folder = tmp_path / "mine"
        for name, text in {"suite.yaml": "name: mine\n", **(files or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        tasks = (Task(name="one", metrics=("accuracy",), chance=0.0, module=module),)
        return Suite(name="mine", version="1", title="", licence="", citation="", tasks=tasks, folder=folder)

    return make


def test_files_of_code_are_named_in_order(make_suite: Any, tmp_path: Path) -> None:
    """Modules of the tasks first; every file that Python or the system runs; data and texts are none."""
    code = ["a.py", "b.pyc", "c.pyd", "d.so", "deep/e.dylib", "deep/f.dll"]
    suite = make_suite(dict.fromkeys([*code, "g.txt", "h.json", "i.pyx"], ""), module="hooks.py")
    assert list_code(suite) == ["hooks.py (`module`)", *code]
    assert list_code(make_suite()) == code


def test_a_suite_of_yaml_and_rows_has_no_code(make_suite: Any) -> None:
    """Not even if it holds YAML that cannot be read, as long as no task reaches it."""
    files = {
        "one.yaml": "task: one\ndoc_to_text: '{{a}}'\n",
        "broken.yaml": "a: [\n",
        "list.yml": "- 1\n",
        "a.jsonl": "{}",
    }
    assert list_code(make_suite(files)) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("doc_to_text: !function a.b\n", ["`!function`"]),
        ("a: [1, {b: !function a.b}]\n", ["`!function`"]),
        ("doc_to_text: !other a.b\n", None),
        ("a: !!str 3\n", []),
        ("metric_list: [{metric: x, hf_evaluate: true}]\n", ["`hf_evaluate`"]),
        ("metric_list: [3, {metric: x, hf_evaluate: true}]\n", ["`hf_evaluate`"]),
        ("metric_list: [{metric: x, hf_evaluate: false}, acc]\n", []),
        ("metric_list: 3\n", None),
        ("dataset_kwargs: {revision: a, name: b, split: c, data_files: d, data_dir: e}\n", []),
        ("dataset_kwargs: {revision: a, trust_remote_code: true}\n", ["`dataset_kwargs`"]),
        ("dataset_kwargs: [revision]\n", None),
        ("x: 2026-99-99\n", []),
        ("x: 2026-99-99\ny: !function a.b\n", ["`!function`"]),
        ("x: !function [a.b]\n", None),
        ("x: [\n", None),
        ("- 1\n", None),
        ("dataset_kwargs: {}\n", []),
        ("dataset_path: json\n", []),
        ("dataset_path: csv\n", []),
        ("dataset_path: parquet\n", []),
        ("dataset_path: text\n", []),
        ("dataset_path: some/rows\n", []),
        ("dataset_path: so.me-1/ro.ws_2-b\n", []),
        ("dataset_path: null\n", []),
        ("dataset_path: pandas\n", ["`dataset_path`"]),
        ("dataset_path: ./rows\n", ["`dataset_path`"]),
        ("dataset_path: some/rows/deeper\n", ["`dataset_path`"]),
        ("dataset_path: -some/rows\n", ["`dataset_path`"]),
        ("dataset_path: some/.rows\n", ["`dataset_path`"]),
        ("dataset_path: 3\n", ["`dataset_path`"]),
        ("dataset_path: is/here\n", ["`dataset_path`"]),
        (
            "dataset_path: zip\ndataset_kwargs: {a: 1}\nmetric_list: [{hf_evaluate: 1}]\na: !function b.c\n",
            ["`!function`", "`hf_evaluate`", "`dataset_kwargs`", "`dataset_path`"],
        ),
    ],
)
def test_settings_that_run_or_load_code(
    text: str, code: list[str] | None, make_suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by its name; a folder that is called like a data set of the hub may hold anything.

    What cannot be read may be anything too.
    """
    (tmp_path / "is/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = list_code(make_suite({"one.yaml": text, "two.yaml": "x: !function a.b\n"}))
    assert found == [f"one.yaml ({why})" for why in (["cannot be read"] if code is None else code)]


def test_what_is_included_from_elsewhere_is_looked_at_too(make_suite: Any, tmp_path: Path) -> None:
    """By its whole path, at any depth, whatever its name is, once."""
    elsewhere = tmp_path / "else"
    elsewhere.mkdir()
    (elsewhere / "b").write_text("include: [c.txt]\na: !function x.y\n", encoding="utf-8")
    (elsewhere / "c.txt").write_text("a: 1\n", encoding="utf-8")
    (elsewhere / "other.yaml").write_text("a: !function x.y\n", encoding="utf-8")
    suite = make_suite({"deep/two.yaml": "include: ../../else/b\n", "one.yaml": "include: deep/two.yaml\n"})
    assert trust._list_files(suite) == [
        elsewhere / "b",
        elsewhere / "c.txt",
        tmp_path / "mine/deep/two.yaml",
        tmp_path / "mine/one.yaml",
        tmp_path / "mine/suite.yaml",
    ]
    assert list_code(suite) == [f"{elsewhere / 'b'} (`!function`)"]
    (elsewhere / "x.py").touch()
    (elsewhere / "helper.py").touch()
    assert list_code(suite) == [f"{elsewhere / 'b'} (`!function`)", f"{elsewhere}/helper.py", f"{elsewhere}/x.py"]


def test_the_digest_of_a_suite_is_of_names_and_bytes(make_suite: Any, tmp_path: Path) -> None:
    """Of every file, in the folder or included; not of where the folder is."""
    (tmp_path / "base.yaml").write_text("a: 1\n", encoding="utf-8")
    suite = make_suite({"a.txt": "x", "one.yaml": "include: ../base.yaml\n"})
    before = compute_suite_digest(suite)
    assert compute_suite_digest(suite) == before
    seen = {before}
    for change in (
        lambda: (tmp_path / "mine/a.txt").write_text("longer", encoding="utf-8"),
        lambda: (tmp_path / "mine/a.txt").rename(tmp_path / "mine/b.txt"),
        lambda: (tmp_path / "base.yaml").write_text("a: 222\n", encoding="utf-8"),
        lambda: (tmp_path / "mine/c.txt").touch(),
    ):
        change()
        seen.add(compute_suite_digest(suite))
    assert len(seen) == 5
    assert {len(one) for one in seen} == {64}
    plain = Suite.model_validate({**suite.model_dump(), "folder": tmp_path / "moved"})
    (tmp_path / "mine/one.yaml").unlink()
    (tmp_path / "mine").rename(tmp_path / "moved")
    after = compute_suite_digest(plain)
    (tmp_path / "moved").rename(tmp_path / "again")
    assert compute_suite_digest(plain.model_copy(update={"folder": tmp_path / "again"})) == after


def test_a_file_whose_name_is_no_text_is_digested_too(make_suite: Any, tmp_path: Path) -> None:
    """As some file systems allow."""
    suite = make_suite()
    before = compute_suite_digest(suite)
    (tmp_path / "mine" / os.fsdecode(b"\xff.txt")).touch()
    assert compute_suite_digest(suite) != before


def test_code_that_is_not_trusted_is_named(make_suite: Any, tmp_path: Path) -> None:
    """Five files at most, and how many more."""
    suite = make_suite({f"{letter}.py": "" for letter in "abcde"})
    five = f"The suite mine in {tmp_path / 'mine'} brings code of its own: a.py, b.py, c.py, d.py, e.py"
    with pytest.raises(BenchError) as caught:
        require_trust(suite)
    assert caught.value.problem == f"{five}."
    assert caught.value.hint == (
        "Read that code. If you trust it, give `trust_suite`: it is remembered until a file of the suite changes."
    )
    with pytest.raises(BenchError) as more:
        require_trust(make_suite({"f.py": "", "g.py": ""}))
    assert more.value.problem == f"{five} and 2 more."


def test_what_runs_no_code_refuses_it_trusted_or_not(make_suite: Any, tmp_path: Path) -> None:
    refuse_code(make_suite(), "an estimate")
    suite = make_suite({"a.py": ""})
    trust_suites([suite])
    require_trust(suite)
    with pytest.raises(BenchError) as caught:
        refuse_code(suite, "an estimate")
    assert caught.value.problem == (
        f"The suite mine in {tmp_path / 'mine'} brings code of its own (a.py), and an estimate runs none."
    )
    assert caught.value.hint == "Install the suite as a package, or leave it out."


def test_a_person_is_asked_in_one_sentence(make_suite: Any, tmp_path: Path) -> None:
    """And a yes is kept with the folder."""
    asked: list[str] = []
    token = ASK.set(lambda question: bool(asked.append(question)) or True)
    try:
        require_trust(make_suite({"a.py": ""}))
    finally:
        ASK.reset(token)
    assert asked == [
        f"The suite mine in {tmp_path / 'mine'} brings code of its own: a.py. "
        "Run it, now and as long as no file of the suite changes?"
    ]
    assert list(json.loads(find_trust_file().read_text("utf-8")).values()) == [str(tmp_path / "mine")]


def test_trust_is_added_to_what_is_trusted_already(make_suite: Any, tmp_path: Path) -> None:
    """One digest a line, in the order in which they came; a suite without code is not among them, nor one twice."""
    trust_suites([make_suite()])
    assert not find_trust_file().exists()
    first = make_suite({"a.py": ""})
    before = compute_suite_digest(first)
    trust_suites([first, first])
    second = make_suite({"b.py": ""})
    trust_suites([second])
    folder, after = str(tmp_path / "mine"), compute_suite_digest(second)
    text = find_trust_file().read_text("utf-8")
    assert text == json.dumps({before: folder, after: folder}, indent=1) + "\n"
    find_trust_file().write_text(text.replace(before, "changed by hand"), "utf-8")
    trust_suites([second])
    assert "changed by hand" in find_trust_file().read_text("utf-8")


@pytest.mark.parametrize("text", ["", "[1]", "{", '"a"'])
def test_a_file_of_trust_that_is_none_trusts_nothing(text: str, make_suite: Any) -> None:
    """And is written anew when something is trusted."""
    suite = make_suite({"a.py": ""})
    find_trust_file().parent.mkdir(parents=True, exist_ok=True)
    find_trust_file().write_text(text, "utf-8")
    with pytest.raises(BenchError):
        require_trust(suite)
    trust_suites([suite])
    trust._trusted_here.clear()
    require_trust(suite)


def test_trust_that_cannot_be_kept_is_said(
    make_suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line, and it holds for this process."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITNET_BENCH_STATE", str(tmp_path / "file"))
    suite = make_suite({"a.py": ""})
    trust_suites([suite])
    require_trust(suite)
    (said,) = caplog.messages
    assert said.startswith("That the suite mine is trusted is not remembered: ")
    assert str(tmp_path / "file") in said
    assert "\n" not in said


def test_trust_is_kept_in_the_user_s_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which three variables move, each before the next."""
    monkeypatch.setenv("BITNET_BENCH_STATE", "a")
    monkeypatch.setenv("XDG_STATE_HOME", "b")
    monkeypatch.setenv("HOME", "/c")
    assert find_trust_file() == Path("a/trusted-suites.json")
    monkeypatch.setenv("BITNET_BENCH_STATE", "")
    assert find_trust_file() == Path("b/bitnet-bench/trusted-suites.json")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("BITNET_BENCH_STATE")
    assert find_trust_file() == Path("/c/.local/state/bitnet-bench/trusted-suites.json")


@pytest.mark.parametrize("before", [True, False])
def test_bytecode_is_left_out_for_a_while_only(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens meanwhile."""
    monkeypatch.setattr(sys, "dont_write_bytecode", before)
    during = None
    with suppress(KeyError), leave_no_bytecode():
        during = sys.dont_write_bytecode
        raise KeyError
    assert during is True
    assert sys.dont_write_bytecode is before
