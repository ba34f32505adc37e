"""From what lm-eval logs of a row to its example and its scores, and what is asked before: no model and no suite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval import evaluator

from bitnet_bench.errors import BenchError, RowError
from bitnet_bench.evaluation import task_run
from bitnet_bench.evaluation.task_hooks import TaskHooks
from bitnet_bench.evaluation.task_run import check_rows, evaluate_task, list_training_pairs, score_examples
from bitnet_bench.runs.records import Example

CHOICES, TEXT, ROLLING = "multiple_choice", "generate_until", "loglikelihood_rolling"


def make_built(kind: str = CHOICES, metrics: tuple[str, ...] = ("accuracy", "macro_f1"), **of_task: Any) -> Any:
    """Return a task whose rows have a text `t`, a target `a` and choices `c`."""
    given: dict[str, Any] = {
        "OUTPUT_TYPE": kind,
        "task_name": "bb_own_one",
        "doc_to_text": lambda doc: doc["t"],
        "doc_to_target": lambda doc: doc["a"],
        "doc_to_choice": lambda doc: doc["c"],
        "features": [],
        "config": SimpleNamespace(doc_to_target="{{a}}", doc_to_choice=None, target_delimiter="_"),
        "test_docs": list,
        "set_config": lambda name, value: None,
    }
    return SimpleNamespace(
        name="own:one",
        lm_task=SimpleNamespace(**{**given, **of_task}),
        task=SimpleNamespace(kind="scored", metrics=metrics, chance=25.0, mixed_choices=False, extracts=None),
        hooks=TaskHooks(),
        describe_row=lambda doc_id: f"Line {doc_id + 1} of rows",
        has_own_rows=False,
    )


def log(doc: dict[str, Any], answers: list[Any], doc_id: int = 0, **more: Any) -> dict[str, Any]:
    """Return what lm-eval logs of a row."""
    return {"doc": doc, "doc_id": doc_id, "arguments": [["asked", "x"]], "filtered_resps": answers, **more}


def choose(answer: Any, *loglikelihoods: float, doc_id: int = 0) -> dict[str, Any]:
    doc = {"t": "q", "a": answer, "c": ["가", "나", "다"][: len(loglikelihoods)]}
    return log(doc, [(one, False) for one in loglikelihoods], doc_id)


def fail(act: Callable[[], Any]) -> tuple[str, str]:
    """Return the two sentences with which *act* refuses."""
    with pytest.raises(BenchError) as caught:
        act()
    return caught.value.problem, caught.value.hint


@pytest.mark.parametrize("answer", ["나", 1])
def test_an_example_of_a_choice(answer: Any) -> None:
    """The most likely choice is the output; the gold one is named or numbered."""
    assert task_run._make_example(make_built(), choose(answer, -3, -2, -1, doc_id=4)) == Example(
        task="own:one",
        doc_id=4,
        prompt="asked",
        choices=("가", "나", "다"),
        loglikelihoods=(-3.0, -2.0, -1.0),
        target="나",
        target_choice=1,
        output="다",
        output_choice=2,
        correct=0.0,
    )


def test_equal_choices_are_answered_by_the_first_and_numbers_are_texts() -> None:
    built = make_built()
    assert task_run._make_example(built, choose(0, -1, -1)).output_choice == 0
    numbers = task_run._make_example(built, log({"a": 1, "c": [10, 20]}, [(-2, False), (-1, False)]))
    assert (numbers.choices, numbers.target, numbers.output) == (("10", "20"), "20", "20")


def test_a_graded_choice_has_numbers() -> None:
    """That of the row, and the mean of the choices' under their probabilities: of 0 and 10, equally likely, 5."""
    built = make_built()
    built.hooks = TaskHooks(value=lambda row: 7.5, values=(0.0, 10.0))
    found = task_run._make_example(built, choose(0, -1, -1))
    assert (found.target_value, found.output_value) == (7.5, 5.0)
    plain = task_run._make_example(make_built(), choose(0, -1, -1))
    assert (plain.target_value, plain.output_value) == (None, None)


