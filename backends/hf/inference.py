"""Score and generate with a transformers model, in batches of one length so that nothing is padded.

Rows of a batch then do not see each other: ternary layers sum integers exactly, attention works on each row
alone, and only the head's float sums may differ in the last bits with the size of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.ports import Progress
from bitnet_bench.records import Checkpoint, Precision
from bitnet_bench.ternary.loading import load_model, load_tokenizer
from bitnet_bench.training.loss import PLAIN_HEADS

TOKENS_PER_BATCH = 1024
"""On two cores 1024 was faster than 4096: activations stay in cache."""


@contextmanager
def open_session(checkpoint: Checkpoint, precision: Precision) -> Iterator[HFSession]:
    """Load *checkpoint* at *precision*, on the GPU if there is one."""
    tokenizer = load_tokenizer(checkpoint)
    model = load_model(checkpoint, "run", precision).to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():
        yield HFSession(model, tokenizer, precision)


@dataclass
class Decoding:
    """Where a batch of rows is in decoding: *tokens* [B] is the last greedy token of each row."""

    cache: Any
    tokens: Tensor


class HFSession:
    """An opened model; see `bitnet_bench.ports.Session`."""

    def __init__(self, model: Any, tokenizer: Any, precision: Precision) -> None:
        self._model = model
        self.tokenizer = tokenizer
        self.precision: Precision = precision
        self.max_length = int(getattr(model.config, "max_position_embeddings", 2048))

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], progress: Progress
    ) -> list[tuple[float, bool]]:
        """Return (summed log-probability in nats, greedy) of each continuation.

        Requests with the same input (contexts whose choices are single tokens) share one forward pass.
        """
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        by_input: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, (context, continuation) in enumerate(requests):
            by_input[(*context, *continuation[:-1])].append(i)
        done = 0
        for batch in _equal_lengths(list(by_input)):
            members = [by_input[row] for row in batch]
            picks = [(b, i) for b, group in enumerate(members) for i in group]
            for i, result in zip((i for _, i in picks), self._score(batch, picks, requests), strict=True):
                results[i] = result
            done += len(picks)
            progress(done, len(requests))
        return results

    def _score(
        self,
        batch: list[tuple[int, ...]],
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
        logits = self._logits(torch.tensor(batch), torch.tensor(rows), torch.tensor(columns))
        wanted = torch.tensor(targets, device=logits.device)
        logprobs = torch.log_softmax(logits.float(), dim=-1).gather(1, wanted[:, None])[:, 0].tolist()
        greedy = (logits.argmax(dim=-1) == wanted).tolist()
        start = 0
        for _, i in picks:
            end = start + len(requests[i][1])
            yield sum(logprobs[start:end]), all(greedy[start:end])
            start = end

    def _logits(self, ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return logits [len(rows), V] at positions (row, column) of ids [B, T] only."""
        device = self._model.device
        ids = ids.to(device)
        if self._model.config.model_type not in PLAIN_HEADS:
            logits: Tensor = self._model(ids, use_cache=False).logits[rows, columns]
            return logits
        hidden = self._model.base_model(ids, use_cache=False).last_hidden_state[rows.to(device), columns.to(device)]
        chosen: Tensor = self._model.get_output_embeddings()(hidden)
        return chosen

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str], progress: Progress
    ) -> list[str]:
        """Return greedy continuations up to EOS, the first stop string, or *max_new_tokens*."""
        texts: dict[int, str] = {}
        by_input: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            by_input[tuple(prompt)].append(i)
        for batch in _equal_lengths(list(by_input)):
            for row, text in zip(batch, self._continue(batch, max_new_tokens, stop), strict=True):
                texts |= dict.fromkeys(by_input[row], text)
            progress(len(texts), len(prompts))
        return [texts[i] for i in range(len(prompts))]

    def _continue(self, batch: list[tuple[int, ...]], limit: int, stop: Sequence[str]) -> list[str]:
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

    def prefill(self, batch: Sequence[Sequence[int]]) -> Decoding:
        """Read prompts of one length and choose the first new token of each."""
        output = self._model(torch.tensor(batch, device=self._model.device), use_cache=True, logits_to_keep=1)
        return self._finish(Decoding(output.past_key_values, output.logits[:, -1].argmax(-1)))

    def decode(self, state: Decoding, steps: int) -> Decoding:
        """Choose *steps* more tokens for every row, one after the other."""
        for _ in range(steps):
            output = self._model(state.tokens[:, None], past_key_values=state.cache, use_cache=True)
            state = Decoding(output.past_key_values, output.logits[:, -1].argmax(-1))
        return self._finish(state)

    @staticmethod
    def _finish(state: Decoding) -> Decoding:
        if state.tokens.is_cuda:
            torch.cuda.synchronize()
        return state

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in memory, bytes of key-value cache per token and row)."""
        tensors = {t.data_ptr(): t for t in (*self._model.parameters(), *self._model.buffers())}
        weights = sum(t.numel() * t.element_size() for t in tensors.values())
        layers = self.prefill([[0]]).cache.layers
        return weights, sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))


def _equal_lengths(rows: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Yield batches of rows of one length, longest first, of at most `TOKENS_PER_BATCH` tokens or one row."""
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for row in rows:
        by_length[len(row)].append(row)
    for length in sorted(by_length, reverse=True):
        size = max(1, TOKENS_PER_BATCH // length)
        for i in range(0, len(by_length[length]), size):
            yield by_length[length][i : i + size]
