"""Score and generate with a transformers model, without padding.

A document's context is read once, with its choices as branches after it (a tree mask), where the model takes that.
Rows of a batch do not see each other: ternary layers sum integers exactly, attention works on each row
alone, and only the head's float sums may differ in the last bits with the size of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.backends.session import TOKENS_PER_BATCH_ON_CUDA, BatchedSession, Ids, Place, Row, Tree, in_budget
from bitnet_bench.records import Checkpoint, Precision
from bitnet_bench.ternary.loading import load_model, load_tokenizer
from bitnet_bench.training.loss import PLAIN_HEADS

BRANCHING = {"llama", "qwen2", "qwen3"}
"""Architectures that are known to take positions and a mask of one's own, and to attend to all that it shows."""


@contextmanager
def open_session(checkpoint: Checkpoint, precision: Precision, dense: bool = False) -> Iterator[HFSession]:
    """Load *checkpoint* at *precision*, on the GPU if there is one; *dense*: packed codes written out in floats."""
    tokenizer = load_tokenizer(checkpoint)
    model = load_model(checkpoint, "run", precision, dense=dense).to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():
        yield HFSession(model, tokenizer, precision)


@dataclass
class Decoding:
    """Where a batch of rows is in decoding: *tokens* [B] is the last greedy token of each row."""

    cache: Any
    tokens: Tensor


def _forest(shapes: Sequence[tuple[int, ...]], prefix: int) -> tuple[Tensor, Tensor]:
    """Return (additive mask [1, 1, T, prefix + T], positions [1, T]) of trees side by side, given their `Tree.shape`.

    A branch sees the prefix, its context and its own earlier tokens, at the positions it would have if it stood alone.
    """
    lengths = torch.tensor([length for shape in shapes for length in shape])
    tree = torch.repeat_interleave(torch.arange(len(shapes)), torch.tensor([sum(shape) for shape in shapes]))
    part = torch.repeat_interleave(torch.tensor([p for shape in shapes for p in range(len(shape))]), lengths)
    starts = [prefix + (shape[0] if p else 0) for shape in shapes for p in range(len(shape))]
    positions = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths.tolist(), strict=True)])
    order = torch.arange(len(positions))
    seen = (order[:, None] >= order) & (tree[:, None] == tree) & ((part[:, None] == part) | (part == 0))
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    return torch.nn.functional.pad(mask, (prefix, 0))[None, None], positions[None]


class HFSession(BatchedSession):
    """An opened model; see `bitnet_bench.ports.Session`."""

    def __init__(self, model: Any, tokenizer: Any, precision: Precision) -> None:
        context = int(getattr(model.config, "max_position_embeddings", 2048))
        super().__init__(tokenizer, precision, context, model.config.vocab_size)
        self._model = model
        # other families do more to their logits than this, so their own forward gives them
        self._plain_head = model.config.model_type in PLAIN_HEADS
        if model.device.type == "cuda":
            self.budget = TOKENS_PER_BATCH_ON_CUDA
        layers = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        # int8 rounding turns float noise of a masked attention into steps, so a ternary model reads plain rows
        self.shares_contexts = (
            precision != "ternary" and model.config.model_type in BRANCHING and layers == {"full_attention"}
        )

    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows* into batches, longest first, within the budget or of one row.

        Those that are no trees side by side are of one length.
        """
        groups: dict[int, list[Row]] = defaultdict(list)
        for row in sorted(rows, key=len, reverse=True):
            groups[0 if isinstance(row, Tree) and self.shares_contexts else len(row)].append(row)
        for group in groups.values():
            yield from in_budget(group, len, self.budget)

    def hidden(self, batch: list[Tree], places: list[Place]) -> Tensor:
        """Return what the head takes, [len(places), H]; of a family with a head of its own, the logits."""
        device = self._model.device
        rows = [[*tree.context, *chain(*tree.branches)] for tree in batch]
        starts = [0, *accumulate(map(len, batch))]
        # the offset -1, whose branch is 0, is the token before the first branch
        at = [starts[t] + sum(batch[t].shape[: branch + 1]) + offset for t, branch, offset in places]
        options: dict[str, Any] = {"use_cache": False}
        if self.shares_contexts:
            mask, positions = _forest([tree.shape for tree in batch], self._prefix_length)
            options |= {"attention_mask": mask.to(device, self._model.dtype), "position_ids": positions.to(device)}
            if self._prefix_cache is not None:
                options |= {"past_key_values": self._prefix_cache, "use_cache": True}
            rows = [list(chain(*rows))]
        ids, where = torch.tensor(rows, device=device), torch.tensor(at, device=device)
        output = (self._model.base_model if self._plain_head else self._model)(ids, **options)
        if self._prefix_cache is not None:
            self._prefix_cache.crop(-ids.shape[1])  # what this batch has added
        found: Tensor = (output.last_hidden_state if self._plain_head else output.logits).flatten(0, 1)[where]
        return found

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V]."""
        return self._model.get_output_embeddings()(hidden) if self._plain_head else hidden

    def read_prefix(self, prefix: Ids) -> None:
        """Keep the keys and values of *prefix*."""
        self._prefix_length, self._prefix_cache = len(prefix), None
        if prefix:
            ids = torch.tensor([prefix], device=self._model.device)
            self._prefix_cache = self._model.base_model(ids, use_cache=True).past_key_values

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

    def weights_by_kind(self) -> dict[str, int]:
        """Return the bytes of the weights by kind and dtype; a tied head is counted once, as the embedding."""
        found: dict[str, int] = {}
        seen = set()
        for name, t in (*self._model.named_parameters(), *self._model.named_buffers()):
            if t.data_ptr() not in seen:
                seen.add(t.data_ptr())
                key = f"{_kind(name, t)} {str(t.dtype).removeprefix('torch.')}"
                found[key] = found.get(key, 0) + t.numel() * t.element_size()
        return found

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in memory, bytes of key-value cache per token and row)."""
        weights = sum(self.weights_by_kind().values())
        layers = self.prefill([[0]]).cache.layers
        return weights, sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))


def _kind(name: str, tensor: Tensor) -> str:
    """Return which of the kinds of `Checkpoint.weight_bytes` a tensor of a model is."""
    if tensor.dtype == torch.int8:
        return "ternary"
    if "embed" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    return "linear" if tensor.dim() == 2 else "norm"
