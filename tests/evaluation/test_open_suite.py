"""Open tasks are asked turn after turn through the chat template, kept as samples, and have no score."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.conversations import render_conversation
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.generation import GeneratedText
from bitnet_bench.evaluation.open_run import answer_open_task
from bitnet_bench.evaluation.select import list_tasks, select_tasks
from bitnet_bench.evaluation.showing import list_shown_tasks
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task
from bitnet_bench.runs.folder import load_record, load_samples
from bitnet_bench.runs.jobs import EvaluateJob
from tests.judging.made_up import FakeLM

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("BITNET_BENCH_DATA", ROOT.parent / "shared" / "data"))
ROWS = [
    {"id": 1, "category": "수학", "turns": ["1 더하기 1은?", "거기에 1을 더하면?"], "references": ["2", "3"]},
    {"id": 2, "category": "글쓰기", "turns": ["시를 써 줘."], "references": [None]},
    {"id": 3, "category": None, "turns": ["안녕?", "잘 지내?", "잘 가."], "references": None},
]


def build(rows: list[dict[str, Any]], folder: Path, task: str = "sample") -> BuiltTask:
    """Return an open task on *rows*."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    ((suite, found),) = select_tasks(["open"], [task])
    return build_task(suite, found, TaskSettings(rows={f"open:{task}": file}))


def number_messages(prompt: str) -> str:
    """Reply with the number of messages that stand in the prompt."""
    return f"답 {prompt.count('<user>') + prompt.count('<assistant>')}"


def test_the_answer_to_a_turn_stands_in_the_conversation_of_the_next(tmp_path: Path) -> None:
    """Rows with fewer turns are left out of later ones."""
    lm = FakeLM(number_messages)
    examples, _ = answer_open_task(lm, build(ROWS, tmp_path), None)
    assert [[turn.answer for turn in example.turns] for example in examples] == [
        ["답 1", "답 3"],
        ["답 1"],
        ["답 1", "답 3", "답 5"],
    ]
    assert lm.asked[3] == "<user>1 더하기 1은?\n<assistant>답 1\n<user>거기에 1을 더하면?"
    assert len(lm.asked) == 6


def test_a_thought_is_kept_beside_its_answer_and_out_of_the_conversation(tmp_path: Path) -> None:
    """A language model that tells thoughts from answers says so on the text; the next turn shows the answer alone."""
    lm = FakeLM(lambda prompt: GeneratedText("답", cut=True, thought="음"))
    (example, *_), _ = answer_open_task(lm, build(ROWS[:1], tmp_path), None, system="짧게 답하라.")
    assert [(turn.answer, turn.thought, turn.cut, turn.unfinished) for turn in example.turns] == [
        ("답", "음", True, False)
    ] * 2
    assert lm.asked[1] == "<system>짧게 답하라.\n<user>1 더하기 1은?\n<assistant>답\n<user>거기에 1을 더하면?"


def test_a_sample_has_questions_answers_category_and_references(tmp_path: Path) -> None:
    examples, _ = answer_open_task(FakeLM(number_messages), build(ROWS, tmp_path), None)
    first, second, third = examples
    assert [(turn.question, turn.reference) for turn in first.turns] == [
        ("1 더하기 1은?", "2"),
        ("거기에 1을 더하면?", "3"),
    ]
    assert first.groups == {"category": "수학"}
    assert first.prompt == "[1] 1 더하기 1은?\n\n[2] 거기에 1을 더하면?"
    assert first.output == "[1] 답 1\n\n[2] 답 3"
    assert (second.prompt, second.output, second.target) == ("시를 써 줘.", "답 1", "")
    assert third.groups == {}
    assert [turn.reference for turn in third.turns] == [None, None, None]


def test_progress_counts_the_questions_of_all_turns(tmp_path: Path) -> None:
    """The bar of a task of two turns does not begin again with the second."""
    told: list[tuple[int, int]] = []
    lm = FakeLM(number_messages)
    lm.progress = before = lambda done, total, note="": told.append((done, total))
    original = lm.generate_until

    def generate_until(requests: list[Any]) -> list[str]:
        lm.progress(len(requests), len(requests))
        return original(requests)

    lm.generate_until = generate_until  # type: ignore[method-assign]
    answer_open_task(lm, build(ROWS, tmp_path), None)
    assert told == [(3, 6), (5, 6), (6, 6)]
    assert lm.progress is before


def test_a_checkpoint_without_a_chat_template_reads_the_form_that_it_is_trained_with(tmp_path: Path) -> None:
    """It is the form `dialogue` of fine-tuning, which is used there for the same checkpoints; both are said."""
    from bitnet_bench.checkpoints.loading import load_tokenizer
    from bitnet_bench.checkpoints.locate import open_checkpoint

    lm = FakeLM(number_messages, has_chat_template=False)
    lm.tokenizer = load_tokenizer(open_checkpoint("demo"))
    eos = lm.tokenizer.eos_token
    conversation = [
        {"role": "user", "content": "안녕?"},
        {"role": "assistant", "content": "네."},
        {"role": "user", "content": "또 봐."},
    ]
    assert render_conversation(lm, conversation) == f"사용자: 안녕?\n모델: 네.{eos}\n사용자: 또 봐.\n모델:"
    answer_open_task(lm, build(ROWS, tmp_path), None)
    assert lm.counts["without_chat_template"] == 6


