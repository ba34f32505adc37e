"""Generation under control: limits, thoughts, system turns, several answers to a row, and what is counted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from bitnet_bench.backends.batched_session import Prompt, Writing
from bitnet_bench.cli.output import list_notes
from bitnet_bench.comparison.comparability import find_run_mismatches
from bitnet_bench.comparison.comparing import compare
from bitnet_bench.data.thoughts import find_answer_start, find_thought_marks, split_thought
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.generation import GeneratedText, fit_into_context
from bitnet_bench.evaluation.lm import SessionLM, check_chat_settings
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.task_run import check_repeats, evaluate_task
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task
from bitnet_bench.metrics import load_metric
from bitnet_bench.protocols import ALL_REQUESTS, Completion, Sampling, Share, Thoughts
from bitnet_bench.reports.summary import _list_generation_notes
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.reading import read_run
from tests.evaluation.conftest import AnswerLM
from tests.evaluation.test_answers_end import Scripted
from tests.evaluation.test_requests_by_hand import Letters, Recorder, Shelf, text

THINK = Thoughts()
OPENED = Thoughts(opened=True)
ADDED = ["pass_at:2:exact_match", "pass_at:4:exact_match", "majority_vote:exact_match"]
QWEN = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "<think>\n\n</think>{{ '\n\n' }}{%- endif -%}{%- endif -%}"
)


@pytest.mark.parametrize(
    ("prompt", "limit", "context", "kept", "room"),
    [
        (100, 50, 200, 100, 50),
        (150, 50, 200, 150, 50),
        (100, 4000, 4096, 100, 3996),  # no cap at half of the context
        (3000, 4000, 4096, 3000, 1096),  # the answer is shortened first
        (4000, 4000, 4096, 3584, 512),  # to an eighth of the context, then the prompt is cut
        (1900, 640, 2048, 1792, 256),  # or to what lm-eval gives by default
        (2040, 160, 2048, 1888, 160),  # a short limit is kept whole
        (9, 512, 8, 4, 4),  # a tiny context is halved
        (3, 9, 1, 0, 1),
    ],
)
def test_an_answer_is_shortened_before_its_prompt_is_cut(
    prompt: int, limit: int, context: int, kept: int, room: int
) -> None:
    """Together they never exceed the context."""
    assert fit_into_context(prompt, limit, context) == (kept, room)
    assert kept + room <= context


def test_what_has_less_room_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A limit of the job goes before the task's."""
    session = Recorder(20)
    lm = SessionLM(session, job=EvaluateJob(max_new_tokens=18))
    lm.generate_until([text("a"), text("bcdefg"), text("hijklmn")])
    assert [limit for _, limit in session.asked] == ["18 ['\\n']"] * 3, "a session ends each where the context does"
    assert lm.counts == {"requests": 3, "truncated": 0, "cached": 0, "shortened": 2}
    assert [r.message for r in caplog.records] == [
        "2 of 3 answers may have fewer than 18 tokens: prompt and answer share a context of 20."
    ]


@pytest.mark.parametrize(
    ("written", "marks", "thought", "answer", "unfinished"),
    [
        ("서울", None, "", "서울", False),
        ("서울", THINK, "", "서울", False),
        ("<think>\n수도는?\n</think>\n\n서울", THINK, "수도는?", "서울", False),
        ("\n<think></think>서울", THINK, "", "서울", False),
        ("수도는?\n</think>\n서울", OPENED, "수도는?", "서울", False),
        ("<think>수도는?", THINK, "수도는?", "", True),
        ("수도는?", OPENED, "수도는?", "", True),
        ("</think>서울", OPENED, "", "서울", False),
        ("서울</think>", THINK, "", "서울</think>", False),  # nothing was begun
        ("<thi", THINK, "", "<thi", False),
        ("<think>a</think>b</think>c", THINK, "a", "b</think>c", False),
        ("<thought>a</thought>b", Thoughts("<thought>", "</thought>"), "a", "b", False),
    ],
)
def test_what_follows_a_thought_is_the_answer(
    written: str, marks: Thoughts | None, thought: str, answer: str, unfinished: bool
) -> None:
    """One without an end has no answer."""
    found = split_thought(written, marks)
    assert (found.thought, found.answer, found.unfinished) == (thought, answer, unfinished)


