"""Write the folder of a run: every finished task is saved at once."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.finished import check_same_inputs, check_same_machine
from bitnet_bench.files import write_whole
from bitnet_bench.protocols import RemoteSession, Session
from bitnet_bench.runs.folder import save_record, save_samples
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import RunRecord, ServedTask

if TYPE_CHECKING:
    from bitnet_bench.evaluation.task_run import TaskResult
    from bitnet_bench.evaluation.tasks import BuiltTask


class RunWriter:
    """Writes a run folder: every finished task is saved at once, by the first worker."""

    keeps_samples = True

    def __init__(self, out: Path, record: RunRecord, writes: bool, blank: RunRecord) -> None:
        self.out, self.record, self._writes = out, record, writes
        self._blank = blank
        """The record of a run that begins now."""
        self._tasks: dict[str, Mapping[str, str]] = {}
        """Digests of rows and definition of each task, as they are now."""

    def has_scored(self, task: str) -> bool:
        """Return whether *task* (SUITE:TASK) is scored, or answered if it is an open task."""
        return task in self.record.finished_tasks

    def stands_on(self, tasks: dict[str, Mapping[str, str]]) -> None:
        """Refuse to continue scores that were computed from other inputs than now; *tasks*: the current digests."""
        self._tasks = tasks
        scored = [task for task in tasks if self.has_scored(task)]
        if scored:
            now = {name: found for task in scored for name, found in tasks[task].items()}
            check_same_inputs(self.out, self.record, {**self._blank.inputs, **now}, scored)

    def record_runtime(self, session: Session | RemoteSession) -> None:
        """Record the session's runtime; scores that exist already must come from the same one."""
        runtime = session.describe_runtime()
        if self._writes and self.record.finished_tasks:
            check_same_machine(self.out, self.record, runtime, self._blank.environment)
        self.record = self.record.model_copy(update={"runtime": runtime})

    def check_tokenizer(self, session: Session | RemoteSession, job: EvaluateJob) -> None:
        """Refuse an unusable tokenizer or chat template before the first request; a server has its own."""
        from bitnet_bench.evaluation.lm import SessionLM, check_chat_settings

        if isinstance(session, RemoteSession):
            return
        lm = SessionLM(session)
        used = hashlib.sha256(lm.template.encode()).hexdigest() if job.chat_template else None
        check_chat_settings(session.tokenizer, job)
        self.record = self.record.model_copy(update={"chat_template_sha256": used})

    def record_result(
        self,
        one: BuiltTask,
        result: TaskResult,
        counts: Mapping[str, int],
        seconds: float,
        served: ServedTask | None = None,
    ) -> None:
        """Record the scores and the samples of a task, and what a server said of its answers."""
        record = self.record
        if served is not None:
            record = record.model_copy(update={"serving": record.serving | {result.name: served}})
        if self._writes and self.keeps_samples:
            saved = save_samples(self.out, result.name, result.examples)
            record = record.model_copy(update={"samples": record.samples | {result.name: saved}})
        happened = {**counts, "malformed": sum(one.malformed for e in result.examples for one in e.each_answer())}
        self.record = record.model_copy(
            update={
                "scores": (*record.scores, *result.scores),
                "answered": record.answered | ({result.name: len(result.examples)} if self._has_no_scores(one) else {}),
                "data": record.data | {result.name: result.rows_sha256},
                "sources": record.sources | {result.name: one.source},
                "inputs": {**record.inputs, **self._tasks.get(result.name, {})},
                "counts": {name: record.counts.get(name, 0) + count for name, count in happened.items()},
                "errors": {task: said for task, said in record.errors.items() if task != result.name},
                "seconds": record.seconds + seconds,
            }
        )
        if self._writes:
            save_record(self.out, self.record)  # saved now, whatever happens next

    def _has_no_scores(self, one: BuiltTask) -> bool:
        """Return whether a task that was asked to the end has answers only."""
        return one.task.kind == "open" or not self.keeps_samples

    def record_failure(self, task: str, error: Exception) -> None:
        """Record why *task* could not be scored; an unexpected error also leaves its traceback in OUT/errors."""
        said = str(error)
        if not isinstance(error, BenchError):
            file = self.out / "errors" / f"{task.replace(':', '-')}.txt"
            said = f"{type(error).__name__}: {error}\n  The traceback is in {file}."
            if self._writes:
                write_whole(file, "".join(traceback.format_exception(error)))
        self.record = self.record.model_copy(update={"errors": self.record.errors | {task: said}})
        if self._writes:
            save_record(self.out, self.record)
