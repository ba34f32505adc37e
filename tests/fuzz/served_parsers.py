"""List the parsers of what a server of OpenAI's protocol answers; a server on loopback says what is damaged."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz import mutations
from fuzz.parser import Parser

HOST = "127.0.0.1"
MODEL = "fake/model"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
PROBE_TEXTS = ("1, 2, 3, 4, 5, 6, 7, 8,", " 9, 10")


class _Clock:
    """A clock that goes on when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        """Return the time."""
        return self.now_s

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += max(seconds, 0.01)


class _Handler(socketserver.StreamRequestHandler):
    timeout = 2.0

    def handle(self) -> None:
        size = 0
        while (line := self.rfile.readline(1 << 16)) not in (b"\r\n", b"\n", b""):
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        self.rfile.read(size)
        try:
            self.wfile.write(self.server.answer)  # type: ignore[attr-defined]
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:  # the client has heard enough
            pass


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    answer = b""


@contextmanager
def _serve(answer: bytes) -> Iterator[Any]:
    """Yield a session on a server that answers every request with *answer*, header and all."""
    from bitnet_bench.backends.openai.retrying import Retrier
    from bitnet_bench.backends.openai.session import OpenAISession
    from bitnet_bench.protocols import Endpoint

    server, clock = _Server((HOST, 0), _Handler), _Clock()
    server.answer = answer
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint = Endpoint(f"http://{HOST}:{server.server_address[1]}/v1", MODEL, None, concurrency=1, timeout_s=2.0)
    session = OpenAISession(endpoint, Retrier(HOST, clock.read, clock.wait, lambda: 0.0), clock.read)
    try:
        yield session
    finally:
        session.close()
        server.shutdown()
        server.server_close()
        thread.join()


def _wrap(body: bytes, kind: bytes = b"application/json") -> bytes:
    return OK.replace(b"application/json", kind) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _write(name: str, document: Any) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        (folder / name).write_bytes(data)

    return prepare


def _generate(session: Any) -> None:
    from bitnet_bench.protocols import ServedRequest, sort_answers

    for prompt in ("가나다", ({"role": "user", "content": "라"},)):
        for answer in sort_answers(session.generate([ServedRequest(prompt, 8, ("\n",))])):
            f"{answer.text}{answer.thought}".encode()
            json.dumps([answer.prompt_tokens, answer.new_tokens, answer.first_token_s], allow_nan=False)


def _read_models(folder: Path) -> None:
    """Ask a server for its models."""
    with _serve(_wrap((folder / "models.json").read_bytes())) as session:
        session.check_model()
        session.describe_runtime()
        json.dumps(dict(session.about), allow_nan=False).encode()


def _read_whole(folder: Path) -> None:
    """Read an answer that comes as one document."""
    with _serve(_wrap((folder / "answer.json").read_bytes())) as session:
        _generate(session)


def _read_stream(folder: Path) -> None:
    """Read an answer that comes as a stream of events."""
    with _serve(_wrap((folder / "answer.events").read_bytes(), b"text/event-stream")) as session:
        _generate(session)


def _read_response(folder: Path) -> None:
    """Read a response with its status and header."""
    with _serve((folder / "response.http").read_bytes()) as session:
        session.check_model()
        _generate(session)


def _read_scores(folder: Path) -> None:
    """Read the log-probabilities of a prompt, in both forms that there are.

    A server that answers everything alike is refused even if nothing is damaged: its prompts have no more tokens with a
    choice than without. So each reading is to end in a value or in a sentence by itself.
    """
    from bitnet_bench.backends.openai.likelihood import EchoScorer, LlamaServerScorer, find_scorer
    from bitnet_bench.protocols import sort_answers

    with _serve(_wrap((folder / "scores.json").read_bytes())) as session:
        scorers = [scorer(session._post, MODEL) for scorer in (EchoScorer, LlamaServerScorer)]
        for scorer in scorers:
            session._scorer = scorer
            try:
                sort_answers(session.loglikelihood([PROBE_TEXTS]))
            except Exception as error:
                _check_sentence(error)
        try:
            find_scorer(scorers, HOST)
        except Exception as error:
            _check_sentence(error)


def _check_sentence(error: Exception) -> None:
    """Raise *error* unless it is a sentence that names the server, or one about a row."""
    from bitnet_bench.errors import BenchError

    if not isinstance(error, BenchError) or not any(said in str(error) for said in (HOST, "A row ")):
        raise error


_CHOICE = {"index": 0, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 5, "completion_tokens": 2}
WHOLE = {
    "choices": [
        {**_CHOICE, "text": "답", "message": {"role": "assistant", "content": "답", "reasoning_content": "음"}}
    ],
    "usage": _USAGE,
}
EVENTS = [
    {"choices": [{**_CHOICE, "finish_reason": None, "text": "다", "delta": {"content": "다", "reasoning": "음"}}]},
    {"choices": [{**_CHOICE, "text": "라", "delta": {"content": "라"}}]},
    {"choices": [], "usage": _USAGE},
]
STREAM = b": begins\n\n" + b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in EVENTS) + b"data: [DONE]\n\n"
_TEXT = "".join(PROBE_TEXTS)
SCORES = {
    # as vLLM answers `echo`, as llama-server answers `tokenize`, and as it answers `completion`, at once
    "choices": [
        {
            "text": _TEXT + " ",
            "logprobs": {
                "tokens": [*_TEXT, " "],
                "token_logprobs": [None, *(-0.5 for _ in _TEXT)],
                "top_logprobs": [None, *({"a": -0.5} for _ in _TEXT)],
            },
        }
    ],
    "usage": {"prompt_tokens": len(_TEXT)},
    "tokens": [{"id": at, "piece": "x" if at % 5 else [228]} for at in range(8)],
    "completion_probabilities": [{"id": 7, "logprob": -0.5, "top_logprobs": [{"id": 7, "logprob": -0.5}]}],
}
MODELS = {
    "data": [
        {"id": "other", "aliases": ["b"]},
        {"id": MODEL, "owned_by": "llamacpp", "root": "x", "max_model_len": 4096, "meta": {"n_ctx": 1, "size": 2.5}},
    ]
}

PARSERS = (
    Parser("served-models", "models.json", mutations.mutate_json, _write("models.json", MODELS), _read_models, 1,
           (HOST,)),
    Parser("served-answer", "answer.json", mutations.mutate_json, _write("answer.json", WHOLE), _read_whole, 2,
           (HOST,)),
    Parser("served-stream", "answer.events", mutations.mutate_events, _write("answer.events", STREAM), _read_stream, 2,
           (HOST,)),
    Parser("served-response", "response.http", mutations.mutate_response, _write("response.http", _wrap(
           json.dumps({**WHOLE, **MODELS}).encode())), _read_response, 2, (HOST,)),
    Parser("served-scores", "scores.json", mutations.mutate_json, _write("scores.json", SCORES), _read_scores, 3,
           (HOST,)),
)  # fmt: skip
