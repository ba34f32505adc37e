"""What an evaluation does in which order, with fakes in the places of models, tasks and answer stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, GpuLostError
from bitnet_bench.evaluation import answer_log, task_run, tasks
from bitnet_bench.evaluation import evaluate as evaluating
from bitnet_bench.evaluation.answer_cache import NullStore, cache_file, compute_digest
from bitnet_bench.evaluation.evaluate import Scoring, evaluate, evaluate_several, score_checkpoints
from bitnet_bench.evaluation.finished import digest_definition, digest_task
from bitnet_bench.evaluation.run_writer import RunWriter
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.evaluation.tasks import TaskSettings
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.processes import Workers
from bitnet_bench.protocols import RuntimeOptions, no_display
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import Example, RunRecord, Score

DEMO = open_checkpoint("demo")
HERE = read_environment()


def make_record(**fields: Any) -> RunRecord:
    given = {"name": "run", "checkpoint": DEMO, "backend": "hf", "precision": "ternary", "environment": HERE}
    return RunRecord.model_validate({**given, **fields})


def make_suite(*names: str, folder: str = "own", **of_task: Any) -> Suite:
    made = tuple(Task.model_validate({"name": n, "metrics": ["accuracy"], "chance": 50.0, **of_task}) for n in names)
    return Suite(name="own", version="1", title="", licence="", citation="", tasks=made, folder=Path(folder))


def fail(act: Callable[[], Any]) -> tuple[str, str]:
    """Return the two sentences with which *act* refuses."""
    with pytest.raises(BenchError) as caught:
        act()
    return caught.value.problem, caught.value.hint


class Run:
    """A run that has scored some tasks, and keeps what it is told."""

    def __init__(self, name: str, *scored: str) -> None:
        self.record = SimpleNamespace(name=name, checkpoint=DEMO, backend="hf")
        self.scored = scored
        self.told: list[Any] = []

    def has_scored(self, task: str) -> bool:
        """Return whether it has scored *task*."""
        return task in self.scored

    def stands_on(self, digests: Any) -> None:
        """Keep the digests."""
        self.told.append(("stands on", digests))


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give fakes of what builds and digests tasks: `broken` ones cannot be built, `local` ones have rows here."""
    found = SimpleNamespace(broken=[], local=[], digested=[])

    def build(suite: Any, task: Any, setting: Any) -> Any:
        if task.name in found.broken:
            raise BenchError(f"{task.name} is broken.")
        return SimpleNamespace(name=f"{suite.name}:{task.name}")

    def digest(one: Any, setting: Any, limit: Any) -> dict[str, str]:
        found.digested.append((one.name, setting, limit))
        return {"rows": one.name}

    monkeypatch.setattr(tasks, "build_task", build)
    monkeypatch.setattr(tasks, "has_local_rows", lambda suite, task, setting: task.name in found.local)
    monkeypatch.setattr(evaluating, "digest_task", digest)
    monkeypatch.setattr(evaluating, "digest_definition", lambda suite, task, setting: {"definition": task.name})
    return found


def build_for(*runs: Run, names: str = "ab") -> list[str]:
    suite = make_suite(*names)
    made = evaluating._build_tasks(
        runs,  # type: ignore[arg-type]
        [(suite, task) for task in suite.tasks],
        "setting",  # type: ignore[arg-type]
        3,
    )
    return [one.name for one in made]


def test_only_tasks_that_a_run_lacks_are_asked(building: Any) -> None:
    """All are built, since finished scores stand on their rows; all runs are told of all digests."""
    runs = [Run("x", "own:a", "own:b"), Run("y", "own:a")]
    assert build_for(*runs, names="abc") == ["own:b", "own:c"]
    assert building.digested == [(f"own:{name}", "setting", 3) for name in "abc"]
    told = [("stands on", {f"own:{name}": {"rows": f"own:{name}"} for name in "abc"})]
    assert [run.told for run in runs] == [told, told]


def test_a_finished_task_whose_rows_are_gone_stands_on_its_definition(building: Any) -> None:
    """The tasks after it are built; one that is still to be asked, or whose rows are here and broken, is not."""
    building.broken = ["a"]
    run = Run("x", "own:a")
    assert build_for(run) == ["own:b"]
    assert run.told == [("stands on", {"own:a": {"definition": "a"}, "own:b": {"rows": "own:b"}})]
    assert fail(lambda: build_for(Run("x")))[0] == "a is broken."
    assert fail(lambda: build_for(Run("x", "own:a"), Run("y")))[0] == "a is broken."
    building.local = ["a"]
    assert fail(lambda: build_for(Run("x", "own:a")))[0] == "a is broken."


