"""Evaluate in unrelated jobs: each answers its share of the requests into files of its own, and `merge` scores them.

Every job plans the same batches as one process would, and computes those of its number, as the workers of `torchrun`
do. Nothing is sent between jobs, and no file has two writers: a job can be killed and started again at any time, on any
machine with the same processor and software that sees the folder.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.answer_log import AnswerLog, KnownAnswers, read_answers
from bitnet_bench.evaluation.evaluate import Scoring, score_checkpoints
from bitnet_bench.evaluation.finished import check_same_inputs, check_same_machine
from bitnet_bench.evaluation.run_writer import RunWriter
from bitnet_bench.evaluation.select import find_data_directory, select_tasks
from bitnet_bench.processes import LoneWorker, Workers, count_processes
from bitnet_bench.protocols import ALL_REQUESTS, Completion, ProgressDisplay, RemoteSession, Session, Share, no_display
from bitnet_bench.runs.folder import RECORD_FILE, load_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import Checkpoint, RunRecord
from bitnet_bench.runs.value import Value

if TYPE_CHECKING:
    from bitnet_bench.evaluation.answer_cache import AnswerStore
    from bitnet_bench.evaluation.suites import Suite, Task
    from bitnet_bench.evaluation.task_run import TaskResult
    from bitnet_bench.evaluation.tasks import BuiltTask

SHARDS_FOLDER, ANSWERS_FILE = "shards", "answers"
MAX_SHARDS = 100_000
NAMED = 8
"""Number of missing shards to name in a message."""
Answered = TypeVar("Answered")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One of *count* jobs, from 1 on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text such as "3/16"; UsageError if it is none."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count <= MAX_SHARDS:
            raise UsageError(
                f"`shard` is a number of a job and how many there are, such as 3/16, not {text[:40]!r}.",
                f"Numbers go from 1 to the count, which is {MAX_SHARDS:,} at most.",
            )
        return cls(number, count)

    @property
    def folder(self) -> str:
        """Name of the folder of its files."""
        return f"{self.number:0{len(str(self.count))}}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class _ShardWriter(RunWriter):
    """Writes the folder of a shard: a record without scores that says which tasks are answered."""

    keeps_samples = False


class _AnsweringOnly(Scoring):
    """Answers what belongs to a shard into its file."""

    writer = _ShardWriter

    def __init__(self, shard: Shard, asked: Mapping[str, Any]) -> None:
        self._shard, self._asked = shard, asked

    def mark_record(self, record: RunRecord) -> RunRecord:
        """Return *record* with the shard among its settings."""
        return record.model_copy(update={"settings": record.settings | {"shard": str(self._shard)}})

    def open_answers(
        self, run: RunWriter, job: EvaluateJob, session: Session | RemoteSession
    ) -> AbstractContextManager[AnswerStore]:
        """Return the file of this shard's answers, which says how to open the model without its weights."""
        assert isinstance(session, Session), "a served model is not divided"
        about = {**self._asked, "max_length": session.max_length, "device": session.device}
        return AnswerLog(run.out / ANSWERS_FILE, self.identify(run, session), about)

    def ask(self, lm: Any, one: BuiltTask, job: EvaluateJob) -> TaskResult:
        """Ask the model what belongs to this shard; there are no scores."""
        from bitnet_bench.evaluation.local_rows import compute_rows_digest
        from bitnet_bench.evaluation.task_run import TaskResult, ask_task, list_samples

        results = ask_task(lm, one, job.limit, job.chat_template, job.repeats, job.system)
        return TaskResult(one.name, (), (), compute_rows_digest(sample["doc"] for sample in list_samples(one, results)))


