"""Read run folders as far as they can be read, and say what is missing or was changed, and where."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bitnet_bench.errors import BenchError, explain
from bitnet_bench.runs.folder import RECORD, SEAL, TRAINING, load_fields, samples_file, seal
from bitnet_bench.runs.records import Cost, Example, FinetuneRecord, RunRecord, Score
from bitnet_bench.runs.run import Notice, Results
from bitnet_bench.wording import plain, say

LINES_NAMED = 3
"""Of the lines of a file that cannot be read, so many are named, and the rest counted."""


class StoredExamples(Mapping[str, Sequence[Example]]):
    """The examples of a run folder by task, read when asked for and not kept; what is wrong joins *notices*."""

    def __init__(self, folder: Path, record: RunRecord, notices: list[Notice]) -> None:
        self._folder, self._record, self._notices = folder, record, notices
        self._tasks = {score.task: score.n for score in record.scores}

    def __getitem__(self, task: str) -> Sequence[Example]:
        file = samples_file(self._folder, task)
        if task not in self._tasks or not file.is_file():
            raise KeyError(task)
        content = file.read_bytes()
        written = self._record.samples.get(task)
        if written and hashlib.sha256(content).hexdigest() != written:
            self._note(file, say("notice.edited"))
        with _no_collection():
            examples = list(self._examples(file, content))
        if len(examples) != self._tasks[task]:
            self._note(file, say("notice.some-samples", n=f"{len(examples):,}", total=f"{self._tasks[task]:,}"))
        return examples

    def __iter__(self) -> Iterator[str]:
        return (task for task in self._tasks if samples_file(self._folder, task).is_file())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _examples(self, file: Path, content: bytes) -> Iterable[Example]:
        bad = 0
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line:
                continue
            try:
                yield Example.model_validate_json(line)
            except ValidationError as error:
                bad += 1
                if bad <= LINES_NAMED:
                    self._note(file, say("notice.line", line=number, why=explain(error)))
        if bad > LINES_NAMED:
            self._note(file, say("notice.lines", count=bad - LINES_NAMED))

    def _note(self, file: Path, what: Any) -> None:
        notice = Notice(str(file), what)
        if notice not in self._notices:
            self._notices.append(notice)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking a hundred thousand new examples, which hold no cycle, again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def read_run(folder: Path, training: Path | None = None) -> Results:
    """Return what *folder* holds; BenchError if that is no run of this schema.

    A score, a cost or a line of examples that is no valid record (a NaN, say) is left out, and a notice says so.
    *training* is the folder of a `finetune.json`, by default that of the checkpoint.
    """
    notices: list[Notice] = []
    fields = load_fields(folder)
    file = folder / RECORD
    written = fields.pop(SEAL, None)
    if written is None:
        notices.append(Notice(str(file), say("notice.unsealed")))
    elif written != seal(fields):
        notices.append(Notice(str(file), say("notice.edited")))
    kept = {
        **fields,
        "scores": _valid(Score, fields.get("scores", []), file, notices),
        "costs": _valid(Cost, fields.get("costs", []), file, notices),
    }
    try:
        record = RunRecord.model_validate(kept)
    except ValidationError as error:
        raise BenchError(f"{file} cannot be read: {explain(error)}.", "Run it again.") from error
    if record.once_unsealed and written is not None:
        notices.append(Notice(str(file), say("notice.once-unsealed")))
    notices += _incomplete(folder, record)
    learned = _training(training or Path(record.checkpoint.path), notices)
    return Results(record, StoredExamples(folder, record, notices), notices, learned)


def read_runs(folders: Sequence[Path], training: Mapping[Path, Path]) -> tuple[list[Results], list[Notice]]:
    """Return the runs of *folders* that can be read, and why the others cannot; BenchError if none can."""
    found, unread, refused = [], [], None
    for folder in folders:
        try:
            found.append(read_run(folder, training.get(folder)))
        except BenchError as error:
            refused = refused or error
            unread.append(Notice(str(folder), say("notice.unreadable", why=error.problem)))
    if not found and refused:
        raise refused
    return found, unread


def _valid(kind: type[BaseModel], items: Any, file: Path, notices: list[Notice]) -> list[Any]:
    kept = []
    for i, item in enumerate(items):
        try:
            kind.model_validate(item)
            kept.append(item)
        except ValidationError as error:
            about = " ".join(str(item.get(f, "")) for f in ("task", "metric", "precision") if item.get(f))
            name = f"{kind.__name__.lower()} {i} ({about})"
            notices.append(Notice(str(file), say("notice.value", name=name, why=explain(error))))
    return kept


def _incomplete(folder: Path, record: RunRecord) -> Iterable[Notice]:
    """Say what the run was asked for and has not."""
    scored = {score.task for score in record.scores}
    for task in record.settings.get("tasks") or []:
        if task in record.errors:
            yield Notice(f"{folder}, {task}", say("notice.failed", why=record.errors[task].splitlines()[0]))
        elif task not in scored:
            yield Notice(f"{folder}, {task}", say("notice.unscored"))
    for task in sorted(scored):
        if not samples_file(folder, task).is_file():
            yield Notice(f"{folder}, {task}", say("notice.no-samples"))
    made_by = record.environment.packages.get("bitnet-bench")
    if made_by != version("bitnet-bench"):
        yield Notice(str(folder), say("notice.version", version=made_by or "?", ours=version("bitnet-bench")))


def _training(folder: Path, notices: list[Notice]) -> FinetuneRecord | None:
    file = folder / TRAINING
    if not file.is_file():
        return None
    try:
        return FinetuneRecord.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        notices.append(Notice(str(file), say("notice.training", why=plain(explain(error)))))
        return None
