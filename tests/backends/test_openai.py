"""The `openai` backend against a server that fails in every way, and keeps the key to itself."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bitnet_bench.backends.openai import OpenAIBackend, transport
from bitnet_bench.backends.openai.retrying import MAX_ATTEMPTS, Retrier
from bitnet_bench.backends.openai.session import OpenAISession
from bitnet_bench.backends.openai.transport import Transport, parse_base_url, parse_retry_after
from bitnet_bench.errors import BenchError, EndpointLostError, RequestRefusedError, UsageError
from bitnet_bench.evaluation.serving import find_key
from bitnet_bench.protocols import Endpoint, ServedRequest, Share, sort_answers


def load_fake() -> ModuleType:
    """Return the module of the fake server, which stands beside this file."""
    spec = importlib.util.spec_from_file_location("fake_openai", Path(__file__).with_name("fake_openai.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_openai"] = module
    spec.loader.exec_module(module)
    return module


fake = load_fake()
HANG = fake.hang(3.0)
KEY = "sk-very-secret-key"
TEXT = ServedRequest("가나다", 8)
CHAT = ServedRequest(({"role": "user", "content": "라"},), 8)


class Clock:
    """A clock that waits in no time, and knows how long it has waited."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.lock = threading.Lock()

    def wait(self, seconds: float) -> None:
        """Go on by *seconds*."""
        with self.lock:
            self.waits.append(seconds)
            self.now += seconds


@pytest.fixture
def server() -> Iterator[Any]:
    """Give a fake server; sessions of `make_session` are closed with it."""
    with fake.serve() as found:
        found.sessions = []
        yield found
        for opened in found.sessions:
            opened.close()


@pytest.fixture
def clock() -> Clock:
    """Give a clock without waiting."""
    return Clock()


@pytest.fixture
def session(server: Any, clock: Clock) -> Iterator[OpenAISession]:
    """Give a session on the fake server, which sends one request at a time and a key."""
    made = make_session(server, clock)
    yield made
    made.close()


def make_session(server: Any, clock: Clock, **more: Any) -> OpenAISession:
    endpoint = replace(Endpoint(server.url, fake.MODEL, KEY, concurrency=1, timeout_s=60.0), **more)
    session = OpenAISession(endpoint, Retrier("host", lambda: clock.now, clock.wait, lambda: 0.0))
    server.sessions.append(session)
    return session


def ask(session: OpenAISession, *requests: ServedRequest) -> list[str]:
    return [answer.text for answer in sort_answers(session.generate(list(requests)))]


def test_texts_and_conversations_are_answered_with_what_the_server_counts(server: Any, session: OpenAISession) -> None:
    """Completions for a text, chat completions for messages; tokens and the time to the first one come back."""
    answers = sort_answers(session.generate([TEXT, CHAT]))
    assert [answer.text for answer in answers] == ["다다다", "라라라"]
    assert [(one.prompt_tokens, one.new_tokens, one.is_cut) for one in answers] == [(5, 3, False)] * 2
    assert all(one.first_token_s is not None and one.first_token_s <= (one.seconds or 0) for one in answers)
    assert [path for path, _, _ in server.seen] == ["/v1/completions", "/v1/chat/completions"]
    assert all(body["temperature"] == 0 and body["model"] == fake.MODEL for body in server.bodies)


@pytest.mark.parametrize(
    "fault",
    [
        fake.status(429, Retry_After="7"),
        fake.status(500),
        fake.status(503),
        HANG,
        fake.cut_stream,
        fake.cut_body,
        fake.wrong_json,
        fake.wrong_event,
        fake.no_choices,
        fake.drop,
    ],
    ids=["429", "500", "503", "hang", "cut stream", "cut body", "wrong JSON", "wrong event", "no choices", "drop"],
)
def test_a_fault_is_asked_again_and_then_answered(
    server: Any, session: OpenAISession, clock: Clock, fault: Any
) -> None:
    """Twice a fault and then an answer is that answer, without a half of an earlier one."""
    if fault is HANG:
        session = make_session(server, clock, timeout_s=2.0)
    server.faults.extend([fault, fault])
    assert ask(session, TEXT) == ["다다다"]
    assert len(server.bodies) == 3
    assert len(clock.waits) == 2


