"""A server of OpenAI's protocol in a thread, which answers, or fails in the way that it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake/model"
Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as vLLM does, with one token per character."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *words: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer the list of models."""
        self.server.seen.append((self.path, dict(self.headers), None))
        if self.server.faults_of_models:
            self.server.faults_of_models.popleft()(self)
        elif self.path == "/v1/models":
            self.reply(200, {"data": [{"id": MODEL, "owned_by": "fake", "created": time.time_ns()}]})
        else:
            self.reply(404, {"error": {"message": "Not Found"}})

    def do_POST(self) -> None:
        """Answer a prompt, or do what the next fault says."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.path, dict(self.headers), body))
            fault = self.server.faults.popleft() if self.server.faults else None
        self.body = body
        if fault is not None:
            fault(self)
        elif self.server.answers_anything or self.path in ("/v1/completions", "/v1/chat/completions"):
            self.server.answer(self)
        else:
            self.reply(404, {"error": {"message": "Not Found"}})

    def reply(self, status: int, document: Any, **headers: str) -> None:
        """Send *document* as JSON, or as it is if it is bytes."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_events(self, *events: Any, close: bool = True) -> None:
        """Send a stream of events, and end the connection after it."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            data = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """A server with a list of what it was asked and a queue of faults, one for each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.faults: deque[Fault] = deque()
        self.faults_of_models: deque[Fault] = deque()
        self.answer: Callable[[Handler], None] = write_answer
        self.answers_anything = False
        """True if `answer` answers at paths as well that OpenAI's protocol does not have."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that goes away is what some tests are about."""

    @property
    def url(self) -> str:
        """Return the base URL."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def bodies(self) -> list[Any]:
        """Return the bodies of the requests that have one."""
        return [body for _, _, body in self.seen if body is not None]


def describe(prompt: Any) -> str:
    """Return the answer to a prompt: its last character, thrice."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return text[-1:] * 3


def write_answer(handler: Handler) -> None:
    """Stream the answer of `describe`, a character an event, with the usage at the end."""
    body = handler.body
    is_chat = "messages" in body
    text = describe(body["messages"] if is_chat else body["prompt"])
    usage = {"prompt_tokens": 5, "completion_tokens": len(text)}
    pieces = [{"delta": {"content": one}} if is_chat else {"text": one} for one in text]
    events: list[Any] = [{"choices": [{"index": 0, "finish_reason": None, **piece}]} for piece in pieces]
    events.append({"choices": [{"index": 0, "finish_reason": "stop", "delta": {}, "text": ""}]})
    handler.send_events(*events, {"choices": [], "usage": usage}, "[DONE]")


def status(code: int, message: str = "no", **headers: str) -> Fault:
    """Return a fault that answers with an HTTP status."""
    return lambda handler: handler.reply(code, {"error": {"message": message}}, **headers)


def hang(seconds: float) -> Fault:
    """Return a fault that says nothing for a while."""
    return lambda handler: time.sleep(seconds)


def cut_stream(handler: Handler) -> None:
    """End a stream after its first event."""
    handler.send_events({"choices": [{"index": 0, "text": "half", "delta": {"content": "half"}}]})


def cut_body(handler: Handler) -> None:
    """Promise more bytes than come."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def wrong_json(handler: Handler) -> None:
    """Answer with what is no JSON."""
    handler.reply(200, b"<html>busy</html>")


def wrong_event(handler: Handler) -> None:
    """Stream what is no JSON."""
    handler.send_events('{"choices": [')


def no_choices(handler: Handler) -> None:
    """Answer with an empty list of choices."""
    handler.reply(200, {"choices": [], "usage": None})


def drop(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


@contextmanager
def serve() -> Iterator[Server]:
    """Yield a server on loopback that runs in a thread."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
