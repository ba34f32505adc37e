"""The forward pass of the ternary engine on the CPU kernel, of the families in `FAMILIES`.

Tokens of several sequences are concatenated without padding: [tokens, hidden]. Everything but attention works on single
tokens, and attention reads each sequence's own slot of the cache, so a result depends on neither the batch nor its
order. Everything that is not an integer product is float32. All layers are one call of the kernel, over a table that is
made when the model is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitnet_bench.backends.ternary.base_engine import (
    POSITIONS_AT_ONCE,
    BaseEngine,
    find_head_dimension,
    list_attention,
    list_ropes,
)
from bitnet_bench.backends.ternary.greedy_head import GreedyHead, is_wanted
from bitnet_bench.backends.token_choice import choose_greedy
from bitnet_bench.checkpoints.config import find_activation
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.groups import DIGITS
from bitnet_bench.ternary.kernel import Block, Forward, JoinedLayers, ModelShape, QuantizedRows
from bitnet_bench.ternary.panels import scales_to_panels

FAMILIES = {"bitnet", "exaone4", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"}
"""Families that compute a Llama's block, or one that differs in its norms, its windows or its positions only."""
GPU_FAMILIES = {"bitnet", "llama", "mistral", "qwen2", "qwen3"}
GPU_ACTIVATIONS = {"silu", "relu2"}
ROPE_TYPES = {"default", "linear", "llama3"}
MAX_ROWS_OF_HEAD = 48
"""Most rows whose logits the kernel computes; those of more are a matrix product of torch's."""
HEAD_ROWS_AT_ONCE = 4096
GREEDY_KIND = "greedy head uint8"
"""Kind of weight of the copy by which greedy tokens are chosen."""


def why_unsupported(weights: Weights, config: Any) -> str | None:
    """Return why the engine does not support a checkpoint's architecture, or None if it does."""
    linear = [name for name in weights.ternary if name not in weights.ternary_tables]
    layers = {name.split(".")[-1] for name in linear}
    expected = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    if config.model_type not in FAMILIES:
        return f"model_type {config.model_type}"
    if layers != expected or len(linear) != 7 * config.num_hidden_layers:
        return "linear layers that are not ternary"
    activation = find_activation(config.to_dict())
    if activation not in kernel.ACTIVATIONS:
        return f"activation {activation}"
    kinds = {rope.get("rope_type", "default") for rope in list_ropes(config).values()}
    if kinds - ROPE_TYPES:
        return f"rotary positions of type {min(kinds - ROPE_TYPES)}"
    if any(getattr(config, name, None) for name in ("attn_logit_softcapping", "final_logit_softcapping")):
        return "capped logits"
    if getattr(config, "use_bidirectional_attention", False):
        return "attention in both directions"
    if weights.checkpoint.inner_norm == "learned":
        return "a learned norm inside each layer"
    head = find_head_dimension(config)
    if head % 16 or head > 512 or config.hidden_size % 16:
        return "heads or hidden states that are no multiple of 16, or heads beyond 512"
    return None


def why_unsupported_on_gpu(config: Any) -> str | None:
    """Return why the engine on a GPU does not support an architecture that the one on the CPU does, or None."""
    if config.model_type not in GPU_FAMILIES:
        return f"model_type {config.model_type}"
    if config.hidden_act not in GPU_ACTIVATIONS:
        return f"activation {config.hidden_act}"
    return "sliding-window attention" if any(layer.window for layer in list_attention(config)) else None


