"""The base classes of plugins: what a backend, a session and a meter must have, and defaults of what they may have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import get_annotations
from typing import Any, Protocol, Self, TypeVar

from bitnet_bench.errors import BenchError, did_you_mean
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord, Measured, Modelled, RuntimeParity, Unavailable

MIN_SIMILARITY = {"method": 0.6, "attribute": 0.8}
"""From this similarity on an unknown name is taken for a misspelt one (`difflib`)."""


class Contract:
    """A base class that knows every public method of its subclasses: one that it does not know is an error.

    A misspelt optional method fails when its class is defined, instead of never being called. A subclass that adds
    public methods on purpose lists them, `class Mine(Session, adds=("logits",))`; abstract ones are added by being
    abstract. Names that begin with an underscore are its own. An attribute fails only where its name is nearly a known
    one.
    """

    def __init_subclass__(cls, adds: Sequence[str] = (), **options: Any) -> None:
        super().__init_subclass__(**options)
        if Contract not in cls.__bases__:  # what a direct subclass defines is what is known
            _check_names(cls, adds)


def _check_names(cls: type, adds: Sequence[str]) -> None:
    """Raise BenchError for a public method of *cls* that is neither known to its bases, nor abstract, nor added."""
    bases, parents = cls.__mro__[1:], " or ".join(base.__name__ for base in cls.__bases__ if issubclass(base, Contract))
    known = {name for base in bases for name in (*vars(base), *get_annotations(base)) if not name.startswith("_")}
    for name, value in vars(cls).items():
        if name.startswith("_") or name in known or name in adds or getattr(value, "__isabstractmethod__", False):
            continue
        kind = "method" if _is_method(value) else "attribute"
        meant = did_you_mean(name, sorted(known), cutoff=MIN_SIMILARITY[kind])
        if kind == "method" or meant:
            own = f"start its name with an underscore, or list it: `class {cls.__name__}(..., adds=({name!r},))`"
            raise BenchError(
                f"{cls.__qualname__} defines the {kind} {name!r}, which {parents} does not have.",
                f"{meant} If it is your own, {own}.".lstrip(),
            )


def _is_method(value: object) -> bool:
    if isinstance(value, classmethod | staticmethod | property | cached_property):
        return True
    return callable(value) and not isinstance(value, type)


class Progress(Protocol):
    """Told how far a long job is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say that *done* of *total* units are finished; *note* is a short current figure such as the loss."""


class ProgressDisplay(Protocol):
    """Opens a progress display for one long job after the other."""

    def __call__(self, title: str) -> AbstractContextManager[Progress]:
        """Show *title* and give what to tell the progress to."""


@dataclass(frozen=True)
class Share:
    """Which of a call's requests a session answers.

    Batches are cut from all of them whatever the part, so that an answer has the same bits when others are known
    already, or are computed by another worker. A session that answers more than its part is slow, not wrong.
    """

    known: frozenset[int] = frozenset()
    """Indices of requests whose answers are at hand."""
    worker: int = 0
    workers: int = 1
    """This worker takes every *workers*-th batch, from its own number on."""


ALL_REQUESTS = Share()
Answer = TypeVar("Answer")


def sort_answers(answers: Iterable[Sequence[tuple[int, Answer]]]) -> list[Answer]:
    """Return every answer of a session's call in the order of its requests."""
    return [answer for _, answer in sorted((pair for some in answers for pair in some), key=lambda pair: pair[0])]


class Session(Contract, ABC):
    """An opened model. Token ids in, numbers and ids out: text and prompts are the caller's."""

    tokenizer: Any
    max_length: int
    """The longest sequence in tokens, prompt and continuation together."""
    precision: Precision
    device: str = "cpu"
    """`cuda` where a GPU computes."""
    arithmetic: str = ""
    """What decides the last bits of answers, by which they are kept apart; empty: the device alone."""
    budget: int | None = None
    """Tokens of a batch, on which workers agree; None where batches do not depend on the memory that is free."""
    before_waiting: Callable[[], None] | None = None
    """Called when a GPU's work is queued, before it is waited for: whoever times a GPU records an event there."""

    @abstractmethod
    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, tuple[float, bool]]]]:
        """Answer (context ids, continuation ids), neither empty: yield (index, answer) as batches are finished.

        The answer is the summed log-probability of the continuation in nats, and whether greedy decoding gives it.
        """

    @abstractmethod
    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, str]]]:
        """Yield (index, greedy continuation) of prompts, up to EOS, a stop string (left out) or the limit."""

    @abstractmethod
    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Read prompts of one length and return an opaque state for `decode`, once the work is really done."""

    @abstractmethod
    def decode(self, state: Any, steps: int) -> Any:
        """Decode *steps* greedy tokens for every row and return the new state, once the work is really done."""

    @abstractmethod
    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in memory, bytes of key-value cache per token and row)."""

    def weights_by_kind(self) -> dict[str, int]:
        """Return the bytes of the weights by kind and dtype; {} where they are not told apart."""
        return {}

    def describe_runtime(self) -> str | None:
        """Return what computes (device, kernels, dtypes), for the record; None where there is nothing to say."""
        return None