def test_the_server_says_how_long_to_wait(server: Any, session: OpenAISession, clock: Clock) -> None:
    """Retry-After is waited for to the second, as a number and as a date; without one, waits double."""
    server.faults.extend([fake.status(429, Retry_After="7"), fake.status(503), fake.status(503), fake.status(503)])
    assert ask(session, TEXT) == ["다다다"]
    assert clock.waits == [7.0, 2.0, 4.0, 8.0]
    assert parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", lambda: 20.0) == 40.0
    assert parse_retry_after("soon") is None


def test_waits_are_bounded_and_end(server: Any, session: OpenAISession, clock: Clock) -> None:
    """A server that stays away is given up after a number of attempts, with a sentence that says how to go on."""
    server.faults.extend([fake.status(503, "loading")] * 50)
    with pytest.raises(EndpointLostError, match="loading") as caught:
        ask(session, TEXT)
    assert len(server.bodies) == MAX_ATTEMPTS
    assert "the same command" in caught.value.hint
    assert max(clock.waits) <= 60.0


def test_a_wait_without_measure_is_not_waited_for(server: Any, session: OpenAISession, clock: Clock) -> None:
    """A server that asks for an hour ends the run at once."""
    server.faults.append(fake.status(429, Retry_After="3600"))
    with pytest.raises(EndpointLostError, match="3,600 s"):
        ask(session, TEXT)
    assert clock.waits == []


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (fake.status(401), EndpointLostError, "refuses the key"),
        (fake.status(404), EndpointLostError, "has no /v1/completions"),
        (fake.status(400, "too long"), RequestRefusedError, "too long"),
        (fake.status(302, Location="http://elsewhere.test/v1?key=1"), EndpointLostError, "http://elsewhere.test/v1."),
        (fake.status(429, "insufficient_quota"), EndpointLostError, "quota"),
    ],
    ids=["401", "404", "400", "302", "quota"],
)
def test_what_will_not_change_is_said_at_once(
    server: Any, session: OpenAISession, clock: Clock, fault: Any, kind: type[BenchError], said: str
) -> None:
    """A wrong key, path or request is one sentence and a hint, after one request."""
    server.faults.extend([fault] * 3)
    with pytest.raises(kind) as caught:
        ask(session, TEXT)
    assert said in caught.value.problem
    assert caught.value.hint
    assert len(server.bodies) == 1


def test_what_was_answered_before_a_failure_is_kept(server: Any, session: OpenAISession) -> None:
    """Answers are given as they come, and the failure after them."""
    seen = []
    server.faults.extend([fake.write_answer, fake.write_answer, fake.status(400)])
    answers = session.generate([TEXT] * 5)
    seen += [*next(answers), *next(answers)]
    with pytest.raises(RequestRefusedError) as caught:
        next(answers)
    assert [i for i, _ in seen] == [0, 1]
    assert caught.value.request == 2


def test_several_requests_are_open_at_a_time(server: Any, clock: Clock) -> None:
    """As many as `concurrency` says, and no more."""
    open_now, most = 0, 0
    lock, everyone = threading.Lock(), threading.Barrier(3, timeout=60)

    def answer(handler: Any) -> None:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        everyone.wait()
        with lock:
            open_now -= 1
        fake.write_answer(handler)

    server.answer = answer
    session = make_session(server, clock, concurrency=3)
    assert len(ask(session, *[TEXT] * 9)) == 9
    assert most == 3
    session.close()


def test_a_share_is_answered_without_what_is_known(server: Any, session: OpenAISession) -> None:
    """Workers divide the requests, and stored answers are not asked for again."""
    found = session.generate([TEXT] * 6, Share(frozenset({2}), worker=0, workers=2))
    assert sorted(i for some in found for i, _ in some) == [0, 4]
    assert len(server.bodies) == 2


def test_an_answer_that_nobody_waits_for_ends(server: Any, clock: Clock) -> None:
    """Leaving the answers ends the threads that wait for the server, whatever the timeout."""
    release = threading.Event()
    server.answer = lambda handler: (release.wait(120), fake.write_answer(handler))
    session = make_session(server, clock, concurrency=4, timeout_s=600.0)
    server.faults.append(fake.write_answer)
    answers = session.generate([TEXT] * 8)
    next(answers)
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("asks a server")]
    assert len(workers) == 4
    answers.close()  # type: ignore[attr-defined]
    for thread in workers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in workers)
    release.set()
    assert ask(session, TEXT) == ["다다다"]  # the session itself can still be asked


