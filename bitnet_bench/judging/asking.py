"""Ask a judge about answers, a fixed number of requests at a time, and keep every verdict in a file as it comes.

The file is JSON Lines. Requests are asked in groups that are the same however often the judge was killed, so that every
verdict has the same bits as in an uninterrupted run; a group is kept whole or asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.conversations import (
    ChatLM,
    Message,
    answer_conversations,
    count_from,
    render_conversation,
)
from bitnet_bench.files import explain_disk_errors, is_file, write_whole
from bitnet_bench.judging.prompts import JudgePrompt
from bitnet_bench.judging.verdicts import Preference, parse_preference, parse_score
from bitnet_bench.protocols import Progress
from bitnet_bench.runs.records import Example
from bitnet_bench.runs.value import Value

REQUESTS_AT_ONCE = 16
"""Number of requests of a group, which is what a kill loses at most."""
Order = Literal["single", "ab", "ba"]
"""What is shown: one answer, or two with run A's or run B's first."""


@dataclass(frozen=True)
class JudgeRequest:
    """What a judge is asked about one turn of one question."""

    doc_id: int
    turn: int
    """0 for the first turn."""
    order: Order
    messages: tuple[Message, ...]

    @property
    def digest(self) -> str:
        """Return the sha256 of what the judge reads."""
        text = json.dumps(self.messages, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Verdict(Value):
    """A judge's reply to a request, and what was read out of it: a line of the file."""

    doc_id: int
    turn: int
    order: Order
    request: str
    """Digest of what the judge read."""
    reply: str
    score: float | None = None
    preferred: Preference | None = None
    """Answer that is preferred, by the place in which it was shown."""
    unparsable: str = ""
    """Why no verdict could be read; empty if one could."""
    is_cut: bool = False
    """True if the beginning of the prompt was cut, because it is longer than the judge's context."""

    @property
    def is_read(self) -> bool:
        """Return whether a verdict could be read."""
        return not self.unparsable


def list_single_requests(prompt: JudgePrompt, examples: Sequence[Example]) -> list[JudgeRequest]:
    """Return a request for every turn of every question."""
    return [
        JudgeRequest(example.doc_id, turn, "single", tuple(prompt.write_single(example.turns, turn)))
        for example in examples
        for turn in range(len(example.turns))
    ]


def list_pair_requests(
    prompt: JudgePrompt, examples: Sequence[Example], others: Sequence[Example]
) -> list[JudgeRequest]:
    """Return two requests, one in either order, for every turn of every question that both runs answered."""
    requests = []
    for a, b in zip(examples, others, strict=True):
        for turn in range(len(a.turns)):
            shown: dict[Order, list[Message]] = {
                "ab": prompt.write_pair(a.turns, b.turns, turn),
                "ba": prompt.write_pair(b.turns, a.turns, turn),
            }
            requests += [JudgeRequest(a.doc_id, turn, order, tuple(said)) for order, said in shown.items()]
    return requests


def make_verdict(request: JudgeRequest, prompt: JudgePrompt, reply: str, is_cut: bool = False) -> Verdict:
    """Return what *reply* says about *request*."""
    known: dict[str, Any] = {
        "doc_id": request.doc_id,
        "turn": request.turn,
        "order": request.order,
        "request": request.digest,
        "reply": reply,
        "is_cut": is_cut,
    }
    if request.order == "single":
        score = parse_score(reply, prompt.scale)
        return Verdict(**known, score=score.value, unparsable=score.reason)
    preference = parse_preference(reply)
    return Verdict(**known, preferred=preference.value, unparsable=preference.reason)


class VerdictFile:
    """The verdicts about the answers to one task, kept as they come.

    Verdicts that are in the file and not asked for now stay there: a smaller `limit` loses none.
    """

    def __init__(self, file: Path, prompt: JudgePrompt, requests: Sequence[JudgeRequest]) -> None:
        self.file, self._prompt, self._requests = file, prompt, requests
        self._kept = {verdict.request: verdict for verdict in _read_verdicts(file)}

    @property
    def groups_left(self) -> list[Sequence[JudgeRequest]]:
        """Return the groups of requests of which a verdict is missing."""
        groups = [self._requests[at : at + REQUESTS_AT_ONCE] for at in range(0, len(self._requests), REQUESTS_AT_ONCE)]
        return [group for group in groups if any(request.digest not in self._kept for request in group)]

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Append the verdicts of a group, and wait until they are on the disk."""
        self._kept |= {verdict.request: verdict for verdict in verdicts}
        text = "".join(f"{verdict.model_dump_json()}\n" for verdict in verdicts)
        with explain_disk_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as stream:
                stream.write(text.encode("utf-8", "surrogatepass"))
                stream.flush()
                os.fsync(stream.fileno())

    def finish(self) -> tuple[list[Verdict], str]:
        """Return the verdicts in the order of the requests, read again, and the sha256 of their file.

        In the file, verdicts that are not asked for now come last.
        """
        verdicts = []
        for request in self._requests:
            kept = self._kept[request.digest]
            verdicts.append(make_verdict(request, self._prompt, kept.reply, kept.is_cut))
        wanted = {request.digest for request in self._requests}
        others = (verdict for digest, verdict in self._kept.items() if digest not in wanted)
        text = "".join(f"{verdict.model_dump_json()}\n" for verdict in (*verdicts, *others))
        write_whole(self.file, text)
        return verdicts, hashlib.sha256(text.encode()).hexdigest()


def _read_verdicts(file: Path) -> list[Verdict]:
    """Return the verdicts in *file*; the end of a file that was being written when a kill came is left out."""
    if not is_file(file):
        return []
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}.", "Delete it and judge again.") from error
    found = []
    for line in lines:
        try:
            found.append(Verdict.model_validate_json(line))
        except ValidationError:  # it is asked for again
            continue
    return found


def ask_judge(
    lm: ChatLM,
    prompt: JudgePrompt,
    kept: VerdictFile,
    max_new_tokens: int,
    progress: Progress,
) -> None:
    """Ask for the verdicts that *kept* lacks, group by group."""
    left = kept.groups_left
    total, done = sum(map(len, left)), 0
    for group in left:
        lm.progress = count_from(progress, done, total)
        replies, is_cut = _ask_group(lm, group, max_new_tokens)
        kept.add([make_verdict(r, prompt, text, cut) for r, text, cut in zip(group, replies, is_cut, strict=True)])
        done += len(group)


def _ask_group(lm: ChatLM, group: Sequence[JudgeRequest], max_new_tokens: int) -> tuple[list[str], list[bool]]:
    """Return the reply to each request of a group, and whether its prompt was cut.

    All have the same room, so the cut prompts are the longest ones.
    """
    before = lm.counts.get("truncated", 0)
    conversations = [request.messages for request in group]
    texts = [one.text for one in answer_conversations(lm, conversations, max_new_tokens, range(len(group)))]
    cut = lm.counts.get("truncated", 0) - before
    if not cut:
        return texts, [False] * len(group)
    lengths = [len(lm.tok_encode(render_conversation(lm, one))) for one in conversations]
    longest = sorted(range(len(group)), key=lambda at: -lengths[at])[:cut]
    return texts, [at in longest for at in range(len(group))]


def group_by_question(verdicts: Sequence[Verdict]) -> Mapping[int, dict[tuple[int, Order], Verdict]]:
    """Return the verdicts by question, and in each by turn and order."""
    found: dict[int, dict[tuple[int, Order], Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.doc_id, {})[verdict.turn, verdict.order] = verdict
    return found
