"""Score checkpoints on tasks: one run folder each, saved after every task, with several checkpoints in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench import plugins
from bitnet_bench.errors import BenchError, EndpointLostError, GpuLostError, UsageError
from bitnet_bench.evaluation.answer_cache import AnswerStore, NullStore, compute_digest
from bitnet_bench.evaluation.answer_log import open_store
from bitnet_bench.evaluation.finished import digest_definition, digest_task
from bitnet_bench.evaluation.language_model import LanguageModel, make_language_model
from bitnet_bench.evaluation.run_writer import RunWriter
from bitnet_bench.evaluation.select import find_data_directory, pin_own_rows
from bitnet_bench.evaluation.serving import choose_how_to_run, connect, digest_inputs, open_model, summarize_answers
from bitnet_bench.files import is_file
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.machine.memory import WEIGHTS_SHARE, find_free_bytes
from bitnet_bench.protocols import (
    ProgressDisplay,
    RemoteSession,
    Session,
    no_display,
    show_phase,
)
from bitnet_bench.runs.folder import RECORD_FILE, TRAINING_FILE, load_record_to_extend, lock_folder
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import Checkpoint, RunRecord

if TYPE_CHECKING:
    from bitnet_bench.evaluation.suites import Suite, Task
    from bitnet_bench.evaluation.task_run import TaskResult
    from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings
    from bitnet_bench.processes import Workers

ANSWER_CODE_PACKAGES = ("backends", "checkpoints", "ternary")
"""Packages whose code decides the bits of an answer."""


class Scoring:
    """How `score_checkpoints` opens models and answers, and what it makes of them: here, scores."""

    writer = RunWriter
    """What writes a run's folder."""

    def mark_record(self, record: RunRecord) -> RunRecord:
        """Return the *record* of a run that begins."""
        return record

    def open_session(self, run: RunWriter, job: EvaluateJob) -> AbstractContextManager[Session | RemoteSession]:
        """Return the model of a run."""
        return _open_session(run.record, job)

    def open_answers(
        self, run: RunWriter, job: EvaluateJob, session: Session | RemoteSession
    ) -> AbstractContextManager[AnswerStore]:
        """Return where the answers of a run are kept."""
        return _open_answer_store(run.record, job, _describe_arithmetic(session))

    def identify(self, run: RunWriter, session: Session | RemoteSession) -> bytes:
        """Return a digest of everything that decides an answer but the request."""
        return _identify_answers(run.record, _describe_arithmetic(session))[0]

    def ask(self, lm: Any, one: BuiltTask, job: EvaluateJob) -> TaskResult:
        """Ask the model *lm* every row of a task, and return the scores."""
        from bitnet_bench.evaluation.task_run import evaluate_task

        return evaluate_task(lm, one, job.limit, job.chat_template, job.repeats, job.system)


def score_checkpoints(
    models: Sequence[tuple[Checkpoint, Path]],
    tasks: Sequence[tuple[Suite, Task]],
    job: EvaluateJob,
    data_dir: Path | None,
    workers: Workers,
    steps: ProgressDisplay,
    way: Scoring | None = None,
) -> list[RunRecord]:
    """Score every checkpoint on *tasks* into its folder, and return the records; tasks scored earlier are skipped.

    Missing and malformed rows are found before a model is loaded.
    """
    way = way or Scoring()
    from bitnet_bench.evaluation.task_run import check_repeats, check_rows
    from bitnet_bench.evaluation.tasks import TaskSettings

    names = [f"{suite.name}:{task.name}" for suite, task in tasks]
    rows = pin_own_rows(job.rows, names)
    setting = TaskSettings(data_dir, rows, job.prompts, job.shots, job.seed, job.chat_template, job.answer)
    with ExitStack() as stack:
        runs = [
            stack.enter_context(_open_run(out, _new_record(out, checkpoint, tasks, job, data_dir), workers, way))
            for checkpoint, out in models
        ]
        left = [run for run in runs if not all(map(run.has_scored, names))]
        with show_phase(steps, "read the rows of the tasks"):
            built = _build_tasks(runs, tasks, setting, job.limit)
            for one in built:
                check_rows(one, job.limit)
                check_repeats(one, job.repeats)
        # free memory changes all the time, and all workers must take the same turns
        all_at_once = len(left) > 1 and workers.broadcast(_can_open_together(left))
        for together in [left] if all_at_once else [[run] for run in left]:
            _score_in_turn(together, built, job, workers, steps, way)
    return [run.record for run in runs]