def test_a_stop_string_ends_the_text_wherever_it_is_cut(server: Any, session: OpenAISession) -> None:
    """More stop strings than the protocol takes are applied here, across the pieces of a stream."""
    server.answer = lambda handler: handler.send_events(
        *({"choices": [{"text": piece}]} for piece in ("하나 E", "N", "D 둘")), "[DONE]"
    )
    stops = ("a", "b", "c", "d", "END")
    assert ask(session, ServedRequest("가", 8, stops)) == ["하나 "]
    assert server.bodies[0]["stop"] == ["a", "b", "c", "d"]
    pieces = list(session.stream(ServedRequest("가", 8, stops)))
    assert "".join(pieces) == "하나 "


def test_half_characters_are_joined_or_replaced(server: Any, session: OpenAISession) -> None:
    """Both halves of an emoji in two events are one character, and a lone half is no text that a file can hold."""
    events = [json.dumps({"choices": [{"text": half}]}) for half in ("\ud83d", "\ude00", "끝\ud83d")]
    server.answer = lambda handler: handler.send_events(*events, "[DONE]")
    assert ask(session, TEXT) == ["😀끝\ufffd"]
    assert list(session.stream(TEXT)) == ["😀", "끝", "\ufffd"]


def test_a_field_that_a_server_does_not_know_is_left_out(server: Any, session: OpenAISession) -> None:
    """`stream_options` and the former name of the limit are done without, once for all requests."""

    def strict(handler: Any) -> None:
        for name in ("stream_options", "max_tokens"):
            if name in handler.body:
                return handler.reply(400, {"error": {"message": f"Unsupported parameter: '{name}'"}})
        return fake.write_answer(handler)

    server.answer = strict
    assert ask(session, TEXT, TEXT) == ["다다다"] * 2
    assert len(server.bodies) == 4
    assert server.bodies[-1]["max_completion_tokens"] == 8


def test_a_model_that_is_not_served_is_named_with_those_that_are(server: Any) -> None:
    """The name has to be one of the server's: a record would name another model else."""
    with pytest.raises(UsageError, match="serves no model fake/modle") as caught:
        connect(server, "fake/modle")
    assert fake.MODEL in caught.value.hint


def test_a_server_that_still_loads_is_waited_for_and_one_that_is_not_there_is_not(server: Any, clock: Clock) -> None:
    """503 at the start is a model that is being loaded; a refused connection is a wrong port."""
    server.faults_of_models.extend([fake.status(503)] * 2)
    session = make_session(server, clock)
    session.check_model()
    assert session.about == {"owned_by": "fake"}
    assert len(clock.waits) == 2
    with pytest.raises(EndpointLostError, match="refuses the connection"):
        make_session(server, clock, base_url="http://127.0.0.1:9/v1").check_model()
    assert len(clock.waits) == 2


@pytest.mark.parametrize(
    ("described", "about"),
    [
        ({"owned_by": "\ud83d", "created": 1}, {"owned_by": "\ufffd"}),
        ({"owned_by": "x" * 5000}, {}),
        ({"meta": {"size": float("nan")}}, {}),
        ({"meta": {"n_ctx": 8}, "permission": []}, {"meta": {"n_ctx": 8}}),
    ],
    ids=["half a character", "long", "NaN", "fields"],
)
def test_what_a_server_says_of_its_model_fits_a_record(server: Any, clock: Clock, described: Any, about: Any) -> None:
    """Without what changes when it is started again, and what no file holds."""
    document = json.dumps({"data": [{"id": fake.MODEL, **described}]}).encode()
    server.faults_of_models.append(lambda handler: handler.reply(200, document))
    session = make_session(server, clock)
    session.check_model()
    assert session.about == about


def test_a_server_without_a_list_of_models_is_asked_all_the_same(server: Any, clock: Clock) -> None:
    """Some gateways have only the endpoint that answers."""
    server.faults_of_models.append(fake.status(404))
    session = make_session(server, clock)
    session.check_model()
    assert ask(session, TEXT) == ["다다다"]


def connect(server: Any, model: str) -> None:
    with OpenAIBackend().connect(Endpoint(server.url, model)):
        pass


# ---- the key


def test_the_key_is_sent_to_the_server_and_shown_nowhere(
    server: Any, session: OpenAISession, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in an error with its traceback, though the server repeats it, nor in a log or in the endpoint's repr."""
    caplog.set_level(logging.DEBUG)
    server.faults.extend([fake.status(500, f"no {KEY}")] * 2 + [fake.status(400, f"bad key {KEY}")])
    with pytest.raises(RequestRefusedError) as caught:
        ask(session, TEXT)
    assert [headers["Authorization"] for _, headers, _ in server.seen] == [f"Bearer {KEY}"] * 3
    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value) + caplog.text
    assert KEY not in shown
    assert "[key]" in shown
    assert KEY not in repr(Endpoint(server.url, fake.MODEL, KEY))