@pytest.mark.parametrize(("label", "count"), [(3, 3), (-1, 3), ("라", 3), (None, 3), (1.0, 3)])
def test_a_label_that_is_no_choice_is_refused(label: Any, count: int) -> None:
    """By the row's place, with the label."""
    assert fail(lambda: task_run._make_example(make_built(), choose(label, -1, -1, -1, doc_id=4))) == (
        f"Line 5 of rows has the label {label!r}, which is none of its 3 choices.",
        "Correct the row; a label outside the set cannot be scored.",
    )


def test_an_example_of_a_text() -> None:
    """Its output has no white space around it; one target is one reference."""
    built = make_built(TEXT)
    assert task_run._make_example(built, log({"a": "답"}, [" 글 \n", "other"])) == Example(
        task="own:one", doc_id=0, prompt="asked", target="답", references=("답",), output="글", correct=0.0
    )
    several = task_run._make_example(built, log({"a": ["답", "말"]}, ["글"]))
    assert (several.target, several.references) == ("답", ("답", "말"))


def test_a_text_is_read_by_the_task_s_own_functions() -> None:
    """References, labels, and the grammar of an output."""
    built = make_built(TEXT)
    built.hooks = TaskHooks(
        references=lambda row: ("A", "B"),
        labels=lambda row: ["x", "y"],
        read=str.upper,
        parse=lambda output, row: [output, row["a"]],
    )
    found = task_run._make_example(built, log({"a": "답"}, ["g"]))
    assert (found.target, found.references, found.output) == ("답", ("A", "B"), "G")
    assert (found.target_labels, found.output_labels, found.malformed) == (("x", "y"), ("G", "답"), False)
    built.hooks = TaskHooks(references=lambda row: ())
    assert task_run._make_example(built, log({"a": "답"}, ["g"])).references == ()


@pytest.mark.parametrize(("gold", "given"), [(("x", "y", "z"), ("", "", "")), ((), ("",))])
def test_an_output_outside_the_grammar_has_no_label(gold: tuple[str, ...], given: tuple[str, ...]) -> None:
    """As many empty ones as there are gold ones, and at least one: it never agrees."""
    built = make_built(TEXT)
    built.hooks = TaskHooks(labels=lambda row: gold, parse=lambda output, row: None)
    found = task_run._make_example(built, log({"a": "답"}, ["g"]))
    assert (found.output_labels, found.malformed, found.output) == (given, True, "g")


def test_an_example_of_running_text() -> None:
    """Its log-probability, and the text itself."""
    found = task_run._make_example(make_built(ROLLING), log({"a": 12}, [-7]))
    assert (found.loglikelihoods, found.target, found.references, found.output) == ((-7.0,), "12", ("12",), "")


@pytest.mark.parametrize(
    ("template", "doc", "made", "target"),
    [
        ("{{a}}", {"a": "[1, 2]"}, [1, 2], "[1, 2]"),  # lm-eval reads the text as a list
        ("{{a}}", {"a": "3"}, 3, "3"),
        ("{{a}}", {"a": [1, 2]}, [1, 2], [1, 2]),  # the row has a list
        ("{{a.b[0]}}", {"a": {"b": [[1], 2]}}, [1], [1]),
        ("a", {"a": [1]}, [1, 2], [1, 2]),  # a field's name
        ("{{a}}", {"a": "답"}, "다른", "다른"),
        (len, {"a": "답"}, [1], [1]),  # a function
    ],
)
def test_a_target_that_looks_like_a_list_is_a_text(template: Any, doc: Any, made: Any, target: Any) -> None:
    """Unless the row holds a list."""
    config = SimpleNamespace(doc_to_target=template, doc_to_choice=None)
    task = make_built(TEXT, doc_to_target=lambda doc: made, config=config, features=["a"]).lm_task
    assert task_run._target(task, doc) == target
    task.OUTPUT_TYPE = CHOICES
    assert task_run._target(task, doc) == made


def check(built: Any, rows: list[Any], limit: int | None = None) -> None:
    built.lm_task.test_docs = lambda: rows
    check_rows(built, limit)


