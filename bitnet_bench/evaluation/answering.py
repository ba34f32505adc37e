"""What both language models of lm-eval share: answers from the store, the others asked for, and what is counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.answer_cache import AnswerStore, NullStore
from bitnet_bench.evaluation.document_progress import DocumentProgress
from bitnet_bench.evaluation.generation import GeneratedText
from bitnet_bench.processes import Workers
from bitnet_bench.protocols import Progress, ServedAnswer, Share, no_progress
from bitnet_bench.runs.jobs import EvaluateJob

Answer = TypeVar("Answer")


class AnsweringLM:
    """A base class beside lm-eval's: *workers* share the requests, *answers* keeps what is answered.

    `counts` has the number of requests and of answers that were kept before, and what subclasses count.
    """

    asks_conversations = False
    """True if prompts are conversations through the chat template, whatever the job says of it."""

    def __init__(
        self,
        progress: Progress = no_progress,
        answers: AnswerStore | None = None,
        workers: Workers | None = None,
        job: EvaluateJob | None = None,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._kept, self._workers = answers or NullStore(), workers or Workers()
        self._job = job
        self.counts = {"requests": 0, "truncated": 0, "cached": 0}
        self.served: list[ServedAnswer] = []
        """What a server said of each generated answer."""

    @property
    def progress(self) -> Progress:
        """Return what the documents that are answered are reported to."""
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        """Report the documents of the next requests to *progress*."""
        self._progress = progress

    def _count(self, name: str, more: int) -> None:
        """Add to a count that is left out while it is 0."""
        if more:
            self.counts[name] = self.counts.get(name, 0) + more

    def _count_answer(self, answer: GeneratedText) -> None:
        """Count an answer that its limit ended, or whose thought has no end."""
        self._count("cut", answer.cut)
        self._count("unfinished", answer.unfinished)

    def _check_finite(self, answers: Iterable[tuple[int, Any]], documents: Sequence[int]) -> None:
        """Raise an error if a log-probability is none."""
        raise NotImplementedError

    def _locate(self, error: BenchError, documents: Sequence[int]) -> BenchError:
        """Return *error* with the row that it is about, if it says its request."""
        return error

    def _answer_requests(
        self,
        keys: Sequence[bytes],
        documents: Sequence[int],
        told: DocumentProgress,
        ask: Callable[[Share], Iterator[Sequence[tuple[int, Answer]]]],
        pack: Callable[[Answer], bytes],
        unpack: Callable[[bytes], Any],
        blank: Answer,
    ) -> list[Answer]:
        """Return the answer to each of *keys*: stored ones, and the others from *ask*, stored batch by batch.

        A lone worker returns *blank* for what others answer.
        """
        stored = {i: unpack(kept) for i, kept in self._kept.lookup(keys).items()}
        found: dict[int, Answer] = {i: answer for i, answer in stored.items() if is_finite(answer)}
        self.counts["requests"] += len(keys)
        self.counts["cached"] += len(found) if self._kept.is_cache else 0
        told.mark_answered(documents[i] for i in found)
        failed: BenchError | None = None
        try:
            for some in ask(Share(frozenset(found), self._workers.worker, self._workers.count)):
                some = [(i, answer) for i, answer in some if i not in found]  # stored answers are not replaced
                self._check_finite(some, documents)
                self._kept.save([(keys[i], pack(answer)) for i, answer in some])
                found.update(some)
                told.mark_answered(documents[i] for i, _ in some)
        except BenchError as error:
            failed = self._locate(error, documents)
        everything = self._workers.gather(found, failed)
        if len(everything) > len(found):
            told.mark_answered(documents[i] for i in everything if i not in found)
        if self._workers.count > 1 and not self._workers.are_joined:
            return [everything.get(i, blank) for i in range(len(keys))]
        return [everything[i] for i in range(len(keys))]


def is_finite(answer: Any) -> bool:
    """Return whether an answer is a text, or has a log-probability that is a number."""
    return not isinstance(answer, tuple) or math.isfinite(answer[0])