def test_what_was_asked_for_reaches_tasks_rows_and_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows are checked before a model is opened; a run that has everything is not opened again."""
    done: list[Any] = []
    suite = make_suite("a", "b")
    pairs = [(suite, task) for task in suite.tasks]

    def build(runs: Any, given: Any, setting: Any, limit: Any) -> Any:
        done.append(("build", [run.record.name for run in runs], given, setting, limit))
        return ["built a", "built b"]

    def open_run(out: Path, record: Any, workers: Any, way: Any) -> Any:
        whole = tuple(make_score(f"own:{name}") for name in "ab") if out.name == "whole" else (make_score("own:a"),)
        return open_with(RunWriter(out, record.model_copy(update={"scores": whole}), False, record))

    monkeypatch.setattr(evaluating, "_open_run", open_run)
    monkeypatch.setattr(evaluating, "_build_tasks", build)
    monkeypatch.setattr(task_run, "check_rows", lambda one, limit: done.append(("check", one, limit)))
    monkeypatch.setattr(
        evaluating,
        "_score_in_turn",
        lambda runs, *given: done.append(("score", [r.record.name for r in runs], *given[:-1])),
    )
    job = EvaluateJob(limit=4, shots=2, seed=5, prompts="theirs", chat_template=True, rows={"own:a": "f"}, backend="hf")
    workers = Workers()
    models = [(DEMO, tmp_path / name) for name in ("whole", "half")]
    found = score_checkpoints(models, pairs, job, tmp_path, workers, no_display)
    setting = TaskSettings(tmp_path, {"own:a": Path("f")}, "theirs", 2, 5, True)
    assert done == [
        ("build", ["whole", "half"], pairs, setting, 4),
        ("check", "built a", 4),
        ("check", "built b", 4),
        ("score", ["half"], ["built a", "built b"], job, workers, no_display),
    ]
    assert [one.name for one in found] == ["whole", "half"]


def make_score(task: str) -> Score:
    return Score(task=task, metric="accuracy", value=50.0, stderr=None, n=2, signature="x", primary=True)


@contextmanager
def open_with(value: Any, closed: Callable[[], Any] = lambda: None) -> Iterator[Any]:
    yield value
    closed()


def test_models_take_turns_at_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are opened and their tokenizers checked before the first task, and closed after the last."""
    done: list[Any] = []

    class Turn(Run):
        """A run that keeps what it is told with what the others are told."""

        def record_runtime(self, session: Any) -> None:
            """Keep it."""
            done.append(("runtime", self.record.name, session.name))

        def check_tokenizer(self, session: Any, job: EvaluateJob) -> None:
            """Keep it."""
            done.append(("tokenizer", self.record.name, session.name, job.chat_template))

    def open_session(record: Any, job: Any) -> Any:
        session = SimpleNamespace(name=f"session {record.name}", arithmetic="", device="cpu")
        return open_with(session, lambda: done.append(("close", record.name)))

    monkeypatch.setattr(evaluating, "_open_session", open_session)
    monkeypatch.setattr(
        evaluating, "_open_answer_store", lambda record, job, where: open_with((record.name, job, where))
    )
    monkeypatch.setattr(
        evaluating,
        "_score_task",
        lambda run, one, job, session, *more: done.append((run.record.name, one.name, job, session.name, *more[:-1])),
    )
    job, workers = EvaluateJob(chat_template=True), Workers()
    built: Any = [SimpleNamespace(name="own:a"), SimpleNamespace(name="own:b")]
    evaluating._score_in_turn([Turn("x"), Turn("y", "own:a")], built, job, workers, no_display, Scoring())  # type: ignore[list-item]
    assert done == [
        ("runtime", "x", "session x"),
        ("tokenizer", "x", "session x", True),
        ("runtime", "y", "session y"),
        ("tokenizer", "y", "session y", True),
        *[
            (run, task, job, f"session {run}", (run, job, "cpu"), workers, title, no_display)
            for run, task, title in (
                ("x", "own:a", "x own:a (1/2), documents"),
                ("x", "own:b", "x own:b (2/2), documents"),
                ("y", "own:b", "y own:b (2/2), documents"),
            )
        ],
        ("close", "y"),
        ("close", "x"),
    ]


