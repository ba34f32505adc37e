"""How a task is built from its YAML and its rows: local ones, the user's, or those of a hub that is a fake here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation import definitions, tasks, trust
from bitnet_bench.evaluation.definitions import examine_definition, read_definition
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.evaluation.tasks import (
    BuiltTask,
    TaskSettings,
    build_task,
    find_definition,
    has_local_rows,
    load_module,
    normalise_text,
)

PLAIN = """
task: bb_own_one
output_type: multiple_choice
test_split: test
training_split: train
doc_to_text: "{{text}}?"
doc_to_target: label
doc_to_choice: ["가", "나"]
metric_list:
  - {metric: acc}
"""
HUB = PLAIN + "dataset_path: some/rows\n"
CORRECT = "Correct it: docs/suites/README.md says what a task's YAML holds."
TEST = [{"text": "다", "label": 0}, {"text": "라", "label": 1}]
TRAIN = [{"text": text, "label": n % 2} for n, text in enumerate("바사아")]


def make_task(**fields: Any) -> Task:
    given = {"name": "one", "metrics": ["accuracy"], "chance": 50.0, "local": "rows"}
    files = {"test": "test.jsonl", "train": "train.jsonl"}
    return Task.model_validate({**given, "files": files, **fields})


def make_suite(folder: Path, text: str = PLAIN, task: Task | None = None, **fields: Any) -> Suite:
    """Write *text* as the YAML of a suite's only task, and return the suite."""
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own/one.yaml").write_text(text, encoding="utf-8")
    given = {"name": "own", "version": "1", "title": "Own", "licence": "CC0", "citation": "nobody"}
    return Suite.model_validate({**given, "tasks": (task or make_task(),), "folder": folder / "own", **fields})


def write_rows(folder: Path, **splits: list[Any]) -> Path:
    """Write the rows of each split and return the data directory."""
    (folder / "data/rows").mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        file = folder / f"data/rows/{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "data"


def build(suite: Suite, data: Path | None = None, **settings: Any) -> BuiltTask:
    return build_task(suite, suite.tasks[0], TaskSettings(data, **settings))


def fail(act: Callable[[], Any], kind: type[BenchError] = BenchError) -> tuple[str, str]:
    """Return the two sentences with which *act* refuses."""
    with pytest.raises(BenchError) as caught:
        act()
    assert type(caught.value) is kind
    return caught.value.problem, caught.value.hint


class Hub:
    """A hub with one revision of every data set, which notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.loaded: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.is_there = True

    def dataset_info(self, name: str, timeout: float) -> Any:
        """Return the newest revision."""
        self.asked.append((name, timeout))
        if not self.is_there:
            raise OSError("no network")
        return SimpleNamespace(sha="c0ffee")

    def load(self, **given: Any) -> Any:
        """Return rows, or fail."""
        self.loaded.append({name: value for name, value in given.items() if value is not None})
        if self.error:
            raise self.error
        return DatasetDict(test=Dataset.from_list(TEST), train=Dataset.from_list(TRAIN))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Give a hub that is not on the network."""
    found = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: found)
    monkeypatch.setattr("datasets.load_dataset", found.load)
    return found


def test_rows_of_the_hub_are_of_its_newest_revision(hub: Hub, tmp_path: Path) -> None:
    """Which is asked for once, loaded, and named as their source; a row has no line there."""
    built = build(make_suite(tmp_path, HUB, make_task(local=None), hub="some/rows"))
    assert hub.asked == [("some/rows", 10)]
    assert hub.loaded == [{"path": "some/rows", "revision": "c0ffee"}]
    assert built.source == "some/rows@c0ffee"
    assert list(built.lm_task.test_docs()) == TEST
    assert built.lines is None
    assert built.describe_row(1) == "Row 1 of own:one (some/rows@c0ffee)"


