"""What a run of an evaluation records and refuses, and what a chat template is asked for: no model is loaded."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation import evaluate as evaluating
from bitnet_bench.evaluation.evaluate import Scoring, evaluate_several, score_checkpoints
from bitnet_bench.evaluation.finished import check_same_inputs, check_same_machine
from bitnet_bench.evaluation.lm import SessionLM, check_tokenizer
from bitnet_bench.evaluation.run_writer import RunWriter
from bitnet_bench.evaluation.task_run import TaskResult, _expected_value
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.processes import Workers
from bitnet_bench.protocols import no_display
from bitnet_bench.runs.folder import load_record, save_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import Example, RunRecord, Score

DEMO = open_checkpoint("demo")
HERE = read_environment()
OUT = Path("out")


def record(**fields: Any) -> RunRecord:
    given = {"name": "run", "checkpoint": DEMO, "backend": "hf", "precision": "ternary", "environment": HERE}
    return RunRecord.model_validate({**given, **fields})


def score(task: str = "s:a") -> Score:
    return Score(task=task, metric="accuracy", value=50.0, stderr=None, n=2, signature="x", primary=True)


def test_equal_inputs_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Rows by the record's data, definitions and files by its inputs."""
    then = record(data={"s:a": "1"}, inputs={"task definition of s:a": "2", "tokenizer.json": "3"})
    now = {"rows of s:a": "1", "task definition of s:a": "2", "tokenizer.json": "3"}
    check_same_inputs(OUT, then, now, ["s:a"])
    assert not caplog.text


@pytest.mark.parametrize("name", ["rows of s:a", "task definition of s:a", "tokenizer.json"])
def test_another_input_is_named(name: str) -> None:
    """Only what differs; the rows that the inputs name go before those of the data."""
    then = record(data={"s:a": "0"}, inputs={"rows of s:a": "1", "task definition of s:a": "2", "tokenizer.json": "3"})
    now = {"rows of s:a": "1", "task definition of s:a": "2", "tokenizer.json": "3", name: "9"}
    with pytest.raises(BenchError) as error:
        check_same_inputs(OUT, then, now, ["s:a"])
    assert error.value.problem == f"out holds scores that were made with different {name}."
    assert error.value.hint == "Give another `out`, or delete the folder."


def test_what_cannot_be_compared_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What has no digest then or now; six are named and the others counted; lm-eval's own rows are no rows of ours."""
    check_same_inputs(OUT, record(data={"lm-eval:b": "1"}), {"a.json": "1"}, ["lm-eval:b"])
    assert caplog.messages == [
        "out: what is scored already is kept. It could not be compared by: "
        "a.json, rows of lm-eval:b, task definition of lm-eval:b."
    ]
    caplog.clear()
    check_same_inputs(OUT, record(), {str(n): "1" for n in range(6)}, [])
    assert caplog.messages[0].endswith("by: 0, 1, 2, 3, 4, 5.")
    caplog.clear()
    check_same_inputs(OUT, record(), {str(n): "1" for n in range(8)}, [])
    assert caplog.messages[0].endswith("by: 0, 1, 2, 3, 4, 5, and 2 more.")


@pytest.mark.parametrize(
    ("runtime", "here", "said"),
    [
        ("b", {}, "runtime (a, not b)"),
        ("a", {"cpu": "new"}, "processor (old, not new)"),
        ("a", {"packages": {"torch": "2", "lm-eval": "1"}}, "torch (1, not 2)"),
        ("b", {"cpu": "new"}, "runtime (a, not b), processor (old, not new)"),
        ("a", {"packages": {"pip": "2"}}, None),
        (None, {"cpu": ""}, None),
    ],
)
def test_another_machine_is_named(runtime: str | None, here: dict[str, Any], said: str | None) -> None:
    """What is unknown on either side is not compared, nor is software that decides no score."""
    then = HERE.model_copy(update={"cpu": "old", "packages": {"torch": "1", "pip": "1"}})
    now = then.model_copy(update=here)
    if said is None:
        check_same_machine(OUT, record(environment=then, runtime="a"), runtime, now)
        return
    with pytest.raises(BenchError) as error:
        check_same_machine(OUT, record(environment=then, runtime="a"), runtime, now)
    assert error.value.problem == f"out was begun with another {said}."
    assert error.value.hint == "Continue it there, give another `out`, or delete the folder."