def _build_tasks(
    runs: Sequence[RunWriter], tasks: Sequence[tuple[Suite, Task]], setting: TaskSettings, limit: int | None
) -> list[BuiltTask]:
    """Return the tasks that one of *runs* has not scored; refuse runs whose scores come from other inputs than now."""
    from bitnet_bench.evaluation.tasks import build_task, has_local_rows

    built = []
    digests: dict[str, Mapping[str, str]] = {}
    for suite, task in tasks:
        name = f"{suite.name}:{task.name}"
        is_left = not all(run.has_scored(name) for run in runs)
        try:
            one = build_task(suite, task, setting)
        except BenchError:
            if is_left or has_local_rows(suite, task, setting):
                raise
            digests[name] = digest_definition(suite, task, setting)  # rows are not available here, which the log says
            continue
        digests[name] = digest_task(one, setting, limit)
        if is_left:
            built.append(one)
    for run in runs:
        run.stands_on(digests)
    return built


def _new_record(
    out: Path, checkpoint: Checkpoint, tasks: Sequence[tuple[Suite, Task]], job: EvaluateJob, data_dir: Path | None
) -> RunRecord:
    settings = job.model_dump(mode="json", include={"limit", "prompts", "shots", "seed", "chat_template"})
    settings |= {"allow_mismatch": True} if job.allow_mismatch else {}
    settings |= {"answer": job.answer} if job.answer else {}
    settings |= {"activations": job.activations} if job.activations != "checkpoint" else {}
    settings |= {"kv_cache": job.kv_cache} if job.kv_cache != "exact" else {}
    settings |= job.generation_settings()
    precision, runtime = choose_how_to_run(checkpoint, job)
    return RunRecord(
        name=out.name,
        checkpoint=checkpoint,
        backend=runtime.backend,
        backend_reason=runtime.reason,
        precision=precision,
        suites={suite.name: suite.version for suite, _ in tasks},
        settings={
            "tasks": [f"{suite.name}:{task.name}" for suite, task in tasks],
            "data_dir": str(data_dir) if data_dir else None,
            **settings,
            **({"rows": job.rows} if job.rows else {}),
            **({"stage": job.stage} if job.stage else {}),
        },
        environment=read_environment(),
        inputs=digest_inputs(checkpoint),
    )


@contextmanager
def _open_run(out: Path, record: RunRecord, workers: Workers, way: Scoring) -> Iterator[RunWriter]:
    """Lock the run folder *out* and yield a writer of the run in it, or of *record* if there is none."""
    record = way.mark_record(record)
    with lock_folder(out) if workers.is_first else nullcontext():
        there = workers.broadcast(_resume_record(out, record) if workers.is_first else record)
        yield way.writer(out, there, workers.is_first, record)


def _resume_record(out: Path, record: RunRecord) -> RunRecord:
    """Return the record in *out* if it is of this run, with its scores; refuse a folder that holds another run."""
    if not is_file(out / RECORD_FILE):
        return record
    there = load_record_to_extend(out)
    same = ("precision", "backend", "suites")
    differing = [name for name in same if getattr(there, name) != getattr(record, name)]
    changed = _changed_settings(there, record)
    differing += changed
    if there.checkpoint.weights_id != record.checkpoint.weights_id:
        differing.insert(0, "checkpoint")
    if differing and (there.finished_tasks or differing[0] == "checkpoint"):
        values = {"backend": (there.backend, record.backend), "precision": (there.precision, record.precision)}
        named = [f"{name} ({values[name][0]}, not {values[name][1]})" if name in values else name for name in differing]
        named = [f"`{name}`" if name in changed else words for name, words in zip(differing, named, strict=True)]
        again = " and ".join(f"`{name}={values[name][0]}`" for name in differing if name in values)
        continues = f"With {again} it is continued. " if again and set(differing) <= values.keys() else ""
        raise BenchError(
            f"{out} holds a run with another {', '.join(named)}.",
            f"{continues}Give another `out`, or delete the folder.",
        )
    if differing:  # other settings, but no scores: the run was measured before it was scored
        return record.model_copy(update={"costs": there.costs, "once_unsealed": there.once_unsealed})
    return there if there.finished_tasks else there.model_copy(update={"inputs": record.inputs})