def test_a_revision_that_a_task_names_is_kept(hub: Hub, tmp_path: Path) -> None:
    """The hub is not asked for another."""
    text = HUB + "dataset_kwargs: {revision: abc, split: null}\n"
    built = build(make_suite(tmp_path, text, make_task(local=None, hub="other/rows"), hub="some/rows"))
    assert hub.asked == []
    assert hub.loaded == [{"path": "some/rows", "revision": "abc"}]
    assert built.source == "other/rows@abc"


def test_a_hub_that_does_not_answer_may_have_left_its_rows_here(hub: Hub, tmp_path: Path) -> None:
    """They are loaded from the cache, and which revision that is, is unknown."""
    hub.is_there = False
    built = build(make_suite(tmp_path, HUB, make_task(local=None), hub="some/rows"))
    assert hub.loaded == [{"path": "some/rows"}]
    assert built.source == "some/rows@unknown"


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("a script")])
@pytest.mark.parametrize(
    ("local", "way"),
    [
        ("rows", "Give `data_dir` (or BITNET_BENCH_DATA) with rows/test.jsonl"),
        (None, "Give its rows as a file, `rows=own:one=FILE`"),
    ],
)
def test_rows_that_the_hub_does_not_give_are_asked_of_the_user(
    error: Exception, local: str | None, way: str, hub: Hub, tmp_path: Path
) -> None:
    """With where they would be."""
    hub.error = error
    assert fail(lambda: build(make_suite(tmp_path, HUB, make_task(local=local), hub="some/rows"))) == (
        "own:one has no local rows, and some/rows@c0ffee cannot be had from the hub.",
        f"{way}, or go online.",
    )


def test_a_task_without_rows_says_where_they_go(hub: Hub, tmp_path: Path) -> None:
    """In the data directory, or as the user's own; what is on no hub is not looked for there."""
    said = "own:one has no rows here."
    own = make_suite(tmp_path, HUB, make_task(own_rows=True, local=None), hub="some/rows")
    assert fail(lambda: build(own)) == (said, "Give `rows=own:one=FILE`.")
    assert fail(lambda: build(make_suite(tmp_path, HUB))) == (
        said,
        "Give `data_dir` (or BITNET_BENCH_DATA) a folder with rows/test.jsonl.",
    )
    assert hub.asked == hub.loaded == []


def test_a_missing_file_of_rows_says_where_they_are(tmp_path: Path) -> None:
    """The task's own file, with the hub if there is one; or the path that the user gave."""
    suite = make_suite(tmp_path, task=make_task(hub="some/rows"))
    data = tmp_path / "data"
    assert fail(lambda: build(suite, data)) == (
        f"There is no {data}/rows/test.jsonl.",
        "Give `data_dir` (or BITNET_BENCH_DATA) a folder with rows/test.jsonl. "
        "It would come from some/rows on the hub without `data_dir`.",
    )
    assert fail(lambda: build(suite, data, rows={"own:one": data / "mine.jsonl"})) == (
        f"There is no {data}/mine.jsonl.",
        "Correct the path in `rows`.",
    )


def test_rows_are_located_by_line(tmp_path: Path) -> None:
    """Unless the task makes its rows of them, one of several."""
    data = write_rows(tmp_path, test=TEST, train=TRAIN)
    built = build(make_suite(tmp_path), data)
    assert (built.name, built.source, built.lines) == ("own:one", f"{data}/rows/test.jsonl", [1, 2])
    assert built.describe_row(1) == f"Line 2 of {data}/rows/test.jsonl"
    (tmp_path / "own/pair.py").write_text("def process(rows):\n    return rows\n", encoding="utf-8")
    suite = make_suite(tmp_path, PLAIN + "process_docs: !function pair.process\n")
    trust.trust_suites([suite])
    assert build(suite, data).lines is None
    assert "pair" not in sys.modules


