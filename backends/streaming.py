"""What a session needs to write one answer token by token: how tokens are drawn, and which text is certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bitnet_bench.backends.token_choice import Sampler
from bitnet_bench.protocols import Sampling


@contextmanager
def draw_tokens(session: Any, prompt: Sequence[int], limit: int, sampling: Sampling | None = None) -> Iterator[None]:
    """Let *session* draw the tokens after *prompt* as *sampling* says, and make room for *limit* of them."""
    if sampling is not None:
        session._sampler = Sampler(sampling, [prompt], [0])
    session._to_write = limit
    try:
        yield
    finally:
        if sampling is not None:
            session._sampler = None
        session._to_write = 0


def find_end(session: Any, ids: list[int], stop: Sequence[str]) -> str | None:
    """Return the text of *ids* if the last of them ends it; None if more follows."""
    if ids[-1] == session.tokenizer.eos_token_id or ids[-1] in session.ends:
        return str(session._decode_text(ids[:-1]))
    text = str(session._decode_text(ids))
    cuts = [text.index(mark) for mark in stop if mark in text]
    return text[: min(cuts)] if cuts else None


def count_unsure(text: str, stop: Sequence[str]) -> int:
    """Return how many characters at the end of *text* may change: halves of characters, beginnings of stop strings."""
    halves = len(text) - len(text.rstrip("\ufffd"))
    begun = [n for mark in stop for n in range(1, min(len(mark), len(text) + 1)) if text.endswith(mark[:n])]
    return max(halves, *begun, 0)
