"""What a suite says of itself, which tasks a name selects, and what a wrong name is told: small suites of these tests'.

lm-eval's index of tasks is a small one here, and its scores are a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation import harness_tasks, select, trust
from bitnet_bench.evaluation.harness_tasks import (
    convert_harness_scores,
    find_harness_folder,
    find_harness_suite,
    find_harness_yaml,
)
from bitnet_bench.evaluation.select import find_data_directory, list_prompts, list_tasks, select_tasks
from bitnet_bench.evaluation.suites import Suite, Task, choose_suite, find_suites, read_suite, suggest_name
from bitnet_bench.evaluation.task_hooks import TaskHooks, find_hooks

HEAD = 'name: {}\nversion: "1"\ntitle: Own\nlicence: CC0\ncitation: nobody\n'
TASKS = "tasks:\n  - {name: one, metrics: [accuracy], chance: 50.0}\n"


def make_task(name: str = "one", **fields: Any) -> Task:
    return Task.model_validate({"name": name, "metrics": ["accuracy", "macro_f1"], "chance": 50.0, **fields})


def make_suite(*tasks: Task, **fields: Any) -> Suite:
    given = {"name": "own", "version": "1", "title": "Own", "licence": "CC0", "citation": "nobody", "folder": "own"}
    return Suite.model_validate({**given, "tasks": tasks or (make_task(),), **fields})


def write_suite(folder: Path, text: str = HEAD.format("own") + TASKS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(text, encoding="utf-8")
    return folder / "suite.yaml"


def fail(act: Callable[[], Any], kind: type[BenchError] = BenchError) -> tuple[str, str]:
    """Return the two sentences with which *act* refuses."""
    with pytest.raises(BenchError) as caught:
        act()
    assert type(caught.value) is kind
    return caught.value.problem, caught.value.hint


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        (
            "- own\n",
            "{} is not a suite: it holds no keys.",
            "There are: name, version, title, licence, citation, hub, embedded, prompts, tasks, folder.",
        ),
        (
            HEAD.format("own") + "folder: .\n" + TASKS,
            "{} is not a suite: `folder` is not said in it.",
            "The suite is the folder it stands in.",
        ),
        (
            HEAD.format("own") + TASKS + "  - name: two\n    metrics: [f1]\n    chance: half\n",
            "Line 10 of {}: tasks.1.chance must be a valid number, unable to parse string as a number, not 'half'.",
            "docs/suites/README.md says what a suite holds.",
        ),
        (
            HEAD.format("own") + "tasks:\n\n  - {name: one, chance: 1}\n",
            "Line 8 of {}: tasks.0.metrics: Field required.",
            "docs/suites/README.md says what a suite holds.",
        ),
        ("name: [", "{} is not YAML: did not find expected node content in line 2.", "Correct it there."),
        ("# mine\n" + HEAD.format("own"), "Line 2 of {}: tasks: Field required.", "docs/suites/README.md says what"),
    ],
)
def test_a_suite_that_is_none_is_refused_by_its_line(text: str, problem: str, hint: str, tmp_path: Path) -> None:
    """The line is that of the value, or of what lacks it."""
    file = write_suite(tmp_path, text)
    said = fail(lambda: read_suite(file))
    assert said[0] == problem.format(file)
    assert said[1].startswith(hint)


def test_a_suite_is_in_the_folder_in_which_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However that is named."""
    write_suite(tmp_path / "some")
    monkeypatch.chdir(tmp_path)
    found = read_suite(Path("some/../some/suite.yaml"))
    assert (found.name, found.folder, found.tasks[0].name) == ("own", tmp_path / "some", "one")


def test_suites_are_found_by_name_in_all_folders(tmp_path: Path) -> None:
    """One folder below each; two of one name are refused, and both places are named."""
    write_suite(tmp_path / "a/x", HEAD.format("first") + TASKS)
    write_suite(tmp_path / "b/y", HEAD.format("second") + TASKS)
    write_suite(tmp_path / "b/deep/er", HEAD.format("third") + TASKS)
    found = find_suites([tmp_path / "b", tmp_path / "a"])
    assert {name: suite.folder for name, suite in found.items()} == {
        "first": tmp_path / "a/x",
        "second": tmp_path / "b/y",
    }
    file = write_suite(tmp_path / "b/z", HEAD.format("first") + TASKS)
    assert fail(lambda: find_suites([tmp_path / "a", tmp_path / "b"])) == (
        "Two suites are called first.",
        f"{file} and {tmp_path / 'a/x'}.",
    )


