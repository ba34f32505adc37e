"""Say what is wrong with training rows before a model is trained on them: every bad row, not the first."""

from __future__ import annotations

import json
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitnet_bench.data.jsonl import numbered_lines
from bitnet_bench.data.rows import BadRowError, Row, parse_row
from bitnet_bench.data.templates import choose, render
from bitnet_bench.data.tokenizing import IGNORED, encode
from bitnet_bench.errors import BenchError

Kind = Literal["bad", "duplicate", "overlap", "cut", "long", "nfd"]
KINDS: dict[Kind, str] = {
    "bad": "cannot be read, and stops training",
    "duplicate": "the same text as an earlier row",
    "overlap": "asks what an evaluation task asks",
    "cut": "the answer seems to be cut off",
    "long": "exceeds `max_length`",
    "nfd": "is not in NFC, and is read as NFC",
}
OVERLAP_LETTERS = 20
"""Letters and digits that a row and a test row must share in one piece: shorter ones are found everywhere."""
LONG_ANSWER = 200
"""Characters: a shorter answer may well end without an ending."""
ENDINGS = tuple(".!?…。\"'”’)]}」』>*`~:;|") + tuple("다요죠까네음함임됨것")
"""How a long Korean answer ends that was not cut off: a sign, or the last syllable of a sentence."""


@dataclass(frozen=True)
class Finding:
    """What is to be said of one line."""

    line: int
    kind: Kind
    reason: str


@dataclass(frozen=True)
class Checked:
    """A file of rows: what was found, and how long its rows are."""

    file: str
    lines: int
    findings: tuple[Finding, ...]
    tokens: tuple[int, ...]
    """Of each row that could be read, in order, template and special tokens included."""
    response_tokens: tuple[int, ...]
    """Those of them that carry the loss."""

    @property
    def counts(self) -> dict[Kind, int]:
        """Return the number of findings of each kind that there is."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}


def check(
    path: Path,
    tokenizer: Any,
    template: str,
    max_length: int,
    asked: Mapping[str, str],
    normalise: Callable[[str], str],
) -> Checked:
    """Check every line of a JSONL file.

    *asked* is what evaluation asks: texts under *normalise*, and the task of each.
    """
    windows = _windows(asked)
    seen: dict[tuple[Any, ...], int] = {}
    findings: list[Finding] = []
    tokens, response_tokens = [], []
    count = 0
    for number, line in numbered_lines(path):
        count += 1
        try:
            row = parse_row(line)
        except BadRowError as error:
            findings.append(Finding(number, "bad", str(error)))
            continue
        findings += [Finding(number, kind, reason) for kind, reason in _of_text(line, row, number, seen)]
        task = _overlap(normalise(" ".join(turn.text for turn in row.turns)), windows)
        if task:
            findings.append(
                Finding(number, "overlap", f"shares {OVERLAP_LETTERS} letters or more with a row of {task}")
            )
        try:
            length, learned = _lengths(row, tokenizer, template)
        except BenchError as error:  # a dialogue that the chat template has no prompt for
            findings.append(Finding(number, "bad", error.problem))
            continue
        tokens.append(length)
        response_tokens.append(learned)
        if length > max_length:
            findings.append(Finding(number, "long", f"has {length} tokens, {length - max_length} too many"))
    return Checked(str(path), count, tuple(findings), tuple(tokens), tuple(response_tokens))


def _of_text(line: str, row: Row, number: int, seen: dict[tuple[Any, ...], int]) -> Iterator[tuple[Kind, str]]:
    if not unicodedata.is_normalized("NFC", json.dumps(json.loads(line), ensure_ascii=False)):
        yield "nfd", "holds decomposed syllables"
    key = (*((turn.role, turn.text.strip()) for turn in row.turns), row.rejected)
    if key in seen:
        yield "duplicate", f"is the same as line {seen[key]}"
    seen.setdefault(key, number)
    for turn in row.turns:
        text = turn.text.rstrip()
        if turn.role == "model" and len(text) >= LONG_ANSWER and not text.endswith(ENDINGS):
            yield "cut", f"ends in {text[-12:]!r}"


def _lengths(row: Row, tokenizer: Any, template: str) -> tuple[int, int]:
    """Return how many tokens a row has, and how many of them carry the loss."""
    if all(turn.role == "text" for turn in row.turns):
        text = render(row, choose(template, row, bool(tokenizer.chat_template)), tokenizer).text
        length = len(tokenizer(text, verbose=False).input_ids)
        return length, length
    (example,) = encode([row], tokenizer, template, 2**31, pretrain=False).examples
    return len(example.input_ids), sum(label != IGNORED for label in example.labels)


def _windows(asked: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return texts that are long enough by their first letters."""
    found: dict[str, list[tuple[str, str]]] = {}
    for text, task in asked.items():
        if len(text) >= OVERLAP_LETTERS:
            found.setdefault(text[:OVERLAP_LETTERS], []).append((text, task))
    return found


def _overlap(text: str, windows: Mapping[str, list[tuple[str, str]]]) -> str | None:
    """Return the task of a text of *windows* that *text* holds whole."""
    for start in range(len(text) - OVERLAP_LETTERS + 1):
        for whole, task in windows.get(text[start : start + OVERLAP_LETTERS], ()):
            if text.startswith(whole, start):
                return task
    return None


def quantiles(lengths: tuple[int, ...]) -> dict[str, float]:
    """Return least, median, 95th and 99th percentile, greatest, mean and sum; {} of nothing."""
    if not lengths:
        return {}
    cuts = statistics.quantiles(lengths, n=100, method="inclusive") if len(lengths) > 1 else [lengths[0]] * 99
    return {
        "least": min(lengths),
        "median": statistics.median(lengths),
        "p95": cuts[94],
        "p99": cuts[98],
        "greatest": max(lengths),
        "mean": statistics.fmean(lengths),
        "sum": sum(lengths),
    }


def histogram(lengths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return (least, greatest, count) of lengths by powers of two."""
    counts = Counter(length.bit_length() for length in lengths)
    return (
        [(1 << bits - 1, (1 << bits) - 1, counts[bits]) for bits in range(min(counts), max(counts) + 1)]
        if counts
        else []
    )
