"""YAML and JSON of foreign origin: what is no value of theirs is a sentence with the file and the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.errors import MAX_HINT_CHARACTERS, MAX_PROBLEM_CHARACTERS, BenchError
from bitnet_bench.evaluation.definitions import read_definition
from bitnet_bench.evaluation.select import trust_suite_names
from bitnet_bench.evaluation.suites import read_suite
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.json_files import MAX_JSON_DEPTH, check_json_depth, read_json, read_json_object
from bitnet_bench.pipeline.recipe import read_recipe
from bitnet_bench.runs.jobs import MAX_SEEDS, Arms, EvaluateJob, FinetuneJob
from bitnet_bench.training.order import count_steps
from bitnet_bench.yaml_files import MAX_YAML_DEPTH, read_yaml

DOUBLINGS = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))
RECIPE = "models: {a: demo}\nevaluate: {suites: [sample]}\n"
SUITE = """name: own
version: "1"
title: t
licence: l
citation: c
embedded: data
tasks:
  - {name: qa, metrics: [exact_match], chance: 0.0, local: qa, files: {test: test.jsonl}}
"""
TASK = """task: bb_own_qa
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
"""


def write(file: Path, text: str | bytes) -> Path:
    """Write *text* and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"a0: &a0 [x, x]\n{DOUBLINGS}", ["Line ", "with its aliases", "values"]),
        ("a: &a {b: *a}", ["Line 1", "*a stands within itself"]),
        ("- " * (MAX_YAML_DEPTH + 1) + "x", ["Line 1", "deep"]),
        ("[" * 5000, ["nesting depth", "in line 1"]),
        (f"a: 1\nb: {2**63}", ["Line 2", "more than 64 bits"]),
        ("a: " + "9" * 5000, ["Line 1", "9999", "is no int"]),
        ("a: !!int 가", ["Line 1", "가 is no int"]),
        ("a: 0x_", ["Line 1", "0x_ is no int"]),
        ("a: 1\nb: 2\na: 3", ["Line 3", "a stands twice"]),
        ("? [a]\n: b", ["Line 1", "a key is a list"]),
        ("a: 1\nb: [", ["not YAML", "in line 3"]),
        ("a: *b", ["not YAML", "undefined alias", "in line 1"]),
        ("a: !!python/object/apply:os.getcwd []", ["not YAML", "could not determine a constructor", "in line 1"]),
        ("--- a\n--- b", ["not YAML", "in line 2"]),
        ("이름: 값".encode("cp949"), ["not UTF-8", "in line 1", "cp949"]),
        ("a: 1".encode("utf-16"), ["not UTF-8", "utf-16"]),
        ("a: 1\x00", ["not YAML"]),
        ("x" * (1 << 20) + "y", ["more than 1,024 KiB"]),
    ],
)
def test_yaml_that_is_not_read_is_a_sentence_with_its_place(
    tmp_path: Path, text: str | bytes, words: list[str]
) -> None:
    file = write(tmp_path / "a.yaml", text)
    with pytest.raises(BenchError) as raised:
        read_yaml(file)
    for word in [*words, str(file)]:
        assert word in raised.value.problem


def test_what_yaml_means_is_read(tmp_path: Path) -> None:
    """Aliases, merged keys and blocks are YAML; a date is the text that stands there, whether it exists or not."""
    text = "base: &b {x: 1}\nown: {<<: *b, y: 2}\nday: 2026-99-99\nother: 2026-01-01\nlist: [*b, *b]\n"
    found = read_yaml(write(tmp_path / "a.yaml", text))
    assert found.value["own"] == {"x": 1, "y": 2}
    assert (found.value["day"], found.value["other"]) == ("2026-99-99", "2026-01-01")
    assert found.value["list"] == [{"x": 1}, {"x": 1}]
    assert (found.lines["own", "y"], found.lines["list", 1]) == (2, 1)