def test_a_suite_is_chosen_by_name_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is known goes before a folder of that name; a folder without a suite is an unknown name."""
    write_suite(tmp_path / "known", HEAD.format("other") + TASKS)
    write_suite(tmp_path / "mine", HEAD.format("mine") + TASKS)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    suites = {"known": make_suite(name="known"), "korean": make_suite(name="korean")}
    assert choose_suite(suites, "known") is suites["known"]
    assert choose_suite(suites, "mine").name == "mine"
    assert fail(lambda: choose_suite(suites, "empty"), UsageError) == (
        "There is no suite 'empty'.",
        "There are: known, korean.",
    )
    assert fail(lambda: choose_suite(suites, "knwon"), UsageError) == (
        "There is no suite 'knwon'.",
        "Did you mean known? There are: known, korean.",
    )
    assert suggest_name("x", ["abc"]) == "There are: abc."


def test_a_task_is_found_by_name_in_its_suite() -> None:
    """A wrong name is told the nearest and all there are."""
    suite = make_suite(make_task("boolq"), make_task("copa"))
    assert suite.task("copa") is suite.tasks[1]
    assert fail(lambda: suite.task("bolq"), UsageError) == (
        "Suite own has no task 'bolq'.",
        "Did you mean boolq? There are: boolq, copa.",
    )


def test_a_task_s_own_hub_and_licence_go_before_its_suite_s() -> None:
    """Where it has none, the suite's are its own."""
    suite = make_suite(hub="some/suite")
    assert (suite.find_hub_id(make_task()), suite.find_licence(make_task())) == ("some/suite", "CC0")
    other = make_task(hub="some/task", licence="MIT")
    assert (suite.find_hub_id(other), suite.find_licence(other)) == ("some/task", "MIT")
    assert make_suite().find_hub_id(make_task()) is None


@pytest.mark.parametrize(
    ("embedded", "local", "split", "data", "file"),
    [
        (None, "rows", "test", "data", "data/rows/t.jsonl"),
        (None, "rows", "train", "data", "data/rows/u.jsonl"),
        ("inside", "rows", "test", "data", "own/inside/rows/t.jsonl"),
        ("inside", "rows", "test", None, "own/inside/rows/t.jsonl"),
        (None, "rows", "test", None, None),
        (None, None, "test", "data", None),
        (None, "rows", "dev", "data", None),
    ],
)
def test_rows_are_in_the_suite_or_the_data_directory(
    embedded: str | None, local: str | None, split: str, data: str | None, file: str | None
) -> None:
    """Embedded rows need no data directory, and do not look at one; a split that is not named is nowhere."""
    task = make_task(local=local, files={"test": "t.jsonl", "train": "u.jsonl"})
    found = make_suite(task, embedded=embedded).find_rows_file(task, split, Path(data) if data else None)
    assert found == (Path(file) if file else None)


@pytest.mark.parametrize(
    ("embedded", "data", "hub", "names"),
    [
        (None, None, None, ["hub"]),
        (None, None, "some/suite", ["local", "hub"]),
        (None, "data", "some/suite", ["local"]),
        ("inside", None, "some/suite", ["local"]),
    ],
)
def test_a_whole_suite_is_the_tasks_that_have_rows(
    embedded: str | None, data: str | None, hub: str | None, names: list[str]
) -> None:
    """Without data those on the hub; one whose rows are the user's own is never among them."""
    tasks = (make_task("local", local="rows"), make_task("hub", hub="some/task"), make_task("mine", own_rows=True))
    suite = make_suite(*tasks, embedded=embedded, hub=hub)
    assert [task.name for task in suite.list_runnable_tasks(Path(data) if data else None)] == names


