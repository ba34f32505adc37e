"""`bitnet-bench chat`: what is asked, what is shown of the answer, and what is kept of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest

from bitnet_bench.chat.conversation import Conversation
from bitnet_bench.chat.held_text import HeldText
from bitnet_bench.chat.speakers import LocalSpeaker, RemoteSpeaker, Reply, Speaker, open_speaker
from bitnet_bench.cli.chatting import HELP, Talk, _match_backends, _read_questions
from bitnet_bench.errors import BenchError, RequestRefusedError, UsageError
from bitnet_bench.protocols import RemoteSession, ServedAnswer, ServedRequest
from bitnet_bench.runs.jobs import ChatJob


class Parrot(Speaker):
    """Says a text in pieces and remembers what it was asked; an exception among the pieces is raised."""

    template, template_source, backend = "the template of a parrot", "{{ messages }}", "cage"

    def __init__(self, *pieces: str | BaseException, name: str = "parrot", **known: Any) -> None:
        self.name, self._pieces, self._known = name, pieces, known
        self.asked: list[list[tuple[str, str]]] = []

    def render(self, messages: Sequence[Any]) -> str:
        """Return the contents."""
        return "|".join(one["content"] for one in messages)

    def reply(self, conversation: Conversation) -> Generator[str, None, Reply]:
        """Say the pieces."""
        self.asked.append([(one["role"], one["content"]) for one in conversation.list_messages()])
        for piece in self._pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
        return Reply("".join(map(str, self._pieces)), **self._known)


def talk(lines: Sequence[str | BaseException], *speakers: Parrot, system: str | None = None) -> None:
    """Type *lines* to *speakers*, and then Ctrl-D."""
    typed = iter([*lines, EOFError()])

    def read(_: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    Talk(speakers, system, read).run()


def test_an_answer_is_kept_for_the_next_question(capsys: pytest.CaptureFixture[str]) -> None:
    """The system turn and all that was said stand before a question, for each model its own answers."""
    one, two = Parrot("네", "!", name="one"), Parrot("음", name="two")
    talk(["가", "나"], one, two, system="짧게")
    assert one.asked[1] == [("system", "짧게"), ("user", "가"), ("assistant", "네!"), ("user", "나")]
    assert two.asked[1] == [("system", "짧게"), ("user", "가"), ("assistant", "음"), ("user", "나")]
    assert "one:\n네!\n" in capsys.readouterr().out


def test_commands_are_obeyed_and_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """/reset forgets, /system sets and takes back, /template shows, an unknown one is named, // asks a text with /."""
    parrot = Parrot("네")
    talk(
        ["가", "/reset", "/system 친절히", "/template", "나", "/system", "/nope", "//길", "/help", "/quit", "다"],
        parrot,
    )
    assert parrot.asked == [
        [("user", "가")],
        [("system", "친절히"), ("user", "나")],
        [("user", "나"), ("assistant", "네"), ("user", "/길")],
    ]
    said = capsys.readouterr().out
    assert "{{ messages }}" in said
    assert "친절히|안녕하세요?" in said
    assert "no command /nope" in said
    assert all(line in said for line in HELP)


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends the answer and not the talk; of nothing said, the question is taken back as well."""
    parrot = Parrot("반", KeyboardInterrupt())
    talk(["가", "나"], parrot)
    assert parrot.asked[1] == [("user", "가"), ("assistant", "반"), ("user", "나")]
    assert "Stopped" in capsys.readouterr().out
    silent = Parrot(KeyboardInterrupt())
    talk(["가", "나"], silent)
    assert silent.asked[1] == [("user", "나")]


def test_a_stopped_answer_leaves_the_second_model_out() -> None:
    """The second is not begun, and its conversation has no question without an answer."""
    one, two = Parrot("반", KeyboardInterrupt()), Parrot("둘")
    talk(["가", "나"], one, two)
    assert two.asked == []


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        ([KeyboardInterrupt(), KeyboardInterrupt(), "가"], 0),
        ([KeyboardInterrupt(), "가", KeyboardInterrupt(), "나"], 2),
        (["", "  ", EOFError(), "가"], 0),
    ],
    ids=["twice", "not in a row", "end"],
)
def test_two_interrupts_in_a_row_end_the_talk(lines: list[Any], asked: int) -> None:
    """One alone could be meant for an answer that has just ended; Ctrl-D ends at once; an empty line is no question."""
    parrot = Parrot("네")
    talk(lines, parrot)
    assert len(parrot.asked) == asked


def test_what_is_typed_in_another_encoding_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Python gives half characters or an error, by the locale; the talk goes on."""
    parrot = Parrot("네")
    talk(["\udcff", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "가"], parrot)
    assert [one[-1] for one in parrot.asked] == [("user", "가")]
    assert capsys.readouterr().err.count("not UTF-8") == 2


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_text_in_another_encoding_is_refused(errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in CP949 on standard input is wrong use, whatever the locale makes of it."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("안녕".encode("cp949")), "utf-8", errors))
    with pytest.raises(UsageError, match="not UTF-8"):
        _read_questions(None, as_json=False)


def test_an_error_is_said_and_the_talk_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that refuses one question may answer the next."""
    parrot = Parrot(BenchError("It is refused.", "Ask otherwise."))
    talk(["가", "나"], parrot)
    assert parrot.asked[1] == [("user", "나")]
    assert "It is refused." in capsys.readouterr().err


def test_what_a_model_writes_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Codes are shown as text, in the answer and in a name."""
    talk(["가"], Parrot("\x1b[2J\x07", "\u202e끝", name="a\x1b[31m"), Parrot("x"))
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "\\x1b[2J\\x07\\u202e끝" in said


def test_what_was_cut_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A full context, an answer at its limit, and the speed."""
    known = {"new_tokens": 11, "first_token_s": 0.5, "seconds": 1.5, "is_cut": True, "dropped": 2}
    talk(["가"], Parrot("네", **known))
    said = capsys.readouterr().out
    assert "2 earlier exchanges were not read" in said
    assert "The answer was cut" in said
    assert "[11 tokens, 10.0 tokens/s, the first after 0.50 s]" in said


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["  ", " 네", "요"], ["네", "요"]),
        (["가\ufffd", "\ufffd", "나"], ["가", "\ufffd\ufffd나"]),
        (["\u1112", "\u1161", "\u11ab", "국"], ["\u1112\u1161\u11ab국"]),
        (["a\r", "\nb"], ["a", "\r\nb"]),
        (["끝\u1112"], ["끝", "\u1112"]),
    ],
    ids=["space", "bytes", "jamo", "line end", "rest"],
)
def test_what_may_still_change_is_held_back(pieces: list[str], shown: list[str]) -> None:
    """Nothing that is shown is changed by what comes after it, and at the end nothing is missing."""
    held = HeldText()
    assert [text for piece in pieces for text in held.add(piece)] + list(held.finish()) == shown


@pytest.fixture(scope="module")
def demo() -> Iterator[Speaker]:
    """Give the embedded model, which has no chat template."""
    with open_speaker("demo", "ternary", ChatJob(max_new_tokens=12)) as speaker:
        yield speaker


def say(speaker: Speaker, *turns: str, system: str | None = None) -> tuple[list[str], Reply]:
    """Return the pieces and the whole of the answer to the last of *turns*, which are question, answer, question."""
    conversation = Conversation(system)
    for i, text in enumerate(turns):
        (conversation.answer if i % 2 else conversation.ask)(text)
    pieces, stream = [], speaker.reply(conversation)
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as ended:
            return pieces, ended.value


def test_the_streamed_text_is_what_is_generated_at_once(demo: LocalSpeaker) -> None:
    """Piece by piece, token by token: the text, its length and where it was cut are those of `generate`."""
    session = demo._session
    text = demo.render(({"role": "user", "content": "오늘 날씨 어때요?"},))
    assert text == "사용자: 오늘 날씨 어때요?\n모델:"
    assert "dialogue" in demo.template
    ids = session.tokenizer.encode(text)
    ((found,),) = list(session.generate([ids], 12, ["\n사용자:"]))
    whole = str(getattr(found[1], "text", found[1])).strip()
    pieces, reply = say(demo, "오늘 날씨 어때요?")
    assert "".join(pieces).strip() == reply.text == whole
    assert len(pieces) > 3
    assert reply.prompt_tokens == len(ids)
    assert reply.new_tokens is not None
    assert reply.is_cut == (reply.new_tokens == 12)


@pytest.mark.parametrize("size", range(1, 8))
def test_a_stop_string_is_never_shown_in_part(demo: LocalSpeaker, size: int) -> None:
    """Whatever the text is cut at, the pieces end before it."""
    session = demo._session
    ids = session.tokenizer.encode("사용자: 오늘 날씨 어때요?\n모델:")
    whole = "".join(session.stream(ids, 12))
    stop = whole[3 : 3 + size]
    assert "".join(session.stream(ids, 12, [stop])) == whole[: whole.index(stop)]


def test_what_the_context_does_not_hold_is_left_out_from_the_beginning(demo: LocalSpeaker) -> None:
    """The system turn and the last question stay; a question that does not fit alone is an error."""
    long = "오늘 날씨가 아주 좋아요. " * (demo._session.max_length // 8)
    _, reply = say(demo, long, "네", long, "네", "어때요?", system="짧게")
    assert reply.dropped > 0
    assert reply.prompt_tokens is not None
    assert reply.prompt_tokens <= demo._session.max_length
    with pytest.raises(BenchError, match="tokens"):
        say(demo, long * 20)


class Server(RemoteSession):
    """A server whose context holds two exchanges."""

    about: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[ServedRequest] = []

    def loglikelihood(self, requests: Any, part: Any = None) -> Iterator[Any]:
        """Answer nothing."""
        yield []

    def generate(self, requests: Any, part: Any = None) -> Iterator[Any]:
        """Answer nothing."""
        yield []

    def stream(self, request: ServedRequest) -> Generator[str, None, ServedAnswer]:
        """Answer with two pieces."""
        self.seen.append(request)
        if len(request.prompt) > 4:
            raise RequestRefusedError("refused", "hint", "the request exceeds the available context size")
        yield "두 "
        yield "조각"
        return ServedAnswer("두 조각", new_tokens=2, first_token_s=0.1, seconds=0.2)

    def describe_runtime(self) -> str:
        """Return a name."""
        return "a server"


def test_a_server_whose_context_is_full_is_asked_with_less() -> None:
    """Earlier exchanges are left out one by one, and what was sampled is sent as the server takes it."""
    server = Server()
    job = ChatJob(temperature=0.5, top_k=3, seed=7, max_new_tokens=9)
    pieces, reply = say(RemoteSpeaker("m", "openai", server, job), "1", "a", "2", "b", "3", system="s")
    assert "".join(pieces) == reply.text == "두 조각"
    assert reply.dropped == 1
    assert [one["content"] for one in server.seen[-1].prompt if isinstance(one, dict)] == ["s", "2", "b", "3"]
    assert server.seen[-1].settings == {"temperature": 0.5, "seed": 7, "top_k": 3}
    assert server.seen[-1].max_new_tokens == 9


def test_the_command_answers_prompts_as_json(run_command: Callable[..., Any]) -> None:
    """Several prompts are turns of one conversation; each answer has its numbers."""
    asked = ("chat", "--model", "demo", "--prompt", "안녕?", "--prompt", "정말?", "--max-new-tokens", "8", "--json")
    found = run_command(*asked)
    assert found.returncode == 0, found.stderr
    first, second = json.loads(found.stdout)
    assert (first["prompt"], first["model"], first["backend"]) == ("안녕?", "demo", "ternary")
    assert second["prompt_tokens"] > first["prompt_tokens"]
    assert 0 < first["new_tokens"] <= 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt", " "), "nothing to ask"),
        (("--model", "a", "--model", "b", "--model", "c", "--prompt", "x"), "3 models"),
        (("--backend", "hf", "--backend", "hf", "--prompt", "x"), "2 backends"),
        (("--backend", "openai", "--prompt", "x"), "--base-url"),
        (("--top-k", "3", "--prompt", "x"), "--temperature"),
        (("--base-url", "http://localhost:1/v1", "--prompt", "x"), "--backend openai"),
        (("--backend", "openai", "--base-url", "http://u:secret@h/v1", "--prompt", "x"), "password"),
    ],
)
def test_wrong_usage_is_a_sentence_and_status_2(
    run_command: Callable[..., Any], words: tuple[str, ...], said: str
) -> None:
    """Options that do not fit are said before a model is loaded, and no secret is repeated."""
    found = run_command("chat", *words)
    assert found.returncode == 2
    assert said in found.stderr
    assert "secret" not in found.stderr


def test_a_backend_is_for_all_models_or_one_for_each() -> None:
    """Other numbers are refused."""
    assert _match_backends(["hf"], ["a", "b"]) == ["hf", "hf"]
    assert _match_backends(["hf", "ternary"], ["a", "b"]) == ["hf", "ternary"]
    with pytest.raises(UsageError):
        _match_backends(["a", "b"], ["a"])