@pytest.mark.parametrize(
    ("own", "data", "train", "found"),
    [
        (None, None, True, {}),
        (None, "data", True, {"test_split": "data/rows/test.jsonl", "training_split": "data/rows/train.jsonl"}),
        (None, "data", False, {"test_split": "data/rows/test.jsonl"}),
        ("mine", "data", True, {"test_split": "mine", "training_split": "data/rows/train.jsonl"}),
        ("mine", None, True, {"test_split": "mine"}),
    ],
)
def test_the_files_of_a_task(
    own: str | None, data: str | None, train: bool, found: Mapping[str, str], tmp_path: Path
) -> None:
    """The user's own rows stand for the test split only; training rows that are not there are none."""
    write_rows(tmp_path, test=TEST, **({"train": TRAIN} if train else {}))
    (tmp_path / "mine").write_text("{}", encoding="utf-8")
    suite = make_suite(tmp_path)
    rows = {"own:one": tmp_path / own} if own else {"other:one": tmp_path / "mine"}
    setting = TaskSettings(tmp_path / data if data else None, rows)
    files = tasks._find_local_files(suite, suite.tasks[0], setting)
    assert files == {split: tmp_path / file for split, file in found.items()}
    assert has_local_rows(suite, suite.tasks[0], setting) == bool(found)


def test_rows_that_are_named_and_not_there_are_no_local_rows(tmp_path: Path) -> None:
    suite = make_suite(tmp_path)
    assert not has_local_rows(suite, suite.tasks[0], TaskSettings(tmp_path))


def test_local_rows_take_the_place_of_all_splits() -> None:
    """Those of the hub are not loaded, nor a split that only the hub has."""
    config = {
        "task": "one",
        "test_split": "dev",
        "training_split": "learn",
        "validation_split": "check",
        "fewshot_split": "show",
        "dataset_kwargs": {"revision": "abc"},
    }
    tasks._use_local_rows(config, {"test_split": TEST})
    loaded: Any = config.pop("custom_dataset")
    assert config == {"task": "one", "test_split": "test", "dataset_kwargs": {}}
    rows = loaded(anything=1)
    assert list(rows) == ["test"]
    assert list(rows["test"]) == TEST
    both: dict[str, Any] = {}
    tasks._use_local_rows(both, {"test_split": TEST, "training_split": TRAIN})
    assert (both["test_split"], both["training_split"]) == ("test", "training")
    assert list(both["custom_dataset"]()["training"]) == TRAIN


