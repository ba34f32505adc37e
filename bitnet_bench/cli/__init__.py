"""The command line: each command reads its arguments, calls one function and prints."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from bitnet_bench import __version__
from bitnet_bench.cli.commands import add_commands
from bitnet_bench.cli.sentences import WarningHandler, print_error, print_text
from bitnet_bench.cli.terminal import allow_questions, protect_streams
from bitnet_bench.errors import BenchError, UsageError, explain_system_error
from bitnet_bench.machine.threads import OPENMP_ENVIRONMENT
from bitnet_bench.wording.translation import use_language

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fine-tune, evaluate, measure and compare Korean BitNet b1.58 models. Start with `bitnet-bench quickstart`.",
)
add_commands(app)

DEBUG_VARIABLE = "BITNET_BENCH_DEBUG"
"""Environment variable with which an error of the system shows its traceback."""
INTERRUPTED = 130
"""Exit status that typer gives Ctrl-C: 128 + SIGINT."""


def main() -> None:
    """Run the command line; a BenchError becomes a message and exit status 1, a UsageError exit status 2."""
    # our progress bars replace those of libraries; tokenizers warns about forks that never happen
    # and `protect_streams` would show the colours of Python's own messages as codes
    quiet = {
        "TQDM_DISABLE": "1",
        "PYTHON_COLORS": "0",
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in {**quiet, **OPENMP_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    with protect_streams():
        if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
            allow_questions()
        _run_app()


def _run_app() -> None:
    logging.lastResort = WarningHandler(logging.WARNING)  # it writes warnings when logging is not set up
    try:
        _check_encoding(sys.argv[1:])
        _build_command()()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print_text("Stopped. What was finished is kept; the same command goes on from there.", sys.stderr)
        raise
    except BenchError as error:
        _end_with(error)
    except Exception as error:
        # the last net: a reader or writer that knows the file raises a BenchError itself
        explained = None if os.environ.get(DEBUG_VARIABLE) else explain_system_error(error)
        if explained:
            _end_with(explained)
        traceback.print_exc()  # the interpreter would print it past `protect_streams`
        sys.exit(1)


def _build_command() -> Any:
    """Return the command line, with its help in Korean if that is asked for."""
    command = typer.main.get_command(app)
    if use_language(getattr(sys.stdout, "encoding", None)) == "ko":
        from bitnet_bench.cli.translated_help import translate_help

        translate_help(command)
    return command


def _end_with(error: BenchError) -> NoReturn:
    """Print *error* and exit."""
    print_error(str(error))
    sys.exit(2 if isinstance(error, UsageError) else 1)


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raise UsageError for an argument of bytes that are no text, such as a path in EUC-KR: no record could name it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            raise UsageError(
                f"{shown} is not UTF-8.", "Rename the file or folder, for example with `convmv`."
            ) from None


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
