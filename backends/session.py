"""What every torch session shares: requests in, batches out, texts and log-probabilities back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.ports import Progress
from bitnet_bench.records import Precision

Ids = tuple[int, ...]


class BatchedSession(ABC):
    """A `bitnet_bench.ports.Session` over the few methods in which torch backends differ."""

    def __init__(self, tokenizer: Any, precision: Precision, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.precision: Precision = precision
        self.max_length = max_length

    @abstractmethod
    def batches(self, rows: list[Ids]) -> Iterator[list[Ids]]:
        """Cut *rows* into batches, the longest first."""

    @abstractmethod
    def logits(self, batch: list[Ids], rows: Tensor, columns: Tensor) -> Tensor:
        """Return logits [len(rows), V] at positions (row, column) of *batch* only."""

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

        Requests with the same input (contexts whose choices are single tokens) share one forward pass.
        """
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        by_input: dict[Ids, list[int]] = defaultdict(list)
        for i, (context, continuation) in enumerate(requests):
            by_input[(*context, *continuation[:-1])].append(i)
        done = 0
        for batch in self.batches(list(by_input)):
            members = [by_input[row] for row in batch]
            picks = [(b, i) for b, group in enumerate(members) for i in group]
            for i, result in zip((i for _, i in picks), self._score(batch, picks, requests), strict=True):
                results[i] = result
            done += len(picks)
            progress(done, len(requests))
        return results

    def _score(
        self,
        batch: list[Ids],
        picks: list[tuple[int, int]],
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> Iterator[tuple[float, bool]]:
        """Yield the result of each (row of the batch, request), from one forward pass over *batch*."""
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for b, i in picks:
            continuation = requests[i][1]
            first = len(batch[b]) - len(continuation)
            rows += [b] * len(continuation)
            columns += range(first, len(batch[b]))
            targets += continuation
        logits = self.logits(batch, torch.tensor(rows), torch.tensor(columns))
        wanted = torch.tensor(targets, device=logits.device)
        logprobs = torch.log_softmax(logits.float(), dim=-1).gather(1, wanted[:, None])[:, 0].tolist()
        greedy = (logits.argmax(dim=-1) == wanted).tolist()
        start = 0
        for _, i in picks:
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