def test_rows_that_are_no_table_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of what makes the table."""

    def refuse(*given: Any) -> None:
        raise ValueError("two types")

    monkeypatch.setattr(tasks, "_use_local_rows", refuse)
    data = write_rows(tmp_path, test=TEST)
    assert fail(lambda: build(make_suite(tmp_path), data)) == (
        f"The rows of {data}/rows/test.jsonl are no table: two types.",
        "Give each field one type.",
    )


def test_a_row_that_does_not_fit_its_task_is_refused(tmp_path: Path) -> None:
    """With the file and the fault."""
    data = write_rows(tmp_path, test=[{"label": 0}])
    assert fail(lambda: build(make_suite(tmp_path), data)) == (
        f"The first row of own:one ({data}/rows/test.jsonl) does not fit the task: 'text' is undefined.",
        "Its label must be one of the choices, and it needs every field that the prompt uses.",
    )
    assert [tasks._name_fault(error) for error in (ValueError(" XY. "), ValueError("X Y"), KeyError())] == [
        "XY",
        "X Y",
        "KeyError",
    ]


def test_training_rows_that_are_asked_are_counted(tmp_path: Path) -> None:
    """Equal by letters and digits; a task without any says so."""
    data = write_rows(tmp_path, test=TEST, train=[*TRAIN, {"text": " 다 ", "label": 1}])
    assert build(make_suite(tmp_path), data).list_training_documents() == (TRAIN, 1)
    (data / "rows/train.jsonl").unlink()
    assert fail(build(make_suite(tmp_path), data).list_training_documents) == (
        "own:one has no training rows.",
        "Use another task or a JSONL file.",
    )
    assert normalise_text("Ａ b-①, \u1112\u1161\u11ab글!") == "ab1한글"


def test_as_many_shots_as_training_rows_and_no_more(tmp_path: Path) -> None:
    data = write_rows(tmp_path, test=TEST, train=TRAIN)
    built = build(make_suite(tmp_path), data, shots=3)
    assert built.lm_task.config.num_fewshot == 3
    assert sorted(doc["text"] for doc in built.lm_task.sampler.sample(3)) == ["바", "사", "아"]
    assert fail(lambda: build(make_suite(tmp_path), data, shots=4)) == (
        "own:one has 3 training rows for 4 shots.",
        "Use fewer.",
    )


def test_the_definition_of_a_task_is_its_own_or_lm_eval_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the prompts that are asked for; lm-eval's own tasks have one definition, whatever the prompts."""
    monkeypatch.setattr(tasks, "find_harness_yaml", lambda name: Path("theirs", name))
    suite = make_suite(tmp_path, prompts={"theirs": "x_{task}_y"})
    (task,) = suite.tasks
    assert find_definition(suite, task, "default") == tmp_path / "own/one.yaml"
    assert find_definition(suite, task, "theirs") == Path("theirs/x_one_y")
    assert find_definition(suite, make_task(metrics=["lm-eval"]), "any") == Path("theirs/one")
    assert fail(lambda: find_definition(suite, task, "other"), UsageError) == (
        "Suite own has no prompts called 'other'.",
        "Did you mean theirs? There are: default, theirs.",
    )


