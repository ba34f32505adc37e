"""Rows to token ids with the loss on response tokens only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_bench.data.rows import Row
from bitnet_bench.data.templates import Rendered, choose, render
from bitnet_bench.errors import BenchError

IGNORED = -100
"""The label of a token that carries no loss (torch.nn.functional.cross_entropy's default)."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids and labels of one sequence, both of its length; labels are unshifted."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Training sequences, and what became of the rows that are not among them whole."""

    examples: list[Example]
    rows: int
    dropped: int
    """Rows whose response was cut off entirely by max_length."""
    truncated: int
    """Rows that lost some tokens and were kept."""

    @property
    def sha256(self) -> str:
        """Over ids and labels in order: two runs with the same digest saw the same data."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr((example.input_ids, example.labels)).encode())
        return digest.hexdigest()


def encode(rows: Sequence[Row], tokenizer: Any, template: str, max_length: int, pretrain: bool) -> Encoded:
    """Tokenize *rows*: one sequence a row for SFT; for pretraining, documents joined and cut into max_length pieces."""
    chat = bool(tokenizer.chat_template)
    rendered = [render(row, choose(template, row, chat), tokenizer) for row in rows]
    if not pretrain and all(turn.role == "text" for row in rows for turn in row.turns):
        raise BenchError("These rows are running text, with no prompt and response.", "Use --method pretrain for them.")
    masked = list(_tokenize(rendered, tokenizer))
    if pretrain:
        return Encoded(list(_pieces(masked, max_length)), len(rows), 0, 0)
    kept, truncated = [], 0
    for example in masked:
        short = Example(example.input_ids[:max_length], example.labels[:max_length])
        if all(label == IGNORED for label in short.labels[1:]):
            continue
        truncated += len(example.input_ids) > max_length
        kept.append(short)
    if not kept:
        raise BenchError(
            f"None of the {len(rows)} rows has a response token within {max_length} tokens.",
            "Raise --max-length, or shorten the prompts.",
        )
    return Encoded(kept, len(rows), len(rows) - len(kept), truncated)


def _tokenize(rendered: Iterable[Rendered], tokenizer: Any, chunk: int = 2048) -> Iterator[Example]:
    rendered = list(rendered)
    for i in range(0, len(rendered), chunk):
        part = rendered[i : i + chunk]
        encoded = tokenizer(
            [r.text for r in part],
            add_special_tokens=not part[0].has_special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for r, ids, offsets in zip(part, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            yield Example(ids, list(_labels(ids, offsets, r.responses)))


def _labels(ids: list[int], offsets: list[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> Iterator[int]:
    """Yield the id of tokens that begin inside a response, IGNORED for others; (0, 0) is a special token added."""
    for token, (start, end) in zip(ids, offsets, strict=True):
        inside = any(a <= start < b for a, b in spans) and end > start
        yield token if inside else IGNORED


def _pieces(documents: Iterable[Example], length: int) -> Iterator[Example]:
    """Join documents end to end and cut; the last piece shorter than two tokens is left out."""
    stream: list[int] = []
    for document in documents:
        stream += document.input_ids
        while len(stream) >= length:
            yield Example(stream[:length], stream[:length])
            stream = stream[length:]
    if len(stream) > 1:
        yield Example(stream, stream)
