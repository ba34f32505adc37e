"""Check training rows before a model is trained on them, and report every bad row, not only the first."""

from __future__ import annotations

import re
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitnet_bench.data.characters import find_characters
from bitnet_bench.data.examples import IGNORED_LABEL, LearnedTokens, tokenize_sequences
from bitnet_bench.data.jsonl import BadRowError, read_json, read_numbered_lines
from bitnet_bench.data.many_processes import map_in_processes
from bitnet_bench.data.row_reading import cut_batches
from bitnet_bench.data.row_text import hash_line
from bitnet_bench.data.rows import Row, read_value
from bitnet_bench.data.shapes import UnknownShapeError
from bitnet_bench.data.templates import choose_template, render_sequences
from bitnet_bench.data.text_encoding import TextEncoder
from bitnet_bench.data.unknown_shapes import describe_fields, suggest_shape
from bitnet_bench.errors import BenchError

FindingKind = Literal[
    "bad", "unread", "special", "duplicate", "overlap", "cut", "long", "nfd", "damaged", "invisible", "control"
]
FINDING_KINDS: dict[FindingKind, str] = {
    "bad": "cannot be read, and stops training",
    "unread": "holds text, or a flag of what to learn, that is not used",
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
    rows: int = 1
    """Number of rows that it is about; above 1 for rows of no known shape, of which the first has the line."""


@dataclass(frozen=True)
class FileFindings:
    """The findings of a file of rows, and the lengths of its rows."""

    file: str
    lines: int
    findings: tuple[Finding, ...]
    tokens: Sequence[int]
    """Number of tokens of each readable row, in order, including template and special tokens."""
    response_tokens: Sequence[int]
    """Number of tokens of each such row that carry the loss."""

    @property
    def counts(self) -> dict[FindingKind, int]:
        """Return the number of findings by kind, without kinds that have none."""
        found: Counter[FindingKind] = Counter()
        for finding in self.findings:
            found[finding.kind] += finding.rows
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
    examiner = _RowExaminer(tokenizer, template, max_length, _index_by_prefix(asked), normalise)
    collected = _Collector()
    for reports in map_in_processes(examiner.examine_lines, cut_batches(read_numbered_lines(path))):
        for report in reports:
            collected.add(report)
    return collected.finish(path)


@dataclass(slots=True)
class _RowReport:
    """What is found in one line without knowing the others."""

    line: int
    findings: list[Finding]
    before_duplicate: int = 0
    """How many of the findings come before that of a duplicate."""
    key: bytes | None = None
    """Hash of the row's texts, None if it cannot be read."""
    lost: tuple[str, ...] = ()
    lengths: tuple[int, int] | None = None
    """Tokens of its longest sequence, and tokens that carry the loss."""
    fields: tuple[str, ...] | None = None
    """Names of the fields of a row of no known shape."""


class _Collector:
    """Collects the reports of the lines of a file in order."""

    def __init__(self) -> None:
        self._lines = 0
        self._seen: dict[bytes, int] = {}
        self._findings: list[Finding] = []
        self._lost: dict[str, tuple[int, int]] = {}
        """First line that loses text for a reason, and how many do."""
        self._unknown: list[int] = []
        """Lines of no known shape."""
        self._fields: Counter[str] = Counter()
        """How many of those have a field."""
        self._tokens, self._response_tokens = array("I"), array("I")

    def add(self, report: _RowReport) -> None:
        """Add the report of the next line."""
        self._lines += 1
        findings = report.findings
        if report.key is not None:
            first = self._seen.setdefault(report.key, report.line)
            if first != report.line:
                same = Finding(report.line, "duplicate", f"is the same as line {first}")
                findings = [*findings[: report.before_duplicate], same, *findings[report.before_duplicate :]]
        self._findings += findings
        if report.fields is not None:
            self._unknown.append(report.line)
            self._fields.update(report.fields)
        for reason in report.lost:
            line, count = self._lost.get(reason, (report.line, 0))
            self._lost[reason] = line, count + 1
        if report.lengths is not None:
            self._tokens.append(report.lengths[0])
            self._response_tokens.append(report.lengths[1])

    def finish(self, path: Path) -> FileFindings:
        """Return the findings by line, and one for each reason of lost text, at the first row that has it."""
        lost = [
            Finding(line, "unread", f"{count:,} {'row holds' if count == 1 else 'rows hold'} {reason}")
            for reason, (line, count) in self._lost.items()
        ]
        findings = tuple(sorted([*self._merge_unknown(path), *lost], key=lambda finding: finding.line))
        return FileFindings(str(path), self._lines, findings, self._tokens, self._response_tokens)

    def _merge_unknown(self, path: Path) -> list[Finding]:
        """Return the findings, with a single one of all rows of no known shape where no row could be read."""
        if not self._unknown or self._tokens:
            return self._findings
        unknown = set(self._unknown)
        others = [found for found in self._findings if found.line not in unknown]
        rows = len(unknown)
        what = f"no known shape: {describe_fields(rows, self._fields)}. {suggest_shape(str(path), self._fields)}"
        return [Finding(self._unknown[0], "bad", what, rows), *others]


class _RowExaminer:
    """Finds what is wrong with single lines."""

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        max_length: int,
        windows: Mapping[str, list[tuple[str, str]]],
        normalise: Callable[[str], str],
    ) -> None:
        self._tokenizer, self._template, self._max_length = tokenizer, template, max_length
        self._windows, self._normalise = windows, normalise
        self._encoder = TextEncoder(tokenizer)
        self._special = _special_tokens(tokenizer)

    def examine_lines(self, lines: Sequence[tuple[int, str]]) -> list[_RowReport]:
        """Return a report of each of *lines*."""
        return [self._examine(number, line) for number, line in lines]

    def _examine(self, number: int, line: str) -> _RowReport:
        report = _RowReport(number, [])
        value: Any = None
        try:
            value, decomposed = read_json(line)
            row, unread = read_value(value)
        except BadRowError as error:
            if isinstance(error, UnknownShapeError):
                report.fields = tuple(name for name, one in value.items() if one is not None)
            report.findings.append(Finding(number, "bad", str(error)))
            return report
        if decomposed:
            report.findings.append(Finding(number, "nfd", "holds decomposed syllables"))
        report.before_duplicate = len(report.findings)
        report.key = _hash_texts(row)
        report.findings += (Finding(number, kind, reason) for kind, reason in self._find_in_texts(row))
        report.lost = tuple(f'"{name}", a field that is not read' for name in unread)
        task = _find_overlap(self._normalise(" ".join(turn.text for turn in row.turns)), self._windows)
        if task:
            shared = f"shares {MIN_OVERLAP_LETTERS} letters or more with a row of {task}"
            report.findings.append(Finding(number, "overlap", shared))
        self._examine_tokens(row, report)
        return report

    def _find_in_texts(self, row: Row) -> Iterator[tuple[FindingKind, str]]:
        """Yield answers that are cut off, special tokens, and invisible characters."""
        for turn in row.turns:
            text = turn.text.rstrip()
            if turn.role == "model" and len(text) >= LONG_ANSWER_CHARS and not text.endswith(ANSWER_ENDINGS):
                yield "cut", f"ends in {text[-12:]!r}"
        texts = [*(turn.text for turn in row.turns), row.rejected or ""]
        special = dict.fromkeys(self._special.findall("\0".join(texts))) if self._special else {}
        if special:
            yield "special", f"holds {', '.join(special)}, which the tokenizer reads as a special token"
        for text in texts:
            for kind, named in find_characters(text):
                yield kind, f"holds {named}"

    def _examine_tokens(self, row: Row, report: _RowReport) -> None:
        """Find a row that the template refuses or does not render completely, and one that is too long."""
        sides = [row] if row.rejected is None else [row, row.with_rejected()]
        try:
            lengths = [self._lengths(side) for side in sides]
            report.lost += tuple(dict.fromkeys(reason for side in sides for reason in self._left_out(side)))
        except BenchError as error:  # the chat template cannot render this dialogue as a prompt
            report.findings.append(Finding(report.line, "bad", error.problem))
            return
        length, _learned = report.lengths = lengths[0]
        if length > self._max_length:
            reason = f"has {length} tokens, {length - self._max_length} too many"
            report.findings.append(Finding(report.line, "long", reason))

    def _lengths(self, row: Row) -> tuple[int, int]:
        """Return the token count of a row's longest sequence, and how many tokens in all carry the loss."""
        is_text = all(turn.role == "text" for turn in row.turns)
        learned: LearnedTokens = "everything" if is_text else "responses"
        (sequences,) = tokenize_sequences([row], self._encoder, self._template, learned)
        labels = (sequence.to_example().labels for sequence in sequences)
        return max(len(one.ids) for one in sequences), sum(label != IGNORED_LABEL for of in labels for label in of)

    def _left_out(self, row: Row) -> Iterator[str]:
        """Yield the texts of a row that the template does not render."""
        template = choose_template(self._template, row, bool(self._tokenizer.chat_template))
        rendered = [one.text for one in render_sequences(row, template, self._tokenizer)]
        eos = self._tokenizer.eos_token or ""
        for turn in row.turns:
            text = turn.text.strip().removesuffix(eos).strip()
            if not any(text in one for one in rendered):
                yield f"{_SIDES[turn.role]} that the template leaves out"


def _hash_texts(row: Row) -> bytes:
    """Return the hash of what makes two rows duplicates: roles and stripped texts of their turns."""
    key = (*((turn.role, turn.text.strip()) for turn in row.turns), row.rejected)
    return hash_line(repr(key).encode("utf-8", "surrogatepass"))


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


def length_quantiles(lengths: Sequence[int]) -> dict[str, float]:
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


def length_histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (minimum, maximum, count) of lengths by powers of two."""
    counts = Counter(length.bit_length() for length in lengths)
    return (
        [(1 << bits - 1, (1 << bits) - 1, counts[bits]) for bits in range(min(counts), max(counts) + 1)]
        if counts
        else []
    )
