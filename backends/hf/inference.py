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

from bitnet_bench.backends.session import BatchedSession, Ids
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


class HFSession(BatchedSession):
    """An opened model; see `bitnet_bench.ports.Session`."""

    def __init__(self, model: Any, tokenizer: Any, precision: Precision) -> None:
        super().__init__(tokenizer, precision, int(getattr(model.config, "max_position_embeddings", 2048)))
        self._model = model

    def batches(self, rows: list[Ids]) -> Iterator[list[Ids]]:
        """Cut *rows* into batches of one length, longest first, of at most `TOKENS_PER_BATCH` tokens or one row."""
        by_length: dict[int, list[Ids]] = defaultdict(list)
        for row in rows:
            by_length[len(row)].append(row)
        for length in sorted(by_length, reverse=True):
            size = max(1, TOKENS_PER_BATCH // length)
            for i in range(0, len(by_length[length]), size):
                yield by_length[length][i : i + size]

    def logits(self, batch: list[Ids], rows: Tensor, columns: Tensor) -> Tensor:
        """Return logits [len(rows), V] at positions (row, column) of *batch* only."""
        device = self._model.device
        ids = torch.tensor(batch, device=device)
        if self._model.config.model_type not in PLAIN_HEADS:
            logits: Tensor = self._model(ids, use_cache=False).logits[rows, columns]
            return logits
        hidden = self._model.base_model(ids, use_cache=False).last_hidden_state[rows.to(device), columns.to(device)]
        chosen: Tensor = self._model.get_output_embeddings()(hidden)
        return chosen

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