def test_a_key_may_stand_twice_where_the_reader_says_so(tmp_path: Path) -> None:
    """Some files that lm-eval ships repeat a key."""
    assert read_yaml(write(tmp_path / "a.yaml", "a: 1\na: 2"), may_repeat_keys=True).value == {"a": 2}


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text("가a 1:-#&*!{}"), st.lists)
)
def test_yaml_is_what_its_writer_meant(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    """The oracle is JSON, which is YAML."""
    file = write(tmp_path_factory.mktemp("yaml") / "a.yaml", json.dumps({"a": value}))
    assert read_yaml(file).value == {"a": value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "b": }', ["not valid JSON", "in line 2"]),
        ("", ["not valid JSON"]),
        ("[" * 100_000, [f"more than {MAX_JSON_DEPTH} deep"]),
        ("[" * (MAX_JSON_DEPTH + 2) + "]" * (MAX_JSON_DEPTH + 2), [f"more than {MAX_JSON_DEPTH} deep"]),
        ('{"a": {"b": 1, "b": 2}}', ['"b" twice']),
        ("1" * 5000, ["5,000 digits"]),
        ('{"a": "\\ud83d"}', ["half a character"]),
        ('{"\\udc00": 1}', ["half a character"]),
        ('"가"'.encode("cp949"), ["not UTF-8", "cp949"]),
        (b'{"a": "\xff"}', ["not UTF-8", "in line 1"]),
    ],
)
def test_json_that_is_not_read_is_a_sentence_with_its_file(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    file = write(tmp_path / "a.json", text)
    with pytest.raises(BenchError) as raised:
        read_json(file, "Get it again.")
    for word in [*words, f"{file} cannot be read"]:
        assert word in raised.value.problem
    assert raised.value.hint == "Get it again."


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ('"x"', "text"), ("null", "null"), ("true", "truth value")])
def test_json_without_fields_is_named_for_what_it_is(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(BenchError, match=f"a JSON {kind} and holds no fields"):
        read_json_object(write(tmp_path / "a.json", text), "")


@pytest.mark.parametrize(
    "text", ["[[[1]]]", '["]]", [["[[[["]]]', '["\\\\", [["\\"]]]]', "[[[]], [[]]]", '["[[[[', "", '"\\']
)
def test_the_depth_of_json_is_found_without_reading_it(tmp_path: Path, text: str) -> None:
    """Brackets in texts count for nothing, whether the text ends or not; a deeper one is refused."""
    file = write(tmp_path / "a.json", text)
    check_json_depth(file, "", 3)
    with pytest.raises(BenchError, match="nested more than 3 deep"):
        check_json_depth(write(file, "[[[[" + text), "", 3)


def test_json_of_whole_characters_is_read(tmp_path: Path) -> None:
    """Two halves that are written as escapes are one character."""
    assert read_json(write(tmp_path / "a.json", '["\\ud83d\\ude00", "가", 1e5]'), "") == ["😀", "가", 1e5]


@pytest.mark.parametrize("make", [lambda path: path / "gone.json", lambda path: path, lambda path: path / ("x" * 300)])
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, make: Any) -> None:
    """A file that is not there, a folder, a name that no disk takes."""
    with pytest.raises(BenchError) as raised:
        read_json(make(tmp_path), "")
    assert str(make(tmp_path))[:200] in raised.value.problem


def test_a_message_is_short_whatever_a_file_says() -> None:
    """A damaged GGUF file gave a message of 12 MB."""
    error = BenchError("x" * 10_000_000, "y" * 10_000_000)
    assert len(error.problem) <= MAX_PROBLEM_CHARACTERS
    assert len(error.hint) <= MAX_HINT_CHARACTERS
    assert len(str(error)) <= 2100
    assert str(BenchError("short", "hint")) == "short\n  hint"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f"{RECIPE}x0: &a0 [x, x]\n{DOUBLINGS}", "with its aliases"),
        ("evaluate: &a {suites: [sample], x: *a}", "stands within itself"),
        (f"{RECIPE}measure: {'[' * 9999}", "nesting depth"),
        (f"{RECIPE}finetune: {{data: [x], seeds: {10**12}}}", f"less than or equal to {MAX_SEEDS}"),
        (f"{RECIPE}finetune: {{data: [x], epochs: 1.0e+300}}", "finetune.epochs"),
        (f"{RECIPE}finetune: {{data: [x], max_steps: {10**12}}}", "finetune.max_steps"),
        (f"{RECIPE}finetune: {{data: [x], seed: -1}}", "finetune.seed"),
        (f"{RECIPE}finetune: {{data: [x], max_steps: {10**30}}}", "64 bits"),
        (f"{RECIPE}measure: {{rounds: {10**12}}}", "measure.rounds"),
        (RECIPE.replace("demo", "가").encode("cp949"), "cp949"),
    ],
)
def test_a_recipe_that_would_hang_is_a_sentence_at_once(tmp_path: Path, text: str | bytes, word: str) -> None:
    file = write(tmp_path / "recipe.yaml", text)
    with pytest.raises(BenchError) as raised:
        read_recipe(file)
    assert word in raised.value.problem
    assert str(file) in raised.value.problem


