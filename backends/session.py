"""What every torch session shares: requests in, batches out, texts and log-probabilities back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from bitnet_bench.ports import Progress
from bitnet_bench.records import Precision

Ids = tuple[int, ...]
Place = tuple[int, int, int]
"""(tree of the batch, branch, offset in the branch); the offset -1 is the last token of the context, of branch 0."""


@dataclass(frozen=True)
class Tree:
    """A context and the inputs that branch off it: a document with its choices, each without its last token."""

    context: Ids
    branches: tuple[Ids, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of the context and of every branch."""
        return len(self.context), *map(len, self.branches)

    def __len__(self) -> int:
        return sum(self.shape)


Row = TypeVar("Row", Ids, Tree)
SHORTEST_PREFIX = 16
"""Tokens: a shorter common beginning costs more to keep than to read again."""


Item = TypeVar("Item")


def in_budget(items: Sequence[Item], cost: Callable[[Item], int], budget: int) -> Iterator[list[Item]]:
    """Cut *items* as they come into batches that cost at most *budget*, or of one item."""
    batch: list[Item] = []
    spent = 0
    for item in items:
        if batch and spent + cost(item) > budget:
            yield batch
            batch, spent = [], 0
        batch.append(item)
        spent += cost(item)
    if batch:
        yield batch


class BatchedSession(ABC):
    """A `bitnet_bench.ports.Session` over the few methods in which torch backends differ."""

    shares_contexts = True
    """Whether `logits` takes trees with several branches; if not, every branch comes with a context of its own."""

    def __init__(self, tokenizer: Any, precision: Precision, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.precision: Precision = precision
        self.max_length = max_length

    @abstractmethod
    def batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Cut *rows* into batches, the longest first."""

    @abstractmethod
    def read_prefix(self, prefix: Ids) -> None:
        """Make ready for `logits` of trees that follow *prefix*, which may be empty."""

    @abstractmethod
    def logits(self, batch: list[Tree], places: list[Place]) -> Tensor:
        """Return logits [len(places), V] at *places* only, each tree after the prefix that was read last."""

    @abstractmethod
    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Read prompts and choose the first new token of each: a state with `tokens` [B]."""

    @abstractmethod
    def decode(self, state: Any, steps: int) -> Any:
        """Choose *steps* more tokens for every row, one after the other."""

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], progress: Progress
    ) -> list[tuple[float, bool]]:
        """Return (summed log-probability in nats, greedy) of each continuation.

        Requests with one context are one tree, whose context is read once whatever the number of choices, and what all
        contexts begin with (few-shot examples) is read once for all.
        """
        prefix = self._common_prefix([context for context, _ in requests])
        grouped: dict[Ids, dict[Ids, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, (context, continuation) in enumerate(requests):
            grouped[tuple(context[len(prefix) :])][tuple(continuation[:-1])].append(i)
        self.read_prefix(prefix)
        trees = [tree for context, branches in grouped.items() for tree in self._trees(context, tuple(branches))]
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        done = 0
        for batch in self.batches(trees):
            picks = [
                (t, b, i)
                for t, tree in enumerate(batch)
                for b, branch in enumerate(tree.branches)
                for i in grouped[tree.context][branch]
            ]
            for (_, _, i), result in zip(picks, self._score(batch, picks, requests), strict=True):
                results[i] = result
            done += len(picks)
            progress(done, len(requests))
        return results

    def _common_prefix(self, contexts: Sequence[Sequence[int]]) -> Ids:
        """Return what all *contexts* begin with, the last token of none; () where it is not worth a pass of its own."""
        distinct = {tuple(context) for context in contexts}
        if not self.shares_contexts or len(distinct) < 2:
            return ()
        first, last = min(distinct), max(distinct)  # in order of their ids, so that all others lie between
        shortest = min(map(len, distinct))
        common = next((i for i in range(shortest) if first[i] != last[i]), shortest - 1)
        return first[:common] if common >= SHORTEST_PREFIX else ()

    def _trees(self, context: Ids, branches: tuple[Ids, ...]) -> list[Tree]:
        return [Tree(context, branches)] if self.shares_contexts else [Tree(context, (b,)) for b in branches]

    def _score(
        self,
        batch: list[Tree],
        picks: list[tuple[int, int, int]],
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> Iterator[tuple[float, bool]]:
        """Yield the result of each (tree, branch, request), from one forward pass over *batch*."""
        places: dict[Place, int] = {}
        rows: list[int] = []
        targets: list[int] = []
        for t, b, i in picks:
            continuation = requests[i][1]
            for offset in range(-1, len(continuation) - 1):
                place = (t, b if offset >= 0 else 0, offset)
                rows.append(places.setdefault(place, len(places)))
            targets += continuation
        logits = self.logits(batch, list(places))
        at, wanted = torch.tensor(rows, device=logits.device), torch.tensor(targets, device=logits.device)
        logprobs = torch.log_softmax(logits.float(), dim=-1)[at, wanted].tolist()
        greedy = (logits.argmax(dim=-1)[at] == wanted).tolist()
        start = 0
        for _, _, i in picks:
            end = start + len(requests[i][1])
            yield sum(logprobs[start:end]), all(greedy[start:end])
            start = end

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str], progress: Progress
    ) -> list[str]:
        """Return greedy continuations up to EOS, the first stop string, or *max_new_tokens*."""
        texts: dict[int, str] = {}
        by_input: dict[Ids, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            by_input[tuple(prompt)].append(i)
        for batch in self.batches(list(by_input)):
            for row, text in zip(batch, self._continue(batch, max_new_tokens, stop), strict=True):
                texts |= dict.fromkeys(by_input[row], text)
            progress(len(texts), len(prompts))
        return [texts[i] for i in range(len(prompts))]

    def _continue(self, batch: list[Ids], limit: int, stop: Sequence[str]) -> list[str]:
        state = self.prefill(batch)
        written: list[list[int]] = [[] for _ in batch]
        texts: list[str | None] = [None] * len(batch)
        for step in range(limit):
            for b, token in enumerate(state.tokens.tolist()):
                if texts[b] is None:
                    written[b].append(token)
                    texts[b] = self._finished(written[b], stop)
            if all(text is not None for text in texts) or step == limit - 1:
                break
            state = self.decode(state, 1)
        return [self._decoded(ids) if text is None else text for ids, text in zip(written, texts, strict=True)]

    def _finished(self, ids: list[int], stop: Sequence[str]) -> str | None:
        """Return the text if *ids* have just come to an end, else None."""
        if ids[-1] == self.tokenizer.eos_token_id:
            return self._decoded(ids[:-1])
        text = self._decoded(ids)
        cuts = [text.index(mark) for mark in stop if mark and mark in text]
        return text[: min(cuts)] if cuts else None

    def _decoded(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text