def result(task: str = "s:a", malformed: int = 1) -> TaskResult:
    rows = [
        Example(task=task, doc_id=i, prompt="", target="", output="", correct=0.0, malformed=i < malformed)
        for i in range(3)
    ]
    return TaskResult(task, (score(task),), tuple(rows), "digest")


@pytest.mark.parametrize("writes", [True, False])
def test_a_result_is_added_to_what_was_there(writes: bool, tmp_path: Path) -> None:
    """Scores, digests, sources, counts and seconds; the task's error is gone, another's stays."""
    begun = record(
        scores=[score("s:0")], counts={"requests": 5}, errors={"s:a": "broke", "s:b": "broke"}, seconds=2.0,
        inputs={"x": "1"},
    )  # fmt: skip
    writer = RunWriter(tmp_path / "run", begun, writes, begun)
    writer.stands_on({"s:a": {"rows of s:a": "2"}})
    built: Any = SimpleNamespace(source="rows.jsonl", task=SimpleNamespace(kind="scored"))
    writer.record_result(built, result(malformed=2), {"requests": 4, "cached": 1}, 3.5)
    found = writer.record
    assert [one.task for one in found.scores] == ["s:0", "s:a"]
    assert (found.data, found.sources) == ({"s:a": "digest"}, {"s:a": "rows.jsonl"})
    assert found.counts == {"requests": 9, "cached": 1, "malformed": 2}
    assert found.inputs == {"x": "1", "rows of s:a": "2"}
    assert (found.errors, found.seconds) == ({"s:b": "broke"}, 5.5)
    assert writer.has_scored("s:a")
    assert not writer.has_scored("s:b")
    assert (tmp_path / "run").exists() == writes
    if writes:
        assert list(found.samples) == ["s:a"]
        assert load_record(tmp_path / "run") == found


@pytest.mark.parametrize("writes", [True, False])
def test_a_failure_is_kept_with_its_traceback(writes: bool, tmp_path: Path) -> None:
    """A sentence of ours as it is; anything else with its kind, and its traceback in a file."""
    writer = RunWriter(tmp_path / "run", record(), writes, record())
    writer.record_failure("s:a", BenchError("It is broken.", "Mend it."))
    assert writer.record.errors == {"s:a": str(BenchError("It is broken.", "Mend it."))}
    try:
        raise KeyError("label")
    except KeyError as error:
        writer.record_failure("s:b", error)
    file = tmp_path / "run" / "errors" / "s-b.txt"
    assert writer.record.errors["s:b"] == f"KeyError: 'label'\n  The traceback is in {file}."
    assert file.exists() == writes
    if writes:
        assert "Traceback" in file.read_text()
        assert load_record(tmp_path / "run").errors == writer.record.errors


@pytest.mark.parametrize(
    ("change", "problem", "hint"),
    [
        ({"backend": "ternary"}, "backend (hf, not ternary)", "With `backend=hf` it is continued. Give another `out`"),
        ({"precision": "fp32"}, "precision (ternary, not fp32)", "With `precision=ternary` it is continued. "),
        ({"suites": {"s": "2"}}, "suites", "Give another `out`, or delete the folder."),
        ({"settings": {"shots": 1}}, "`shots`", "Give another `out`, or delete the folder."),
        ({"backend": "ternary", "settings": {"seed": 2}}, "backend (hf, not ternary), `seed`", "Give another `out`"),
        ({"checkpoint": DEMO.model_copy(update={"sha256": "0"})}, "checkpoint", "Give another `out`"),
    ],
)
def test_a_folder_of_another_run_is_refused(change: dict[str, Any], problem: str, hint: str, tmp_path: Path) -> None:
    """What differs is named with both values, and with which of them it would go on."""
    save_record(tmp_path, record(scores=[score()], suites={"s": "1"}, settings={"data_dir": "a"}))
    now = record(suites={"s": "1"}, settings={"data_dir": "b", "rows": {"s:a": "x"}}).model_copy(update=change)
    with pytest.raises(BenchError) as error:
        evaluating._resume_record(tmp_path, now)
    assert error.value.problem == f"{tmp_path} holds a run with another {problem}."
    assert error.value.hint.startswith(hint)


