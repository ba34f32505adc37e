"""The protocols that plugins satisfy. A plugin is a plain class: it inherits nothing from here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord, Measured, Modelled, RuntimeParity, Unavailable


class Progress(Protocol):
    """Told how far a long job is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say that *done* of *total* units are finished; *note* is a short current figure such as the loss."""


class Steps(Protocol):
    """Opens a progress display for one long job after the other."""

    def __call__(self, title: str) -> AbstractContextManager[Progress]:
        """Show *title* and give what to tell the progress to."""


@dataclass(frozen=True)
class Part:
    """Which of a call's requests a session answers.

    Batches are cut from all of them whatever the part, so that an answer has the same bits when others are known
    already, or are computed by another worker. A session that answers more than its part is slow, not wrong.
    """

    known: frozenset[int] = frozenset()
    """Indices of requests whose answers are at hand."""
    worker: int = 0
    workers: int = 1
    """This worker takes every *workers*-th batch, from its own number on."""


ALL = Part()
Answer = TypeVar("Answer")


def in_order(answers: Iterable[Sequence[tuple[int, Answer]]]) -> list[Answer]:
    """Return every answer of a session's call in the order of its requests."""
    return [answer for _, answer in sorted((pair for some in answers for pair in some), key=lambda pair: pair[0])]


class Session(Protocol):
    """An opened model. Token ids in, numbers and ids out: text and prompts are the caller's."""

    tokenizer: Any
    max_length: int
    """The longest sequence in tokens, prompt and continuation together."""
    precision: Precision

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], part: Part = ALL
    ) -> Iterator[Sequence[tuple[int, tuple[float, bool]]]]:
        """Answer (context ids, continuation ids), neither empty: yield (index, answer) as batches are finished.

        The answer is the summed log-probability of the continuation in nats, and whether greedy decoding gives it.
        """

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str], part: Part = ALL
    ) -> Iterator[Sequence[tuple[int, str]]]:
        """Yield (index, greedy continuation) of prompts, up to EOS, a stop string (left out) or the limit."""

    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Read prompts of one length and return an opaque state for `decode`, once the work is really done."""

    def decode(self, state: Any, steps: int) -> Any:
        """Decode *steps* greedy tokens for every row and return the new state, once the work is really done."""

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in memory, bytes of key-value cache per token and row)."""

    # Optional methods: `weights_by_kind()` returns those bytes by kind and dtype, `describe_runtime()` what computes
    # (device, kernels, dtypes), for the record. Optional attributes: `device`, "cpu" or "cuda"; `budget`, tokens of a
    # batch, on which workers agree; `before_waiting`, called when a GPU's work is queued, before it is waited for.


@runtime_checkable
class InferenceBackend(Protocol):
    """Opens checkpoints for scoring and measuring.

    An optional method `prepare(checkpoint)` imports what opening it will need and loads no weight: memory is measured
    over a process that has done that. Another, `configured(options)`, returns the backend set up for a runtime of the
    user's (`RuntimeOptions`).
    """

    def open(self, checkpoint: Checkpoint, precision: Precision) -> AbstractContextManager[Session]:
        """Load *checkpoint*; BenchError if this backend cannot run it at *precision*."""


@dataclass(frozen=True)
class RuntimeOptions:
    """What a user says of a runtime that is not ours."""

    gguf: str | None = None
    """A file to run instead of one that is exported; it must hold the checkpoint's weights."""
    directory: str | None = None
    """The user's own build."""
    despite_parity: bool = False
    """Run it although it computes another model; what it gives is marked."""


NO_OPTIONS = RuntimeOptions()


@runtime_checkable
class CheckedBackend(InferenceBackend, Protocol):
    """A backend over a runtime that is not ours, which is compared with the checkpoint before it is believed."""

    def check(self, checkpoint: Checkpoint, precision: Precision) -> RuntimeParity:
        """Compare the runtime with *checkpoint*, or return what an earlier comparison found.

        BenchError if the runtime is absent or its file holds another model.
        """


def configured(backend: Any, options: RuntimeOptions) -> Any:
    """Return *backend* set up with *options*, if it takes any."""
    return backend.configured(options) if hasattr(backend, "configured") else backend


@dataclass(frozen=True)
class Ingredients:
    """What a job names, found and opened; rows are `bitnet_bench.data.rows.Row`."""

    base: Checkpoint
    rows: Sequence[Any]
    validation: Sequence[Any] = ()
    teacher: Checkpoint | None = None
    overlapping: int = 0
    """Rows of tasks that were left out because their evaluation asks the same."""


@runtime_checkable
class TrainingBackend(Protocol):
    """Fine-tunes checkpoints."""

    def finetune(self, job: FinetuneJob, given: Ingredients, progress: Progress) -> FinetuneRecord:
        """Run *job* and leave a checkpoint and its record in `job.out`.

        Resumable: called again with the same job after a kill, it goes on from the last saved step.
        """


class Meter(Protocol):
    """Reads energy over an interval off a counter of this machine."""

    def start(self) -> None:
        """Begin the interval."""

    def stop(self) -> Measured | Unavailable:
        """End it and return joules, or why there are none: never what a formula gives."""


class EnergyModel(Protocol):
    """Works energy over an interval out by a formula."""

    modelled: Literal[True]

    def start(self) -> None:
        """Begin the interval."""

    def stop(self) -> Modelled | Unavailable:
        """End it and return joules, named as what they are."""


@contextmanager
def quiet(title: str) -> Iterator[Progress]:
    """Show no progress."""
    yield no_progress


def no_progress(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""
