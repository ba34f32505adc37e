"""Base of the engines on the CPU and on a GPU: a model's shape, its layers by name, its bytes, rotary tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from bitnet_bench.checkpoints.config import SUB_NORMS_KEY
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.kernel import Norm

POSITIONS_AT_ONCE = 256
"""Positions by which the cache and the tables of angles grow."""

Product = TypeVar("Product")
"""Ternary layers that read the same rows, as one product in an engine."""


FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of attention of a layer, as `layer_types` of a configuration names them."""
GEMMA = "gemma3_text"
NORMED_OUTPUTS = {GEMMA, "exaone4"}
"""Families that normalize what attention and feed-forward add; EXAONE 4 has no other norms in a block."""


class Attention(NamedTuple):
    """How a layer attends."""

    kind: str
    window: int | None
    """Positions that a token reads at most, its own included; None for all of them."""
    is_rotary: bool = True
    """False if queries and keys carry no positions."""


def list_attention(config: Any) -> list[Attention]:
    """Return how each layer attends, as the family's class in transformers reads its configuration."""
    layers, window = range(config.num_hidden_layers), getattr(config, "sliding_window", None)
    if config.model_type == "mistral":  # every layer, if the model has a window at all
        return [Attention(FULL, window) for _ in layers]
    kinds = getattr(config, "layer_types", None) or [FULL for _ in layers]
    rotary = [True for _ in layers]
    if config.model_type == "smollm3":
        rotary = [bool(rotates) for rotates in config.no_rope_layers]
    elif config.model_type == "exaone4":  # of a model with windows, layers that read everything carry no positions
        rotary = [window is None or kind == SLIDING for kind in kinds]
    return [
        Attention(kind, window if kind == SLIDING else None, rotates)
        for kind, rotates in zip(kinds, rotary, strict=True)
    ]