def test_a_folder_without_scores_takes_other_settings(tmp_path: Path) -> None:
    """It was measured before it was scored: its costs stay; another checkpoint is refused all the same."""
    now = record(settings={"shots": 1}, inputs={"x": "1"})
    assert evaluating._resume_record(tmp_path, now) is now
    save_record(tmp_path, record(name="measured"))
    assert evaluating._resume_record(tmp_path, now) == now
    same = evaluating._resume_record(tmp_path, now.model_copy(update={"settings": {}}))
    assert (same.name, same.inputs) == ("measured", {"x": "1"})
    with pytest.raises(BenchError, match="another checkpoint"):
        evaluating._resume_record(tmp_path, record(checkpoint=DEMO.model_copy(update={"sha256": "0"})))
    save_record(tmp_path, record(scores=[score()], inputs={"x": "0"}))
    assert evaluating._resume_record(tmp_path, record(inputs={"x": "1"})).inputs == {"x": "0"}


@pytest.mark.parametrize(
    ("models", "free", "together"), [(1, True, False), (2, True, True), (2, False, False), (3, True, True)]
)
def test_models_are_opened_together_if_they_fit(
    models: int, free: bool, together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two or more that fit take turns at each task; one alone, or several that do not fit, run one after the other."""
    asked: list[int] = []
    monkeypatch.setattr(evaluating, "_can_open_together", lambda runs: free)
    monkeypatch.setattr(evaluating, "_build_tasks", lambda *given: [])
    monkeypatch.setattr(evaluating, "_score_in_turn", lambda runs, *given: asked.append(len(runs)))
    pairs = [(DEMO, tmp_path / str(n)) for n in range(models)]
    suite: Any = SimpleNamespace(name="s", version="1")
    found = score_checkpoints(
        pairs,
        [(suite, SimpleNamespace(name="a"))],
        EvaluateJob(),
        None,
        Workers(),
        no_display,
    )
    assert asked == ([models] if together else [1] * models)
    assert [one.settings["tasks"] for one in found] == [["s:a"]] * models


@pytest.mark.parametrize(("free", "fits"), [(0, False), (10**15, True)])
def test_models_fit_by_their_float32_weights(free: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bytes a parameter, within a share of the free memory."""
    monkeypatch.setattr(evaluating, "find_free_bytes", lambda: free)
    runs: Any = [SimpleNamespace(record=record())] * 2
    assert evaluating._can_open_together(runs) == fits
    edge = 2 * 4 * DEMO.parameters / evaluating.WEIGHTS_SHARE
    monkeypatch.setattr(evaluating, "find_free_bytes", lambda: edge * 0.999)
    assert not evaluating._can_open_together(runs)
    monkeypatch.setattr(evaluating, "find_free_bytes", lambda: edge * 1.001)
    assert evaluating._can_open_together(runs)


def test_a_record_begins_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that decides a score; what is not used is not there."""
    suite: Any = SimpleNamespace(name="s", version="3")
    tasks = [(suite, SimpleNamespace(name=name)) for name in "ab"]
    found = evaluating._new_record(Path("x/run"), DEMO, tasks, EvaluateJob(shots=2, backend="hf"), Path("data"))
    assert (found.name, found.backend, found.precision, found.suites) == ("run", "hf", "ternary", {"s": "3"})
    assert found.settings == {
        "tasks": ["s:a", "s:b"], "data_dir": "data", "limit": None, "prompts": "default", "shots": 2, "seed": 0,
        "chat_template": False,
    }  # fmt: skip
    assert found.inputs
    job = EvaluateJob(allow_mismatch=True, rows={"s:a": "f"}, backend="hf", precision="fp32")
    more = evaluating._new_record(Path("run"), DEMO, tasks, job, None)
    assert (more.settings["allow_mismatch"], more.settings["rows"], more.settings["data_dir"]) == (
        True,
        {"s:a": "f"},
        None,
    )
    assert more.precision == "fp32"


def test_nothing_to_evaluate_is_said() -> None:
    """Before anything is opened."""
    with pytest.raises(UsageError, match="None of the tasks has rows here") as error:
        evaluate_several([("demo", OUT)], [])
    assert error.value.hint == "Give `data_dir`, or name a `task`."


@pytest.mark.parametrize(
    ("arithmetic", "device", "said"), [("bf16 on cuda", "cuda", "bf16 on cuda"), ("", "cpu", "cpu")]
)
def test_the_last_bits_depend_on_what_computes(arithmetic: str, device: str, said: str) -> None:
    """The session's own words, or its device."""
    session: Any = SimpleNamespace(arithmetic=arithmetic, device=device)
    assert evaluating._describe_arithmetic(session) == said


def test_an_expected_grade() -> None:
    """Of probabilities 1/4 and 3/4: the mean of 0 and 4 is 3; far apart or far below, nothing overflows."""
    import math

    assert _expected_value([math.log(1), math.log(3)], (0.0, 4.0)) == pytest.approx(3.0)
    assert _expected_value([-2000.0, -2000.0], (1.0, 2.0)) == pytest.approx(1.5)
    assert _expected_value([0.0, -1e4], (5.0, 0.0)) == 5.0


class Tokenizer:
    """A tokenizer with a template that writes a thought before an answer, where it is told to."""

    bos_token, eos_token, bos_token_id, eos_token_id = "<s>", "</s>", 1, 2
    name_or_path = "somebody/model"

    def __init__(self, refuses: bool = False, ids: tuple[int, ...] = (1, 5)) -> None:
        self.refuses, self.ids = refuses, list(ids)
        self.chat_template: str | None = "template"

    def encode(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        """Return the same."""
        return self.ids

    def apply_chat_template(self, dialogues: Any, tokenize: bool, **options: bool) -> list[str]:
        """Write who says what in each of *dialogues*."""
        return [self._write(messages, **options) for messages in dialogues]

    def _write(self, messages: Any, add_generation_prompt: bool = False, continue_final_message: bool = False) -> str:
        if self.refuses and messages[-1]["role"] == "assistant":
            raise ValueError("no answers")
        text = "".join(
            f"[{one['role']}]{'<t></t>' * (one['role'] == 'assistant')}{one['content']}|" for one in messages
        )
        return (text.removesuffix("|") if continue_final_message else text) + "[assistant]" * add_generation_prompt


def asking(tokenizer: Tokenizer, choices: bool) -> SessionLM:
    lm = SessionLM(SimpleNamespace(tokenizer=tokenizer, max_length=9))  # type: ignore[arg-type]
    lm.asks_choices = choices
    return lm


@pytest.mark.parametrize(
    ("choices", "refuses", "generation", "text"),
    [
        (True, False, True, "[user]가|[assistant]<t></t>"),
        (False, False, True, "[user]가|[assistant]"),
        (True, True, True, "[user]가|[assistant]"),
        (True, False, False, "[user]가"),
    ],
)
def test_a_choice_follows_what_a_template_writes_before_answers(
    choices: bool, refuses: bool, generation: bool, text: str
) -> None:
    """Up to where an answer begins, an empty thought included; a template that takes no answers up to its prompt."""
    lm = asking(Tokenizer(refuses), choices)
    assert lm.apply_chat_template([{"role": "user", "content": "가"}], generation) == text


def test_a_tokenizer_s_own_ids_and_template() -> None:
    """A text ends with EOS and begins with BOS, or EOS where there is none; a missing template is a sentence."""
    lm = asking(Tokenizer(), False)
    assert (lm.eot_token_id, lm.prefix_token_id, lm.tokenizer_name, lm.template) == (2, 1, "somebody/model", "template")
    lm.tokenizer.bos_token_id = None
    assert lm.prefix_token_id == 2
    lm.tokenizer.chat_template = None
    with pytest.raises(BenchError, match="The checkpoint has no chat template") as error:
        _ = lm.template
    assert "Leave `chat_template` out" in error.value.hint


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ((1, 1, 5), "The tokenizer of somebody/model puts <s> twice before a text."),
        ((1, 5, 2), "The tokenizer of somebody/model ends every text with </s>."),
        ((1, 5), None), ((5,), None), ((2,), None), ((1, 5, 1, 1), None), ((5, 1, 1), None),
    ],
)  # fmt: skip
def test_a_tokenizer_that_changes_a_text_is_refused(ids: tuple[int, ...], said: str | None) -> None:
    """BOS twice at the beginning, or EOS at the end of more than one token."""
    if said is None:
        check_tokenizer(Tokenizer(ids=ids))
        return
    with pytest.raises(BenchError) as error:
        check_tokenizer(Tokenizer(ids=ids))
    assert error.value.problem == said
    assert "tokenizer_config.json" in error.value.hint


