"""Send requests to one server and read what it answers, within bounds; the key leaves for that server alone."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from bitnet_bench.errors import EndpointLostError, RequestRefusedError, UsageError, shorten_text

MAX_RESPONSE_BYTES = 64 << 20
MAX_LINE_BYTES = 1 << 20
MAX_ERROR_BYTES = 1 << 16
MAX_MESSAGE_CHARACTERS = 300
CONNECT_TIMEOUT_S = 15.0
MAX_REQUEST_S = 3600.0
"""Seconds after which a request is given up even if bytes still come."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
BUSY = {408, 425, 429, 502, 503, 504, 520, 521, 522, 523, 524, 529}
"""HTTP statuses that say nothing about the request: it may be answered later."""
PRINTABLE = re.compile(r"[!-~]+")
RESUMES = "What was answered is kept: the same command goes on from there."


class TransientError(Exception):
    """A request that may be answered if it is sent again; *why* is the end of a sentence about the server."""

    def __init__(self, why: str, retry_after_s: float | None = None, is_away: bool = True) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_s = retry_after_s
        self.is_away = is_away
        """True if the server is away or busy; False if it answered this request wrongly."""


class NoConnectionError(TransientError):
    """There is no server to connect to, or it hangs up without a word."""


def parse_base_url(text: str) -> str:
    """Return the base URL in one spelling, with /v1 if it has no path; UsageError if it is none, or holds a secret."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise UsageError(f"`base_url` is no URL: {error}.", "Write it as http://localhost:8000/v1.") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "`base_url` holds a user, a password, a query or a fragment, and the record would show it.",
            "Write it as https://HOST/v1, and keep the key in the variable that `api_key_variable` names.",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not PRINTABLE.fullmatch(text.strip()):
        raise UsageError(
            f"{shorten_text(text, MAX_MESSAGE_CHARACTERS)} is no URL of a server.",
            "Give `base_url` as http://localhost:8000/v1 or https://HOST/v1.",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/') or '/v1'}"


class Transport:
    """Connections to one server, for several threads; redirects are not followed, certificates are checked."""

    def __init__(
        self, base_url: str, api_key: str | None, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url: SplitResult = urlsplit(base_url)
        self.host = self.url.netloc
        self._key, self._timeout_s, self._clock = api_key, timeout_s, clock
        self._idle: list[http.client.HTTPConnection] = []
        self._in_use: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def renew(self) -> Transport:
        """Return one like this without connections."""
        return Transport(self.url.geturl(), self._key, self._timeout_s, self._clock)

    def close(self) -> None:
        """Close every connection; requests of other threads that wait for an answer fail at once."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            in_use = list(self._in_use)
        for connection in idle:
            connection.close()
        for connection in in_use:  # whoever uses it closes it
            if connection.sock is not None:
                with suppress(OSError):  # it may be closed by the server already
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def get(self, path: str, at_root: bool = False) -> Any:
        """Return the JSON document at *path* below the base URL, or below the URL's host."""
        with self._send("GET", path, None, at_root) as response:
            return self._parse(self._read(response, MAX_RESPONSE_BYTES))

    def post(self, path: str, body: Mapping[str, Any], at_root: bool = False) -> Any:
        """Return the JSON document with which *path* answers *body*."""
        with self._send("POST", path, body, at_root) as response:
            return self._parse(self._read(response, MAX_RESPONSE_BYTES))

    def post_stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Yield the events with which *path* answers *body*, up to the end that the protocol marks.

        TransientError if the stream ends before it.
        """
        with self._send("POST", path, body, False) as response:
            if "text/event-stream" not in response.headers.get("Content-Type", ""):
                yield self._as_object(self._parse(self._read(response, MAX_RESPONSE_BYTES)))
                return
            for data in self._read_events(response):
                if data == b"[DONE]":
                    # reads the end of the chunked body, so that the connection can be used again
                    self._read(response, MAX_ERROR_BYTES)
                    return
                yield self._as_object(self._parse(data))
        raise TransientError("cut the answer short")

    def _as_object(self, event: Any) -> dict[str, Any]:
        if not isinstance(event, dict):
            raise TransientError("answers with JSON of another form", is_away=False)
        if event.get("error"):
            raise TransientError(f"ended the answer with an error: {self._find_message(event)}", is_away=False)
        return event

    def _read_events(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """Yield the data of each event of *response*; comments, other fields and empty lines are left out."""
        deadline, size = self._clock() + MAX_REQUEST_S, 0
        while line := response.readline(MAX_LINE_BYTES):
            size += len(line)
            if size > MAX_RESPONSE_BYTES or len(line) >= MAX_LINE_BYTES or self._clock() > deadline:
                raise TransientError("answers without an end", is_away=False)
            if line.startswith(b"data:"):
                yield line[5:].strip()

    def _read(self, response: http.client.HTTPResponse, limit: int) -> bytes:
        """Return the body of *response*; TransientError if it is longer than *limit*, cut, or takes too long."""
        deadline = self._clock() + MAX_REQUEST_S
        parts, size = [], 0
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > limit or self._clock() > deadline:
                raise TransientError("answers without an end", is_away=False)
        if response.length:  # read1 does not say that the body is shorter than its length
            raise TransientError("cut the answer short")
        return b"".join(parts)

    def _parse(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise TransientError("answers with what is no JSON", is_away=False) from None

    @contextmanager
    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, at_root: bool
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield its response of status 200; every failure becomes an error with a sentence.

        A connection is used again only if its last response was read to its end.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "bitnet-bench"}
        headers |= {} if data is None else {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        target = f"{'' if at_root else self.url.path}/{path}"
        connection = None
        try:
            connection, response = self._exchange(method, target, data, headers)
            if response.status != 200:
                self._raise_for_status(response, target)
            yield response
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._explain(error) from None
        finally:
            # no error, and read to its end: it can be used again
            self._give_back(connection, is_usable=connection is not None and response.isclosed())

    def _exchange(
        self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request; on a new connection if the server has closed the one that was kept."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        for connection in (kept, None) if kept is not None else (None,):
            connection = connection or self._connect()
            with self._lock:
                self._in_use.add(connection)
                is_closed = self._is_closed
            try:
                if is_closed:
                    raise TransientError("is not asked any more")
                connection.request(method, target, data, dict(headers))
                return connection, connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._give_back(connection, is_usable=False)
                if connection is not kept:
                    raise
            except BaseException:
                self._give_back(connection, is_usable=False)
                raise
        raise AssertionError("a new connection answers or raises")

    def _give_back(self, connection: http.client.HTTPConnection | None, is_usable: bool) -> None:
        """Keep *connection* for the next request, or close it."""
        if connection is None:
            return
        with self._lock:
            self._in_use.discard(connection)
            is_kept = is_usable and connection.sock is not None and not self._is_closed
            if is_kept:
                self._idle.append(connection)
        if not is_kept:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        """Return a new connection; NoConnectionError if there is no server."""
        host, port = self.url.hostname or "", self.url.port
        connection: http.client.HTTPConnection
        if self.url.scheme == "https":
            proxy = self._find_proxy(host)
            where = (proxy.hostname or "", proxy.port) if proxy else (host, port)
            connection = http.client.HTTPSConnection(
                *where, timeout=CONNECT_TIMEOUT_S, context=ssl.create_default_context()
            )
            if proxy:
                connection.set_tunnel(host, port or 443)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise _explain_connecting(error) from None
        connection.sock.settimeout(self._timeout_s)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _find_proxy(self, host: str) -> SplitResult | None:
        """Return the proxy that HTTPS_PROXY names for *host*; None if there is none."""
        found = getproxies().get("https")
        return urlsplit(found) if found and host not in LOOPBACK and not proxy_bypass(host) else None

    def _explain(self, error: Exception) -> Exception:
        """Return the error of a connection as a sentence."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return EndpointLostError(
                f"The certificate of {self.host} is not accepted: {error.verify_message}.",
                "Correct the server's certificate, or name the file of your own authority in SSL_CERT_FILE.",
            )
        if isinstance(error, ssl.SSLError):
            return EndpointLostError(
                f"{self.host} does not speak TLS: {error.reason or error}.", "Check `base_url`: http or https?"
            )
        if isinstance(error, TimeoutError):
            return TransientError(f"sent nothing for {self._timeout_s:g} s")
        if isinstance(error, http.client.IncompleteRead):
            return TransientError("cut the answer short")
        if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
            return NoConnectionError("closed the connection")
        return TransientError(f"cannot be talked to ({type(error).__name__})")

    def _raise_for_status(self, response: http.client.HTTPResponse, target: str) -> None:
        status = response.status
        try:
            message = self._find_message(self._parse(response.read(MAX_ERROR_BYTES)))
        except TransientError:
            message = ""
        said = f": {message}" if message else ""
        if 300 <= status < 400:
            where = urlsplit(response.headers.get("Location", ""))
            raise EndpointLostError(
                f"{self.host} redirects to {self._clean(f'{where.scheme}://{where.hostname}{where.path}')}.",
                "If that is the server, give it as `base_url`: redirects are not followed, because of the key.",
            )
        if status in (401, 403):
            raise EndpointLostError(
                f"{self.host} refuses the key (HTTP {status}){said}" if self._key else f"{self.host} wants a key.",
                "Put the key into the environment variable that `api_key_variable` names.",
            )
        if status in BUSY and "insufficient_quota" not in message:
            why = f"is busy or away (HTTP {status}){said}"
            raise TransientError(why, parse_retry_after(response.headers.get("Retry-After")))
        if status >= 500:
            raise TransientError(f"failed (HTTP {status}){said}", is_away=False)
        if status == 429:
            raise EndpointLostError(f"The quota of {self.host} is used up{said}", RESUMES)
        if status in (404, 405):
            raise EndpointLostError(
                f"{self.host} has no {target} (HTTP {status}){said}",
                "Check `base_url`, which ends in /v1 on most servers; one that has chat only needs `chat_template`.",
            )
        raise RequestRefusedError(
            f"{self.host} refuses a request (HTTP {status}){said}", "Correct what it names.", message
        )

    def _find_message(self, document: Any) -> str:
        """Return what the server says of an error, in one line, without the key."""
        found = document.get("error", document) if isinstance(document, dict) else document
        if isinstance(found, dict):
            code = found.get("code")
            text = found.get("message") or found.get("detail") or ""
            found = f"{text} ({code})" if isinstance(code, str) and code else text
        return self._clean(found if isinstance(found, str) else "")

    def _clean(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # half characters, which no file holds
        text = text.replace(self._key, "[key]") if self._key else text
        return shorten_text(" ".join(text.split()), MAX_MESSAGE_CHARACTERS)


def _explain_connecting(error: OSError) -> Exception:
    """Return why there is no connection."""
    if isinstance(error, ssl.SSLError):
        return error
    if isinstance(error, socket.gaierror):
        return NoConnectionError(f"is not known by that name ({error.strerror})")
    if isinstance(error, TimeoutError):
        return NoConnectionError(f"takes no connection in {CONNECT_TIMEOUT_S:g} s")
    if isinstance(error, ConnectionRefusedError):
        return NoConnectionError("refuses the connection")
    return NoConnectionError(f"cannot be reached ({error.strerror or error})")


def parse_retry_after(text: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a Retry-After asks to wait: a number or a date; None if it says neither."""
    if not text:
        return None
    try:
        return max(0.0, float(text)) if text.strip() not in ("nan", "inf") else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (TypeError, ValueError):
        return None