def find_head_dimension(config: Any) -> int:
    """Return the dimension of a head of attention."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def list_ropes(config: Any) -> dict[str, dict[str, Any]]:
    """Return the settings of rotary positions by kind of attention; under `FULL` alone if all layers have the same."""
    settings = getattr(config, "rope_parameters", None) or {}
    by_kind = {kind: settings[kind] for kind in (FULL, SLIDING) if settings.get(kind)}
    return by_kind or {FULL: settings}


class RotaryTable:
    """Cosines and sines of rotary positions, float32 [positions, dimension / 2], for as many as were needed so far."""

    def __init__(self, config: Any, kind: str | None, device: torch.device) -> None:
        """Use the settings of *kind* in *config*; with None nothing is rotated."""
        no_angles = torch.zeros(find_head_dimension(config) // 2), 1.0
        self._frequencies, self._scale = _compute_frequencies(config, kind) if kind else no_angles
        self._device = device
        self.cosines = self.sines = torch.empty(0)

    def grow(self, positions: int) -> None:
        """Extend the table to at least *positions* positions."""
        if positions > len(self.cosines):
            rows = -(-positions // POSITIONS_AT_ONCE) * POSITIONS_AT_ONCE
            angles = torch.arange(rows).float()[:, None] * self._frequencies
            self.cosines = (angles.cos() * self._scale).to(self._device)
            self.sines = (angles.sin() * self._scale).to(self._device)


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
    rotary: RotaryTable
    window: int | None
    """Positions that a token reads at most, its own included; None for all of them."""
    attention_out_norm: Norm | None = None
    """Norm of what attention adds to the residual stream (Gemma)."""
    mlp_out_norm: Norm | None = None


class BaseEngine(ABC, Generic[Product]):
    """A ternary model of the Llama family in memory; a subclass makes the products and runs them."""

    def __init__(self, weights: Weights, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Load *weights* onto *device*; keys and values are of *dtype*."""
        self.config, self.device, self.dtype = config, device, dtype
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dimension = find_head_dimension(config)
        self.epsilon = float(config.rms_norm_eps)
        is_gemma = config.model_type == GEMMA
        self._norm_offset = 1.0 if is_gemma else 0.0
        self.embedding_scale = config.hidden_size**0.5 if is_gemma else 1.0
        """Factor of embeddings, as float32: transformers rounds it to the dtype of the embedding that it runs with."""
        self.score_scale = (config.query_pre_attn_scalar if is_gemma else self.dimension) ** -0.5
        attention = list_attention(config)
        self.rotary: dict[str | None, RotaryTable] = {
            kind: RotaryTable(config, kind, device) for kind in list_ropes(config)
        }
        """Tables by kind of attention; None for layers whose queries and keys carry no positions."""
        if not all(attends.is_rotary for attends in attention):
            self.rotary[None] = RotaryTable(config, None, device)
        self._bytes: dict[int, tuple[str, int]] = {}
        self._inner = Norm(None, weights.checkpoint.inner_norm_eps or 1e-6) if weights.checkpoint.inner_norm else None
        self.layers = [self._make_layer(weights, f"model.layers.{i}.", attends) for i, attends in enumerate(attention)]
        self.final_norm = Norm(self._norm_weight(weights, "model.norm.weight"), self.epsilon)
        self.embedding = self._read_table(weights, "model.embed_tokens", "embedding")
        tied = config.tie_word_embeddings or not weights.has_tensor("lm_head.weight")
        self.head_table = self.embedding if tied else self._read_table(weights, "lm_head", "head")

    def _read_table(self, weights: Weights, module: str, kind: str) -> Any:
        """Return embedding or head, counted as *kind*: a float tensor, or a ternary one as a subclass has it."""
        return self._count(weights.tensor(f"{module}.weight").to(self.device), kind)

    @abstractmethod
    def _make_product(self, weights: Weights, columns: int, names: Sequence[str]) -> Product:
        """Return the layers *names* of *columns* columns as one product, and count their codes as `ternary`."""

    def _make_layer(self, weights: Weights, prefix: str, attends: Attention) -> Layer[Product]:
        attention, mlp, hidden = f"{prefix}self_attn.", f"{prefix}mlp.", self.config.hidden_size
        subln = self.config.model_type == "bitnet" or getattr(self.config, SUB_NORMS_KEY, False)
        gemma, norms_after = self.config.model_type == GEMMA, self.config.model_type in NORMED_OUTPUTS
        norms_before = gemma or not norms_after
        has_head_norms = norms_after or self.config.model_type == "qwen3"

        def norm(name: str, wanted: bool = True, offset: float | None = None) -> Norm | None:
            return Norm(self._norm_weight(weights, f"{name}.weight", offset), self.epsilon) if wanted else self._inner

        def product(columns: int, *names: str) -> Product:
            return self._make_product(weights, columns, names)

        return Layer(
            input_norm=norm(f"{prefix}input_layernorm", wanted=norms_before and self._inner is None),
            qkv=product(hidden, *(f"{attention}{x}_proj" for x in "qkv")),
            query_norm=self._norm_weight(weights, f"{attention}q_norm.weight") if has_head_norms else None,
            key_norm=self._norm_weight(weights, f"{attention}k_norm.weight") if has_head_norms else None,
            attention_norm=norm(f"{attention}attn_sub_norm", subln, offset=0.0),
            out=product(self.heads * self.dimension, f"{attention}o_proj"),
            mlp_norm=norm(f"{prefix}{'pre_feedforward' if gemma else 'post_attention'}_layernorm", norms_before),
            gate_up=product(hidden, f"{mlp}gate_proj", f"{mlp}up_proj"),
            gated_norm=norm(f"{mlp}ffn_sub_norm", subln, offset=0.0),
            down=product(self.config.intermediate_size, f"{mlp}down_proj"),
            rotary=self.rotary.get(attends.kind, self.rotary[FULL]) if attends.is_rotary else self.rotary[None],
            window=attends.window,
            attention_out_norm=norm(f"{prefix}post_attention_layernorm") if norms_after else None,
            mlp_out_norm=norm(f"{prefix}post_feedforward_layernorm") if norms_after else None,
        )

    def _norm_weight(self, weights: Weights, name: str, offset: float | None = None) -> Tensor:
        """Return the factors of a norm in float32: its weight plus *offset*, by default that of the family."""
        tensor = weights.tensor(name).float().contiguous()
        if not bool(tensor.isfinite().all()):
            raise BenchError(
                f"{name} of {weights.checkpoint.source} holds NaN or infinity.", "Get the checkpoint again."
            )
        added = self._norm_offset if offset is None else offset
        return self._count((tensor + added).to(self.device), "norm")

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

    @property
    def cosines(self) -> Tensor:
        """Cosines of rotary positions of the layers that read all positions, float32 [positions, dimension / 2]."""
        return self.rotary[FULL].cosines

    @property
    def sines(self) -> Tensor:
        """Sines of rotary positions of the layers that read all positions, float32 [positions, dimension / 2]."""
        return self.rotary[FULL].sines

    def grow_angles(self, positions: int) -> None:
        """Extend the tables of cosines and sines to at least *positions* positions."""
        for table in self.rotary.values():
            table.grow(positions)


def _compute_frequencies(config: Any, kind: str) -> tuple[Tensor, float]:
    """Return the rotary frequencies [dimension / 2] and the scale of cosines and sines, as in transformers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = list_ropes(config)[kind]
    if rope.get("rope_type", "default") == "default":
        dimension = find_head_dimension(config)
        exponents = torch.arange(0, dimension, 2, dtype=torch.int64).float() / dimension
        return 1.0 / (rope["rope_theta"] ** exponents), 1.0
    own = {"layer_type": kind} if kind in config.rope_parameters else {}
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"), **own)
    return frequencies, float(scale)