def evaluate_shard(
    model: str,
    tasks: Sequence[tuple[Suite, Task]],
    out: Path,
    shard: Shard,
    job: EvaluateJob | None = None,
    steps: ProgressDisplay = no_display,
) -> RunRecord:
    """Answer the share *shard* of what `evaluate` would ask *model*, and return a record without scores.

    Its files are below `out/shards`. The same call goes on after a kill, and tries again what failed. Answers are not
    taken from the answer cache, which needs locks that a shared file system may not have.
    """
    if not tasks:
        raise UsageError("None of the tasks has rows here.", "Give `data_dir`, or name a `task`.")
    open_tasks = [f"{suite.name}:{task.name}" for suite, task in tasks if task.kind == "open"]
    if open_tasks:
        hint = "Its second turn needs the answer to the first: evaluate it in one process, or name other tasks."
        raise UsageError(f"{open_tasks[0]} cannot be divided into shards.", hint)
    if job is not None and job.base_url is not None:
        raise UsageError("A model on a server is not asked in shards.", "`concurrency` sends more requests at a time.")
    if count_processes() > 1:
        raise UsageError("`shard` divides the work already.", "Start each shard by itself, without torchrun.")
    job = (job or EvaluateJob()).model_copy(update={"cache": False})
    asked = {
        "model": model,
        "tasks": [[_name_suite(suite, task), task.name] for suite, task in tasks],
        "job": job.model_dump(mode="json"),
    }
    directory = find_data_directory(Path(job.data_dir) if job.data_dir else None)
    checkpoint = open_checkpoint(model, job.tokenizer, job.read_as)
    folder = out / SHARDS_FOLDER / shard.folder
    worker = LoneWorker(shard.number - 1, shard.count)
    way = _AnsweringOnly(shard, asked)
    return score_checkpoints([(checkpoint, folder)], tasks, job, directory, worker, steps, way)[0]


def _name_suite(suite: Suite, task: Task) -> str:
    """Return a name that `select_tasks` finds a suite by: its own, lm-eval's of a task, or its folder."""
    from bitnet_bench.evaluation.harness_tasks import HARNESS_PREFIX
    from bitnet_bench.evaluation.select import load_suites

    if suite.name == HARNESS_PREFIX:
        return f"{HARNESS_PREFIX}:{task.name}"
    known = load_suites().get(suite.name)
    return suite.name if known and known.folder == suite.folder else str(suite.folder)


class _Asked(Value):
    """How the model of a shard was asked, as the header of its answers says it."""

    model: str
    tasks: tuple[tuple[str, str], ...]
    """A suite, as `select_tasks` takes it, and a task of it."""
    job: EvaluateJob
    max_length: int
    device: str


@dataclass(frozen=True)
class _FinishedShard:
    """A shard as it is on disk."""

    shard: Shard
    folder: Path
    record: RunRecord
    about: _Asked
    identity: str
    """Digest of everything that decides an answer but the request, from the same file."""


class _Merging(Scoring):
    """Scores the answers of all shards."""

    def __init__(self, shards: Sequence[_FinishedShard]) -> None:
        self._shards = shards

    def mark_record(self, record: RunRecord) -> RunRecord:
        """Return *record* with what the shards ran on."""
        first = self._shards[0].record
        return record.model_copy(
            update={
                "backend": first.backend,
                "backend_reason": first.backend_reason,
                "precision": first.precision,
                "environment": first.environment,
                "seconds": sum(one.record.seconds for one in self._shards),
            }
        )

    def open_session(self, run: RunWriter, job: EvaluateJob) -> AbstractContextManager[Session]:
        """Return a session that loads the model only for answers that are in no file."""
        return _open_unloaded(run.record, self._shards[0], partial(super().open_session, run, job))

    def open_answers(
        self, run: RunWriter, job: EvaluateJob, session: Session | RemoteSession
    ) -> AbstractContextManager[AnswerStore]:
        """Return the answers of all shards."""
        return nullcontext(KnownAnswers([one.folder / ANSWERS_FILE for one in self._shards]))

    def ask(self, lm: Any, one: BuiltTask, job: EvaluateJob) -> TaskResult:
        """Score a task; raise BenchError for one that a shard could not answer."""
        failed = [shard for shard in self._shards if one.name in shard.record.errors]
        if failed:
            again = f"Run the shard {failed[0].shard} again, and merge."
            raise BenchError(f"{len(failed)} of {len(self._shards)} shards: {failed[0].record.errors[one.name]}", again)
        return super().ask(lm, one, job)


