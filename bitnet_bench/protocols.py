"""The base classes of plugins: required members of backends, sessions and meters, and defaults of optional ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from inspect import get_annotations
from typing import Any, Protocol, Self, TypeVar

from bitnet_bench.errors import BenchError, did_you_mean
from bitnet_bench.runs.choices import Activations, KvCache, Precision
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord, Measured, Modelled, RuntimeParity, Unavailable

MIN_SIMILARITY = {"method": 0.6, "attribute": 0.8}
"""Similarity (`difflib`) from which an unknown name counts as a misspelt one."""


class Contract:
    """A base class that defines every public method of its subclasses; a method with another name is an error.

    A misspelt optional method fails when its class is defined, instead of never being called. A subclass that adds
    public methods on purpose lists them, `class Mine(Session, adds=("logits",))`; abstract methods need no listing.
    Names that begin with an underscore are always allowed. An attribute fails only if its name is nearly a known one.
    """

    def __init_subclass__(cls, adds: Sequence[str] = (), **options: Any) -> None:
        super().__init_subclass__(**options)
        if Contract not in cls.__bases__:  # a direct subclass defines the known names
            _check_names(cls, adds)


def _check_names(cls: type, adds: Sequence[str]) -> None:
    """Raise BenchError for a public method of *cls* that is not in its bases, not abstract, and not in *adds*."""
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
    """Function that reports how far a long job is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report that *done* of *total* units are finished; *note* is a short current figure such as the loss."""


class ProgressDisplay(Protocol):
    """Function that opens a progress display for each long job."""

    def __call__(self, title: str) -> AbstractContextManager[Progress]:
        """Show *title* and return a context that yields the `Progress` to report to."""


@dataclass(frozen=True)
class Share:
    """The requests of a call that a session answers.

    Batches are cut from all requests whatever the share, so that an answer has the same bits when others are known
    already or are computed by another worker. A session that answers more than its share is slow, not wrong.
    """

    known: frozenset[int] = frozenset()
    """Indices of requests whose answers are known already."""
    worker: int = 0
    workers: int = 1
    """Number of workers; this one takes every *workers*-th batch, starting at its own number."""


ALL_REQUESTS = Share()
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: the most likely one at temperature 0, else drawn at random.

    As in transformers, logits are divided by the temperature, then all but the *top_k* largest are left out, then all
    but the most likely ones that reach *top_p* of the probability together. A token is drawn with a random number that
    depends on nothing but the seed, the ids of the prompt, the number of the draw, and the place of the token, so that
    neither other requests nor their order change a text.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    """None for all tokens."""
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Return whether nothing is random."""
        return self.temperature == 0.0


GREEDY = Sampling()


@dataclass(frozen=True)
class Thoughts:
    """The marks around a thought before an answer; a stop string inside a thought does not end the text."""

    begin: str = "<think>"
    end: str = "</think>"
    opened: bool = False
    """True if the prompts end inside a thought."""


@dataclass(frozen=True)
class Completion:
    """Text that continues a prompt."""

    text: str
    cut: bool = False
    """True if the limit of new tokens or the end of the context ended it, not the model or a stop string."""
    thought: str = ""
    """Thought that a runtime returns apart from the text; a session whose text holds the thought leaves it there."""


def sort_answers(answers: Iterable[Sequence[tuple[int, Answer]]]) -> list[Answer]:
    """Return every answer of a session's call in the order of its requests."""
    return [answer for _, answer in sorted((pair for some in answers for pair in some), key=lambda pair: pair[0])]