def test_a_stop_string_counts_only_after_a_thought() -> None:
    """Nor in white space right after it; a beginning that is not whole yet is waited for."""
    starts = {
        "": 0, "\n": 0, "<th": None, "<think>\n": None, "<think>a</think>": 16, "<think>a</think>\n\n": 18, "가\n": 0,
    }  # fmt: skip
    assert {written: find_answer_start(written, THINK) for written in starts} == starts
    assert find_answer_start("가\n", OPENED) is None


@pytest.mark.parametrize("special", [False, True])
def test_a_session_ends_an_answer_at_a_stop_after_its_thought(special: bool, make_tokenizer: Any) -> None:
    """Marks that are special tokens, which decoding leaves out, are kept in the text."""
    tokenizer = make_tokenizer(False)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    ids = tokenizer.encode("<think>\n서울\n</think>\n\n부산\n대구", add_special_tokens=False)
    (found,) = Scripted(tokenizer, ids)._continue([Prompt((0,), len(ids))], Writing(["\n"], thoughts=THINK))
    assert found == Completion("<think>\n서울\n</think>\n\n부산")
    (found,) = Scripted(tokenizer, ids)._continue([Prompt((0,), 5)], Writing(["\n"], thoughts=THINK))
    assert found.cut


def test_marks_are_those_that_the_template_or_the_tokens_know() -> None:
    """A model that knows none is read as it was."""
    letters = Letters()
    assert find_thought_marks(letters) is None
    letters.chat_template = "{{ messages }}"
    assert find_thought_marks(letters) is None
    letters.chat_template = QWEN
    assert find_thought_marks(letters) == THINK
    letters.chat_template = "a</thought>"
    assert find_thought_marks(letters) == Thoughts("<thought>", "</thought>")
    letters.chat_template = None
    letters.added_tokens_decoder = {5: "</think>"}
    assert find_thought_marks(letters) == THINK


class Thinker(Recorder, adds=("given",)):
    """A session that answers each prompt with the next of its texts, and keeps the settings it is given."""

    def __init__(self, *completions: Completion | str) -> None:
        super().__init__(4000)
        self._next = iter(one if isinstance(one, Completion) else Completion(one) for one in completions)
        self.given: list[dict[str, Any]] = []

    def generate(
        self, prompts: Sequence[Any], max_new_tokens: int, stop: Any, part: Share = ALL_REQUESTS, **settings: Any
    ) -> Iterator[Sequence[tuple[int, Completion]]]:
        """Return what comes next."""
        self.given.append(settings)
        yield [(i, next(self._next)) for i in range(len(prompts)) if i not in part.known]


def ask(session: Thinker, job: EvaluateJob, *prompts: str, answers: Any = None) -> tuple[SessionLM, list[str]]:
    lm = SessionLM(session, answers=answers, job=job)
    return lm, lm.generate_until([text(prompt) for prompt in prompts])


def test_thoughts_are_apart_from_answers_and_unfinished_ones_are_counted() -> None:
    """A prompt that ends in a begun thought is told from one that does not; a runtime may give thoughts apart."""
    session = Thinker(
        "<think>생각</think>\n서울",
        Completion("<think>끝없", cut=True),
        Completion("부산", thought="따로"),
        "생각</think>대구",
    )
    session.tokenizer.chat_template = QWEN
    lm, (seoul, endless, busan, daegu) = ask(session, EvaluateJob(chat_template=True), "a", "b", "c", "d<think>\n")
    assert [str(one) for one in (seoul, endless, busan, daegu)] == ["서울", "", "부산", "대구"]
    assert [one.thought for one in (seoul, endless, busan, daegu)] == ["생각", "끝없", "따로", "생각"]
    assert (endless.unfinished, endless.cut, seoul.unfinished, seoul.cut) == (True, True, False, False)
    assert lm.counts == {"requests": 4, "truncated": 0, "cached": 0, "cut": 1, "unfinished": 1}
    assert session.given == [{"thoughts": THINK}, {"thoughts": OPENED}]


def test_without_a_chat_template_nothing_is_taken_for_a_thought() -> None:
    """Prompts are plain text, as the shipped suites ask a base model."""
    session = Thinker("<think>a</think>b")
    session.tokenizer.chat_template = QWEN
    _, (answer,) = ask(session, EvaluateJob(), "a")
    assert str(answer) == "<think>a</think>b"
    assert session.given == [{}]


def test_thinking_on_looks_for_thoughts_that_the_template_does_not_name() -> None:
    """With the marks that most models use."""
    session = Thinker("<think>a</think>b")
    session.tokenizer.chat_template = "{{ messages[0].content }}"
    _, (answer,) = ask(session, EvaluateJob(chat_template=True, thinking="on"), "a")
    assert str(answer) == "b"