def test_a_redirect_is_not_followed_with_the_key(server: Any, session: OpenAISession) -> None:
    """Another host would get the key: nothing is sent there."""
    with fake.serve() as other:
        server.faults.append(fake.status(307, Location=other.url))
        with pytest.raises(EndpointLostError, match="redirects"):
            ask(session, TEXT)
        assert other.seen == []


@pytest.mark.parametrize(
    "url", ["http://user:pass@host/v1", "https://host/v1?key=1", "ftp://host", "host:8000", "http://", "http://h:x/v1"]
)
def test_a_url_with_a_secret_or_without_a_host_is_refused(url: str) -> None:
    """What the record shows holds no secret."""
    with pytest.raises(UsageError) as caught:
        parse_base_url(url)
    assert "pass" not in str(caught.value) or "password" in str(caught.value)
    assert "key=1" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl")
def test_a_certificate_is_checked_and_an_authority_of_ones_own_is_named(
    server: Any, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A self-signed server is refused in a sentence, until SSL_CERT_FILE names it; http to it is said at once, too."""
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"))
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names)
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}/v1"
    with pytest.raises(EndpointLostError, match="certificate of localhost"):
        make_session(server, clock, base_url=url).check_model()
    with pytest.raises(EndpointLostError, match="closed the connection"):
        make_session(server, clock, base_url=url.replace("https", "http")).check_model()
    assert server.seen == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    trusting = make_session(server, clock, base_url=url)
    trusting.check_model()
    assert trusting.about == {"owned_by": "fake"}
    trusting.close()


def test_a_url_has_one_spelling() -> None:
    """A host alone means its /v1, and a slash at the end means nothing."""
    assert parse_base_url("http://localhost:8000") == parse_base_url("http://localhost:8000/v1/")
    assert parse_base_url(" https://host/api/v3 ") == "https://host/api/v3"
    assert parse_base_url("http://[::1]:8000") == "http://[::1]:8000/v1"


def test_the_key_of_openai_is_not_sent_to_any_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without TLS the default key stays here, unless its variable is named; loopback and https get it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MINE", "mine")
    assert find_key("http://10.0.0.5:8000/v1", None) is None
    assert KEY not in caplog.text
    assert "OPENAI_API_KEY" in caplog.text
    assert find_key("http://10.0.0.5:8000/v1", "MINE") == "mine"
    assert find_key("http://localhost:8000/v1", None) == KEY
    assert find_key("https://api.test/v1", None) == KEY
    with pytest.raises(UsageError, match="no variable NONE"):
        find_key("https://api.test/v1", "NONE")
    monkeypatch.setenv("MINE", "bad\nX-Header: 1")
    with pytest.raises(UsageError) as caught:
        find_key("https://api.test/v1", "MINE")
    assert "X-Header" not in str(caught.value)


@pytest.mark.parametrize("size", [1 << 10, 1 << 20])
def test_a_response_without_an_end_is_not_read_on(server: Any, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A line or a body beyond the bounds is an error, not a full memory."""
    monkeypatch.setattr(transport, "MAX_RESPONSE_BYTES", 1 << 20)

    def flood(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.close_connection = True
        try:
            for _ in range(1 << 16):
                handler.wfile.write(b"data: {}" + b" " * size + b"\n")
        except OSError:
            flooded.append(size)

    flooded: list[int] = []
    server.answer = flood
    found = Transport(server.url, None, 5.0)
    with pytest.raises(transport.TransientError, match="without an end"):
        list(found.post_stream("completions", {"prompt": ""}))
    found.close()


# ---- log-probabilities


def echo(logprob: Callable[[str, int], float]) -> Callable[[Any], None]:
    """Return what answers as vLLM does with `echo`: a token per character, and one that is generated."""

    def answer(handler: Any) -> None:
        text = handler.body["prompt"]
        tokens = [*text, "!"]
        values = [None, *(logprob(text, i) for i in range(1, len(text))), -0.5]
        top = [None, *({text[i]: value} for i, value in enumerate(values[1:-1], 1)), {"!": -0.5}]
        found = {"tokens": tokens, "token_logprobs": values, "top_logprobs": top}
        usage = {"prompt_tokens": len(text), "completion_tokens": 1}
        handler.reply(200, {"choices": [{"text": text + "!", "logprobs": found}], "usage": usage})

    return answer


def by_character(text: str, i: int) -> float:
    return -0.001 * (ord(text[i]) % 997) - 0.01


def test_the_sum_is_over_the_tokens_after_those_of_the_context(server: Any, session: OpenAISession) -> None:
    """As in lm-eval: white space at the end of the context begins the continuation, and the generated token is none."""
    server.answer = echo(by_character)
    pairs = [("질문: ", "예"), ("질문:", " 아니요")]
    found = sort_answers(session.loglikelihood(pairs))
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        whole = context + continuation
        start = len(context.rstrip())
        assert value == pytest.approx(sum(by_character(whole, i) for i in range(start, len(whole))))
        assert greedy


@pytest.mark.parametrize(
    ("logprob", "said"),
    [
        (lambda text, i: 0.0, "no log-probabilities"),
        (lambda text, i: -1.0 if i < 23 else -9.0 / (len(text) - 23), "equally probable"),
        (lambda text, i: float("nan"), "missing"),
        (lambda text, i: None, "missing"),
    ],
    ids=["zero", "constant", "NaN", "null"],
)
def test_numbers_that_are_no_log_probabilities_are_never_scores(
    server: Any, session: OpenAISession, logprob: Any, said: str
) -> None:
    """A known text is asked first: a server that makes numbers up would give chance, exactly."""
    server.answer = echo(logprob)
    with pytest.raises(BenchError, match=said) as caught:
        list(session.loglikelihood([("가", "나")]))
    assert "generated" in caught.value.hint


def test_a_server_that_ignores_echo_is_found_out(server: Any, session: OpenAISession) -> None:
    """OpenAI's own and others return the log-probabilities of what they generate, which is another text."""
    logprobs = {"tokens": ["x", "y"], "token_logprobs": [-1.0, -2.0], "top_logprobs": [{"x": -1.0}, {"y": -2.0}]}
    server.answer = lambda handler: handler.reply(200, {"choices": [{"text": "xy", "logprobs": logprobs}]})
    for _ in range(2):
        with pytest.raises(BenchError, match="are not those of the prompt"):
            list(session.loglikelihood([("가", "나")]))
    assert len([body for body in server.bodies if body.get("echo")]) == 1  # it is not asked again


@pytest.mark.parametrize(
    "change",
    [
        {"usage": [1]},
        {"usage": {"prompt_tokens": 1e999}},
        {"choices": [{"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": [10**400, 1], "top_logprobs": 3}}]},
        {"choices": [["x"]]},
        {"top_logprobs": [{"a": "b", "c": 1}]},
        {"top_logprobs": [{"a": "b"}]},
        {"tokens": [{"id": {}, "piece": [1]}]},
        {"tokens": []},
        {"completion_probabilities": [{"id": 7, "top_logprobs": [{"id": 7}]}]},
        {"completion_probabilities": [{"id": 7, "top_logprobs": [{"id": 7}], "logprob": 10**400}]},
    ],
)
def test_log_probabilities_of_another_form_are_none(server: Any, session: OpenAISession, change: Any) -> None:
    """A server may answer with any JSON; it is said to have no log-probabilities, in a sentence."""
    is_echo = not {"tokens", "completion_probabilities"} & set(change)

    def answer(handler: Any) -> None:
        text = handler.body.get("prompt", "")
        text = text if isinstance(text, str) else ""
        top = change.get("top_logprobs", [{}]) * (len(text) + 1)
        logprobs = {"tokens": list(text), "token_logprobs": [None, *[-1.0] * len(text)], "top_logprobs": top}
        llama = {"tokens": [{"id": 7, "piece": "x"}], "completion_probabilities": []}
        choices = [{"text": text, "logprobs": logprobs}] if "/completions" in handler.path and is_echo else []
        served = {"choices": choices, "usage": {"prompt_tokens": len(text)}, **llama}
        handler.reply(200, served | {name: value for name, value in change.items() if name != "top_logprobs"})

    server.answer = answer
    server.answers_anything = True
    with pytest.raises(BenchError, match="returns no log-probabilities of a prompt"):
        list(session.loglikelihood([("가", "나")]))


def test_a_choice_without_a_token_of_its_own_is_an_error(server: Any, session: OpenAISession) -> None:
    """It would be certain, and always win."""
    server.answer = echo(by_character)
    with pytest.raises(RequestRefusedError) as caught:
        list(session.loglikelihood([("가", "나"), ("다", "")]))
    assert caught.value.request == 1
