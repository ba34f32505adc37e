"""Read run folders as far as possible, and report what is missing or was changed, and where."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bitnet_bench.errors import BenchError, format_validation_error, shorten_text
from bitnet_bench.files import is_file
from bitnet_bench.json_files import read_json
from bitnet_bench.runs.folder import (
    RECORD_FILE,
    SEAL_FIELD,
    TRAINING_FILE,
    compute_seal,
    find_samples,
    load_record_fields,
)
from bitnet_bench.runs.records import (
    Checkpoint,
    Cost,
    Environment,
    Example,
    FinetuneRecord,
    JudgedScore,
    RunRecord,
    Score,
)
from bitnet_bench.runs.run import LoadedRun, Notice
from bitnet_bench.wording import Count, get_text
from bitnet_bench.wording.sentences import translate_sentence

MAX_LINES_NAMED = 3
"""Number of unreadable lines of a file that are named; the others are counted."""
MIN_COLUMN_BYTES = 1 << 21
"""Size of a file of examples from which columns are faster, the import of their library included."""


class StoredExamples(Mapping[str, Sequence[Example]]):
    """The examples of a run folder by task, read on access and not cached; problems are added to *notices*.

    Those of a large file that was not edited are an `ExampleTable`, any others a list.
    """

    def __init__(self, folder: Path, record: RunRecord, notices: list[Notice]) -> None:
        self._folder, self._record, self._notices = folder, record, notices
        self._tasks = record.answered | {score.task: score.n for score in record.scores}
        self.not_finite: set[str] = set()
        """Tasks in which log-likelihoods were not finite, as far as they were read."""

    def __getitem__(self, task: str) -> Sequence[Example]:
        file = find_samples(self._folder, task)
        if task not in self._tasks or file is None:
            raise KeyError(task)
        content = file.read_bytes()
        written = self._record.samples.get(task)
        is_as_written = bool(written) and hashlib.sha256(content).hexdigest() == written
        if written and not is_as_written:
            self._add_notice(file, get_text("notice.edited"))
        examples = _parse_columns(file, content) if is_as_written else None
        if examples is None:
            with _pause_gc():
                examples = list(self._parse_examples(task, file, content))
        if len(examples) != self._tasks[task]:
            self._add_notice(
                file, get_text("notice.some-samples", n=f"{len(examples):,}", total=Count(self._tasks[task]))
            )
        return examples

    def __iter__(self) -> Iterator[str]:
        return (task for task in self._tasks if find_samples(self._folder, task))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _parse_examples(self, task: str, file: Path, content: bytes) -> Iterable[Example]:
        bad = 0
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line:
                continue
            try:
                yield Example.model_validate_json(line)
            except ValidationError as error:
                if _is_not_finite(error):
                    self.not_finite.add(task)
                    self._add_notice(file, get_text("notice.not-finite"))
                    continue
                bad += 1
                if bad <= MAX_LINES_NAMED:
                    self._add_notice(
                        file,
                        get_text("notice.line", line=number, why=translate_sentence(format_validation_error(error))),
                    )
        if bad > MAX_LINES_NAMED:
            self._add_notice(file, get_text("notice.lines", count=Count(bad - MAX_LINES_NAMED)))

    def _add_notice(self, file: Path, what: Any) -> None:
        notice = Notice(str(file), what)
        if notice not in self._notices:
            self._notices.append(notice)


def _parse_columns(file: Path, content: bytes) -> Sequence[Example] | None:
    """Return the examples of a large file by column; None if it is small, or has to be read line by line."""
    if len(content) < MIN_COLUMN_BYTES:
        return None
    from bitnet_bench.runs.example_parsing import parse_examples

    return parse_examples(content, str(file))


@contextmanager
def _pause_gc() -> Iterator[None]:
    """Keep the garbage collector from repeatedly scanning a hundred thousand new examples, which hold no cycle."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _is_not_finite(error: ValidationError) -> bool:
    """Return whether all that is wrong with an example are its log-likelihoods: NaN and infinity are saved as null."""
    return all(fault["loc"][:1] == ("loglikelihoods",) and fault["input"] is None for fault in error.errors())