@dataclass(frozen=True)
class RuntimeOptions:
    """What a user says of a runtime that is not ours."""

    gguf: str | None = None
    """A file to run instead of one that is exported; it must hold the checkpoint's weights."""
    directory: str | None = None
    """The user's own build."""
    allow_mismatch: bool = False
    """Run it although it computes another model; what it gives is marked."""


NO_OPTIONS = RuntimeOptions()


class Backend(Contract):
    """What every backend has; it runs checkpoints, trains them, or both, by the bases below."""

    summary: str = ""
    """One line for `bitnet-bench backends`."""

    def configured(self, options: RuntimeOptions) -> Self:
        """Return this backend set up with what the user says of a runtime; by default nothing of it matters."""
        return self


class InferenceBackend(Backend, ABC, adds=("prepare",)):
    """Opens checkpoints for scoring and measuring."""

    @abstractmethod
    def open(self, checkpoint: Checkpoint, precision: Precision) -> AbstractContextManager[Session]:
        """Load *checkpoint*; BenchError if this backend cannot run it at *precision*."""

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Import what opening *checkpoint* needs, and load no weight: memory is measured over a process that did so."""


class CheckedBackend(InferenceBackend):
    """A backend over a runtime that is not ours, which is compared with the checkpoint before it is believed."""

    @abstractmethod
    def check(self, checkpoint: Checkpoint, precision: Precision) -> RuntimeParity:
        """Compare the runtime with *checkpoint*, or return what an earlier comparison found.

        BenchError if the runtime is absent or its file holds another model.
        """


@dataclass(frozen=True)
class TrainingInputs:
    """What a job names, found and opened; rows are `bitnet_bench.data.rows.Row`."""

    base: Checkpoint
    rows: Sequence[Any]
    validation: Sequence[Any] = ()
    teacher: Checkpoint | None = None
    overlapping: int = 0
    """Rows of tasks that were left out because their evaluation asks the same."""


class TrainingBackend(Backend, ABC):
    """Fine-tunes checkpoints."""

    @abstractmethod
    def finetune(self, job: FinetuneJob, given: TrainingInputs, progress: Progress) -> FinetuneRecord:
        """Run *job* and leave a checkpoint and its record in `job.out`.

        Resumable: called again with the same job after a kill, it goes on from the last saved step.
        """


class EnergySource(Contract, ABC):
    """What `measure` asks for the energy of an interval: a `Meter` reads it, an `EnergyModel` works it out."""

    modelled: bool = False
    """Whether the joules come out of a formula."""

    def why_absent(self) -> str | None:
        """Return why nothing can be read on this machine, or None if that shows only when it is tried."""
        return None

    @abstractmethod
    def start(self) -> None:
        """Begin the interval."""

    @abstractmethod
    def stop(self) -> Measured | Modelled | Unavailable:
        """End it and return joules, or why there are none."""


class Meter(EnergySource):
    """Reads energy over an interval off a counter of this machine."""

    @abstractmethod
    def stop(self) -> Measured | Unavailable:
        """End it and return joules, or why there are none: never what a formula gives."""


class EnergyModel(EnergySource):
    """Works energy over an interval out by a formula."""

    modelled = True

    @abstractmethod
    def stop(self) -> Modelled | Unavailable:
        """End it and return joules, named as what they are."""


@contextmanager
def no_display(title: str) -> Iterator[Progress]:
    """Show no progress."""
    yield no_progress


def no_progress(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""