@pytest.mark.parametrize(
    ("scored", "writes", "refused"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_the_runtime_of_earlier_scores_must_be_this_one(scored: bool, writes: bool, refused: bool) -> None:
    """Only where there are scores, and once: in the process that writes."""
    begun = record(scores=[score()] if scored else [], runtime="a")
    writer = RunWriter(OUT, begun, writes, begun)
    session: Any = SimpleNamespace(describe_runtime=lambda: "b")
    if refused:
        with pytest.raises(BenchError, match=r"runtime \(a, not b\)"):
            writer.record_runtime(session)
        return
    writer.record_runtime(session)
    assert writer.record.runtime == "b"


@pytest.mark.parametrize("chat", [True, False])
def test_the_template_that_was_used_is_recorded(chat: bool) -> None:
    """By its digest, if it was used."""
    import hashlib

    writer = RunWriter(OUT, record(), True, record())
    session: Any = SimpleNamespace(tokenizer=Tokenizer(), max_length=9)
    writer.check_tokenizer(session, EvaluateJob(chat_template=chat))
    assert writer.record.chat_template_sha256 == (hashlib.sha256(b"template").hexdigest() if chat else None)


@contextmanager
def no_steps(title: str) -> Any:
    yield lambda done, total, note="": None


@pytest.mark.parametrize(
    ("error", "count", "raised"), [("ours", 1, False), ("other", 1, False), ("other", 2, True), ("ours", 2, False)]
)
def test_a_broken_task_leaves_the_others(
    error: str, count: int, raised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded; with several workers what nobody foresaw ends all of them."""
    raises = BenchError("It is broken.", "") if error == "ours" else KeyError("x")

    def fail(*given: Any) -> Any:
        raise raises

    monkeypatch.setattr("bitnet_bench.evaluation.task_run.evaluate_task", fail)
    least: list[int] = []
    workers: Any = SimpleNamespace(
        count=count, are_joined=count > 1, worker=0, reduce_min=lambda budget: least.append(budget) or 3
    )
    session: Any = SimpleNamespace(tokenizer=Tokenizer(), max_length=9, budget=8)
    writer = RunWriter(tmp_path / "run", record(), True, record())
    one: Any = SimpleNamespace(name="s:a")

    def act() -> None:
        evaluating._score_task(writer, one, EvaluateJob(), session, None, workers, "title", no_steps, Scoring())  # type: ignore[arg-type]

    if raised:
        with pytest.raises(KeyError):
            act()
        assert not writer.record.errors
    else:
        act()
        assert list(writer.record.errors) == ["s:a"]
    assert (least, session.budget) == ([8], 3)