def test_a_session_is_opened_as_the_job_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the record's backend, with the options of that backend."""
    asked: list[Any] = []
    backend = SimpleNamespace(configured=lambda options: asked.append(options) or "configured")
    monkeypatch.setattr(evaluating.plugins, "load_plugin", lambda kind, name: asked.append((kind, name)) or backend)
    monkeypatch.setattr(evaluating.plugins, "open_session", lambda *given: given)
    job = EvaluateJob(gguf="model.gguf", bitnetcpp_dir="built", allow_mismatch=True)
    found = evaluating._open_session(make_record(backend="bitnetcpp", precision="fp32"), job)
    assert found == ("configured", DEMO, "fp32")
    assert asked == [("backends", "bitnetcpp"), RuntimeOptions("model.gguf", "built", True)]


@pytest.fixture
def score_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Give what scores one task with a fake of what asks it, while a fake clock goes from 10 to 17 s."""

    def score(ask: Callable[..., Any], budget: int | None = None, count: int = 1) -> RunWriter:
        monkeypatch.setattr(task_run, "evaluate_task", ask)
        clock = iter([10.0, 17.0])
        monkeypatch.setattr(evaluating, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        tokenizer = SimpleNamespace(encode=lambda text: [5], bos_token_id=1, eos_token_id=2)
        session: Any = SimpleNamespace(tokenizer=tokenizer, max_length=9, budget=budget)
        workers: Any = SimpleNamespace(count=count, are_joined=count > 1, worker=0, reduce_min=lambda given: given - 1)
        writer = RunWriter(tmp_path / "run", make_record(), True, make_record())
        score.writer, score.session = writer, session  # type: ignore[attr-defined]
        one: Any = SimpleNamespace(name="own:a", source="rows.jsonl", task=SimpleNamespace(kind="scored"))
        job = EvaluateJob(limit=3, chat_template=True)
        steps: Any = lambda title: open_with((title, "progress"))  # noqa: E731
        evaluating._score_task(writer, one, job, session, "store", workers, "title", steps, Scoring())  # type: ignore[arg-type]
        return writer

    return score


def test_a_task_is_recorded_with_its_counts_and_time(score_one: Any) -> None:
    """What asks it has the session, the progress, the answers and the limit."""
    asked: list[Any] = []

    def ask(lm: Any, one: Any, *settings: Any) -> Any:
        asked.append((lm._session, lm._progress, lm._kept, lm._workers.count, one.name, *settings))
        lm.counts["requests"] = 6
        example = Example(task="own:a", doc_id=0, prompt="", target="", output="", correct=1.0)
        return task_run.TaskResult("own:a", (make_score("own:a"),), (example,), "digest")

    writer = score_one(ask)
    assert asked == [(score_one.session, ("title", "progress"), "store", 1, "own:a", 3, True, 1, None)]
    assert writer.record.counts == {"requests": 6, "truncated": 0, "cached": 0, "malformed": 0}
    assert (writer.record.seconds, writer.record.sources) == (7.0, {"own:a": "rows.jsonl"})
    assert score_one.session.budget is None


def test_a_lost_gpu_ends_one_process_and_not_several(score_one: Any) -> None:
    """It is recorded first; with several workers the launcher ends them when their answers do not come."""

    def lose(*given: Any) -> Any:
        raise GpuLostError("The GPU is gone.", "Start again.")

    with pytest.raises(GpuLostError):
        score_one(lose)
    assert score_one.writer.record.errors == {"own:a": "The GPU is gone.\n  Start again."}
    writer = score_one(lose, budget=8, count=2)
    assert list(writer.record.errors) == ["own:a"]
    assert score_one.session.budget == 7


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give the answer stores that are opened."""
    found: list[Any] = []

    class Store:
        """A store that keeps with what it was opened."""

        def __init__(self, *given: Any) -> None:
            found.append(given)

        def close(self) -> None:
            """Keep that it was closed."""
            found.append("closed")

    monkeypatch.setattr(answer_log, "SqliteStore", Store)
    return found


