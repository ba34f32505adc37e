"""Check training rows before a model is trained on them, and report every bad row, not only the first."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitnet_bench.data.characters import find_characters
from bitnet_bench.data.jsonl import BadRowError, read_json, read_numbered_lines
from bitnet_bench.data.rows import Row, read_value
from bitnet_bench.data.templates import choose_template, render_sequences
from bitnet_bench.data.tokenizing import IGNORED_LABEL, tokenize
from bitnet_bench.errors import BenchError

FindingKind = Literal[
    "bad", "unread", "special", "duplicate", "overlap", "cut", "long", "nfd", "damaged", "invisible", "control"
]
FINDING_KINDS: dict[FindingKind, str] = {
    "bad": "cannot be read, and stops training",
    "unread": "holds text that is not learned from",
    "special": "holds a special token of the tokenizer",
    "duplicate": "the same text as an earlier row",
    "overlap": "asks what an evaluation task asks",
    "cut": "the answer seems to be cut off",
    "long": "exceeds `max_length`",
    "nfd": "is not in NFC, and is read as NFC",
    "damaged": "holds replacement or private characters",
    "invisible": "holds characters of no width",
    "control": "holds control characters",
}
MIN_OVERLAP_LETTERS = 20
"""Letters and digits that a row and a test row must share in one piece; shorter overlaps are found everywhere."""
LONG_ANSWER_CHARS = 200
"""Length in characters below which an answer may well lack an ending."""
ANSWER_ENDINGS = tuple(".!?…。\"'”’)]}」』>*`~:;|") + tuple("다요죠까네음함임됨것")
"""Endings of a long Korean answer that was not cut off: a sign, or the last syllable of a sentence."""


@dataclass(frozen=True)
class Finding:
    """A finding about one line."""

    line: int
    kind: FindingKind
    reason: str


@dataclass(frozen=True)
class FileFindings:
    """The findings of a file of rows, and the lengths of its rows."""

    file: str
    lines: int
    findings: tuple[Finding, ...]
    tokens: tuple[int, ...]
    """Number of tokens of each readable row, in order, including template and special tokens."""
    response_tokens: tuple[int, ...]
    """Number of tokens of each such row that carry the loss."""

    @property
    def counts(self) -> dict[FindingKind, int]:
        """Return the number of findings by kind, without kinds that have none."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in FINDING_KINDS if found[kind]}


def examine_rows(
    path: Path,
    tokenizer: Any,
    template: str,
    max_length: int,
    asked: Mapping[str, str],
    normalise: Callable[[str], str],
) -> FileFindings:
    """Check every line of a JSONL file.

    *asked* maps the texts of evaluation prompts, normalised with *normalise*, to their tasks.
    """
    checker = _Checker(tokenizer, template, max_length)
    windows = _index_by_prefix(asked)
    count = 0
    for number, line in read_numbered_lines(path):
        count += 1
        try:
            value, decomposed = read_json(line)
            row, unread = read_value(value)
        except BadRowError as error:
            checker.add(number, "bad", str(error))
            continue
        if decomposed:
            checker.add(number, "nfd", "holds decomposed syllables")
        checker.check_row(number, row)
        checker.count_lost(number, (f'text in "{name}", a field that is not read' for name in unread))
        task = _find_overlap(normalise(" ".join(turn.text for turn in row.turns)), windows)
        if task:
            checker.add(number, "overlap", f"shares {MIN_OVERLAP_LETTERS} letters or more with a row of {task}")
        checker.check_tokens(number, row)
    return FileFindings(str(path), count, checker.all_findings(), tuple(checker.tokens), tuple(checker.response_tokens))


