"""Show answers on a terminal while they are written, one below the other or in columns."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from bitnet_bench.cli.sentences import print_error, print_text
from bitnet_bench.cli.terminal import escape_controls, unprotect
from bitnet_bench.errors import BenchError

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.chat.speakers import Reply

Pieces = Generator[str, None, "Reply"]
FRAMES_PER_S = 8


def print_piece(text: str) -> None:
    """Print a piece of a model's text at once; it is data, and steers nothing."""
    print(escape_controls(text), end="", flush=True, file=unprotect(sys.stdout))


def show_alone(pieces: Pieces, is_shown: bool) -> Reply:
    """Print *pieces* as they come if they are to be shown, and return the whole."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as ended:
            if is_shown:
                print_piece("\n")
            reply: Reply = ended.value
            return reply
        if is_shown:
            print_piece(piece)


def show_in_turn(replies: Sequence[tuple[str, Pieces]]) -> list[str]:
    """Print one answer below the other and return their texts, each as far as it came before it was stopped."""
    texts = [""] * len(replies)
    is_stopped = False
    for i, (name, pieces) in enumerate(replies):
        if is_stopped:
            pieces.close()
            continue
        if len(replies) > 1:
            print_text(f"{name}:")
        for kind, value in _follow(pieces):
            if kind == "piece":
                texts[i] += value
                print_piece(value)
            else:
                print_piece("\n" if texts[i] else "")
                is_stopped = is_stopped or kind == "stopped"
                _show_end(kind, value)
    return texts


def show_in_columns(replies: Sequence[tuple[str, Pieces]]) -> list[str]:
    """Show answers beside each other while they are written, one after the other, and return their texts.

    Written together, each would take the time of both, and no speed would be right.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(file=unprotect(sys.stdout))
    names, texts = [name for name, _ in replies], [""] * len(replies)
    ends: list[tuple[str, Any]] = []
    with Live(console=console, refresh_per_second=FRAMES_PER_S, transient=True, vertical_overflow="ellipsis") as live:
        for i, (_, pieces) in enumerate(replies):
            if any(kind == "stopped" for kind, _ in ends):
                pieces.close()
                continue
            for kind, value in _follow(pieces):
                if kind == "piece":
                    texts[i] += value
                    live.update(_make_columns(names, texts))
                else:
                    ends.append((kind, value))
    console.print(_make_columns(names, texts))
    for kind, value in ends:
        _show_end(kind, value)
    return texts


def _make_columns(names: Sequence[str], texts: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True, box=None, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(Text(escape_controls(name)), ratio=1, overflow="fold")
    table.add_row(*(Text(escape_controls(text)) for text in texts))
    return table


def _follow(pieces: Pieces) -> Generator[tuple[str, Any], None, None]:
    """Yield ("piece", text) for each piece and at last ("done", reply), ("stopped", None) or ("failed", error)."""
    try:
        while True:
            yield "piece", next(pieces)
    except StopIteration as ended:
        yield "done", ended.value
    except KeyboardInterrupt:
        pieces.close()
        yield "stopped", None
    except BenchError as error:
        yield "failed", error


def _show_end(kind: str, value: Any) -> None:
    """Print what is to be said of an answer that has ended."""
    if kind == "done":
        show_reply(value, sys.stdout)
    elif kind == "stopped":
        print_text("Stopped; the conversation goes on.")
    else:
        print_error(str(value))


def show_reply(reply: Reply, stream: TextIO) -> None:
    """Print the speed of an answer, and what of it or before it was cut."""
    if reply.dropped:
        print_text(f"The context is full: {reply.dropped} earlier exchanges were not read any more.", stream)
    if reply.is_cut:
        print_text("The answer was cut: it has as many tokens as it may have.", stream)
    parts = [f"{reply.new_tokens} tokens"] if reply.new_tokens is not None else []
    parts += [f"{reply.tokens_per_s:.1f} tokens/s"] if reply.tokens_per_s is not None else []
    parts += [f"the first after {reply.first_token_s:.2f} s"] if reply.first_token_s is not None else []
    if parts:
        print_text(f"[{', '.join(parts)}]", stream)