def test_an_answer_store_says_whose_answers_it_keeps(
    stored: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the file of the cache, under everything that decides an answer, framed; without a cache there is none."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    for name in ("a.model", "b.txt", "c.jinja", "d.bin", "finetune.json", "sub/e.json"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    dist = SimpleNamespace(name="zeta", version="9")
    monkeypatch.setattr(evaluating.plugins, "list_plugins", lambda kind: {"hf": SimpleNamespace(dist=dist)})
    monkeypatch.setattr(evaluating, "_digest_sources", lambda package: package.encode())
    checkpoint = DEMO.model_copy(update={"path": str(tmp_path), "sha256": "5" * 64, "source": "somebody/model"})
    packages = {"bitnet-bench": "1", "torch": "2", "numpy": "4"}
    record = make_record(
        checkpoint=checkpoint, precision="fp32", environment=HERE.model_copy(update={"packages": packages})
    )
    with evaluating._open_answer_store(record, EvaluateJob(), "bf16 on cpu"):
        pass
    assert stored[1:] == ["closed"]
    file, identity, about = stored[0]
    software = "bitnet-bench 1, torch 2, transformers , zeta 9"
    assert file == cache_file()
    assert about == {
        "model": "somebody/model",
        "precision": "fp32",
        "backend": "hf",
        "device": "bf16 on cpu",
        "software": software,
    }
    kept = ["a.model", "b.txt", "c.jinja", "config.json", "sub/e.json"]
    files = compute_digest(*(part for name in kept for part in (name, (tmp_path / name).read_bytes())))
    assert identity == compute_digest(
        "5" * 64, files, b"backends", b"checkpoints", b"ternary", "fp32", "hf", "bf16 on cpu", software
    )
    with evaluating._open_answer_store(record, EvaluateJob(cache=False), "cpu") as none:
        assert isinstance(none, NullStore)
    assert len(stored) == 2


def test_sources_are_digested_with_what_was_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python and shared objects at any depth; a package without sources is not digested as nothing."""
    (tmp_path / "evaluation").mkdir()
    monkeypatch.setattr(evaluating, "__file__", str(tmp_path / "evaluation/evaluate.py"))
    (tmp_path / "ternary/deep").mkdir(parents=True)
    for name in ("deep/b.so", "c.h"):
        (tmp_path / "ternary" / name).write_text(name, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"ternary holds no sources: the cache would not notice changed code"):
        evaluating._digest_sources("ternary")
    (tmp_path / "ternary/deep/a.py").write_text("a", encoding="utf-8")
    assert evaluating._digest_sources("ternary") == compute_digest("deep/a.py", b"a", "deep/b.so", b"deep/b.so")


@pytest.mark.parametrize("is_first", [True, False])
def test_several_models_are_opened_by_name(is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are in the folder that the job names; only the first worker shows how far it is."""
    given: list[Any] = []
    crew = SimpleNamespace(is_first=is_first)
    monkeypatch.setattr("bitnet_bench.processes.join_workers", lambda: open_with(crew))
    monkeypatch.setattr(evaluating, "open_model", lambda model, asked: f"opened {model}")
    monkeypatch.setattr(evaluating, "score_checkpoints", lambda *words: given.append(words) or ["first", "second"])
    monkeypatch.setenv("BITNET_BENCH_DATA", "")
    asked: Any = [("suite", "task")]
    steps: Any = lambda title: None  # noqa: E731
    job = EvaluateJob(data_dir=str(tmp_path))
    found = evaluate_several([("x", Path("1")), ("y", Path("2"))], asked, job, steps)
    assert found == ["first", "second"]
    pairs = [("opened x", Path("1")), ("opened y", Path("2"))]
    assert given.pop() == (pairs, asked, job, tmp_path, crew, steps if is_first else no_display)
    assert evaluate("x", asked, Path("1")) == "first"
    assert given.pop() == ([("opened x", Path("1"))], asked, EvaluateJob(), None, crew, no_display)


@pytest.mark.parametrize("is_first", [True, False])
def test_only_the_first_worker_reads_and_locks_a_run(
    is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are told what it found."""
    locked: list[Path] = []
    monkeypatch.setattr(evaluating, "lock_folder", lambda out: locked.append(out) or open_with(None))
    monkeypatch.setattr(evaluating, "_resume_record", lambda out, record: make_record(name="resumed"))
    blank = make_record(name="blank", inputs={"x": "1"})
    workers: Any = SimpleNamespace(is_first=is_first, broadcast=lambda value: value)
    with evaluating._open_run(tmp_path, blank, workers, Scoring()) as run:
        assert (run.out, run._writes, run._blank) == (tmp_path, is_first, blank)
        assert run.record.name == ("resumed" if is_first else "blank")
    assert locked == ([tmp_path] if is_first else [])


def test_finished_scores_are_compared_by_what_a_run_begins_with(tmp_path: Path) -> None:
    """Files of the checkpoint, and the digests of the tasks that it has scored; those of others are none of its."""
    then = make_record(scores=[make_score("own:a")], inputs={"x": "1", "rows of own:a": "2"})
    run = RunWriter(tmp_path, then, True, make_record(inputs={"x": "1"}))
    run.stands_on({"own:a": {"rows of own:a": "2"}, "own:b": {"rows of own:b": "9", "x": "9"}})
    said = fail(lambda: run.stands_on({"own:a": {"rows of own:a": "3"}}))[0]
    assert said == f"{tmp_path} holds scores that were made with different rows of own:a."
    other = RunWriter(tmp_path, then, True, make_record(inputs={"x": "0"}))
    assert fail(lambda: other.stands_on({"own:a": {"rows of own:a": "2"}}))[0].endswith("different x.")
    other.stands_on({"own:b": {}})


@pytest.fixture
def own(tmp_path: Path) -> Suite:
    """Give a suite of one task that has a module, a function and a Korean prompt."""
    (tmp_path / "one.yaml").write_text(
        "include: base.yaml\ndoc_to_text: 질문\nprocess_docs: !function code.f\n", encoding="utf-8"
    )
    (tmp_path / "base.yaml").write_text("task: one\nnote: !!binary aGk=\n", encoding="utf-8")
    (tmp_path / "code.py").write_text("def f(x): return x\n", encoding="utf-8")
    (tmp_path / "hooks.py").write_text("VALUES = ()\n", encoding="utf-8")
    return make_suite("one", folder=str(tmp_path), module="hooks.py")


def test_a_definition_has_the_digest_that_earlier_versions_gave_it(own: Suite, tmp_path: Path) -> None:
    """The fields of suite.yaml and of the task's files as JSON, or as Python shows them, then the modules' digests."""
    text = (
        '[{"chance": 50.0, "metrics": ["accuracy"], "module": "hooks.py"}, '
        '[{"note": "b\'hi\'", "task": "one"}, {"doc_to_text": "질문", "process_docs": "!function code.f"}]]'
    )
    expected = hashlib.sha256(text.encode())
    for name in ("code.py", "hooks.py"):
        expected.update(hashlib.sha256((tmp_path / name).read_bytes()).digest())
    digest = {"task definition of own:one": expected.hexdigest()}
    assert digest_definition(own, own.tasks[0], TaskSettings()) == digest


def test_a_module_that_cannot_be_read_is_named(own: Suite, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").unlink()
    assert fail(lambda: digest_definition(own, own.tasks[0], TaskSettings())) == (
        f"{tmp_path / 'hooks.py'} cannot be read: No such file or directory.",
        "Correct `module` in suite.yaml.",
    )


@pytest.mark.parametrize(
    ("shots", "examples", "has"),
    [(2, [{"x": 1}], True), (0, [{"x": 1}], False), (2, [], False), (2, None, False)],
)
def test_examples_are_digested_if_they_are_shown(shots: int, examples: Any, has: bool, own: Suite) -> None:
    """Rows up to the limit, and all examples that there are."""
    lm_task = SimpleNamespace(eval_docs=[{"a": n} for n in range(3)], config=SimpleNamespace(num_fewshot=shots))
    if examples is not None:
        lm_task.sampler = SimpleNamespace(df=examples)
    built: Any = SimpleNamespace(name="own:one", lm_task=lm_task, suite=own, task=own.tasks[0])
    found = digest_task(built, TaskSettings(), 2)
    rows = "".join(json.dumps({"a": n}) for n in range(2))
    assert found["rows of own:one"] == hashlib.sha256(rows.encode()).hexdigest()
    assert ("few-shot examples of own:one" in found) == has
    assert len(found) == 2 + has
    if has:
        assert found["few-shot examples of own:one"] == hashlib.sha256(b'{"x": 1}').hexdigest()