class Session(Contract, ABC):
    """An opened model: token ids in, numbers and ids out. Text and prompts are up to the caller."""

    tokenizer: Any
    max_length: int
    """Longest sequence in tokens, prompt and continuation together."""
    precision: Precision
    device: str = "cpu"
    """Device that computes: `cuda` for a GPU."""
    arithmetic: str = ""
    """What decides the last bits of answers, and so which stored answers may be used; empty: the device alone."""
    budget: int | None = None
    """Tokens per batch, on which workers agree; None if batches do not depend on the free memory."""
    before_waiting: Callable[[], None] | None = None
    """Function called when a GPU's work is queued, before waiting for it; a timer records a GPU event in it."""

    @abstractmethod
    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, tuple[float, bool]]]]:
        """Score pairs (context ids, continuation ids), neither empty: yield (index, answer) as batches are finished.

        The answer is the summed log-probability of the continuation in nats, and whether greedy decoding gives it.
        """

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[str],
        part: Share = ALL_REQUESTS,
        sampling: Sampling = GREEDY,
        draws: Sequence[int] = (),
        thoughts: Thoughts | None = None,
    ) -> Iterator[Sequence[tuple[int, Completion]]]:
        """Yield (index, continuation) of prompts, up to EOS, a stop string (left out), the limit or `max_length`.

        *draws* numbers the answers to equal prompts, 0 for all if it is empty; prompts with equal ids and numbers are
        answered alike. The last three are given only where they differ from their defaults.
        """

    def stream(
        self, prompt: Sequence[int], max_new_tokens: int, stop: Sequence[str] = (), **options: Any
    ) -> Generator[str, None, tuple[int, bool] | None]:
        """Yield the continuation of one prompt piece by piece; by default all at once.

        Return (number of new tokens, whether the limit ended it), or None if that is not known. *options* are those
        of `generate`.
        """
        for some in self.generate([prompt], max_new_tokens, stop, **options):
            for _, answer in some:
                yield answer.text
        return None

    @abstractmethod
    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Read prompts of one length and return an opaque state for `decode`, after all queued work is finished."""

    @abstractmethod
    def decode(self, state: Any, steps: int) -> Any:
        """Decode *steps* greedy tokens per row and return the new state, after all queued work is finished."""

    @abstractmethod
    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in memory, bytes of key-value cache per token and row)."""

    def weights_by_kind(self) -> dict[str, int]:
        """Return the bytes of the weights by kind and dtype; {} if they are not distinguished."""
        return {}

    def describe_runtime(self) -> str | None:
        """Return what computes (device, kernels, dtypes), for the record; None if there is nothing to report."""
        return None


@dataclass(frozen=True)
class RuntimeOptions:
    """The user's options for an external runtime."""

    gguf: str | None = None
    """GGUF file to run instead of an exported one; it must hold the checkpoint's weights."""
    directory: str | None = None
    """Folder of the user's own build."""
    allow_mismatch: bool = False
    """True to run it although it computes another model; its results are marked."""
    library: str | None = None
    """Folder or file of a libllama of the user's own; None for that of an installed wheel."""
    gpu_layers: int = 0
    """Number of layers that a libllama keeps on the GPU."""
    activations: Activations = "checkpoint"
    """int8 to round the activations of a model that takes floats; what that changes is measured and recorded."""
    kv_cache: KvCache = "exact"
    """bf16 to keep keys and values in bfloat16; what that changes is measured and recorded."""


NO_OPTIONS = RuntimeOptions()


class Backend(Contract):
    """What every backend has; the base classes below add running checkpoints, training them, or both."""

    summary: str = ""
    """One line for `bitnet-bench backends`."""
    runs_gguf: bool = False
    """True if a GGUF file is run as it is, at the precision that its layers are stored in."""

    is_remote: bool = False
    """True if models are reached on a server (`RemoteBackend`)."""

    def configured(self, options: RuntimeOptions) -> Self:
        """Return this backend with the user's *options* for a runtime.

        By default they are ignored; BenchError for keys and values in bfloat16, which would be an answer to another
        question.
        """
        if options.kv_cache != "exact":
            raise BenchError(
                "This backend keeps keys and values in the dtype of the model.",
                "Leave out `kv_cache`; it is for `backend=ternary`.",
            )
        return self

    def find_runtime(self) -> str:
        """Return what computes on this machine, with its version; BenchError if it is missing, with how to get it."""
        return ""


class InferenceBackend(Backend, ABC, adds=("prepare",)):
    """Opens checkpoints for scoring and measuring."""

    @abstractmethod
    def open(self, checkpoint: Checkpoint, precision: Precision) -> AbstractContextManager[Session]:
        """Load *checkpoint*; BenchError if this backend cannot run it at *precision*."""

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Import what opening *checkpoint* needs, but load no weights: memory is measured relative to this state."""


class CheckedBackend(InferenceBackend):
    """A backend for an external runtime, which is compared with the checkpoint before its results are used."""

    @abstractmethod
    def check(self, checkpoint: Checkpoint, precision: Precision) -> RuntimeParity:
        """Compare the runtime with *checkpoint*, or return what an earlier comparison found.

        BenchError if the runtime is missing or its file holds another model.
        """


@dataclass(frozen=True)
class Endpoint:
    """A model on a server that speaks OpenAI's protocol. The key is shown nowhere, and sent to this server alone."""

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    """Number of requests that are open at a time."""
    timeout_s: float = 300.0
    """Seconds without a byte after which a request is given up and sent again."""


