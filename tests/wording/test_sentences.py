"""Korean for the English sentences that records hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

import bitnet_bench
from bitnet_bench.wording import Text, get_text, plain_text
from bitnet_bench.wording.names import format_metric, format_task_name
from bitnet_bench.wording.sentences import MAX_KNOWN_CHARACTERS, translate_sentence

PACKAGE = Path(bitnet_bench.__file__).parent
SENTENCE_FIELDS = ("reason", "method", "model", "memory_method")


def fill_literal(node: ast.expr) -> str | None:
    """Return a string constant, or an f-string with a number in the place of each value; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
    return None


def is_reason(node: ast.AST) -> TypeGuard[ast.Return | ast.Assign]:
    """Return whether a string may be a reason that is returned or kept for later; commands and hints are constants."""
    if isinstance(node, ast.Assign):
        return not ast.unparse(node.targets[0]).isupper()
    return isinstance(node, ast.Return) and node.value is not None


def list_candidates(node: ast.AST, is_meter: bool) -> list[ast.expr]:
    """Return the expressions of a node that may be a reason, a method or a model of a record."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Unavailable", "Measured", "Modelled"):
        return [given.value for given in node.keywords if given.arg in SENTENCE_FIELDS]
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_make_measure"):
        return node.args[1:]  # the first is the unit
    return [node.value] if is_meter and is_reason(node) and node.value else []


def written_sentences() -> Iterator[tuple[str, str]]:
    """Yield FILE:LINE and sentence of every reason and method that a measurement writes into a record."""
    for file in sorted((PACKAGE / "measurement").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for candidate in list_candidates(node, file.parent.name == "energy"):
                text = fill_literal(candidate)
                if text and len(text.split()) > 3:
                    yield f"{file.name}:{candidate.lineno}", text


def test_what_a_measurement_writes_is_known_in_korean() -> None:
    """A reason or a method that is new in the code needs its Korean in sentences.yaml."""
    found = list(written_sentences())
    assert len(found) > 25
    unknown = [(where, text) for where, text in found if not re.search("[가-힣]", translate_sentence(text).ko)]
    assert unknown == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Loading it would take about 11 s, as the other precision did; its share of the budget of 60 s is 5.8 s.",
        "Loading it took more than 11 s, which was its share.",
        "One run would take about 4 min, because FP16 products reach 1.2 GFLOP/s on this processor; its share of the "
        "budget of 60 s is 20 s.",
        "At batch 8: One run would take about 4 min, and its share of the budget of 3 min is 30 s.",
        "No time was left for it in the budget of 60 s.",
        "The loss ended at 5.1, above 4.9 (where it began) and 5 (uniform guessing). The run made the model worse. "
        "Lower `learning_rate`, or train for more steps.",
    ],
)
def test_what_was_left_out_and_what_went_wrong_is_known_in_korean(sentence: str) -> None:
    """Reasons that a function puts together from words and durations, as they came out."""
    said = translate_sentence(sentence)
    assert re.search("[가-힣]", said.ko)
    assert not re.search("[a-z]{3,} [a-z]{2,} [a-z]{2,}", said.ko)


def test_a_known_sentence_keeps_its_values() -> None:
    """What stands in the places of a sentence is kept, and translated where it is known itself."""
    gross = "RAPL package domains (powercap), an example, less 12.0 W of idle power, over its new tokens"
    said = translate_sentence(gross)
    assert said.ko == "RAPL 패키지 도메인(powercap), 예제당, 유휴 전력 12.0 W 제외, 새 토큰으로 나눔"
    assert (said.en, said.english) == (gross, "")


@pytest.mark.parametrize("text", ["the meter was eaten by a dog", "x" * MAX_KNOWN_CHARACTERS + " and so on it goes"])
def test_an_unknown_sentence_stays_and_is_marked_as_english(text: str) -> None:
    """Nothing is lost or guessed, and the end of a text that it completes is marked as well."""
    assert translate_sentence(text) == Text(text, text, text)
    inside = get_text("notice.failed", why=translate_sentence(text))
    assert inside.ko == f"채점 실패: {text}"
    assert inside.before_english("ko") == "채점 실패: "
    assert (plain_text("A: ") + translate_sentence(text)).english == text


@pytest.mark.parametrize("text", ["hf", "transformers 5.2", "이 장비에는 없음", "llama.cpp b6000 (CPU)"])
def test_a_name_is_not_marked_as_a_sentence(text: str) -> None:
    """Names are the same in both languages."""
    assert translate_sentence(text) == Text(text, text)


def test_tasks_and_metrics_of_the_suites_have_names() -> None:
    """No key of a suite that the package carries is shown as it stands in its file."""
    from bitnet_bench.yaml_files import read_yaml

    keys = []
    for file in sorted((PACKAGE / "tasks").glob("*/suite.yaml")):
        suite = read_yaml(file).value
        for task in suite["tasks"]:
            keys.append(format_task_name(f"{suite['name']}:{task['name']}"))
            keys += [format_metric(metric) for metric in task["metrics"]]
    assert len(keys) > 60
    assert [text.en for text in keys if re.search(r"_|\w:\w", text.en + text.ko)] == []
    assert format_task_name("mine:rows").ko == "mine:rows"


@pytest.mark.parametrize(
    ("text", "is_english"),
    [
        ("The file is gone.", True),
        ("The rows (1,2) of x are bad.", True),
        ("ab a,b cd", True),
        ("Gemma 3 270M", False),
        ("모델이 the file 없음", False),
        (f"ab {'a,' * 20_000}1", False),
        ("x" * 20_000, False),
        (f"ab {'(,' * 20_000}", False),
    ],
)
def test_english_is_found_in_any_text_at_once(text: str, is_english: bool) -> None:
    """Of a text of sixty letters and commas, the former pattern tried every division."""
    assert bool(translate_sentence(text).english) == is_english
