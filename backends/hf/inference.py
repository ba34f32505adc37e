"""Score and generate with a transformers model, in batches of one length so that nothing is padded.

A document's context is read once, with its choices as branches after it (a tree mask), where the model takes that.
Rows of a batch do not see each other: ternary layers sum integers exactly, attention works on each row
alone, and only the head's float sums may differ in the last bits with the size of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.backends.session import BatchedSession, Place, Row, Tree
from bitnet_bench.records import Checkpoint, Precision
from bitnet_bench.ternary.loading import load_model, load_tokenizer
from bitnet_bench.training.loss import PLAIN_HEADS

TOKENS_PER_BATCH = 1024
"""On two cores 1024 was faster than 4096: activations stay in cache."""


BRANCHING = {"llama", "qwen2", "qwen3"}
"""Architectures that are known to take positions and a mask of one's own, and to attend to all that it shows."""


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


def _branching(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return (additive mask [1, 1, T, T], positions [1, T]) of a context with branches side by side after it.

    A branch sees the context and its own earlier tokens, at the positions it would have if it stood there alone.
    """
    context, *branches = shape
    owner = torch.repeat_interleave(torch.arange(len(shape)), torch.tensor(shape))
    positions = torch.cat([torch.arange(context), *(torch.arange(context, context + n) for n in branches)])
    order = torch.arange(len(owner))
    seen = (order[:, None] >= order) & ((owner[:, None] == owner) | (owner == 0))
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    return mask[None, None], positions[None]


class HFSession(BatchedSession):
    """An opened model; see `bitnet_bench.ports.Session`."""

    def __init__(self, model: Any, tokenizer: Any, precision: Precision) -> None:
        super().__init__(tokenizer, precision, int(getattr(model.config, "max_position_embeddings", 2048)))
        self._model = model
        layers = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        # int8 rounding turns float noise of a masked attention into steps, so a ternary model reads plain rows
        self.shares_contexts = (
            precision != "ternary" and model.config.model_type in BRANCHING and layers == {"full_attention"}
        )

    def batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Cut *rows* into batches of one shape, longest first, of at most `TOKENS_PER_BATCH` tokens or one row."""
        by_shape: dict[tuple[int, ...], list[Row]] = defaultdict(list)
        for row in rows:
            by_shape[row.shape if isinstance(row, Tree) else (len(row),)].append(row)
        for shape in sorted(by_shape, key=sum, reverse=True):
            size = max(1, TOKENS_PER_BATCH // sum(shape))
            for i in range(0, len(by_shape[shape]), size):
                yield by_shape[shape][i : i + size]

    def logits(self, batch: list[Tree], places: list[Place]) -> Tensor:
        """Return logits [len(places), V] at *places* only; all of *batch* have one shape."""
        device = self._model.device
        shape = batch[0].shape
        ids = torch.tensor([[*tree.context, *chain(*tree.branches)] for tree in batch], device=device)
        options: dict[str, Any] = {"use_cache": False}
        if len(shape) > 2:
            mask, positions = _branching(shape)
            options |= {"attention_mask": mask.to(device, self._model.dtype), "position_ids": positions.to(device)}
        # the offset -1, whose branch is 0, is the token before the first branch
        rows = torch.tensor([tree for tree, _, _ in places], device=device)
        columns = torch.tensor([sum(shape[: branch + 1]) + offset for _, branch, offset in places], device=device)
        if self._model.config.model_type not in PLAIN_HEADS:
            logits: Tensor = self._model(ids, **options).logits[rows, columns]
            return logits
        hidden = self._model.base_model(ids, **options).last_hidden_state[rows, columns]
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