@dataclass(frozen=True)
class ServedRequest:
    """A text to continue, or a conversation whose next turn is asked for."""

    prompt: str | tuple[Mapping[str, str], ...]
    """A text for `completions`; messages with `role` and `content` for `chat/completions`."""
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request's body, such as `temperature`."""


@dataclass(frozen=True)
class ServedAnswer:
    """A generated text, with what the server counted; None where it says nothing."""

    text: str
    is_cut: bool = False
    """True if it ended at the limit of new tokens."""
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    first_token_s: float | None = None
    seconds: float | None = None
    thought: str = ""
    """What a server with a parser of thoughts keeps apart from the answer."""


class RemoteSession(Contract, ABC):
    """A connection to a model on a server: text in, text and numbers out."""

    about: Mapping[str, Any]
    """What the server says of the model; the same for the same model, however often the server is started."""
    budget: int | None = None
    """As in `Session`: batches do not depend on memory here."""

    @abstractmethod
    def loglikelihood(
        self, requests: Sequence[tuple[str, str]], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, tuple[float, bool]]]]:
        """Score pairs (context, continuation) of text as `Session.loglikelihood` does.

        BenchError if the server returns no log-probabilities of a prompt, or numbers that are none.
        """

    @abstractmethod
    def generate(
        self, requests: Sequence[ServedRequest], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, ServedAnswer]]]:
        """Yield (index, answer) as the answers come."""

    @abstractmethod
    def stream(self, request: ServedRequest) -> Generator[str, None, ServedAnswer]:
        """Yield the answer piece by piece as it comes, and return the whole."""

    @abstractmethod
    def describe_runtime(self) -> str:
        """Return what computes, as far as the server says it, for the record."""


class RemoteBackend(Backend, ABC):
    """Reaches models on servers, whose weights are not here."""

    is_remote = True

    @abstractmethod
    def connect(self, endpoint: Endpoint) -> AbstractContextManager[RemoteSession]:
        """Ask the server for the model; BenchError if it does not answer, refuses the key, or lacks the model."""


@dataclass(frozen=True)
class TrainingInputs:
    """The inputs of a job, found and opened; rows are `bitnet_bench.data.rows.Row`."""

    base: Checkpoint
    rows: Sequence[Any]
    validation: Sequence[Any] = ()
    teacher: Checkpoint | None = None
    overlapping: int = 0
    """Number of rows of tasks that were left out because they are also test rows."""


class TrainingBackend(Backend, ABC):
    """Fine-tunes checkpoints."""

    @abstractmethod
    def finetune(self, job: FinetuneJob, given: TrainingInputs, progress: Progress) -> FinetuneRecord:
        """Run *job* and leave a checkpoint and its record in `job.out`.

        Called again with the same job after a kill, it resumes from the last saved step.
        """


class EnergySource(Contract, ABC):
    """Source of the energy of an interval in `measure`: a `Meter` reads it, an `EnergyModel` computes it."""

    modelled: bool = False
    """True if the joules come from a formula."""

    def why_absent(self) -> str | None:
        """Return why nothing can be read on this machine; None if that shows only when it is tried."""
        return None

    @abstractmethod
    def start(self) -> None:
        """Begin the interval."""

    @abstractmethod
    def stop(self) -> Measured | Modelled | Unavailable:
        """End the interval and return joules, or why there are none."""


class Meter(EnergySource):
    """Reads energy over an interval from a counter of this machine."""

    @abstractmethod
    def stop(self) -> Measured | Unavailable:
        """End the interval and return joules, or why there are none; never a value from a formula."""


class EnergyModel(EnergySource):
    """Computes energy over an interval with a formula."""

    modelled = True

    @abstractmethod
    def stop(self) -> Modelled | Unavailable:
        """End the interval and return joules, marked as modelled."""


@contextmanager
def no_display(title: str) -> Iterator[Progress]:
    """Show no progress."""
    yield no_progress


@contextmanager
def show_phase(steps: ProgressDisplay, title: str) -> Iterator[None]:
    """Show that something is being done whose parts are not counted, such as loading a model."""
    with steps(title) as progress:
        progress(0, 1)
        yield
        progress(1, 1)


def no_progress(done: int, total: int, note: str = "") -> None:
    """Ignore the progress."""