def _changed_settings(there: RunRecord, record: RunRecord) -> list[str]:
    """Return the settings that decide a score and differ; where rows were read is compared by their digests."""
    names = {*there.settings, *record.settings} - {"data_dir", "rows"}
    return sorted(name for name in names if there.settings.get(name) != record.settings.get(name))


def _can_open_together(runs: Sequence[RunWriter]) -> bool:
    """Return whether the checkpoints of *runs* fit into memory together, all of them in float32."""
    needed = sum(4 * run.record.checkpoint.parameters for run in runs if not run.record.checkpoint.is_served)
    return needed < WEIGHTS_SHARE * find_free_bytes()


def _score_in_turn(
    runs: Sequence[RunWriter],
    built: Sequence[BuiltTask],
    job: EvaluateJob,
    workers: Workers,
    steps: ProgressDisplay,
    way: Scoring,
) -> None:
    """Score task after task, each with every one of *runs*, so that a busy machine slows all of them equally."""
    with ExitStack() as stack:
        opened = []
        for run in runs:
            with show_phase(steps, f"load {run.record.checkpoint.source} into {run.record.backend}"):
                session = stack.enter_context(way.open_session(run, job))
            store = way.open_answers(run, job, session)
            opened.append((run, session, stack.enter_context(store)))
        for run, session, _ in opened:
            run.record_runtime(session)
            run.check_tokenizer(session, job)
        for number, one in enumerate(built, 1):
            for run, session, answers in opened:
                if not run.has_scored(one.name):
                    title = f"{run.record.name} {one.name} ({number}/{len(built)}), documents"
                    _score_task(run, one, job, session, answers, workers, title, steps, way)


def _open_session(record: RunRecord, job: EvaluateJob) -> AbstractContextManager[Session | RemoteSession]:
    return connect(record.checkpoint, record.backend, record.precision, job)


def describe_model(model: str, job: EvaluateJob) -> RunRecord:
    """Return the record of a run of *model* in which nothing is asked: what it is, and what runs it."""
    return _new_record(Path(model), open_model(model, job), (), job, None)


@contextmanager
def open_language_model(record: RunRecord, job: EvaluateJob) -> Iterator[LanguageModel]:
    """Load the model of *record* (`describe_model`), with its kept answers, for questions that are not a task's."""
    with ExitStack() as stack:
        session = stack.enter_context(_open_session(record, job))
        store = _open_answer_store(record, job, _describe_arithmetic(session))
        yield make_language_model(session, stack.enter_context(store), job)


def _score_task(
    run: RunWriter,
    one: BuiltTask,
    job: EvaluateJob,
    session: Session | RemoteSession,
    answers: AnswerStore,
    workers: Workers,
    title: str,
    steps: ProgressDisplay,
    way: Scoring,
) -> None:
    started = time.monotonic()
    if session.budget is not None:  # tokens per batch from the free memory: all workers must cut the same batches
        session.budget = workers.reduce_min(session.budget)
    try:
        with steps(title) as progress:
            lm = make_language_model(session, answers, job, progress, workers)
            result = way.ask(lm, one, job)
    except Exception as error:  # whatever a task's rows or its module raise, the others are scored
        if workers.are_joined and not isinstance(error, BenchError):
            raise  # the other workers wait for answers that will not come; the launcher ends them
        run.record_failure(one.name, error)
        if isinstance(error, GpuLostError | EndpointLostError) and not workers.are_joined:
            raise  # every other task would fail as well
        return
    run.record_result(one, result, lm.counts, time.monotonic() - started, summarize_answers(lm.served))