def test_an_impossible_date_in_a_recipe_is_the_name_of_a_model(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path / "recipe.yaml", RECIPE.replace("demo", "2026-99-99")))
    assert recipe.models == {"a": "2026-99-99"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Arms(seeds=10**12),
        lambda: FinetuneJob(data=("x",), out="o", epochs=1e300),
        lambda: FinetuneJob(data=("x",), out="o", batch_size=10**12),
        lambda: EvaluateJob(limit=10**30),
        lambda: EvaluateJob(seed=2**40),
        lambda: count_steps(10**6, 2**20, 1, 1000, None),
    ],
)
def test_a_count_that_no_run_has_is_refused(wrong: Any) -> None:
    with pytest.raises(BenchError):
        wrong()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: own\n", "name: own\nname: other\n", ["Line 2", "name stands twice"]),
        ("version: ", "version: [", ["not YAML"]),
        ("title: t", "title: 2026-13-13", []),
        ("title: t", "title: [1]", ["Line 3", "title"]),
        ("chance: 0.0", "chance: .nan", ["Line 8", "chance"]),
        ("name: qa", "name: ../../x", ["Line 8", "name"]),
        ("tasks:", "folder: /\ntasks:", ["`folder`"]),
        (SUITE, "[]", ["holds no keys"]),
        (SUITE, "", ["holds no keys"]),
        ("title: t", "title: 제목", ["cp949"]),
    ],
)
def test_a_wrong_suite_is_a_sentence_with_its_line(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    text = SUITE.replace(old, new, 1).encode("cp949")
    file = write(tmp_path / "suite.yaml", text)
    if not words:
        assert read_suite(file).title == "2026-13-13"
        return
    with pytest.raises(BenchError) as raised:
        read_suite(file)
    for word in [*words, str(file)]:
        assert word in raised.value.problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["There is no file", "qa.yaml"]),
        (f"{TASK}x: [", ["qa.yaml is not YAML", "in line"]),
        (f"{TASK}task: 한글\n".encode("cp949"), ["qa.yaml", "cp949"]),
        (f"{TASK}include: other.yaml\n", ["There is no file", "other.yaml"]),
        (f"{TASK}include: qa.yaml\n", ["qa.yaml includes itself"]),
        (f"{TASK}include: [1]\n", ["Line 5", "qa.yaml", "`include` must name files"]),
        (f"{TASK}metric_list: no\n", ["Line 5", "qa.yaml", "`metric_list` must be a list"]),
        (f"{TASK}process_docs: !function gone.work\n", ["qa.yaml does not define a task", "gone"]),
        (f"{TASK}process_docs: !function broken.work\n", ["qa.yaml does not define a task", "ZeroDivisionError"]),
        ("- a", ["qa.yaml", "holds no keys"]),
        (TASK.replace("{{question}}", "{{ 1 / 0 }}"), ["own:qa", "division by zero"]),
        (TASK.replace("generate_until", "dance"), ["own:qa"]),
    ],
)
def test_a_wrong_task_is_a_sentence_with_its_file(tmp_path: Path, text: str | bytes | None, words: list[str]) -> None:
    """Before, each of these was a traceback of lm-eval or of YAML."""
    suite = read_suite(write(tmp_path / "suite.yaml", SUITE))
    write(tmp_path / "data/qa/test.jsonl", '{"question": "왜?", "answer": "그래서"}\n')
    if isinstance(text, str) and "broken" in text:
        write(tmp_path / "broken.py", "1 / 0\n")
    if text is not None:
        write(tmp_path / "qa.yaml", text)
    trust_suite_names([str(tmp_path)])
    with pytest.raises(BenchError) as raised:
        build_task(suite, suite.task("qa"), TaskSettings())
    for word in words:
        assert word in str(raised.value)


def test_a_definition_is_read_with_what_it_includes(tmp_path: Path) -> None:
    """Included files come first, a diamond is no loop, and nothing of a `!function` runs."""
    write(tmp_path / "base.yaml", "a: 1\n")
    write(tmp_path / "left.yaml", "include: base.yaml\nb: 2\n")
    write(tmp_path / "right.yaml", "include: base.yaml\nc: !function gone.work\n")
    parts = read_definition(write(tmp_path / "top.yaml", "include: [left.yaml, right.yaml]\nd: 4\n"))
    assert [file.name for file in parts] == ["base.yaml", "left.yaml", "right.yaml", "top.yaml"]
    assert list(parts.values()) == [{"a": 1}, {"b": 2}, {"c": "!function gone.work"}, {"d": 4}]