def read_run(folder: Path, training: Path | None = None, *, lenient: bool = False) -> LoadedRun:
    """Return the run in *folder*; BenchError if it is not a run of this schema.

    A score, a cost or a line of examples that is not a valid record (a NaN, say) is left out, and a notice says so;
    *lenient* leaves out fields as well that this version does not know. *training* is the folder of a `finetune.json`,
    by default that of the checkpoint.
    """
    notices: list[Notice] = []
    fields = load_record_fields(folder)
    file = folder / RECORD_FILE
    written = fields.pop(SEAL_FIELD, None)
    if written is None:
        notices.append(Notice(str(file), get_text("notice.unsealed")))
    elif written != compute_seal(fields):
        notices.append(Notice(str(file), get_text("notice.edited")))
    if lenient:
        fields = _drop_unknown_fields(fields, file, notices)
    kept = {
        **fields,
        "scores": _keep_valid(Score, fields.get("scores", []), file, notices),
        "costs": _keep_valid(Cost, fields.get("costs", []), file, notices),
        "judged": _keep_valid(JudgedScore, fields.get("judged", []), file, notices),
    }
    try:
        record = RunRecord.model_validate(kept)
    except ValidationError as error:
        raise BenchError(f"{file} cannot be read: {format_validation_error(error)}.", "Run it again.") from error
    if record.once_unsealed and written is not None:
        notices.append(Notice(str(file), get_text("notice.once-unsealed")))
    notices += _find_gaps(folder, record)
    beside = None if record.checkpoint.is_served else Path(record.checkpoint.path)  # a server has no folder here
    made_by = training or beside
    learned = _read_training(made_by, notices) if made_by is not None else None
    examples = StoredExamples(folder, record, notices)
    return LoadedRun(record, examples, notices, learned, not_finite=examples.not_finite)


def read_runs(folders: Sequence[Path], training: Mapping[Path, Path]) -> tuple[list[LoadedRun], list[Notice]]:
    """Return the runs of *folders* that can be read, and why the others cannot; BenchError if none can."""
    found, unread, refused = [], [], None
    for folder in folders:
        try:
            found.append(read_run(folder, training.get(folder)))
        except BenchError as error:
            refused = refused or error
            unread.append(Notice(str(folder), get_text("notice.unreadable", why=translate_sentence(error.problem))))
    if not found and refused:
        raise refused
    return found, unread


def _drop_unknown_fields(fields: dict[str, Any], file: Path, notices: list[Notice]) -> dict[str, Any]:
    """Return a record without the fields that a newer version added, in itself, its scores and its costs."""
    unknown: list[str] = []

    def keep_known(kind: type[BaseModel], value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            return value
        unknown.extend(place + name for name in value if name not in kind.model_fields)
        return {name: one for name, one in value.items() if name in kind.model_fields}

    found: dict[str, Any] = keep_known(RunRecord, fields, "")
    inner: dict[str, type[BaseModel]] = {
        "checkpoint": Checkpoint,
        "environment": Environment,
        "scores": Score,
        "costs": Cost,
        "judged": JudgedScore,
    }
    for name, kind in inner.items():
        value = found.get(name)
        if isinstance(value, list):
            found[name] = [keep_known(kind, one, f"{name}.") for one in value]
        elif value is not None:
            found[name] = keep_known(kind, value, f"{name}.")
    if unknown:
        notices.append(Notice(str(file), get_text("notice.unknown", names=", ".join(dict.fromkeys(unknown)))))
    return found


def _keep_valid(kind: type[BaseModel], items: Any, file: Path, notices: list[Notice]) -> list[Any]:
    kept = []
    for i, item in enumerate(items) if isinstance(items, list) else ():
        try:
            kind.model_validate(item)
            kept.append(item)
        except ValidationError as error:
            known = item if isinstance(item, dict) else {}
            about = shorten_text(" ".join(str(known[f]) for f in ("task", "metric", "precision") if known.get(f)), 100)
            name = f"{kind.__name__.lower()} {i} ({about})"
            notices.append(
                Notice(
                    str(file),
                    get_text("notice.value", name=name, why=translate_sentence(format_validation_error(error))),
                )
            )
    return kept


def _find_gaps(folder: Path, record: RunRecord) -> Iterable[Notice]:
    """Return notices of results that the run should have and lacks."""
    scored = set(record.finished_tasks)
    asked = record.settings.get("tasks")
    for task in filter(lambda one: isinstance(one, str), asked if isinstance(asked, list) else []):
        if task in record.errors:
            yield Notice(
                f"{folder}, {task}",
                get_text("notice.failed", why=translate_sentence(record.errors[task].splitlines()[0])),
            )
        elif task not in scored:
            yield Notice(f"{folder}, {task}", get_text("notice.unscored"))
    for task in sorted(scored):
        if find_samples(folder, task) is None:
            yield Notice(f"{folder}, {task}", get_text("notice.no-samples"))
    made_by = record.environment.packages.get("bitnet-bench")
    if made_by != version("bitnet-bench"):
        yield Notice(str(folder), get_text("notice.version", version=made_by or "?", ours=version("bitnet-bench")))


def _explain(error: BenchError | ValidationError) -> str:
    return error.problem if isinstance(error, BenchError) else format_validation_error(error)


def _read_training(folder: Path, notices: list[Notice]) -> FinetuneRecord | None:
    file = folder / TRAINING_FILE
    if not is_file(file):
        return None
    try:
        return FinetuneRecord.model_validate(read_json(file, ""))
    except (BenchError, ValidationError) as error:
        notices.append(Notice(str(file), get_text("notice.training", why=translate_sentence(_explain(error)))))
        return None
