"""Report how many documents of a call to a language model have all their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bitnet_bench.protocols import Progress

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class DocumentProgress:
    """Reports how many documents have all their answers; other workers are assumed to be equally far."""

    def __init__(self, documents: Iterable[int], progress: Progress, workers: int) -> None:
        self._left = Counter(documents)
        self._total = len(self._left)
        self._progress, self._workers = progress, workers

    def mark_answered(self, documents: Iterable[int]) -> None:
        """Count one more answered request for each of *documents*."""
        for document in documents:
            self._left[document] -= 1
            if not self._left[document]:
                del self._left[document]
        done = (self._total - len(self._left)) * self._workers
        self._progress(min(done, self._total - bool(self._left)), self._total)


def list_document_ids(requests: Sequence[Instance]) -> list[int]:
    """Return the number of each request's document; one without a number is a document of its own, below 0."""
    return [-1 - i if request.doc_id is None else request.doc_id for i, request in enumerate(requests)]