def test_the_data_folder_is_what_was_given_or_the_environment_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given goes first; an empty variable is none; a folder that is not there is named."""
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.delenv("BITNET_BENCH_DATA", raising=False)
    assert find_data_directory(None) is None
    assert find_data_directory(tmp_path) == tmp_path
    monkeypatch.setenv("BITNET_BENCH_DATA", "")
    assert find_data_directory(None) is None
    monkeypatch.setenv("BITNET_BENCH_DATA", str(other))
    assert (find_data_directory(None), find_data_directory(tmp_path)) == (other, tmp_path)
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "none", tmp_path / "file"):
        said = (f"There is no data folder {wrong}.", "Check `data_dir` or BITNET_BENCH_DATA.")
        assert fail(lambda wrong=wrong: find_data_directory(wrong)) == said  # type: ignore[misc]


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Suite]]:
    """Give what installs suites in place of those that there are."""

    def install(*suites: Suite) -> dict[str, Suite]:
        found = {suite.name: suite for suite in suites}
        monkeypatch.setattr(select, "load_suites", lambda: found)
        return found

    return install


def test_tasks_are_listed_with_where_their_rows_are(suites: Any, tmp_path: Path) -> None:
    """In the data folder and counted, on the hub, with the user, nowhere yet, or within the suite."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/t.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    files = {"test": "t.jsonl"}
    suites(
        make_suite(
            make_task("here", local="rows", files=files, hub="some/task"),
            make_task("there", local="gone", files=files, hub="some/task", licence="MIT", citation="somebody"),
            make_task("mine", own_rows=True, hub="some/task"),
            make_task("nowhere", local="gone", files=files),
            prompts={"theirs": "x_{task}"},
        ),
        make_suite(make_task(local="rows", files=files), name="inner", version="2", embedded=".", folder=tmp_path),
    )
    found = list_tasks(tmp_path)
    assert found[0] == {
        "suite": "own",
        "version": "1",
        "task": "here",
        "rows": 2,
        "from": "rows/t.jsonl",
        "metrics": ["accuracy", "macro_f1"],
        "primary_metric": "accuracy",
        "chance": 50.0,
        "prompts": ["default", "theirs"],
        "licence": "CC0",
        "citation": "nobody",
    }
    assert [(one["task"], one["rows"], one["from"]) for one in found[1:]] == [
        ("there", None, "some/task"),
        ("mine", None, "`rows=own:mine=FILE`"),
        ("nowhere", None, "`data_dir`"),
        ("one", 2, "embedded"),
    ]
    assert (found[1]["licence"], found[1]["citation"]) == ("MIT", "somebody")
    assert (found[4]["suite"], found[4]["version"], found[4]["prompts"]) == ("inner", "2", ["default"])


