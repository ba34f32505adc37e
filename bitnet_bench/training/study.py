"""Keep the trials of an arm's search as an Optuna study: what was tried, its losses by steps, and what became of it.

The study is in a journal beside the record of the search: a file that is only appended to, so that a kill costs a line
at most, and whose lock works on shared file systems. A search walks through its trials in the same order whenever it
is started, and a trial is found again by its number.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from bitnet_bench.errors import BenchError
from bitnet_bench.runs.jobs import FinetuneJob

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

STUDY_FILE = "search.journal"
RANGE_PATTERN = re.compile(r"(?P<low>[-+.\deE]*\d)\.\.(?P<high>[-+.\deE]*\d)")
LOG_RATIO = 10.0
"""Ratio of the ends of a range from which on it is searched in factors instead of steps."""
SHOWN_DIGITS = 4
Point = dict[str, str]
"""Settings of a trial: field -> value as it was given, or drawn."""
Space = Mapping[str, Sequence[str]]
"""Values of each field, as text; a single one may be a range such as `1e-5..1e-3`."""


class ValueRange(NamedTuple):
    """All values between two, both included."""

    low: float
    high: float
    is_whole: bool
    """True for a field that takes whole numbers."""

    @property
    def is_log(self) -> bool:
        """True if values are drawn so that each factor is as likely as any other."""
        return self.low > 0 and self.high / self.low >= LOG_RATIO


def find_range(field: str, values: Sequence[str]) -> ValueRange | None:
    """Return the range that *values* of a field of a job are; None if they are a list."""
    found = RANGE_PATTERN.fullmatch(values[0].strip()) if len(values) == 1 else None
    if not found:
        return None
    try:
        low, high = float(found["low"]), float(found["high"])
    except ValueError:
        return None
    kinds = list(_list_kinds(FinetuneJob.model_fields[field].annotation))
    return ValueRange(low, high, int in kinds and float not in kinds)


def _list_kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types of which a field takes one, whatever bounds they stand with."""
    yield annotation
    for part in get_args(annotation):
        yield from _list_kinds(part)


def has_ranges(space: Space) -> bool:
    """Return whether settings have to be drawn, because some field has a range and not a list."""
    return any(find_range(field, values) for field, values in space.items())


def require_optuna() -> None:
    """Raise BenchError if Optuna, which the extra `search` brings, is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise BenchError(
            "A search needs Optuna, which is not installed.", "pip install 'bitnet-bench[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def describe_sampler(space: Space) -> str:
    """Return what chose the settings of a search."""
    import optuna

    return f"TPESampler, Optuna {optuna.__version__}" if has_ranges(space) else "every combination"


class ArmStudy:
    """The study of one arm.

    *file* is its journal; None keeps it in memory, as the processes do that are not the first of several: all of them
    make the same walk, so that they draw the same settings.
    """

    def __init__(self, file: Path | None, arm: str, space: Space, seed: int) -> None:
        import optuna

        self._file, self._space, self._seed = file, space, seed
        self.name = f"{arm} {_digest_space(space, seed)}"
        self._study: Study = _open_study(file, self.name)
        self._state = optuna.trial.TrialState

    def propose(self, number: int, point: Point | None = None) -> Point:
        """Return the settings of a trial: *point*, or those that are drawn, or were drawn before.

        What is drawn depends on the seed, on the number, and on the trials that have ended, and on nothing else.
        """
        with _explain_journal(self._file):
            return self._propose(number, point)

    def _propose(self, number: int, point: Point | None) -> Point:
        from optuna.samplers import TPESampler
        from optuna.trial import Trial

        trials = self._study.get_trials(deepcopy=False)
        assert number <= len(trials), "trials are proposed one after the other"
        self._study.sampler = TPESampler(seed=self._seed * 100_003 + number)
        if number == len(trials) and point is not None:
            self._study.enqueue_trial(dict(point))
        if number == len(trials) or trials[number].state == self._state.WAITING:
            trial = self._study.ask()
        else:
            trial = Trial(self._study, trials[number]._trial_id)  # how a trial that was running goes on
        drawn = {field: self._suggest(trial, field) for field in self._space}
        if not trials[number : number + 1] or not trials[number].state.is_finished():
            trial.set_user_attr("settings", drawn)
        return drawn

    def report(self, number: int, steps: int, loss: float) -> None:
        """Record the validation loss of a run of *steps* with the settings of a trial."""
        from optuna.trial import Trial

        with _explain_journal(self._file):
            known = self._study.get_trials(deepcopy=False)[number]
            if not known.state.is_finished() and steps not in known.intermediate_values:
                Trial(self._study, known._trial_id).report(loss, steps)

    def complete(self, number: int, loss: float) -> None:
        """Record that the settings were run in full."""
        with _explain_journal(self._file):
            self._study.tell(number, loss, skip_if_finished=True)

    def prune(self, number: int) -> None:
        """Record that the settings were given up."""
        with _explain_journal(self._file):
            self._study.tell(number, state=self._state.PRUNED, skip_if_finished=True)

    def fail(self, number: int) -> None:
        """Record that a run with the settings diverged."""
        with _explain_journal(self._file):
            self._study.tell(number, state=self._state.FAIL, skip_if_finished=True)

    def _suggest(self, trial: Trial, field: str) -> str:
        values = self._space[field]
        span = find_range(field, values)
        if span is None:
            return trial.suggest_categorical(field, list(values))
        if span.is_whole:
            return str(trial.suggest_int(field, int(span.low), int(span.high), log=span.is_log))
        return f"{trial.suggest_float(field, span.low, span.high, log=span.is_log):.{SHOWN_DIGITS}g}"


def _digest_space(space: Space, seed: int) -> str:
    """Return a name for a space: a study takes no others, and a search may be extended in its folder."""
    text = json.dumps([{field: list(values) for field, values in space.items()}, seed])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _open_study(file: Path | None, name: str) -> Study:
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if file is None:
        return optuna.create_study(storage=InMemoryStorage(), study_name=name, direction="minimize")
    place = file.absolute()  # a lock that a killed process left is found to be old only by an absolute path
    place.parent.mkdir(parents=True, exist_ok=True)
    _drop_unfinished_line(place)
    with _explain_journal(file):
        storage = JournalStorage(JournalFileBackend(str(place)))
        return optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)


@contextmanager
def _explain_journal(file: Path | None) -> Iterator[None]:
    """Raise BenchError for what Optuna raises over *file*: a journal may hold any JSON, and is read at every call."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if file is None:
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        raise BenchError(
            f"{file} is not the journal of a search: {said}.",
            "Delete it and search again: runs that are finished are not repeated.",
        ) from error


def _drop_unfinished_line(file: Path) -> None:
    """Cut off a last line that a kill left without its end: what is appended to it could not be read."""
    if not file.is_file():
        return
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(file, whole)
        logging.getLogger(__name__).info("%s ended in the middle of a line, which is cut off.", file)
