"""Base of the engines on the CPU and on a GPU: a model's shape, its layers by name, its bytes, rotary tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.kernel import Norm

POSITIONS_AT_ONCE = 256
"""Positions by which the cache and the tables of angles grow."""

Product = TypeVar("Product")
"""Ternary layers that read the same rows, as one product in an engine."""


@dataclass(frozen=True)
class Layer(Generic[Product]):
    """One transformer block. A norm is None if the architecture has none."""

    input_norm: Norm | None
    qkv: Product
    query_norm: Tensor | None
    key_norm: Tensor | None
    attention_norm: Norm | None
    out: Product
    mlp_norm: Norm | None
    gate_up: Product
    gated_norm: Norm | None
    down: Product


class BaseEngine(ABC, Generic[Product]):
    """A ternary model of the Llama family in memory; a subclass makes the products and runs them."""

    def __init__(self, weights: Weights, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Load *weights* onto *device*; keys and values are of *dtype*."""
        self.config, self.device, self.dtype = config, device, dtype
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dimension = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon = float(config.rms_norm_eps)
        self._bytes: dict[int, tuple[str, int]] = {}
        self._inner = Norm(None, weights.checkpoint.inner_norm_eps or 1e-6) if weights.checkpoint.inner_norm else None
        self.layers = [self._make_layer(weights, f"model.layers.{i}.") for i in range(config.num_hidden_layers)]
        self.final_norm = Norm(self._norm_weight(weights, "model.norm.weight"), self.epsilon)
        self.embedding = self._read_table(weights, "model.embed_tokens", "embedding")
        tied = config.tie_word_embeddings or not weights.has_tensor("lm_head.weight")
        self.head_table = self.embedding if tied else self._read_table(weights, "lm_head", "head")
        self._frequencies, self._rope_scale = _frequencies(config)
        self.cosines = self.sines = torch.empty(0)
        """Rotary tables, float32 [positions, dimension / 2]."""

    def _read_table(self, weights: Weights, module: str, kind: str) -> Any:
        """Return embedding or head, counted as *kind*: a float tensor, or a ternary one as a subclass has it."""
        return self._count(weights.tensor(f"{module}.weight").to(self.device), kind)

    @abstractmethod
    def _make_product(self, weights: Weights, columns: int, names: Sequence[str]) -> Product:
        """Return the layers *names* of *columns* columns as one product, and count their codes as `ternary`."""

    def _make_layer(self, weights: Weights, prefix: str) -> Layer[Product]:
        attention, mlp, hidden = f"{prefix}self_attn.", f"{prefix}mlp.", self.config.hidden_size
        subln = self.config.model_type == "bitnet"
        has_head_norms = self.config.model_type == "qwen3"

        def norm(name: str, wanted: bool = True) -> Norm | None:
            return Norm(self._norm_weight(weights, f"{name}.weight"), self.epsilon) if wanted else self._inner

        def product(columns: int, *names: str) -> Product:
            return self._make_product(weights, columns, names)

        return Layer(
            input_norm=norm(f"{prefix}input_layernorm", wanted=self._inner is None),
            qkv=product(hidden, *(f"{attention}{x}_proj" for x in "qkv")),
            query_norm=self._norm_weight(weights, f"{attention}q_norm.weight") if has_head_norms else None,
            key_norm=self._norm_weight(weights, f"{attention}k_norm.weight") if has_head_norms else None,
            attention_norm=norm(f"{attention}attn_sub_norm", subln),
            out=product(self.heads * self.dimension, f"{attention}o_proj"),
            mlp_norm=norm(f"{prefix}post_attention_layernorm"),
            gate_up=product(hidden, f"{mlp}gate_proj", f"{mlp}up_proj"),
            gated_norm=norm(f"{mlp}ffn_sub_norm", subln),
            down=product(self.config.intermediate_size, f"{mlp}down_proj"),
        )

    def _norm_weight(self, weights: Weights, name: str) -> Tensor:
        tensor = weights.tensor(name).float().contiguous()
        if not bool(tensor.isfinite().all()):
            raise BenchError(
                f"{name} of {weights.checkpoint.source} holds NaN or infinity.", "Get the checkpoint again."
            )
        return self._count(tensor.to(self.device), "norm")

    def _count(self, tensor: Tensor, kind: str, dtype: str | None = None) -> Tensor:
        dtype = dtype or ("2-bit" if kind == "ternary" else str(tensor.dtype).removeprefix("torch."))
        self._bytes[tensor.data_ptr()] = f"{kind} {dtype}", tensor.numel() * tensor.element_size()
        return tensor

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory, including memory-mapped ones."""
        return sum(self.weights_by_kind.values())

    @property
    def weights_by_kind(self) -> dict[str, int]:
        """Bytes of the weights by kind and dtype; a tied head is counted once, as the embedding."""
        found: dict[str, int] = {}
        for name, size in self._bytes.values():
            found[name] = found.get(name, 0) + size
        return found

    @property
    def kv_bytes(self) -> int:
        """Bytes that the keys and values of one token take."""
        return 2 * self.dtype.itemsize * len(self.layers) * int(self.kv_heads * self.dimension)

    def grow_angles(self, positions: int) -> None:
        """Extend the tables of cosines and sines to at least *positions* positions."""
        if positions > len(self.cosines):
            rows = -(-positions // POSITIONS_AT_ONCE) * POSITIONS_AT_ONCE
            angles = torch.arange(rows).float()[:, None] * self._frequencies
            self.cosines = (angles.cos() * self._rope_scale).to(self.device)
            self.sines = (angles.sin() * self._rope_scale).to(self.device)


def _frequencies(config: Any) -> tuple[Tensor, float]:
    """Return the rotary frequencies [dimension / 2] and the scale of cosines and sines, as in transformers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters
    if rope.get("rope_type", "default") == "default":
        dimension = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        exponents = torch.arange(0, dimension, 2, dtype=torch.int64).float() / dimension
        return 1.0 / (rope["rope_theta"] ** exponents), 1.0
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
    return frequencies, float(scale)