class Cache:
    """Keys and values of *slots* sequences in the kernel's layout, float32 or bfloat16; grows with the positions."""

    def __init__(
        self, layers: int, slots: int, kv_heads: int, dimension: int, positions: int, dtype: torch.dtype = torch.float32
    ) -> None:
        capacity = -(-positions // 16) * 16
        shape = layers, slots, kv_heads, capacity * dimension
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self.capacity, self._dimension = capacity, dimension

    def reserve(self, positions: int) -> None:
        """Make room for *positions* positions in every slot, keeping its contents."""
        if positions <= self.capacity:
            return
        capacity = -(-positions // POSITIONS_AT_ONCE) * POSITIONS_AT_ONCE
        more = (capacity - self.capacity) * self._dimension
        self.keys = F.pad(self.keys, (0, more))
        self.values = F.pad(self.values, (0, more))
        self.capacity = capacity

    def copy_slots(self, slots: Sequence[int], positions: int) -> Cache:
        """Return a cache whose slot i holds what slot *slots*[i] holds here, with room for *positions* positions."""
        made = copy(self)
        kept = -(-min(positions, self.capacity) // 16) * 16 * self._dimension
        chosen = torch.tensor(slots)
        made.keys, made.values = (t[..., :kept].index_select(1, chosen) for t in (self.keys, self.values))
        made.capacity = kept // self._dimension
        made.reserve(positions)
        return made


@dataclass(frozen=True)
class Batch:
    """Tokens of several sequences: ids, slots and positions [T]; a slot's tokens are contiguous and in order."""

    ids: Tensor
    slots: Tensor
    positions: Tensor

    @classmethod
    def from_sequences(cls, sequences: Sequence[Sequence[int]], past: Sequence[int] | None = None) -> Batch:
        """Concatenate *sequences*, sequence i in slot i after *past*[i] positions."""
        lengths = [len(s) for s in sequences]
        starts = past or [0] * len(lengths)
        return cls(
            torch.tensor([i for s in sequences for i in s]),
            torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths)),
            torch.cat([torch.arange(p, p + n, dtype=torch.int32) for p, n in zip(starts, lengths, strict=True)]),
        )


@dataclass(frozen=True)
class TernaryTable:
    """An embedding or a head in 2-bit codes, with scales [panels, groups, 16]."""

    panels: Tensor
    scales: Tensor
    rows: int
    columns: int

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Return float32 rows [T, columns]."""
        return kernel.lookup_rows(self.panels, self.scales, ids.long().contiguous(), self.columns)


class Engine(BaseEngine[JoinedLayers]):
    """A ternary model on the CPU kernel."""

    def __init__(
        self,
        weights: Weights,
        config: Any,
        head: str = "stored",
        *,
        rounds_groups: bool = False,
        cache_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Load *weights*; *head* is `stored` (the checkpoint's dtype) or `int8`.

        *rounds_groups* rounds activations to int8 by group where the model has scales of groups and takes floats.
        *cache_dtype*, float32 or bfloat16, is that of keys and values; all computing is in float32.
        """
        self.activation = find_activation(config.to_dict())
        self.group_size = weights.group_size or 0
        self.rounds_activations = weights.quantizes_activations or rounds_groups
        super().__init__(weights, config, torch.device("cpu"), cache_dtype)
        self.head = (
            TernaryHead(self.head_table)
            if isinstance(self.head_table, TernaryTable)
            else Head(self.head_table, int8=head == "int8")
        )
        if isinstance(self.head, Head) and head == "int8":
            self._count(self.head.codes, "head")
        self._forward = self._prepare_forward()

    def change_layers(self, change: Callable[[Any], Any]) -> None:
        """Put what *change* makes of each layer in its place, in the kernel's table too."""
        self.layers = [change(layer) for layer in self.layers]
        self._forward = self._prepare_forward()

    def _prepare_forward(self) -> Forward:
        tables = list(self.rotary.values())
        blocks = [
            Block(
                (
                    layer.input_norm,
                    layer.attention_norm,
                    layer.attention_out_norm,
                    layer.mlp_norm,
                    layer.gated_norm,
                    layer.mlp_out_norm,
                ),
                (layer.qkv, layer.out, layer.gate_up, layer.down),
                (layer.query_norm, layer.key_norm),
                layer.window,
                tables.index(layer.rotary),
            )
            for layer in self.layers
        ]
        shape = ModelShape(
            self.config.hidden_size,
            self.config.intermediate_size,
            self.heads,
            self.kv_heads,
            self.dimension,
            self.activation,
            self.epsilon,
            self.score_scale,
        )
        return Forward(shape, blocks, self._inner, self.final_norm, self.make_rows)

    def _make_product(self, weights: Weights, columns: int, names: Sequence[str]) -> JoinedLayers:
        return JoinedLayers([self._read_layer(weights, name) for name in names], columns)

    def _read_layer(self, weights: Weights, module: str) -> tuple[Tensor, Tensor | float, int, Tensor | None]:
        panels, gamma = weights.panels(module)
        bias = weights.bias(module)
        self._count(panels, "ternary")
        scale = self._read_scales(weights, module, gamma, "scales") if self.group_size else float(gamma)
        return panels, scale, weights.ternary[module][0], bias

    def _read_scales(self, weights: Weights, module: str, scales: Tensor, kind: str) -> Tensor:
        return self._count(scales_to_panels(scales.to(weights.scale_dtype(module))), kind)

    def _read_table(self, weights: Weights, module: str, kind: str) -> Any:
        if module not in weights.ternary:
            return super()._read_table(weights, module, kind)
        panels, gamma = weights.panels(module)
        scales = self._read_scales(weights, module, gamma, f"{kind} scales")
        return TernaryTable(self._count(panels, kind, "2-bit"), scales, *weights.ternary[module])

    def make_rows(self, tokens: int, columns: int) -> QuantizedRows:
        """Return buffers for what ternary layers read: int8, or floats as digits for a model without that rounding."""
        return QuantizedRows.empty(tokens, columns, self.group_size, 1 if self.rounds_activations else DIGITS)

    def set_rounding(self, rounds: bool) -> None:
        """Round activations to int8 from now on, or take floats, which only a model with scales of groups can."""
        self.rounds_activations = rounds
        self._forward = self._prepare_forward()

    def cache(self, slots: int, positions: int, layers: int | None = None) -> Cache:
        """Return an empty cache; with *layers* = 1 all layers share it, for scoring in one pass."""
        return Cache(layers or len(self.layers), slots, self.kv_heads, self.dimension, positions, self.dtype)

    def hidden(self, batch: Batch, cache: Cache) -> Tensor:
        """Return the last hidden states [T, hidden] of *batch*, normalized; add its tokens to *cache*."""
        positions = int(batch.positions.max()) + 1
        cache.reserve(positions)
        self.grow_angles(positions)
        hidden: Tensor = self.embedding[batch.ids].float()
        if self.embedding_scale != 1.0:
            hidden.mul_(self.embedding_scale)
        angles = [(table.cosines, table.sines) for table in self.rotary.values()]
        self._forward(hidden, (batch.slots, batch.positions), (cache.keys, cache.values, cache.capacity), angles)
        return hidden

    def score(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """Return logits [T, V] of every token of *batch*, read in one pass."""
        cache = self.cache(len(batch), max(map(len, batch)), layers=1)
        return self.logits(self.hidden(Batch.from_sequences(batch), cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits float32 [R, vocabulary] of hidden states [R, hidden]."""
        return self.head(hidden)

    def choose(self, hidden: Tensor) -> Tensor:
        """Return the tokens [R] with the largest logits of hidden states [R, hidden], or `NO_TOKEN`."""
        return self.head.choose(hidden) if isinstance(self.head, Head) else choose_greedy(self.head(hidden))

    @property
    def bounds_head(self) -> bool:
        """Return whether greedy tokens are chosen by a copy of the head."""
        return isinstance(self.head, Head) and self.head.greedy is not None and self.head.greedy.pays

    @property
    def weights_by_kind(self) -> dict[str, int]:
        """Bytes of the weights by kind and dtype, with those of the copy by which greedy tokens are chosen."""
        found = super().weights_by_kind
        if isinstance(self.head, Head) and self.head.greedy is not None and self.head.greedy.pays:
            found[GREEDY_KIND] = self.head.greedy.copied_bytes
        return found


class TernaryHead:
    """The output projection in 2-bit codes with scales of groups, which takes floats, as a float head does."""

    def __init__(self, table: TernaryTable) -> None:
        self.rows, self._group = table.rows, table.columns // table.scales.shape[1]
        self._product = JoinedLayers([(table.panels, table.scales, table.rows, None)], table.columns)

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits float32 [R, vocabulary] of normed hidden states [R, hidden]."""
        y = torch.empty(len(x), self.rows)
        rows = QuantizedRows.empty(len(x), x.shape[1], self._group, DIGITS)
        kernel.quantize_rows(x, len(x), rows)
        self._product(rows, len(x), y)
        return y


class Head:
    """The output projection: float32 products with the table as stored, or int8 weights and activations."""

    def __init__(self, table: Tensor, int8: bool) -> None:
        """Use the table [vocabulary, hidden]; *int8* scales each row by 127 / absmax and rounds half to even."""
        self.rows, self.columns = table.shape
        self.parts: JoinedLayers | None = None
        self.table = table.contiguous()
        self.greedy = None if int8 or not is_wanted() else GreedyHead(self.table)
        if int8:
            copy = kernel.copy_head(self.table, is_bounded=False)
            self.codes = copy.codes
            self.parts = JoinedLayers([(copy.codes, copy.scales, self.rows, None)], self.columns)

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits float32 [R, vocabulary] of normed hidden states [R, hidden]."""
        y = torch.empty(len(x), self.rows)
        if self.parts is not None:
            rows = QuantizedRows.empty(len(x), self.columns)
            kernel.quantize_rows(x, len(x), rows)
            self.parts(rows, len(x), y)
        elif len(x) <= MAX_ROWS_OF_HEAD:
            kernel.multiply_head(self.table, x, y)
        else:
            for i in range(0, self.rows, HEAD_ROWS_AT_ONCE):
                y[:, i : i + HEAD_ROWS_AT_ONCE] = x @ self.table[i : i + HEAD_ROWS_AT_ONCE].float().t()
        return y

    def choose(self, x: Tensor) -> Tensor:
        """Return the token [R] with the largest logit of each of normed hidden states [R, hidden], or `NO_TOKEN`.

        It is the one that each row has alone, whatever the number of rows.
        """
        found = self.greedy.choose(x) if self.greedy is not None else None
        if found is not None:
            return found.ids
        return torch.cat([choose_greedy(self(some)) for some in torch.split(x, MAX_ROWS_OF_HEAD)])
