"""Let any family that makes its masks through transformers read trees: a context once, with its branches after it.

A family states what a token sees (all that is earlier, a window, a chunk) as a function of two indices. `TreeMask`
calls that function with the positions of the tokens in their own sequences, and hides what belongs to another branch.
So windows, alternating layers, attention sinks and capped scores need no code of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

ADDITIVE_ATTENTION = {"sdpa", "eager"}
"""Implementations of attention that add any mask to their scores."""


class TreeMask:
    """What transformers calls to make a mask, while a batch of trees is read."""

    def __init__(self, prefix: int, positions: Tensor, seen: Tensor) -> None:
        """Take the positions [rows, T] of tokens that follow *prefix*, and which of each other they may see [.., T, T].

        All tensors are on the model's device.
        """
        before = torch.arange(prefix, device=positions.device).expand(len(positions), -1)
        self._queries, self._keys = positions, torch.cat([before, positions], dim=1)
        self._seen = torch.nn.functional.pad(seen, (prefix, 0), value=True)[:, None]
        self.calls = 0
        """How many masks a model has asked for; without one, it does not see what is asked of it."""

    def __call__(
        self,
        batch_size: int,
        q_length: int,
        kv_length: int,
        q_offset: int = 0,
        kv_offset: int = 0,
        mask_function: Callable[..., Tensor] = causal_mask_function,
        dtype: torch.dtype = torch.float32,
        **_: Any,
    ) -> Tensor:
        """Return an additive mask [rows, 1, q_length, kv_length] of the keys from *kv_offset* on."""
        self.calls += 1
        device = self._keys.device
        kept = slice(kv_offset, kv_offset + kv_length)
        rows = torch.arange(batch_size, device=device)[:, None, None, None]
        head = torch.zeros((1, 1, 1, 1), dtype=torch.int64, device=device)
        seen = mask_function(rows, head, self._queries[:, None, :, None], self._keys[:, None, None, kept])
        seen = seen & self._seen[..., kept]
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))


def takes_trees(model: Any) -> bool:
    """Return whether *model* may read trees: positions can be given, any mask is added, and it has no state."""
    config = model.config.get_text_config()
    return (
        not getattr(model, "_is_stateful", False)
        and getattr(config, "_attn_implementation", None) in ADDITIVE_ATTENTION
        and "position_ids" in inspect.signature(model.base_model.forward).parameters
    )


@contextmanager
def give_mask(model: Any, mask: TreeMask) -> Iterator[None]:
    """Have transformers call *mask* for every mask of *model*."""
    name = model.config.get_text_config()._attn_implementation
    usual = ALL_MASK_ATTENTION_FUNCTIONS[name]
    ALL_MASK_ATTENTION_FUNCTIONS[name] = mask
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS[name] = usual


class SharedPrefix(DynamicCache):  # type: ignore[misc]
    """Keys and values of a prefix that every row of a batch follows; those of the batch are not kept."""

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.layers = list(layers)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of the prefix and of this batch, [rows, heads, prefix + tokens, width]."""
        layer = self.layers[layer_idx]
        keys, values = (shared.expand(len(key_states), -1, -1, -1) for shared in (layer.keys, layer.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