def test_tasks_of_several_suites_are_selected(suites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that have rows, or those of a name in whichever suite has one; an unknown one is told what there is."""
    first = make_suite(make_task("one", local="rows"), make_task("two"), name="first")
    second = make_suite(make_task("two", local="rows"), make_task("three"), name="second")
    suites(first, second)

    def names(*given: Any) -> list[str]:
        return [f"{suite.name}:{task.name}" for suite, task in select_tasks(*given)]

    assert names(["first", "second"], [], tmp_path) == ["first:one", "second:two"]
    assert names(["first", "second"]) == []
    assert names(["first", "second"], ["two", "one"]) == ["first:two", "second:two", "first:one"]
    assert fail(lambda: names(["first", "second"], ["one", "tree"]), UsageError) == (
        "No task 'tree' in first, second.",
        "Did you mean three? There are: one, two, two, three.",
    )
    assert fail(lambda: names(["frist"]), UsageError)[0] == "There is no suite 'frist'."
    theirs = make_suite(make_task("leaf"), name="lm-eval")
    asked: list[str] = []
    monkeypatch.setattr(harness_tasks, "find_harness_suite", lambda name: asked.append(name) or theirs)
    assert names(["lm-eval:some_group", "first"], [], tmp_path) == ["lm-eval:leaf", "first:one"]
    assert asked == ["some_group"]


PLAIN = (
    "task: bb_own_one\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{text}}?'\n"
    "doc_to_target: label\ndoc_to_choice: ['가', '나']\nmetric_list: [{metric: acc}]\n"
)


def test_prompts_are_listed_from_the_longest(tmp_path: Path) -> None:
    """As many as are asked for, of the rows that the suite itself brings."""
    rows = [{"text": "가" * n, "label": 0} for n in (2, 5, 1, 3)]
    task = "tasks: [{name: one, metrics: [accuracy], chance: 50.0, local: rows, files: {test: t.jsonl}}]\n"
    write_suite(tmp_path, HEAD.format("own") + "embedded: inside\n" + task)
    (tmp_path / "one.yaml").write_text(PLAIN, encoding="utf-8")
    (tmp_path / "inside/rows").mkdir(parents=True)
    (tmp_path / "inside/rows/t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert list_prompts(str(tmp_path), 3) == ("가가가가가?", "가가가?", "가가?")
    assert len(list_prompts(str(tmp_path), 9)) == 4
    assert fail(lambda: list_prompts(str(tmp_path), 1, tmp_path / "none"))[0].startswith("There is no data folder")


def test_prompts_are_of_the_rows_in_the_data_directory(tmp_path: Path) -> None:
    task = "tasks: [{name: one, metrics: [accuracy], chance: 50.0, local: rows, files: {test: t.jsonl}}]\n"
    write_suite(tmp_path / "own", HEAD.format("own") + task)
    (tmp_path / "own/one.yaml").write_text(PLAIN, encoding="utf-8")
    (tmp_path / "data/rows").mkdir(parents=True)
    (tmp_path / "data/rows/t.jsonl").write_text('{"text": "다", "label": 0}\n', encoding="utf-8")
    assert list_prompts(str(tmp_path / "own"), 3, tmp_path / "data") == ("다?",)


def test_only_suites_in_folders_are_remembered_as_trusted(
    suites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed one needs no trust, and a name that is nothing is said when its tasks are selected."""
    monkeypatch.setattr(trust, "_trusted_here", set())
    suites(make_suite(name="known"))
    write_suite(tmp_path / "mine")
    (tmp_path / "mine/evil.py").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    select.trust_suite_names(["known", "nothing", "mine"])
    assert list(json.loads(trust.find_trust_file().read_text("utf-8")).values()) == [str(tmp_path / "mine")]


def make_entry(cfg: Any, tags: Any = None) -> Any:
    return SimpleNamespace(cfg=cfg, tags=tags, yaml_path=None)


MEMBERS = ["deep", {"task": "single"}, "tag", "deep", "gone", {}]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give a small index in place of lm-eval's; two of its tasks have a YAML."""
    (tmp_path / "inner.yaml").write_text("task: inner\ndataset_path: some/rows\ndoc_to_text: !function no.where\n")
    (tmp_path / "tagged.yaml").write_text("task: tagged\n")
    found: dict[str, Any] = {
        "all": make_entry({"task": MEMBERS}),
        "deep": make_entry({"task": ["inner"]}, []),
        "inner": make_entry({"task": "inner"}, ["tag"]),
        "single": make_entry(None),
        "tagged": make_entry({}, ["other", "tag"]),
        "tag": make_entry(None),
    }
    for name in ("inner", "tagged"):
        found[name].yaml_path = str(tmp_path / f"{name}.yaml")
    monkeypatch.setattr(harness_tasks, "_load_task_index", lambda name: found)
    return found


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("all", ["inner", "single", "tagged"]),
        ("deep", ["inner"]),
        ("inner", ["inner"]),
        ("single", ["single"]),
        ("tag", ["inner", "tagged"]),
    ],
)
def test_a_group_or_tag_of_lm_eval_is_its_single_tasks(name: str, leaves: list[str], index: Any) -> None:
    """Groups within groups, members that are named or written out, tags; each once, and what is gone left out."""
    suite = find_harness_suite(name)
    assert [task.name for task in suite.tasks] == leaves
    assert {task.metrics for task in suite.tasks} == {("lm-eval",)}
    assert {task.chance for task in suite.tasks} == {0.0}


def test_lm_eval_s_tasks_are_a_suite_of_its_version(index: Any) -> None:
    """Its rows are where the YAML says, which is read without its functions."""
    suite = find_harness_suite("tag")
    assert [task.hub for task in suite.tasks] == ["some/rows", None]
    assert (suite.name, suite.version, suite.title) == ("lm-eval", version("lm_eval"), "lm-eval's own tag")
    assert suite.licence == suite.citation == "see the task's README in lm-eval"
    assert suite.folder == find_harness_folder()


def test_an_unknown_task_of_lm_eval_is_told_the_nearest(index: Any) -> None:
    """Three at most, and how to list them all."""
    assert fail(lambda: find_harness_suite("tage"), UsageError) == (
        "lm-eval ships no task 'tage'.",
        "Did you mean tag, tagged? `lm-eval ls tasks` lists them.",
    )
    assert fail(lambda: find_harness_suite("zzz"), UsageError)[1] == "`lm-eval ls tasks` lists them."
    index.update({f"inne{letter}": make_entry(None) for letter in "xyz"})
    assert fail(lambda: find_harness_suite("inne"), UsageError)[1].count(",") == 2