def test_lm_eval_s_prompts_are_scored_by_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task has its own name and a metric that lm-eval has; its own metrics may be anything."""
    text = PLAIN.replace("acc}", "strange, hf_evaluate: true}") + "doc_to_text: \"'{{text}}'\"\n"
    (tmp_path / "theirs.yaml").write_text(text.replace('doc_to_text: "{{text}}?"\n', "").replace("bb_own_", "x_"))
    monkeypatch.setattr(tasks, "find_harness_yaml", lambda name: tmp_path / "theirs.yaml")
    data = write_rows(tmp_path, test=TEST)
    built = build(make_suite(tmp_path, prompts={"theirs": "x"}), data, prompts="theirs")
    assert built.lm_task.config.task == "bb_own_one"
    assert built.lm_task.config.metric_list == [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    assert built.lm_task.doc_to_text(TEST[0]) == "'다'"
    kept = tasks._read_task_config(make_suite(tmp_path), make_task(metrics=["lm-eval"]), "theirs")
    assert (kept["task"], kept["metric_list"]) == ("x_one", [{"metric": "strange"}])
    (tmp_path / "theirs.yaml").write_text("task: x_one\n")
    assert "metric_list" not in tasks._read_task_config(make_suite(tmp_path), make_task(metrics=["lm-eval"]), "theirs")


@pytest.mark.parametrize(
    ("metrics", "refused"),
    [("[{metric: acc}, {metric: stange}]", "stange"), ("[mine]", "mine"), ("[acc]", None), ("[{other: x}, 3]", None)],
)
def test_a_metric_that_lm_eval_does_not_have_is_refused(metrics: str, refused: str | None, tmp_path: Path) -> None:
    """Whether it is named with settings or alone."""
    suite = make_suite(tmp_path, PLAIN.replace("\n  - {metric: acc}", f" {metrics}"))
    if refused is None:
        tasks._read_task_config(suite, suite.tasks[0], "default")
        return
    assert fail(lambda: tasks._read_task_config(suite, suite.tasks[0], "default")) == (
        f"own:one names the metric {refused!r}, which lm-eval does not have.",
        "Name the metric in suite.yaml: `metric_list` needs one of lm-eval's, such as acc.",
    )


def test_a_task_s_code_that_fails_is_a_sentence(tmp_path: Path) -> None:
    """With the kind of its error; nothing is left behind it."""
    suite = make_suite(tmp_path, PLAIN + "process_docs: !function broken.process\n")
    (tmp_path / "own/broken.py").write_text("raise KeyError('x')\n", encoding="utf-8")
    trust.trust_suites([suite])
    assert fail(lambda: build(suite)) == (
        f"{tmp_path}/own/one.yaml does not define a task: KeyError: 'x'.",
        CORRECT,
    )
    assert not list((tmp_path / "own").rglob("*.pyc"))


def test_a_task_s_module_is_loaded_from_its_file(tmp_path: Path) -> None:
    """Under a name of its own, and without a cache beside it."""
    (tmp_path / "hooks.py").write_text("VALUES = (1.0,)\n", encoding="utf-8")
    module = load_module(tmp_path / "hooks.py")
    assert (module.VALUES, module.__name__) == ((1.0,), f"bitnet_bench_task_{tmp_path.name}_hooks")
    assert not (tmp_path / "__pycache__").exists()
    for name in ("gone.py", "hooks.txt"):
        assert fail(lambda name=name: load_module(tmp_path / name)) == (  # type: ignore[misc]
            f"There is no {tmp_path / name}.",
            "Correct `module` in suite.yaml.",
        )
    (tmp_path / "hooks.txt").touch()
    assert fail(lambda: load_module(tmp_path / "hooks.txt"))[0] == f"There is no {tmp_path / 'hooks.txt'}."


def write(folder: Path, **files: str) -> Path:
    """Write YAML files and return the first."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def test_a_definition_is_read_with_what_it_includes(tmp_path: Path) -> None:
    """The included ones first, at any depth, by one name or several; functions are their names."""
    (tmp_path / "more").mkdir()
    file = write(tmp_path, a="include: [more/b.yaml, d.yaml]\nx: 1\n", d="y: !function code.f\n")
    write(tmp_path / "more", b="include: c.yaml\nz: 2\n", c="{}\n")
    found = read_definition(tmp_path / "more/../a.yaml")
    assert list(found) == [tmp_path / "more/c.yaml", tmp_path / "more/b.yaml", tmp_path / "d.yaml", file]
    assert list(found.values()) == [{}, {"z": 2}, {"y": "!function code.f"}, {"x": 1}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- 1\n", "{} is not the definition of a task: it holds no keys."),
        ("x: 1\ntask: 3\n", "Line 2 of {}: `task` must be a str."),
        ("metric_list: acc\n", "Line 1 of {}: `metric_list` must be a list."),
        ("metric_list: null\n", "Line 1 of {}: `metric_list` must be a list."),
        ("dataset_kwargs: []\n", "Line 1 of {}: `dataset_kwargs` must be a dict."),
        ("generation_kwargs: 1\n", "Line 1 of {}: `generation_kwargs` must be a dict."),
        ("filter_list: {}\n", "Line 1 of {}: `filter_list` must be a list."),
        ("metadata: [1]\n", "Line 1 of {}: `metadata` must be a dict."),
        ("x: 1\n\ninclude: 3\n", "Line 3 of {}: `include` must name files."),
        ("include: [b.yaml, 3]\n", "Line 1 of {}: `include` must name files."),
        ("include: ['']\n", "Line 1 of {}: `include` must name files."),
        ('include: "a\\0b"\n', "Line 1 of {}: `include` must name files."),
        ("include: a.yaml\n", "{} includes itself."),
        ("x: 1\nx: 2\n", "Line 2 of {}: "),
    ],
)
def test_what_is_no_definition_is_refused_by_its_line(text: str, problem: str, tmp_path: Path) -> None:
    """Its hint says where a definition is described."""
    file = write(tmp_path, a=text, b="{}\n")
    said = fail(lambda: read_definition(file))
    assert said[0].startswith(problem.format(file))
    assert said[1] == CORRECT


