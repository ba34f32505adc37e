"""Count what a model of a given shape holds, reads and computes per token, from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_bench.checkpoints.config import SUB_NORMS_KEY

PLAIN_HEADS = {"bitnet", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"}
"""Families whose logits are one product of the last hidden states and the head; others also scale or cap them."""
LOGIT_CAP = "final_logit_softcapping"
"""Config entry that caps the logits, if it has a value."""


@dataclass(frozen=True)
class ModelShape:
    """The size of a decoder of the Llama family, in parameters and in cost per token."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    matrices: int
    """Parameters of the matrices of the layers, which become ternary."""
    head_weights: int
    """Vocabulary size x hidden size, all of it read for every new token."""
    embedding_weights: int = 0
    """Parameters of the embedding; 0 if it is tied to the head."""
    norm_weights: int = 0
    kv_values: int = 0
    """Key and value elements that one token adds to the cache."""
    attention_operations: int = 0
    """Operations of attention for one token, per position that it attends to."""
    keeps_all_logits: bool = False
    """True if the logits of a whole batch exist at once, because the family's head is more than one product."""

    @property
    def kv_width(self) -> int:
        """Columns of a layer's keys, and of its values."""
        return self.kv_values // (2 * self.layers)

    @property
    def query_width(self) -> int:
        """Columns of a layer's queries."""
        return self.attention_operations // (4 * self.layers)

    @property
    def embeddings(self) -> int:
        """Parameters of the head and the embedding."""
        return self.head_weights + self.embedding_weights

    @property
    def parameters(self) -> int:
        """Parameters of the model, without norms."""
        return self.matrices + self.embeddings

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but those of the embedding, which is only looked up."""
        return self.matrices + self.head_weights


def has_plain_head(family: str, logit_cap: float | None) -> bool:
    """Return whether logits are one product of the last hidden states and the head, given entries of config.json."""
    return family in PLAIN_HEADS and logit_cap is None


def compute_shape(config: Mapping[str, Any]) -> ModelShape:
    """Return the size of a Llama-like config.json; KeyError if it is not one."""
    hidden, layers, wide = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    family = config.get("model_type", "llama")
    table = config["vocab_size"] * hidden
    inner_norms = heads * head + wide if family == "bitnet" or config.get(SUB_NORMS_KEY) else 0
    return ModelShape(
        hidden=hidden,
        intermediate=wide,
        layers=layers,
        vocabulary=config["vocab_size"],
        matrices=layers * (2 * hidden * heads * head + 2 * hidden * kv_heads * head + 3 * hidden * wide),
        head_weights=table,
        embedding_weights=0 if config.get("tie_word_embeddings") else table,
        norm_weights=hidden + layers * (2 * hidden + inner_norms),
        kv_values=2 * layers * kv_heads * head,
        attention_operations=4 * layers * heads * head,
        keeps_all_logits=not has_plain_head(family, config.get(LOGIT_CAP)),
    )
