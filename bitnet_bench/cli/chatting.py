"""The command that talks to a model, or to two side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.chat_screen import show_alone, show_in_columns, show_in_turn, show_reply
from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.loading import TO_RUN, load_libraries
from bitnet_bench.cli.options import Json
from bitnet_bench.cli.output import print_document, print_json
from bitnet_bench.cli.sentences import find_width, print_error, print_text
from bitnet_bench.cli.tables import show_phase
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.runs.choices import AUTO, DEFAULT_MODEL

if TYPE_CHECKING:
    from bitnet_bench.chat.conversation import Conversation
    from bitnet_bench.chat.speakers import Reply, Speaker

MAX_MODELS = 2
WIDE_COLUMNS = 120
"""Width from which two answers stand beside each other."""
MAX_INPUT_CHARACTERS = 1_000_000
GREETING = "안녕하세요?"
"""Question with which `/template` shows a template before anything is said."""
HELP = (
    "/template shows the chat template, and the text that the model reads.",
    "/system TEXT sets the system turn; without TEXT there is none.",
    "/reset forgets what was said.",
    "/help shows this.",
    "/quit ends, as does Ctrl-D; Ctrl-C stops an answer and keeps the conversation.",
)


@with_fields
def chat(
    *,
    model: Annotated[
        list[str],
        typer.Option(
            help="A checkpoint folder, a GGUF file, a hub id, `demo` / `demo-fp16`, or a model on a server. "
            "Give two to talk to both."
        ),
    ] = [DEFAULT_MODEL],  # noqa: B006
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Ask this and end; several are turns of one conversation. Repeatable.", show_default=False),
    ] = None,
    job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:ChatJob")],
    as_json: Json = False,
) -> None:
    """Talk to a model, or to two side by side.

    Answers come as they are written, with their speed. Without a terminal, the text on standard input is the question.
    """
    from bitnet_bench.chat.speakers import open_speaker
    from bitnet_bench.runs.jobs import ChatJob

    wanted = ChatJob(**job)
    backends = _match_backends(wanted.backends, model)
    _check_server(backends, wanted.base_url)
    questions = _read_questions(prompt, as_json)
    load_libraries(TO_RUN)
    with ExitStack() as stack:
        speakers = []
        for name, backend in zip(model, backends, strict=True):
            with show_phase(f"load {name}"):
                speakers.append(stack.enter_context(open_speaker(name, backend, wanted)))
        talk = Talk(speakers, wanted.system)
        if questions is None:
            talk.run()
        else:
            talk.answer_all(questions, as_json)


def _match_backends(backends: Sequence[str], models: Sequence[str]) -> Sequence[str]:
    """Return a backend for each model; UsageError if the numbers do not fit."""
    if len(models) > MAX_MODELS:
        raise UsageError(f"{len(models)} models do not fit beside each other.", f"Give at most {MAX_MODELS} models.")
    if len(backends) not in (1, len(models)):
        raise UsageError(
            f"{len(backends)} backends are given, and the number of models is {len(models)}.",
            "Give one for all, or one for each.",
        )
    return list(backends) * len(models) if len(backends) == 1 else backends


def _check_server(backends: Sequence[str], base_url: str | None) -> None:
    """Raise UsageError if there is a server, and no backend that asks one."""
    from bitnet_bench import plugins

    asking = [one for one in backends if one != AUTO and plugins.load_plugin("backends", one).is_remote]
    if base_url is not None and not asking:
        raise UsageError("`base_url` names a server, which only `backends=openai` asks.", "Give both, or neither.")


def _read_questions(prompts: Sequence[str] | None, as_json: bool) -> list[str] | None:
    """Return what is asked without a talk: the prompts, or the text on standard input; None for a talk."""
    if prompts:
        found = list(prompts)
    elif sys.stdin is None:
        raise UsageError("There is no standard input to talk through.", "Give a `prompt`.")
    elif sys.stdin.isatty():
        if as_json:
            raise UsageError("A talk is not printed as JSON.", "Give a `prompt`, or text on standard input.")
        return None
    else:
        found = [_read_text()]
        if len(found[0]) > MAX_INPUT_CHARACTERS:
            raise UsageError(f"The text has more than {MAX_INPUT_CHARACTERS:,} characters.", "Give a shorter one.")
    if not all(one.strip() for one in found):
        raise UsageError("There is nothing to ask: the text is empty.", "Give a `prompt`, or text on standard input.")
    return found


def _read_text() -> str:
    """Return the text on standard input, or a little more than is allowed of it; UsageError if it is not UTF-8."""
    try:
        text = sys.stdin.read(MAX_INPUT_CHARACTERS + 1)
        text.encode()  # in some locales Python reads a wrong byte as half a character
    except UnicodeError as error:
        raise UsageError("The text on standard input is not UTF-8.", "Convert it, for example with `iconv`.") from error
    return text


class Talk:
    """A conversation with each of a few models, which are asked the same."""

    def __init__(self, speakers: Sequence[Speaker], system: str | None, read: Callable[[str], str] = input) -> None:
        from bitnet_bench.chat.conversation import Conversation

        self._speakers, self._read = speakers, read
        self._conversations: list[Conversation] = [Conversation(system) for _ in speakers]

    def answer_all(self, questions: Sequence[str], as_json: bool) -> None:
        """Ask *questions*, one after the other, and print the answers."""
        told = []
        for question in questions:
            for speaker, conversation in zip(self._speakers, self._conversations, strict=True):
                conversation.ask(question)
                if not as_json and len(self._speakers) > 1:
                    print_text(f"{speaker.name}:")
                reply = show_alone(speaker.reply(conversation), is_shown=not as_json)
                conversation.answer(reply.text)
                told.append(_describe(speaker, question, reply))
                if not as_json:
                    show_reply(reply, sys.stderr)
        if as_json:
            print_json(told)

    def run(self) -> None:
        """Ask what is typed until the end is wanted."""
        self._introduce()
        was_stopped = False
        while True:
            try:
                line = self._read("> ")
                line.encode()  # in some locales Python reads a wrong byte as half a character
            except UnicodeError:
                print_error("What was typed is not UTF-8.")
                continue
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                if was_stopped:
                    print()
                    return
                print_text("\nCtrl-C again, Ctrl-D or /quit ends.")
                was_stopped = True
                continue
            was_stopped = False
            if line.strip() == "/quit":
                return
            if line.startswith("/") and not line.startswith("//"):
                self._obey(line)
            elif line.strip():
                self._ask(line[1:] if line.startswith("//") else line)

    def _introduce(self) -> None:
        for speaker in self._speakers:
            print_text(f"{speaker.name} ({speaker.backend}) answers through {speaker.template}.")
        print_text("/help lists the commands.")

    def _obey(self, line: str) -> None:
        """Carry out a command."""
        command, _, text = line.strip().partition(" ")
        if command == "/help":
            print_text("\n".join(HELP))
        elif command == "/reset":
            for conversation in self._conversations:
                conversation.reset()
            print_text("What was said is forgotten.")
        elif command == "/system":
            for conversation in self._conversations:
                conversation.system = text.strip() or None
            print_text("The system turn is set." if text.strip() else "There is no system turn.")
        elif command == "/template":
            self._show_templates()
        else:
            print_text(f"There is no command {command}: /help lists them, and // begins a text with /.")

    def _show_templates(self) -> None:
        from bitnet_bench.chat.conversation import Conversation

        for speaker, conversation in zip(self._speakers, self._conversations, strict=True):
            print_text(f"{speaker.name} answers through {speaker.template}.")
            if speaker.template_source is None:
                continue
            print_document(speaker.template_source)
            shown = conversation if conversation.turns else Conversation(conversation.system)
            if not conversation.turns:
                shown.ask(GREETING)
            print_text("The model reads:")
            try:
                print_document(speaker.render(shown.list_messages()) or "")
            except BenchError as error:
                print_error(str(error))

    def _ask(self, text: str) -> None:
        """Ask the models and show their answers; an answer that is stopped or fails is kept as far as it came."""
        for conversation in self._conversations:
            conversation.ask(text)
        replies = [
            (speaker.name, speaker.reply(conversation))
            for speaker, conversation in zip(self._speakers, self._conversations, strict=True)
        ]
        if len(replies) > 1 and (find_width(sys.stdout) or 0) >= WIDE_COLUMNS and sys.stdout.isatty():
            answers = show_in_columns(replies)
        else:
            answers = show_in_turn(replies)
        for conversation, answer in zip(self._conversations, answers, strict=True):
            conversation.answer(answer.strip())


def _describe(speaker: Speaker, question: str, reply: Reply) -> dict[str, Any]:
    """Return an answer for a program."""
    return {
        "model": speaker.name,
        "backend": speaker.backend,
        "template": speaker.template,
        "prompt": question,
        "answer": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "new_tokens": reply.new_tokens,
        "first_token_s": reply.first_token_s,
        "seconds": reply.seconds,
        "tokens_per_s": reply.tokens_per_s,
        "is_cut": reply.is_cut,
        "dropped_exchanges": reply.dropped,
    }