class _UnloadedSession(Session):
    """A session that knows how prompts are encoded, and loads its model if an answer is missing."""

    def __init__(self, checkpoint: Checkpoint, shard: _FinishedShard, load: Any) -> None:
        self.tokenizer = load_tokenizer(checkpoint)
        self.max_length = shard.about.max_length
        self.device = shard.about.device
        assert shard.record.precision != "served", "a served model is not divided"
        self.precision = shard.record.precision
        self._runtime, self._load = shard.record.runtime, load

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, tuple[float, bool]]]]:
        """Score what is in no file."""
        if self._needs_model(len(requests), part):
            yield from self._load().loglikelihood(requests, part)

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str], *rest: Any, **options: Any
    ) -> Iterator[Sequence[tuple[int, Completion]]]:
        """Generate what is in no file."""
        part = rest[0] if rest else options.get("part", ALL_REQUESTS)
        if self._needs_model(len(prompts), part):
            yield from self._load().generate(prompts, max_new_tokens, stop, *rest, **options)

    def _needs_model(self, requests: int, part: Share) -> bool:
        missing = requests - len(part.known)
        if missing:
            # a card whose memory did not suffice for the batches of the others cut its own
            _log.warning("%s of %s answers are in no shard, and are computed now.", f"{missing:,}", f"{requests:,}")
        return missing > 0

    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Load the model and read prompts."""
        return self._load().prefill(batch)

    def decode(self, state: Any, steps: int) -> Any:
        """Decode with the model that `prefill` loaded."""
        return self._load().decode(state, steps)

    def footprint(self) -> tuple[int, int]:
        """Return the bytes of the loaded model."""
        size: tuple[int, int] = self._load().footprint()
        return size

    def describe_runtime(self) -> str | None:
        """Return what computed the shards."""
        return self._runtime


@contextmanager
def _open_unloaded(record: RunRecord, shard: _FinishedShard, open_model: Any) -> Iterator[Session]:
    """Yield a session that calls *open_model* once, if at all."""
    with ExitStack() as stack:
        loaded: list[Session] = []

        def load() -> Session:
            if not loaded:
                loaded.append(stack.enter_context(open_model()))
            return loaded[0]

        yield _UnloadedSession(record.checkpoint, shard, load)


def merge_shards(out: Path, steps: ProgressDisplay = no_display) -> RunRecord:
    """Score the answers of all shards below *out*, and return the record of the run in *out*.

    Record and samples are those of one process, but for times and the command; on a GPU, whose batches depend on its
    memory, the last bits of a log-probability may differ. The weights are not loaded, unless an answer is missing.
    BenchError names shards that are missing or unfinished, and what differs between two of them.
    """
    shards = _list_shards(out)
    first = shards[0]
    for other in shards[1:]:
        _check_alike(out, first, other)
    job = first.about.job
    directory = find_data_directory(Path(job.data_dir) if job.data_dir else None)
    named = dict.fromkeys(first.about.tasks)  # each once: a header that was edited may name one a thousand times
    chosen = [pair for suite, task in named for pair in select_tasks([suite], [task], directory)]
    checkpoint = open_checkpoint(first.about.model, job.tokenizer, job.read_as)
    if checkpoint.weights_id != first.record.checkpoint.weights_id:
        raise BenchError(
            f"{checkpoint.source} has other weights than the shards in {out} were computed with.",
            "Put the former checkpoint back, or evaluate again with another `out`.",
        )
    return score_checkpoints([(checkpoint, out)], chosen, job, directory, Workers(), steps, _Merging(shards))[0]


def _list_shards(out: Path) -> list[_FinishedShard]:
    """Return all shards below *out*; BenchError if there are none, or one is missing or has not finished."""
    again = f"`bitnet-bench evaluate ... --out {out} --shard"
    names = {}
    for folder in sorted((out / SHARDS_FOLDER).glob("*-of-*")):
        number, _, count = folder.name.partition("-of-")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= MAX_SHARDS:
            names[Shard(int(number), int(count))] = folder
    if not names:
        raise BenchError(f"There are no shards in {out}.", f"Evaluate with {again} 1/16`, ..., 16/16.")
    counts = sorted({shard.count for shard in names})
    if len(counts) > 1:
        raise BenchError(
            f"{out} holds shards of {' and of '.join(f'{count:,}' for count in counts)} jobs.",
            f"Delete those in {out / SHARDS_FOLDER} that are not meant.",
        )
    missing = [Shard(number, counts[0]) for number in range(1, counts[0] + 1) if Shard(number, counts[0]) not in names]
    found = []
    for shard, folder in sorted(names.items(), key=lambda pair: pair[0].number):
        finished = _read_shard(shard, folder)
        if finished is None:
            missing.append(shard)
        else:
            found.append(finished)
    if missing:
        named = sorted(missing, key=lambda shard: shard.number)
        more = f" and {len(named) - NAMED:,} more" if len(named) > NAMED else ""
        raise BenchError(
            f"Of {counts[0]:,} shards in {out}, {', '.join(map(str, named[:NAMED]))}{more} have not finished.",
            f"Run {again} {named[0]}`: it goes on where it stopped.",
        )
    return found


def _read_shard(shard: Shard, folder: Path) -> _FinishedShard | None:
    """Return a shard; None if it has not finished."""
    if not (folder / RECORD_FILE).is_file() or not (folder / ANSWERS_FILE).is_file():
        return None
    header, record = read_answers(folder / ANSWERS_FILE)[0], load_record(folder)
    if not _has_finished(record):
        return None
    try:
        about = _Asked.model_validate(header.get("about"))
    except ValidationError as error:
        raise BenchError(
            f"{folder / ANSWERS_FILE} does not say how the model was asked.",
            f"Delete {folder}, and run the shard {shard} again.",
        ) from error
    return _FinishedShard(shard, folder, record, about, str(header.get("identity")))


def _has_finished(record: RunRecord) -> bool:
    """Return whether every task of a shard is answered, or could not be."""
    asked = record.settings.get("tasks")
    if not isinstance(asked, list) or not all(isinstance(task, str) for task in asked):
        return False
    return all(task in record.finished_tasks or task in record.errors for task in asked)


def _check_alike(out: Path, one: _FinishedShard, other: _FinishedShard) -> None:
    """Raise BenchError if two shards are not parts of one run: another model, settings, rows, machine or code."""
    hint = f"Delete {other.folder} or {one.folder}, and run it again as the others were."
    differing = [name for name in ("precision", "backend", "suites") if _differs(name, one.record, other.record)]
    if one.record.checkpoint.weights_id != other.record.checkpoint.weights_id:
        differing.insert(0, "checkpoint")
    settings = {*one.record.settings, *other.record.settings} - {"data_dir", "rows", "shard"}
    differing += [
        f"`{name}`" for name in sorted(settings) if one.record.settings.get(name) != other.record.settings.get(name)
    ]
    if differing:
        raise BenchError(
            f"The shards {one.shard} and {other.shard} in {out} have another {', '.join(differing)}.",
            hint,
        )
    check_same_inputs(other.folder, other.record, one.record.inputs, other.record.finished_tasks)
    check_same_machine(other.folder, other.record, one.record.runtime, one.record.environment)
    if one.identity != other.identity:  # the code of a version that was changed, or a file that no record names
        raise BenchError(f"The shards {one.shard} and {other.shard} in {out} were answered by other code.", hint)


def _differs(name: str, one: RunRecord, other: RunRecord) -> bool:
    return bool(getattr(one, name) != getattr(other, name))
