"""Open models that answer a conversation piece by piece, here or on a server."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bitnet_bench import plugins
from bitnet_bench.chat.conversation import Conversation, Message
from bitnet_bench.chat.held_text import HeldText
from bitnet_bench.data.templates import apply_chat_template, make_named_template
from bitnet_bench.data.text_encoding import begins_with_bos
from bitnet_bench.errors import BenchError, RequestRefusedError
from bitnet_bench.evaluation.conversations import FALLBACK_STOPS, FALLBACK_TEMPLATE
from bitnet_bench.evaluation.serving import (
    check_base_url,
    choose_how_to_run,
    connect,
    make_sampling_settings,
    open_model,
)
from bitnet_bench.protocols import RemoteSession, Sampling, ServedAnswer, ServedRequest, Session
from bitnet_bench.runs.choices import AUTO
from bitnet_bench.runs.jobs import ChatJob, EvaluateJob

CONTEXT_WORDS = ("context", "too long", "max_model_len", "maximum length", "exceed")
"""Words with which servers say that a conversation is longer than their context."""


@dataclass(frozen=True)
class Reply:
    """An answer, and what it took; None where nobody says it."""

    text: str
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    first_token_s: float | None = None
    seconds: float | None = None
    is_cut: bool = False
    """True if it ended at the limit of new tokens."""
    dropped: int = 0
    """Number of exchanges at the beginning that the context had no room for."""

    @property
    def tokens_per_s(self) -> float | None:
        """Return the tokens after the first one by the time that they took; None if that is not known."""
        if self.new_tokens is None or self.new_tokens < 2 or self.seconds is None or self.first_token_s is None:
            return None
        took = self.seconds - self.first_token_s
        return (self.new_tokens - 1) / took if took > 0 else None


class Speaker(ABC):
    """A model that answers."""

    name: str
    backend: str
    template: str
    """Name or origin of the template, for people."""
    template_source: str | None = None
    """The template itself, as Jinja; None if only a server has it."""

    @abstractmethod
    def render(self, messages: tuple[Message, ...]) -> str | None:
        """Return the text that the model reads for *messages*; None if only a server knows it."""

    @abstractmethod
    def reply(self, conversation: Conversation) -> Generator[str, None, Reply]:
        """Yield the answer to the last question of *conversation* as it is written, and return the whole."""


@contextmanager
def open_speaker(model: str, backend: str, job: ChatJob) -> Iterator[Speaker]:
    """Open *model* in *backend* and yield what answers; BenchError if it cannot be opened."""
    remote = backend != AUTO and plugins.load_plugin("backends", backend).is_remote
    check_base_url(backend, remote, job.base_url if remote else None)
    scored = EvaluateJob(
        backend=backend,
        **({} if remote else job.model_dump(include={"precision", "tokenizer", "read_as", "libllama", "gpu_layers"})),
        base_url=job.base_url if remote else None,
        api_key_variable=job.api_key_variable,
        request_timeout=job.request_timeout,
    )
    checkpoint = open_model(model, scored)
    precision, runtime = choose_how_to_run(checkpoint, scored)
    backend = runtime.backend
    with connect(checkpoint, backend, precision, scored) as session:
        if isinstance(session, RemoteSession):
            yield RemoteSpeaker(model, backend, session, job)
        else:
            yield LocalSpeaker(model, backend, session, job)


class LocalSpeaker(Speaker):
    """A checkpoint in this process."""

    def __init__(
        self,
        name: str,
        backend: str,
        session: Session,
        job: ChatJob,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name, self.backend = name, backend
        self._session, self._job, self._clock = session, job, clock
        tokenizer = session.tokenizer
        self._stops: tuple[str, ...] = ()
        self.template = "the checkpoint's chat template"
        if not tokenizer.chat_template:
            tokenizer.chat_template = make_named_template(FALLBACK_TEMPLATE)
            self.template = f"the template `{FALLBACK_TEMPLATE}`, because the checkpoint has none"
            self._stops = FALLBACK_STOPS
        self.template_source = str(tokenizer.chat_template)

    def render(self, messages: tuple[Message, ...]) -> str:
        """Return the text up to where the answer begins."""
        return apply_chat_template(self._session.tokenizer, messages, add_generation_prompt=True)

    def reply(self, conversation: Conversation) -> Generator[str, None, Reply]:
        """Yield the pieces of the answer; exchanges that do not fit are left out from the beginning."""
        ids, dropped = self._fit(conversation)
        limit = min(self._job.max_new_tokens, self._session.max_length - len(ids))
        began = self._clock()
        first: float | None = None
        held, whole = HeldText(), ""
        written = self._session.stream(ids, limit, self._stops, **make_sampling_option(self._job))
        while True:
            try:
                piece = next(written)
            except StopIteration as ended:
                seconds = self._clock() - began
                tokens, is_cut = ended.value or (None, False)
                break
            first = self._clock() - began if first is None else first
            whole += piece
            yield from held.add(piece)
        yield from held.finish()
        return Reply(whole.strip(), len(ids), tokens, first, seconds, is_cut, dropped)

    def _fit(self, conversation: Conversation) -> tuple[list[int], int]:
        """Return (ids, exchanges left out) of what leaves room for the answer; BenchError if nothing does."""
        room = self._session.max_length - min(self._job.max_new_tokens, self._session.max_length // 2)
        for dropped in range(conversation.exchanges + 1):
            text = self.render(conversation.list_messages(dropped))
            special = not begins_with_bos(text, self._session.tokenizer)
            ids: list[int] = self._session.tokenizer.encode(text, add_special_tokens=special, verbose=False)
            if len(ids) <= room:
                return ids, dropped
        raise BenchError(
            f"The message has {len(ids):,} tokens, and {self.name} reads {room:,} besides its answer.",
            "Shorten it, or lower `max_new_tokens`.",
        )


class RemoteSpeaker(Speaker):
    """A model on a server, which has its own template."""

    def __init__(self, name: str, backend: str, session: RemoteSession, job: ChatJob) -> None:
        self.name, self.backend = name, backend
        self._session, self._job = session, job
        self.template = "the server's chat template"

    def render(self, messages: tuple[Message, ...]) -> None:
        """Return None: the server does it."""

    def reply(self, conversation: Conversation) -> Generator[str, None, Reply]:
        """Yield the pieces of the answer; exchanges are left out while the server says that there are too many."""
        dropped = 0
        while True:
            settings = make_sampling_settings(self._job)
            request = ServedRequest(tuple(conversation.list_messages(dropped)), self._job.max_new_tokens, (), settings)
            try:
                held = HeldText()
                answer = yield from _hold(self._session.stream(request), held)
                yield from held.finish()
                break
            except RequestRefusedError as error:
                is_long = any(word in error.message.lower() for word in CONTEXT_WORDS)
                if not is_long or dropped >= conversation.exchanges:
                    raise
                dropped += 1
        return Reply(
            answer.text.strip(),
            answer.prompt_tokens,
            answer.new_tokens,
            answer.first_token_s,
            answer.seconds,
            answer.is_cut,
            dropped,
        )


def _hold(pieces: Generator[str, None, ServedAnswer], held: HeldText) -> Generator[str, None, ServedAnswer]:
    """Yield *pieces* through *held* and return what *pieces* returns."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as ended:
            answer: ServedAnswer = ended.value
            return answer
        yield from held.add(piece)


def make_sampling_option(job: ChatJob) -> dict[str, Any]:
    """Return the option of a session that says how tokens are drawn; {} for the most likely ones."""
    if not job.temperature:
        return {}
    return {"sampling": Sampling(job.temperature, job.top_p, job.top_k, job.seed)}