def _describe_arithmetic(session: Session | RemoteSession) -> str:
    """Return what decides the last bits of a session's answers: its device, and its dtype if that can be chosen."""
    if isinstance(session, RemoteSession):
        return session.describe_runtime()
    return session.arithmetic or session.device


def _open_answer_store(record: RunRecord, job: EvaluateJob, arithmetic: str) -> AbstractContextManager[AnswerStore]:
    """Return the answer store of this model."""
    if not job.cache:
        return nullcontext(NullStore())
    return closing(open_store(*_identify_answers(record, arithmetic)))


def _identify_answers(record: RunRecord, arithmetic: str) -> tuple[bytes, dict[str, str]]:
    """Return a digest of everything that decides an answer but the request, and what people call it."""
    software = {name: record.environment.packages.get(name, "") for name in ("bitnet-bench", "torch", "transformers")}
    backend = plugins.list_plugins("backends")[record.backend]
    if backend.dist:
        software[backend.dist.name] = backend.dist.version
    about = {
        "model": record.checkpoint.source,
        "precision": record.precision,
        "backend": record.backend,
        "device": arithmetic,
        "software": ", ".join(f"{name} {version}" for name, version in sorted(software.items())),
    }
    identity = compute_digest(
        record.checkpoint.weights_id,
        *([] if record.checkpoint.is_served else [_digest_settings(record.checkpoint)]),
        *map(_digest_sources, ANSWER_CODE_PACKAGES),
        *(about[name] for name in ("precision", "backend", "device", "software")),
    )
    return identity, about


def _digest_settings(checkpoint: Checkpoint) -> bytes:
    """Return the digest of the configuration, the tokenizer and the template of *checkpoint*."""
    return _files_digest(Path(checkpoint.path), ("*.json", "*.model", "*.txt", "*.jinja"))


def _digest_sources(package: str) -> bytes:
    """Return the digest of the code of *package*, including compiled code, so that changed code shares no answers."""
    folder = Path(__file__).parents[1] / package
    assert any(folder.rglob("*.py")), f"{folder} holds no sources: the cache would not notice changed code"
    return _files_digest(folder, ("*.py", "*.so"))


def _files_digest(folder: Path, patterns: Sequence[str]) -> bytes:
    """Return the digest of files below *folder*, without the record of the training that made a checkpoint."""
    files = sorted({file for pattern in patterns for file in folder.rglob(pattern) if file.name != TRAINING_FILE})
    return compute_digest(*(part for file in files for part in (str(file.relative_to(folder)), file.read_bytes())))


def evaluate(
    model: str,
    tasks: Sequence[tuple[Suite, Task]],
    out: Path,
    job: EvaluateJob | None = None,
    steps: ProgressDisplay = no_display,
) -> RunRecord:
    """Score *model* on *tasks*, write every sample to `out/samples`, and return the record (`out/record.json`).

    Tasks that were finished with the same checkpoint and settings are skipped, and answers in the answer store are
    reused. A task that cannot be scored does not stop the others: it is listed in the record's `errors`.
    """
    return evaluate_several([(model, out)], tasks, job, steps)[0]


def evaluate_several(
    models: Sequence[tuple[str, Path]],
    tasks: Sequence[tuple[Suite, Task]],
    job: EvaluateJob | None = None,
    steps: ProgressDisplay = no_display,
) -> list[RunRecord]:
    """Score every model into its folder, as `evaluate` does, task by task in turn.

    Under `torchrun` or `accelerate launch` the processes share the work, and the first one writes.
    """
    from bitnet_bench.processes import join_workers

    if not tasks:
        raise UsageError("None of the tasks has rows here.", "Give `data_dir`, or name a `task`.")
    job = job or EvaluateJob()
    directory = find_data_directory(Path(job.data_dir) if job.data_dir else None)
    opened = [(open_model(model, job), out) for model, out in models]
    with join_workers() as crew:
        return score_checkpoints(opened, tasks, job, directory, crew, steps if crew.is_first else no_display)
