"""A session on a server: generated answers come as streams, and log-probabilities where the server gives them."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from bitnet_bench.backends.openai.concurrency import run_concurrently
from bitnet_bench.backends.openai.likelihood import EchoScorer, LlamaServerScorer, Scorer, find_scorer
from bitnet_bench.backends.openai.retrying import Retrier
from bitnet_bench.backends.openai.transport import NoConnectionError, TransientError, Transport, parse_base_url
from bitnet_bench.errors import BenchError, EndpointLostError, RequestRefusedError, UsageError, did_you_mean
from bitnet_bench.protocols import ALL_REQUESTS, Endpoint, RemoteSession, ServedAnswer, ServedRequest, Share

DESCRIPTION_FIELDS = ("owned_by", "root", "parent", "max_model_len", "context_length", "meta", "architecture")
"""What servers say of a model that stays the same when they are started again."""
MAX_DESCRIPTION_CHARACTERS = 4000
MAX_STOPS = 4
"""Number of stop strings that OpenAI's protocol takes; further ones end the answer here."""
MAX_NAMED_MODELS = 8
LLAMA_SERVER = "llamacpp"
"""What llama-server says of itself as owner of a model."""


class OpenAISession(RemoteSession, adds=("check_model", "close")):
    """Sends requests to one model of a server, several at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        retrier: Retrier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint, self._clock = endpoint, clock
        self._transport = Transport(parse_base_url(endpoint.base_url), endpoint.api_key, endpoint.timeout_s)
        self._retrier = retrier or Retrier(self._transport.host)
        self._scorer: Scorer | BenchError | None = None
        """How log-probabilities are read, or why they are not; None until it is tried."""
        self._left_out: set[str] = set()
        """Optional fields that the server has refused."""
        self.about: Mapping[str, Any] = {}

    def close(self) -> None:
        """End all requests."""
        self._retrier.stop()
        self._transport.close()

    def check_model(self) -> None:
        """Ask what models there are, and what the server says of ours; one without a list is taken at its word.

        A server that still loads its model is waited for, but one that is not there is said at once.
        """
        try:
            listed = self._retrier.run(lambda: self._get_or_lost("models"))
        except (EndpointLostError, RequestRefusedError) as error:
            if "(HTTP 404)" not in error.problem:
                raise
            return
        models = listed.get("data") if isinstance(listed, dict) else None
        found = [one for one in models if isinstance(one, dict)] if isinstance(models, list) else []
        ours = next((one for one in found if self._endpoint.model in (one.get("id"), *_list_aliases(one))), None)
        if ours is None and found:
            names = [str(one.get("id")) for one in found]
            more = f", and {len(names) - MAX_NAMED_MODELS:,} more" if len(names) > MAX_NAMED_MODELS else ""
            raise UsageError(
                f"{self._transport.host} serves no model {self._endpoint.model}.",
                f"{did_you_mean(self._endpoint.model, names)} It serves {', '.join(names[:MAX_NAMED_MODELS])}{more}; "
                "give one of them as `model`.".lstrip(),
            )
        self.about = _describe(ours or {})

    def _get_or_lost(self, path: str) -> Any:
        """Return a document; EndpointLostError at once if there is no server to connect to."""
        try:
            return self._transport.get(path)
        except NoConnectionError as error:
            raise EndpointLostError(
                f"{self._transport.host} {error.why}.", "Start the server, or correct `base_url` (http or https?)."
            ) from None

    def describe_runtime(self) -> str:
        """Return the protocol, and what the server says of the model."""
        owner = self.about.get("owned_by")
        return f"a server of {owner}, over OpenAI's protocol" if owner else "a server, over OpenAI's protocol"

    def loglikelihood(
        self, requests: Sequence[tuple[str, str]], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, tuple[float, bool]]]]:
        """Yield the answers of all requests with the same context together."""
        groups: dict[str, list[int]] = defaultdict(list)
        for i, (context, _) in enumerate(requests):
            spaces = len(context) - len(context.rstrip())  # as lm-eval does: they begin the continuation
            groups[context[: len(context) - spaces]].append(i)

        scorer: Scorer

        def score(context: str) -> list[tuple[int, tuple[float, bool]]]:
            members = groups[context]
            whole = ["".join(requests[i])[len(context) :] for i in members]
            try:
                return list(zip(members, scorer.score(context, whole), strict=True))
            except ValueError as error:
                raise RequestRefusedError(f"{self._transport.host} does not score a row: {error}.") from None
            except RequestRefusedError as error:
                error.request = members[0]
                raise

        own = islice(groups, part.worker, None, part.workers)
        left = [context for context in own if not part.known.issuperset(groups[context])]
        if left:
            scorer = self._find_scorer()
            yield from self._run(left, score)

    def _find_scorer(self) -> Scorer:
        if self._scorer is None:
            known = (EchoScorer(self._post, self._endpoint.model), LlamaServerScorer(self._post, self._endpoint.model))
            try:
                self._scorer = find_scorer(known, self._transport.host)
            except BenchError as error:
                self._scorer = error
        if isinstance(self._scorer, BenchError):
            raise self._scorer
        return self._scorer

    def _post(self, path: str, body: dict[str, Any], at_root: bool = False) -> Any:
        return self._retrier.run(lambda: self._transport.post(path, body, at_root))

    def generate(
        self, requests: Sequence[ServedRequest], part: Share = ALL_REQUESTS
    ) -> Iterator[Sequence[tuple[int, ServedAnswer]]]:
        """Yield (index, answer) as the answers come, up to `concurrency` requests at a time."""

        def answer(i: int) -> list[tuple[int, ServedAnswer]]:
            try:
                return [(i, self._retrier.run(lambda: _exhaust(self._stream(requests[i]))))]
            except RequestRefusedError as error:
                error.request = i
                raise

        own = range(part.worker, len(requests), part.workers)
        yield from self._run([i for i in own if i not in part.known], answer)

    def _run(self, items: Sequence[Any], work: Callable[[Any], Any]) -> Iterator[Any]:
        with closing(run_concurrently(items, work, self._endpoint.concurrency, self._renew)) as results:
            yield from results

    def _renew(self) -> None:
        """End all requests that are under way; the session can be asked again."""
        retrier, transport = self._retrier, self._transport
        self._retrier, self._transport = retrier.renew(), transport.renew()
        retrier.stop()
        transport.close()

    def stream(self, request: ServedRequest) -> Generator[str, None, ServedAnswer]:
        """Yield the pieces of one answer and return the whole; it is asked for again until the first piece comes."""

        def begin() -> tuple[Generator[str, None, ServedAnswer], str] | ServedAnswer:
            pieces = self._stream(request)
            try:
                return pieces, next(pieces)
            except StopIteration as ended:
                whole: ServedAnswer = ended.value
                return whole

        begun = self._retrier.run(begin)
        if isinstance(begun, ServedAnswer):
            return begun
        pieces, first = begun
        try:
            yield first
            return (yield from pieces)
        except TransientError as error:
            raise RequestRefusedError(f"{self._transport.host} {error.why}.", "Ask again.") from None
        finally:
            pieces.close()

    def _stream(self, request: ServedRequest) -> Generator[str, None, ServedAnswer]:
        """Yield the pieces of one answer and return the whole; TransientError if it has to be asked again."""
        while True:
            try:
                return (yield from self._stream_once(request))
            except RequestRefusedError as error:
                if not self._leave_out(error.message):
                    raise

    def _leave_out(self, message: str) -> bool:
        """Remember a field that *message* refuses and that we can do without; return whether there is one."""
        for name in ("stream_options", "max_tokens", "cache_prompt"):
            if name in message and name not in self._left_out:
                self._left_out.add(name)
                return True
        return False

    def _stream_once(self, request: ServedRequest) -> Generator[str, None, ServedAnswer]:
        is_chat = not isinstance(request.prompt, str)
        answer = _Answer(request.stop, self._clock)
        events = self._transport.post_stream("chat/completions" if is_chat else "completions", self._body(request))
        with closing(events):
            for event in events:
                yield from answer.add(event)
                if answer.is_stopped:
                    break  # the server generates on, but nobody reads it
        if not answer.has_choice:
            raise TransientError("answers without a choice", is_away=False)
        yield from answer.finish()
        return answer.make()

    def _body(self, request: ServedRequest) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            **({"prompt": request.prompt} if isinstance(request.prompt, str) else {"messages": list(request.prompt)}),
            limit: request.max_new_tokens,
            "temperature": 0,
            **request.settings,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if stops := [mark for mark in request.stop if mark][:MAX_STOPS]:
            body["stop"] = stops
        if self.about.get("owned_by") == LLAMA_SERVER:
            body["cache_prompt"] = False  # what other requests left in its cache would change the last bits
        return {name: value for name, value in body.items() if name not in self._left_out}


class _Answer:
    """Collects the events of a streamed answer, and holds back what may be the beginning of a stop string."""

    def __init__(self, stop: Sequence[str], clock: Callable[[], float]) -> None:
        self._stop = [mark for mark in stop if mark]
        self._clock, self._began = clock, clock()
        self._text, self._shown = "", 0
        self._thought = ""
        self._first_s: float | None = None
        self._usage: Mapping[str, Any] = {}
        self._is_cut = False
        self.has_choice = False
        self.is_stopped = False
        """True once a stop string has come that the server does not know."""

    def add(self, event: Mapping[str, Any]) -> Iterator[str]:
        """Take one event and yield the new text that is certain to stay."""
        if isinstance(event.get("usage"), dict):
            self._usage = event["usage"]
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return
        choice = choices[0]
        self.has_choice = True
        self._is_cut = self._is_cut or choice.get("finish_reason") == "length"
        said = choice.get("delta") or choice.get("message") or choice
        if not isinstance(said, dict):
            raise TransientError("answers with JSON of another form", is_away=False)
        text = said.get("content") or said.get("text") or ""
        thought = said.get("reasoning_content") or said.get("reasoning") or ""
        if not isinstance(text, str) or not isinstance(thought, str):
            raise TransientError("answers with JSON of another form", is_away=False)
        if (text or thought) and self._first_s is None:
            self._first_s = self._clock() - self._began
        self._thought += thought
        self._text += text
        yield from self._show(is_last=False)

    def finish(self) -> Iterator[str]:
        """Yield the rest of the text."""
        yield from self._show(is_last=True)

    def _show(self, is_last: bool) -> Iterator[str]:
        cuts = [at for mark in self._stop if (at := self._text.find(mark)) >= 0]
        if cuts:
            self._text, self.is_stopped = self._text[: min(cuts)], True
        held = 0 if is_last or cuts else _count_held(self._text, self._stop)
        if len(self._text) - held > self._shown:
            yield _join_halves(self._text[self._shown : len(self._text) - held])
            self._shown = len(self._text) - held

    def make(self) -> ServedAnswer:
        """Return the whole answer."""
        return ServedAnswer(
            text=_join_halves(self._text),
            is_cut=self._is_cut and not self.is_stopped,
            prompt_tokens=_read_count(self._usage, "prompt_tokens"),
            new_tokens=_read_count(self._usage, "completion_tokens"),
            first_token_s=self._first_s,
            seconds=self._clock() - self._began,
            thought=_join_halves(self._thought),
        )


def _count_held(text: str, stop: Sequence[str]) -> int:
    """Return how many characters at the end of *text* may begin a stop string, or be half of a character."""
    held = [size for mark in stop for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])]
    if text and "\ud800" <= text[-1] <= "\udbff":
        held.append(1)
    return max(held, default=0)


def _join_halves(text: str) -> str:
    """Return *text* with halves of characters joined where they meet, and replaced where they do not."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _read_count(usage: Mapping[str, Any], name: str) -> int | None:
    found = usage.get(name)
    return found if isinstance(found, int) and found >= 0 else None


def _exhaust(stream: Generator[str, None, ServedAnswer]) -> ServedAnswer:
    """Return the whole answer of *stream*."""
    while True:
        try:
            next(stream)
        except StopIteration as ended:
            answer: ServedAnswer = ended.value
            return answer


def _list_aliases(model: Mapping[str, Any]) -> list[Any]:
    aliases = model.get("aliases")
    return aliases if isinstance(aliases, list) else []


def _describe(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a server says of a model that stays the same, if it is short enough for a record."""
    found = {name: model[name] for name in DESCRIPTION_FIELDS if model.get(name) is not None}
    try:
        text = _join_halves(json.dumps(found, ensure_ascii=False, allow_nan=False))
    except ValueError:  # NaN, which no record holds
        return {}
    described: dict[str, Any] = json.loads(text) if len(text) <= MAX_DESCRIPTION_CHARACTERS else {}
    return described
