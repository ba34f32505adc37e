"""Count what a model of a given shape holds, reads and computes for a token, from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The counts of a decoder of the Llama family; every matrix is a product for each token."""

    layer_weights: int
    """In the linear layers of all blocks: ternary in a ternary model."""
    head_weights: int
    """Vocabulary x hidden: read whole for every new token."""
    embedding_weights: int
    """0 where the embedding is the head."""
    norm_weights: int
    kv_values: int
    """Keys and values that one token adds."""
    attention_operations: int
    """Of one token for each position that it sees."""


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Return the counts of a config.json."""
    hidden, layers, wide = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    subln = config["model_type"] == "bitnet"
    table = config["vocab_size"] * hidden
    return Shape(
        layer_weights=layers * (2 * hidden * heads * head + 2 * hidden * kv_heads * head + 3 * hidden * wide),
        head_weights=table,
        embedding_weights=0 if config.get("tie_word_embeddings") else table,
        norm_weights=hidden + layers * (2 * hidden + (heads * head + wide if subln else 0)),
        kv_values=2 * layers * kv_heads * head,
        attention_operations=4 * layers * heads * head,
    )