def test_the_file_of_a_task_of_lm_eval_s(index: Any, tmp_path: Path) -> None:
    """What is not there, or no single task, is said with where it would come from."""
    assert find_harness_yaml("inner") == tmp_path / "inner.yaml"
    for name in ("gone", "deep"):
        assert fail(lambda name=name: find_harness_yaml(name)) == (  # type: ignore[misc]
            f"lm-eval ships no task {name}.",
            "Install the version in constraints.txt.",
        )


@pytest.mark.parametrize("spec", [None, SimpleNamespace(submodule_search_locations=None)])
def test_without_lm_eval_its_tasks_are_a_sentence(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_tasks, "find_spec", lambda name: spec)
    assert fail(find_harness_folder) == ("lm-eval is not installed.", "Run `pip install bitnet-bench` again.")


def test_lm_eval_s_folder_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of its tasks has some."""
    assert (find_harness_folder() / "haerae").is_dir()
    asked: list[str] = []
    there = SimpleNamespace(submodule_search_locations=["a", "b"])
    monkeypatch.setattr(harness_tasks, "find_spec", lambda name: asked.append(name) or there)
    assert (find_harness_folder(), asked) == (Path("a/tasks"), ["lm_eval"])


def test_lm_eval_s_own_scores_are_percent() -> None:
    """In its order, the first primary; what is no number is no score, and what is not computed no error."""
    results = {
        "alias": "history",
        "name": "history",
        "sample_len": 8,
        "note,none": "text",
        "acc,none": 0.25,
        "acc_stderr,none": 0.125,
        "acc_norm,none": 1,
        "acc_norm_stderr,none": "N/A",
        "exact_match,strict": 0.5,
        "exact_match_stderr,other": 0.25,
    }
    found = convert_harness_scores("lm-eval:history", results, 8)
    made = f"lm-eval:{version('lm_eval')}"
    assert [(s.metric, s.value, s.stderr, s.primary, s.signature) for s in found] == [
        ("acc", 25.0, 12.5, True, f"acc|{made}|filter:none"),
        ("acc_norm", 100.0, None, False, f"acc_norm|{made}|filter:none"),
        ("exact_match", 50.0, None, False, f"exact_match|{made}|filter:strict"),
    ]
    assert {(s.task, s.n) for s in found} == {("lm-eval:history", 8)}
    whole = convert_harness_scores("x", {"acc,none": 0, "acc_stderr,none": 1}, 1)
    assert [(s.value, s.stderr) for s in whole] == [(0.0, 100.0)]


def make_module(**members: Any) -> Any:
    module = type(json)("own_hooks")
    module.__file__ = "own/hooks.py"
    for name, member in members.items():
        setattr(module, name, member)
    return module


def own_function(row: Any) -> Any:
    """Stand for a function that is written in the task's file."""
    return row


def test_a_task_without_a_file_has_the_defaults() -> None:
    """No labels, no references but the YAML's, no number, output as it is, no grammar."""
    hooks = find_hooks(None)
    assert hooks == TaskHooks()
    assert (hooks.labels({}), hooks.references({}), hooks.value({})) == ((), None, None)
    assert (hooks.read("가"), hooks.parse, hooks.values) == ("가", None, ())


def test_hooks_are_found_by_name() -> None:
    """VALUES under its own name; other functions and imports are the file's business."""
    mine = type(own_function)(own_function.__code__, {"__name__": "own_hooks"})
    others = {"helper": mine, "_label": mine, "json": json, "lables": json, "valu": own_function}
    hooks = find_hooks(make_module(labels=mine, VALUES=(1.0, 2.0), **others))
    assert (hooks.labels, hooks.values, hooks.references({})) == (mine, (1.0, 2.0), None)


@pytest.mark.parametrize(("name", "meant"), [("refrences", "references"), ("values", "value"), ("parses", "parse")])
def test_a_misspelt_hook_is_refused(name: str, meant: str) -> None:
    """It would never be called."""
    assert fail(lambda: find_hooks(make_module(**{name: (1.0,)}))) == (
        f"own/hooks.py has {name!r}, which nothing looks for.",
        f"Did you mean {meant}? If it is the file's own, start its name with an underscore.",
    )