GOOD = {"t": "q", "a": 0, "c": ["가", "나"]}


@pytest.mark.parametrize(
    ("row", "problem", "hint"),
    [
        ({"t": None}, 'has a null in "t", which would be read as the word None.', "Give the field a text, or remove"),
        ({"t": 3}, "has the prompt 3, which lm-eval reads as a number.", "A prompt needs more than digits."),
        ({"c": ["가", " "]}, "has no text in choice 2 of 2.", "Give it one, or remove the row."),
        ({"a": 5}, "has the label 5, which is none of its 2 choices.", "Correct the row; a label outside"),
        ({"c": 3}, "does not fit own:one: TypeError(\"'int' object is not iterable\").", "Correct or remove the row."),
    ],
)
def test_a_row_is_refused_by_its_place_before_it_is_asked(row: dict[str, Any], problem: str, hint: str) -> None:
    """Only if it is among those that are asked."""

    def show(doc: Any) -> Any:
        return f"{doc['t']}" if doc["t"] is None else doc["t"]

    built = make_built(doc_to_text=show)
    check(built, [GOOD, {**GOOD, **row}], 1)
    check(built, [GOOD], 1)
    for limit in (2, None):
        said = fail(lambda limit=limit: check(built, [GOOD, {**GOOD, **row}], limit))  # type: ignore[misc]
        assert said[0] == f"Line 2 of rows {problem}"
        assert said[1].startswith(hint)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Example]]:
    """Give the examples that metrics are tried on."""
    found: list[tuple[str, Example]] = []

    def load(key: str) -> Any:
        return SimpleNamespace(score_example=lambda example: found.append((key, example)) or 1.0)

    monkeypatch.setattr(task_run, "load_metric", load)
    return found


def test_metrics_are_tried_on_every_row_with_choices(scored: Any) -> None:
    """With equal answers, on the prompt of the row."""
    check(make_built(), [GOOD, {**GOOD, "t": "r"}])
    assert [key for key, _ in scored] == ["accuracy", "macro_f1"] * 2
    example = scored[2][1]
    assert (example.prompt, example.doc_id, example.loglikelihoods) == ("r", 1, (-1.0, -1.0))


@pytest.mark.parametrize(("kind", "answers"), [(TEXT, ()), (ROLLING, (-1.0,))])
def test_metrics_are_tried_on_the_first_text_only(kind: str, answers: Any, scored: Any) -> None:
    """With its own gold answer."""
    check(make_built(kind), [{"t": "q", "a": "답"}, {"t": "r", "a": "말"}])
    assert [(key, example.doc_id) for key, example in scored] == [("accuracy", 0), ("macro_f1", 0)]
    assert scored[0][1].loglikelihoods == answers
    assert scored[0][1].output == ("답" if kind == TEXT else "")


def test_a_task_that_lm_eval_scores_is_only_asked(scored: Any) -> None:
    """Its prompt may be anything that it can ask."""
    asked: list[Any] = []
    check(make_built(metrics=("lm-eval",), doc_to_text=lambda doc: asked.append(doc)), [GOOD, GOOD])
    assert (asked[-1], scored) == (GOOD, [])

    def break_down(doc: Any) -> str:
        if len(asked) > 4:
            raise KeyError("t")
        asked.append(doc)
        return "q"

    broken = make_built(metrics=("lm-eval",), doc_to_text=break_down)
    assert fail(lambda: check(broken, [GOOD] * 9))[0].endswith("of rows does not fit own:one: KeyError('t').")


class Metric:
    """A metric that counts: hits times ten and one for each example."""

    limits, lower_is_better = (1.0, 9.0), True

    def __init__(self, key: str, answers: int = 0) -> None:
        self._key = key

    def score_example(self, example: Example) -> float:
        """Return whether the choice is right."""
        return float(example.output_choice == example.target_choice)

    def value(self, examples: Any) -> float:
        """Return the sum."""
        return 10.0 * sum(map(self.score_example, examples)) + len(examples)

    def stderr(self, examples: Any) -> float:
        """Return half the number."""
        return len(examples) / 2

    def signature(self) -> str:
        """Return the name."""
        return f"signed {self._key}"

    def parts(self, examples: Any) -> dict[str, float]:
        """Return one part."""
        return {"part": float(len(examples))}


