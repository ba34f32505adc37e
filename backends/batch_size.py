"""Choose how many tokens a GPU reads at once, from its free memory and the model's shape."""

from __future__ import annotations

import math
from typing import Any

MOST_TOKENS = 16_384
"""Most tokens of a batch: in the shape of 2B-4T they keep an H200 busy for 0.1 s, five times what launching takes."""
LEAST_TOKENS = 512
USABLE_MEMORY_SHARE = 0.5
"""Share of the free memory that activations may take; logits, masks and fragmentation take some of the rest."""
LOGITS_SHARE = 0.1
LEAST_LOGITS, MOST_LOGITS = 2**20, 2**27
"""Bounds of the logits held at a time: at most 0.5 GB in float32, and as much again while their sum is taken."""
BYTES_PER_LOGIT = 14
"""Bytes that a logit takes: in the model's dtype, in float32, and in two passes of logsumexp over that."""


def activation_bytes(config: Any, itemsize: int) -> int:
    """Return an estimate of the bytes that a token takes while a layer of a Llama-like model reads it.

    They hold the residual stream and its norms in float32, queries, keys and values with their copies for grouped
    heads, three vectors of the feed-forward layer's width, a row of the mask, and the cache of a shared prefix.
    """
    hidden = config.hidden_size
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or hidden // heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    attention = 6 * heads * width + 4 * groups * width
    return int(itemsize * (4 * hidden + attention + 3 * inner + 2048) + 4 * 3 * hidden)


def choose_tokens(free_bytes: float, token_bytes: int) -> int:
    """Return the tokens of a batch that fit into *free_bytes*, from `LEAST_TOKENS` to `MOST_TOKENS`."""
    return max(LEAST_TOKENS, min(MOST_TOKENS, _power_of_two(USABLE_MEMORY_SHARE * free_bytes / token_bytes)))


def choose_logits(free_bytes: float) -> int:
    """Return how many logits are held at a time, from `LEAST_LOGITS` to `MOST_LOGITS`."""
    return max(LEAST_LOGITS, min(MOST_LOGITS, _power_of_two(LOGITS_SHARE * free_bytes / BYTES_PER_LOGIT)))


def _power_of_two(most: float) -> int:
    """Return the largest power of two up to *most*, so that a resumed run with other free memory has equal batches."""
    return 1 << int(math.log2(max(1.0, most)))