def test_draws_of_a_request_are_numbered_and_kept_apart() -> None:
    """lm-eval repeats a request as the same object; seed, temperature, top_p, top_k and draw are parts of its key."""
    job = EvaluateJob(temperature=0.7, top_p=0.9, top_k=8, seed=3, repeats=2)
    first, second = text("a"), text("a")
    session, shelf = Thinker("1", "2", "3", "4"), Shelf()
    lm = SessionLM(session, answers=shelf, job=job)
    assert lm.generate_until([first, first, second, second]) == ["1", "2", "3", "4"]
    assert session.given == [{"sampling": Sampling(0.7, 0.9, 8, 3), "draws": [0, 1, 0, 1]}]
    assert len(shelf.answers) == 2
    changed: list[dict[str, Any]] = [{"seed": 4}, {"temperature": 0.8}, {"top_p": 1.0}, {"top_k": None}, {}]
    for settings in changed:
        lm = SessionLM(Thinker("5", "6"), answers=shelf, job=job.model_copy(update=settings))
        lm.generate_until([first, first])
    assert len(shelf.answers) == 2 * len(changed), "the last one was there"
    assert lm.counts["cached"] == 2


def test_lm_evals_own_command_draws_as_its_requests_say() -> None:
    """Without a job; with one, a task's own temperature does not count, which is logged."""
    options = {"until": ["\n"], "do_sample": True, "temperature": 0.6, "top_p": 0.5}
    request = Instance("generate_until", {}, ("a", options), 0)
    session = Thinker("1", "2")
    SessionLM(session).generate_until([request])
    SessionLM(session, job=EvaluateJob()).generate_until([request])
    assert session.given == [{"sampling": Sampling(0.6, 0.5), "draws": [0]}, {}]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"repeats": 2}, "`repeats` needs a `temperature` above 0"),
        ({"top_p": 0.9}, "`top_p` needs a `temperature` above 0"),
        ({"top_k": 5}, "`top_k` needs a `temperature` above 0"),
        ({"system": "짧게"}, "`system` needs `chat_template`"),
        ({"thinking": "off"}, "`thinking` needs `chat_template`"),
        ({"temperature": -1}, "`temperature`"),
        ({"temperature": 1, "top_p": 0}, "`top_p`"),
        ({"temperature": 1, "repeats": 0}, "`repeats`"),
        ({"max_new_tokens": 0}, "`max_new_tokens`"),
        ({"thinking": "maybe"}, "`thinking`"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], problem: str) -> None:
    """In one sentence, before anything is loaded."""
    with pytest.raises(UsageError, match=problem):
        EvaluateJob(**settings)


def with_template(template: str) -> Any:
    """Return the tokenizer of the demo with a chat template."""
    from bitnet_bench.checkpoints.loading import load_tokenizer
    from bitnet_bench.checkpoints.locate import open_checkpoint

    made = load_tokenizer(open_checkpoint("demo"))
    made.chat_template = template
    return made


def test_a_template_that_takes_no_system_text_is_refused() -> None:
    """Whether it raises an error or leaves the text out."""
    job = EvaluateJob(chat_template=True, system="한 단어로 답하세요.")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    with pytest.raises(BenchError, match=r"The system text cannot be given.*System role not supported") as caught:
        check_chat_settings(with_template(refusing), job)
    assert "`system`" in caught.value.hint
    with pytest.raises(BenchError, match="leaves the system text out"):
        check_chat_settings(with_template("{{ messages[-1].content }}"), job)
    check_chat_settings(with_template(QWEN), job)


def test_a_template_without_a_switch_for_thinking_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The evaluation goes on."""
    for thinking in ("auto", "off"):
        check_chat_settings(with_template(QWEN), EvaluateJob(chat_template=True, thinking=thinking))
    assert not caplog.records
    check_chat_settings(with_template("{{ messages[-1].content }}"), EvaluateJob(chat_template=True, thinking="off"))
    assert "has no switch for thinking: `thinking=off` changes no prompt" in caplog.text


def test_prompts_are_rendered_with_the_switch() -> None:
    """On and off give the template's two prompts, auto its own choice, and choices follow the same."""
    session = Recorder()
    session.tokenizer = with_template(QWEN)
    found = {}
    for thinking in ("auto", "on", "off"):
        lm = SessionLM(session, job=EvaluateJob(chat_template=True, thinking=thinking))
        found[thinking] = lm.apply_chat_template([{"role": "user", "content": "가"}])
    asked = "<|im_start|>user\n가<|im_end|>\n<|im_start|>assistant\n"
    assert found == {"auto": asked, "on": asked, "off": f"{asked}<think>\n\n</think>\n\n"}