def test_a_template_without_a_system_turn_gets_its_text_before_the_question() -> None:
    class Strict(FakeLM):
        def apply_chat_template(self, chat_history: list[dict[str, str]]) -> str:
            """Refuse a system turn, as the templates of some models do."""
            if chat_history[0]["role"] == "system":
                raise BenchError("System role not supported.", "")
            return super().apply_chat_template(chat_history)

    conversation = [{"role": "system", "content": "심사자입니다."}, {"role": "user", "content": "채점하세요."}]
    assert render_conversation(Strict(number_messages), conversation) == "<user>심사자입니다.\n\n채점하세요."


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"turns": []}, "needs a list of 1 to 20 questions"),
        ({"turns": [" "]}, "has no text in the question of turn 1"),
        ({"turns": [3]}, "has no text in the question of turn 1"),
        ({"turns": None}, 'has no "turns"'),
        ({"turns": ["질문"], "references": ["하나", "둘"]}, "has references"),
        ({"turns": ["질문"], "category": 3}, "has a category that is no text"),
        ({"turns": ["질문"] * 21}, "needs a list of 1 to 20 questions"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_line(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Before a model is loaded."""
    with pytest.raises(BenchError) as caught:
        build([row], tmp_path)
    assert caught.value.problem.startswith("Line 1 of ")
    assert said in caught.value.problem


def test_open_tasks_have_no_shots(tmp_path: Path) -> None:
    ((suite, task),) = select_tasks(["open"], ["sample"])
    with pytest.raises(BenchError, match="no training rows"):
        build_task(suite, task, TaskSettings(shots=2))


def test_our_own_questions_need_no_data() -> None:
    """A run of the suite without a data directory has them, and those of the hub; LogicKor is on no hub."""
    assert [task.name for _, task in select_tasks(["open"])] == ["komt_bench", "sample"]
    (listed,) = [one for one in list_tasks() if one["suite"] == "open" and one["task"] == "sample"]
    assert (listed["rows"], listed["from"], listed["primary_metric"]) == (14, "embedded", None)
    (shown,) = list_shown_tasks("open:sample")
    assert (shown.metrics, shown.needed, shown.rows) == ((), ("turns",), 14)


def test_our_own_questions_are_of_two_turns_in_seven_categories() -> None:
    ((suite, task),) = select_tasks(["open"], ["sample"])
    questions = build_task(suite, task, TaskSettings()).lm_task.questions
    assert {len(question.turns) for question in questions} == {2}
    assert len({question.category for question in questions}) >= 7


@pytest.mark.skipif(not (DATA / "komt_bench").is_dir(), reason="KoMT-Bench is not here")
def test_the_published_sets_are_asked_as_their_authors_ask_them() -> None:
    """80 and 42 questions of two turns; a row of LogicKor lists its second question twice."""
    ((komt, logickor),) = [[task for _, task in select_tasks(["open"], ["komt_bench", "logickor"])]]
    (suite, _), *_ = select_tasks(["open"], ["sample"])
    for task, rows, categories in ((komt, 80, 8), (logickor, 42, 6)):
        questions = build_task(suite, task, TaskSettings(DATA)).lm_task.questions
        assert len(questions) == rows
        assert {len(question.turns) for question in questions} == {2}
        assert len({question.category for question in questions}) == categories


def test_the_hubs_form_of_komt_bench_is_read(tmp_path: Path) -> None:
    """Its references stand under another name there, and rows without any have an empty list."""
    rows: list[dict[str, Any]] = [
        {"question_id": 81, "category": "writing", "turns": ["가", "나"], "reference": []},
        {"question_id": 101, "category": "reasoning", "turns": ["다", "라"], "reference": ["답", "답 2"]},
    ]
    questions = build(rows, tmp_path, "komt_bench").lm_task.questions
    assert [question.references for question in questions] == [(None, None), ("답", "답 2")]


def run_demo(out: Path, limit: int = 1) -> Any:
    """Answer the first questions with the demo model."""
    return evaluate("demo", select_tasks(["open"], ["sample"]), out, EvaluateJob(limit=limit, cache=False))


def test_a_run_has_answers_and_no_score(tmp_path: Path) -> None:
    """The record says how many questions are answered, and that they were asked without a chat template."""
    record = run_demo(tmp_path / "run")
    assert (record.scores, record.errors, record.answered) == ((), {}, {"open:sample": 1})
    assert record.counts["requests"] == record.counts["without_chat_template"] == 2
    assert len(load_samples(tmp_path / "run", ["open:sample"])) == 1


def test_a_finished_run_is_not_asked_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    """As for tasks with a score: answers that exist are kept, and never mixed with others."""
    first = run_demo(tmp_path / "run")
    file = tmp_path / "run" / "samples" / "open-sample.jsonl"
    written = file.stat().st_mtime_ns
    assert run_demo(tmp_path / "run") == first
    assert file.stat().st_mtime_ns == written
    with pytest.raises(BenchError, match="another `limit`"):
        run_demo(tmp_path / "run", limit=2)


def test_a_record_without_open_tasks_is_written_as_before(tmp_path: Path) -> None:
    """Neither the record nor a sample of another task has a field of open tasks."""
    out = tmp_path / "run"
    evaluate("demo", select_tasks(["sample"], ["copa"]), out, EvaluateJob(limit=2, cache=False))
    fields = json.loads((out / "record.json").read_text())
    assert not {"answered", "judged"} & fields.keys()
    assert "turns" not in (out / "samples" / "sample-copa.jsonl").read_text()
    assert load_record(out).answered == {}