@pytest.mark.parametrize("nothing", ["dataset_kwargs", "generation_kwargs", "filter_list", "metadata"])
def test_what_may_be_empty_may_be_null(nothing: str, tmp_path: Path) -> None:
    file = write(tmp_path, a=f"{nothing}: null\n")
    assert read_definition(file) == {file: {nothing: None}}


def test_a_fault_of_what_is_included_names_who_includes_it(tmp_path: Path) -> None:
    """The nearest; a file that includes the one that includes it is refused too."""
    file = write(tmp_path, a="include: b.yaml\n", b="include: c.yaml\n", c="x: 1\nx: 2\n")
    said = fail(lambda: read_definition(file))
    assert said[0].startswith(f"Line 2 of {tmp_path}/c.yaml: ")
    assert said[1] == f"Correct it, or the `include` of {tmp_path}/b.yaml."
    write(tmp_path, c="include: a.yaml\n")
    assert fail(lambda: read_definition(file)) == (f"{file} includes itself.", CORRECT)


def test_a_file_of_lm_eval_may_repeat_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some that it ships do, and the last one counts."""
    file = write(tmp_path, a="x: 1\nx: 2\n")
    monkeypatch.setattr(definitions, "find_harness_folder", lambda: tmp_path)
    assert read_definition(file) == {file: {"x": 2}}


def test_the_modules_that_a_definition_names(tmp_path: Path) -> None:
    """At any depth, in packages and other folders too, and only where there is such a file.

    A function whose value another key replaces is loaded by lm-eval too.
    """
    (tmp_path / "deep/er").mkdir(parents=True)
    names = ["one.py", "two.py", "deep/er/four.py", "key.py", "merged.py", "deep/base.py", "absolute.py"]
    for name in (*names, "three.py"):
        (tmp_path / name).touch()
    text = f"""
a: !function one.f
b: [!function two.f, {{c: !function deep.er.four.g}}]
d: three.f
e: !function gone.f
f: 3
g: {{? !function key.f : 1}}
h: {{<<: {{i: !function merged.f}}, i: 1}}
j: !function .{str(tmp_path).replace("/", ".")}.absolute.f
include: deep/base
"""
    (tmp_path / "deep/base").write_text("a: !function base.f\n", encoding="utf-8")
    found = examine_definition(write(tmp_path, a=text))
    assert found.list_modules() == {tmp_path / name for name in names}
    assert examine_definition(write(tmp_path, b="{}\n")).list_modules() == set()


def test_what_is_included_is_bounded(tmp_path: Path) -> None:
    """One file that two include is read once; a hundred files and one more are refused, in a chain or a row."""
    write(tmp_path, a="include: [b.yaml, c.yaml]\n", b="include: d.yaml\n", c="include: d.yaml\n", d="x: 1\n")
    assert [file.stem for file in read_definition(tmp_path / "a.yaml")] == ["d", "b", "c", "a"]
    twice = {f"t{n}": f"include: [t{n + 1}.yaml, t{n + 1}.yaml]\n" for n in range(60)}
    assert len(read_definition(write(tmp_path, **twice, t60="x: 1\n"))) == 61
    chain = {f"n{n}": f"include: n{n + 1}.yaml\n" for n in range(101)}
    first = write(tmp_path, **chain, n101="{}\n")
    assert fail(lambda: read_definition(first)) == (f"{first} includes more than 100 files.", CORRECT)
    assert len(read_definition(tmp_path / "n1.yaml")) == 101
    row = write(tmp_path, r=f"include: [{', '.join(f'{n}.yaml' for n in range(101))}]\n")
    for n in range(101):
        write(tmp_path, **{str(n): "{}\n"})
    assert fail(lambda: read_definition(row))[0] == f"{row} includes more than 100 files."