def test_scores_say_all_that_a_metric_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is primary, and has the chance; all have what always answering the most frequent target gives."""
    monkeypatch.setattr(task_run, "load_metric", Metric)
    built = make_built()
    rows = [choose(1, -1, -2, doc_id=0), choose(1, -2, -1, doc_id=1), choose(0, -1, -2, doc_id=2)]
    rows += [choose(1, -1, -2, doc_id=3)]
    found = score_examples(built, [task_run._make_example(built, row) for row in rows], "digest")
    assert (found.name, found.rows_sha256) == ("own:one", "digest")
    assert [example.correct for example in found.examples] == [0.0, 1.0, 1.0, 0.0]
    first, second = (score.model_dump() for score in found.scores)
    assert first == {
        "task": "own:one",
        "metric": "accuracy",
        "value": 24.0,  # two right of four
        "stderr": 2.0,
        "n": 4,
        "signature": "signed accuracy",
        "primary": True,
        "chance": 25.0,
        "majority": 34.0,  # three have the second choice
        "limits": (1.0, 9.0),
        "lower_is_better": True,
        "parts": {"part": 4.0},
    }
    assert second == {**first, "metric": "macro_f1", "signature": "signed macro_f1", "primary": False, "chance": None}


def test_the_majority_answers_each_row_by_its_own_choices() -> None:
    """The most frequent target is certain, and the others as good as never; a text has none."""
    built = make_built()
    built.hooks = TaskHooks(values=(1.0, 2.0))
    examples = [task_run._make_example(built, choose(answer, -1, -2, doc_id=answer)) for answer in (1, 0, 1)]
    constant = task_run._answer_with_majority(built, examples)
    assert [one.output_choice for one in constant] == [1, 1, 1]
    assert {one.loglikelihoods for one in constant} == {(-1e4, 0.0)}
    assert {one.output_value for one in constant} == {2.0}
    texts = [task_run._make_example(make_built(TEXT), log({"a": "답"}, ["g"]))]
    assert task_run._answer_with_majority(built, texts) == []
    assert score_examples(make_built(TEXT, ("exact_match",)), texts, "").scores[0].majority is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give what lm-eval's evaluator is called with; it answers two rows in the wrong order."""
    found: list[Any] = []

    def evaluate(lm: Any, tasks: Any, **settings: Any) -> Any:
        found.append((lm, tasks, settings))
        if isinstance(lm.fails, Exception):
            raise lm.fails
        samples = [{**choose(1, -1, -2, doc_id=10), "acc": 0}, {**choose(0, -1, -2, doc_id=9), "acc": 1}]
        results = {"acc,none": 0.5, "acc_stderr,none": 0.25} if lm.fails is None else {}
        return {"samples": {"bb_own_one": samples}, "results": {"bb_own_one": results}}

    monkeypatch.setattr(evaluator, "evaluate", evaluate)
    return found


@pytest.mark.parametrize(("kind", "asks"), [(CHOICES, True), (TEXT, False), (ROLLING, True)])
def test_a_model_is_told_whether_it_scores_or_writes(kind: str, asks: bool, asked: list[Any]) -> None:
    """Before it is asked."""
    lm = SimpleNamespace(fails=BenchError("It broke."))
    assert fail(lambda: evaluate_task(lm, make_built(kind)))[0] == "It broke."
    assert lm.asks_choices is asks