@pytest.fixture(scope="module")
def qa() -> BuiltTask:
    """Give the questions of the suite `sample`, which are generated."""
    ((suite, task),) = select_tasks(["sample"], ["qa"])
    return build_task(suite, task, TaskSettings())


class Sampled(AnswerLM):
    """Answers the first rows with these texts, one for each draw, and all other rows wrong."""

    def __init__(self, *rows: Sequence[str]) -> None:
        super().__init__(lambda doc, choices: [], lambda doc: "")
        self._rows = rows
        self.asked: list[str] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the next answer of the row each time."""
        left = {i: iter(row) for i, row in enumerate(self._rows)}
        self.asked = [request.args[0] for request in requests]
        return [next(left[r.doc_id]) for r in requests]


def gold(built: BuiltTask, row: int) -> str:
    target = built.lm_task.doc_to_target(list(built.lm_task.test_docs())[row])
    return target if isinstance(target, str) else target[0]


def test_a_score_over_several_answers_has_the_error_of_rows_and_samples(qa: BuiltTask) -> None:
    """Mean and standard error by hand; pass@k by the unbiased estimator; every answer is kept."""
    right = [gold(qa, row) for row in range(3)]
    lm = Sampled([right[0], right[0], "틀림", "틀림"], ["x", right[1], "y", "z"], ["가", "가", "나", right[2]])
    result = evaluate_task(lm, qa, 3, repeats=4)
    scores = {score.metric: score for score in result.scores}
    assert list(scores) == ["char_f1", "exact_match", *ADDED]
    means = [0.5, 0.25, 0.25]
    mean = sum(means) / 3
    assert scores["exact_match"].value == pytest.approx(100 * mean)
    error = math.sqrt(sum((m - mean) ** 2 for m in means) / (3 * 2))
    assert scores["exact_match"].stderr == pytest.approx(100 * error)
    assert scores["exact_match"].n == 3
    assert scores["exact_match"].signature.endswith("|answers:4")
    pass_at_2 = [1 - math.comb(2, 2) / 6, 1 - math.comb(3, 2) / 6, 1 - math.comb(3, 2) / 6]
    assert scores["pass_at:2:exact_match"].value == pytest.approx(100 * sum(pass_at_2) / 3)
    assert scores["pass_at:4:exact_match"].value == 100.0
    assert scores["majority_vote:exact_match"].value == pytest.approx(100 / 3), (
        "of two equals the first; then none; then 가"
    )
    first = result.examples[0]
    assert [answer.output for answer in first.answers] == [right[0], right[0], "틀림", "틀림"]
    assert [answer.correct for answer in first.answers] == [1.0, 1.0, 0.0, 0.0]
    assert (first.output, first.correct) == (right[0], 0.5)
    assert {type(load_metric(key)).__name__ for key in ADDED} == {"PassAt", "MajorityVote"}


def test_one_answer_to_a_row_is_written_as_before(qa: BuiltTask) -> None:
    """After several as well, which leave nothing behind in the task."""
    evaluate_task(Sampled(["a", "b"]), qa, 1, repeats=2)
    (example,) = evaluate_task(Sampled(["a"]), qa, 1).examples
    assert not example.answers
    assert not {"answers", "cut", "thought", "unfinished"} & example.model_dump().keys()
    assert example.each_answer() == (example,)


def test_an_unfinished_thought_is_wrong_even_where_an_empty_answer_is_right(qa: BuiltTask) -> None:
    """It is malformed; its thought is kept."""
    lost = GeneratedText("", cut=True, thought="음", unfinished=True)
    (example,) = evaluate_task(Sampled([lost]), qa, 1).examples
    assert (example.malformed, example.correct, example.thought, example.output) == (True, 0.0, "음", "")
    question = example.model_copy(update={"references": ("",)})
    from bitnet_bench.evaluation import task_run

    answered = task_run._answer_by_text(qa, question, {}, "", lost)
    assert answered.output == task_run.NO_ANSWER
    assert load_metric("exact_match").score_example(answered) == 0.0


def test_lm_evals_own_scores_take_one_answer(qa: BuiltTask) -> None:
    """Several are refused before a model is loaded; choices are not asked several times anyway."""
    theirs = BuiltTask(qa.suite, qa.task.model_copy(update={"metrics": ("lm-eval",)}), qa.lm_task, "rows")
    check_repeats(theirs, 1)
    check_repeats(qa, 5)
    with pytest.raises(UsageError, match="one answer to each row"):
        check_repeats(theirs, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give runs of the embedded model: drawn twice alike, with another seed, and greedy."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = {
        "one": EvaluateJob(temperature=1.0, repeats=3, limit=4, cache=False),
        "same": EvaluateJob(temperature=1.0, repeats=3, limit=4, cache=False),
        "seed": EvaluateJob(temperature=1.0, repeats=3, limit=4, seed=1, cache=False),
        "greedy": EvaluateJob(limit=4, cache=False),
    }
    for name, job in jobs.items():
        evaluate("demo-fp16", select_tasks(["sample"], ["qa", "copa"]), folder / name, job)
    return {name: folder / name for name in jobs}


def test_a_run_of_several_answers_is_repeatable_and_says_how_it_was_made(runs: dict[str, Path]) -> None:
    """Equal byte for byte with the same seed; the record has only settings that are not the default."""
    one, same, seed, greedy = (read_run(runs[name]) for name in ("one", "same", "seed", "greedy"))
    files = [(runs[name] / "samples" / "sample-qa.jsonl").read_bytes() for name in ("one", "same", "seed")]
    assert files[0] == files[1] != files[2]
    assert {name: one.record.settings[name] for name in ("temperature", "repeats")} == {
        "temperature": 1.0,
        "repeats": 3,
    }
    assert not {"temperature", "repeats", "top_p", "system", "thinking"} & greedy.record.settings.keys()
    assert one.record.counts["requests"] == 4 * 3 + 4 * 2
    row = json.loads(files[0].splitlines()[0])
    assert len(row["answers"]) == 3
    assert not find_run_mismatches(one.record, same.record)
    assert [text.en for text in find_run_mismatches(one.record, seed.record)] == ["the prompts differ: seed is 0 and 1"]
    assert "temperature is 1.0 and 0.0" in " ".join(text.en for text in find_run_mismatches(one.record, greedy.record))


def test_runs_of_several_answers_are_compared_row_by_row(runs: dict[str, Path]) -> None:
    """The difference of a run with its equal is nought, with every answer in it."""
    comparison = compare(read_run(runs["one"]), read_run(runs["same"]))
    tasks = {one.task: one for one in comparison.differences}
    assert tasks["sample:qa"].difference == 0.0
    assert tasks["sample:qa"].n == 4


def test_a_finished_run_is_refused_with_other_settings(runs: dict[str, Path]) -> None:
    """The setting is named."""
    with pytest.raises(BenchError, match="`repeats`"):
        evaluate(
            "demo-fp16",
            select_tasks(["sample"], ["qa", "copa"]),
            runs["one"],
            EvaluateJob(temperature=1.0, repeats=2, limit=4),
        )


def test_what_happened_to_answers_is_said_below_the_scores(runs: dict[str, Path]) -> None:
    """A line for each kind that there is; one that did not happen has none."""
    record = read_run(runs["greedy"]).record
    counts = {"requests": 9, "truncated": 0, "cut": 1200, "unfinished": 2, "shortened": 0, "malformed": 3}
    assert list_notes([record.model_copy(update={"counts": counts})]) == [
        "greedy: malformed outputs, scored as wrong: 3.",
        "greedy: thoughts without an end, scored as wrong: 2.",
        "greedy: answers that the limit of new tokens cut: 1,200.",
    ]
    assert list_notes([record.model_copy(update={"counts": {"requests": 9, "malformed": 0}})]) == []


def test_a_report_says_how_many_answers_did_not_end(runs: dict[str, Path]) -> None:
    """Of each run that has some, in both languages."""
    record = read_run(runs["greedy"]).record
    counted = [{"cut": 1200, "unfinished": 2, "requests": 9}, {"requests": 9, "cut": 0}]
    named: Any = [
        SimpleNamespace(key=key, record=record.model_copy(update={"counts": counts}))
        for key, counts in zip("AB", counted, strict=True)
    ]
    (note,) = _list_generation_notes(named)
    assert note.en == "Generated answers of run A: answers cut by the limit 1,200, unfinished thoughts 2."
    assert note.ko == "실행 A의 생성 결과: 길이 한도에서 끊긴 답 1,200, 끝나지 않은 사고 과정 2."