class _Checker:
    """Collects the findings in the rows of one file."""

    def __init__(self, tokenizer: Any, template: str, max_length: int) -> None:
        self._tokenizer, self._template, self._max_length = tokenizer, template, max_length
        self._special = _special_tokens(tokenizer)
        self._seen: dict[tuple[Any, ...], int] = {}
        self._findings: list[Finding] = []
        self._lost: dict[str, list[int]] = {}
        self.tokens: list[int] = []
        self.response_tokens: list[int] = []

    def add(self, number: int, kind: FindingKind, reason: str) -> None:
        """Add one finding."""
        self._findings.append(Finding(number, kind, reason))

    def count_lost(self, number: int, reasons: Iterable[str]) -> None:
        """Count a row as losing text for each of *reasons*."""
        for reason in reasons:
            self._lost.setdefault(reason, []).append(number)

    def all_findings(self) -> tuple[Finding, ...]:
        """Return the findings by line, and one for each reason of lost text, at the first row that has it."""
        lost = [
            Finding(lines[0], "unread", f"{len(lines):,} {'row holds' if len(lines) == 1 else 'rows hold'} {reason}")
            for reason, lines in self._lost.items()
        ]
        return tuple(sorted([*self._findings, *lost], key=lambda finding: finding.line))

    def check_row(self, number: int, row: Row) -> None:
        """Find duplicates, answers that are cut off, special tokens, and invisible characters."""
        key = (*((turn.role, turn.text.strip()) for turn in row.turns), row.rejected)
        if key in self._seen:
            self.add(number, "duplicate", f"is the same as line {self._seen[key]}")
        self._seen.setdefault(key, number)
        for turn in row.turns:
            text = turn.text.rstrip()
            if turn.role == "model" and len(text) >= LONG_ANSWER_CHARS and not text.endswith(ANSWER_ENDINGS):
                self.add(number, "cut", f"ends in {text[-12:]!r}")
        texts = "\0".join([turn.text for turn in row.turns] + [row.rejected or ""])
        special = dict.fromkeys(self._special.findall(texts)) if self._special else {}
        if special:
            self.add(number, "special", f"holds {', '.join(special)}, which the tokenizer reads as a special token")
        for text in [*(turn.text for turn in row.turns), row.rejected or ""]:
            for kind, named in find_characters(text):
                self.add(number, kind, f"holds {named}")

    def check_tokens(self, number: int, row: Row) -> None:
        """Find rows that the template refuses or does not render completely, and rows that are too long."""
        sides = [row] if row.rejected is None else [row, row.with_rejected()]
        try:
            lengths = [self._lengths(side) for side in sides]
            self.count_lost(number, dict.fromkeys(reason for side in sides for reason in self._left_out(side)))
        except BenchError as error:  # the chat template cannot render this dialogue as a prompt
            self.add(number, "bad", error.problem)
            return
        length, learned = lengths[0]
        self.tokens.append(length)
        self.response_tokens.append(learned)
        if length > self._max_length:
            self.add(number, "long", f"has {length} tokens, {length - self._max_length} too many")

    def _lengths(self, row: Row) -> tuple[int, int]:
        """Return the token count of a row's longest sequence, and how many tokens in all carry the loss."""
        is_text = all(turn.role == "text" for turn in row.turns)
        (examples,) = tokenize([row], self._tokenizer, self._template, "everything" if is_text else "responses")
        learned = sum(label != IGNORED_LABEL for example in examples for label in example.labels)
        return max(len(example.input_ids) for example in examples), learned

    def _left_out(self, row: Row) -> Iterator[str]:
        """Yield the texts of a row that the template does not render."""
        template = choose_template(self._template, row, bool(self._tokenizer.chat_template))
        rendered = [one.text for one in render_sequences(row, template, self._tokenizer)]
        eos = self._tokenizer.eos_token or ""
        for turn in row.turns:
            text = turn.text.strip().removesuffix(eos).strip()
            if not any(text in one for one in rendered):
                yield f"{_SIDES[turn.role]} that the template leaves out"


_SIDES = {"user": "words of the user", "model": "an answer", "system": "a system text", "text": "a text"}


def _special_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern that matches any special token of a tokenizer; None if it has none."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def _index_by_prefix(asked: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return the texts that are long enough, by their first letters."""
    found: dict[str, list[tuple[str, str]]] = {}
    for text, task in asked.items():
        if len(text) >= MIN_OVERLAP_LETTERS:
            found.setdefault(text[:MIN_OVERLAP_LETTERS], []).append((text, task))
    return found


def _find_overlap(text: str, windows: Mapping[str, list[tuple[str, str]]]) -> str | None:
    """Return the task of a text in *windows* that *text* contains completely, or None."""
    for start in range(len(text) - MIN_OVERLAP_LETTERS + 1):
        for whole, task in windows.get(text[start : start + MIN_OVERLAP_LETTERS], ()):
            if text.startswith(whole, start):
                return task
    return None


def length_quantiles(lengths: tuple[int, ...]) -> dict[str, float]:
    """Return minimum, median, 95th and 99th percentile, maximum, mean and sum; {} without lengths."""
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


def length_histogram(lengths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return (minimum, maximum, count) of lengths by powers of two."""
    counts = Counter(length.bit_length() for length in lengths)
    return (
        [(1 << bits - 1, (1 << bits) - 1, counts[bits]) for bits in range(min(counts), max(counts) + 1)]
        if counts
        else []
    )