@pytest.mark.parametrize("chat", [True, False])
def test_lm_eval_is_asked_for_one_task(chat: bool, asked: list[Any]) -> None:
    """With its samples, and without errors of its own, which this project computes; rows in their order."""
    lm = SimpleNamespace(fails=None)
    built = make_built()
    found = evaluate_task(lm, built, 5, chat)
    assert asked == [
        (
            lm,
            {"tasks": {"bb_own_one": built.lm_task}, "groups": {}, "group_map": {}},
            {
                "limit": 5,
                "bootstrap_iters": 0,
                "log_samples": True,
                "apply_chat_template": chat,
                "fewshot_as_multiturn": chat,
                "system_instruction": None,
            },
        )
    ]
    assert [example.doc_id for example in found.examples] == [9, 10]
    assert [score.value for score in found.scores][:1] == [50.0]
    rows = [json.dumps({"a": a, "c": ["가", "나"], "t": "q"}, ensure_ascii=False) for a in (0, 1)]
    assert found.rows_sha256 == hashlib.sha256("".join(rows).encode()).hexdigest()


def test_what_lm_eval_scores_itself_keeps_its_scores(asked: list[Any]) -> None:
    """With its errors, and its first metric for each row."""
    built = make_built(metrics=("lm-eval",))
    found = evaluate_task(SimpleNamespace(fails=None), built)
    assert asked[0][2]["bootstrap_iters"] == 1000
    assert asked[0][2]["limit"] is None
    assert asked[0][2]["apply_chat_template"] is asked[0][2]["fewshot_as_multiturn"] is False
    assert [(s.task, s.metric, s.value, s.stderr, s.n) for s in found.scores] == [("own:one", "acc", 50.0, 25.0, 2)]
    assert [(e.doc_id, e.correct) for e in found.examples] == [(9, 1.0), (10, 0.0)]
    assert (found.name, len(found.rows_sha256)) == ("own:one", 64)
    nothing = evaluate_task(SimpleNamespace(fails=False), built)
    assert (nothing.scores, [e.correct for e in nothing.examples]) == ((), [0.0, 0.0])


def test_a_score_that_a_row_does_not_have_is_0(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a corpus metric of lm-eval's."""
    score = SimpleNamespace(metric="corpus")
    monkeypatch.setattr(task_run, "convert_harness_scores", lambda *given: (score,))
    found = evaluate_task(SimpleNamespace(fails=None), make_built(metrics=("lm-eval",)))
    assert [e.correct for e in found.examples] == [0.0, 0.0]


def test_a_row_that_cannot_be_scored_is_located(asked: list[Any]) -> None:
    """In the words of who refused it; without a row there is nothing to locate."""
    lm = SimpleNamespace(fails=RowError(3, "is too long", "Shorten it."))
    assert fail(lambda: evaluate_task(lm, make_built())) == ("Line 4 of rows is too long.", "Shorten it.")
    lm.fails = RowError(None, "is too long", "Shorten it.")
    assert fail(lambda: evaluate_task(lm, make_built())) == ("A row is too long.", "Shorten it.")


@pytest.mark.parametrize(
    ("kind", "answer", "response"),
    [(CHOICES, 1, "_나"), (CHOICES, "나", "_나"), (TEXT, "답", "_답"), (TEXT, ["답", "말"], "_답")],
)
def test_training_pairs_have_the_delimiter_of_evaluation(kind: str, answer: Any, response: str) -> None:
    """A choice by number or name; the first of several answers."""
    built = make_built(kind)
    rows = [{"t": f"q{n}", "a": answer, "c": ["가", "나"]} for n in range(3)]
    built.list_training_documents = lambda: (rows, 7)
    assert list_training_pairs(built, 2) == ([("q0", response), ("q1", response)], 7)
    assert len(list_training_pairs(built, None)[0]) == 3


def test_training_rows_with_null_are_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    """Those among the rows that are taken."""
    built = make_built(TEXT, doc_to_text=lambda doc: f"{doc['t']}")
    rows: list[Any] = [{"t": None, "a": "답"}, {"t": "q", "a": "답"}, {"t": None, "a": "답"}, {"t": None, "a": "답"}]
    built.list_training_documents = lambda: (rows, 0)
    assert list_training_pairs(built, 3) == ([("q", "_답")], 0)
    assert caplog.messages == ["own:one: 2 training rows are left out, because they hold null in place of text."]
    caplog.clear()
    assert list_training_pairs(built, 0) == ([], 0)
    assert not caplog.messages
