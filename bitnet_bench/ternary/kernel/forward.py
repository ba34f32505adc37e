"""Call all layers of a model at once, over a table of them that is made when the model is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof, byref
from dataclasses import dataclass

import torch
from torch import Tensor

from bitnet_bench.ternary.kernel.calls import ACTIVATIONS, JoinedLayers, Norm, QuantizedRows, find_address
from bitnet_bench.ternary.kernel.loader import require_library
from bitnet_bench.ternary.kernel.structs import LayerPointers, Model, NormPointers, Pass

MLP_TOKENS_AT_ONCE = 128
"""Tokens that go through an MLP together: its outputs, the widest of a layer, stay in the third-level cache."""
KEPT_TOKENS = 512
"""Tokens whose buffers are kept for shorter calls: 20 MB in the shape of 2B-4T. Those of longer ones are given back."""


@dataclass(frozen=True)
class ModelShape:
    """What the layers of a model share; *epsilon* is of the norms of single heads, *scale* multiplies scores."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    dimension: int
    activation: str
    epsilon: float
    scale: float


@dataclass(frozen=True)
class Block:
    """One transformer block as the kernel runs it; a norm is None where there is none.

    norms: before q, k and v, of what was attended, of what attention adds, before the MLP, of its gated values, and of
    what it adds. products: q, k and v; output; gate and up; down. *window*: positions that a token reads at most, its
    own included, or None for all. *angles*: which table of rotary positions of a call it reads.
    """

    norms: tuple[Norm | None, Norm | None, Norm | None, Norm | None, Norm | None, Norm | None]
    products: tuple[JoinedLayers, JoinedLayers, JoinedLayers, JoinedLayers]
    head_norms: tuple[Tensor | None, Tensor | None]
    window: int | None
    angles: int

    def point(self) -> LayerPointers:
        """Return what the kernel reads, valid while this block lives."""
        return LayerPointers(
            *map(_point_to_norm, self.norms),
            *(product.address for product in self.products),
            *(None if weight is None else find_address(weight) for weight in self.head_norms),
            self.window or 0,
            self.angles,
        )


def _point_to_norm(norm: Norm | None) -> NormPointers:
    if norm is None:
        return NormPointers()
    return NormPointers(None if norm.weight is None else find_address(norm.weight), norm.epsilon, 1)


class Forward:
    """The layers of a model as one call, whose buffers are kept from call to call."""

    def __init__(
        self,
        shape: ModelShape,
        blocks: Sequence[Block],
        inner: Norm | None,
        final: Norm,
        make_rows: Callable[[int, int], QuantizedRows],
    ) -> None:
        """Run *blocks* and the norm *final*; *inner* precedes every linear layer beside a block's own norms.

        *make_rows* returns buffers of quantized rows by their number and columns.
        """
        self._kept = blocks, inner, final
        self._layers = (LayerPointers * len(blocks))(*(block.point() for block in blocks))
        self._model = Model(
            addressof(self._layers),
            len(blocks),
            shape.hidden,
            shape.intermediate,
            shape.heads,
            shape.kv_heads,
            shape.dimension,
            ACTIVATIONS[shape.activation],
            shape.epsilon,
            shape.scale,
            _point_to_norm(inner),
            _point_to_norm(final),
        )
        self._pass = Pass(model=addressof(self._model))
        self._shape, self._make_rows = shape, make_rows
        self._room = 0
        self._buffers: tuple[object, ...] = ()

    def __call__(
        self,
        hidden: Tensor,
        places: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor, int],
        angles: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        """Turn embeddings *hidden* float32 [T, H] into the last hidden states, normalized, and extend the cache.

        *places*: slots and positions [T], int32. *cache*: keys and values [layers, slots, kv heads, capacity * d] in
        float32 or bfloat16, of one layer if all share it, and the capacity in positions. *angles*: tables of cosines
        and sines [positions, d / 2].
        """
        tokens, (slots, positions), (keys, values, capacity) = len(hidden), places, cache
        if hidden.dtype != torch.float32 or slots.dtype != torch.int32 or positions.dtype != torch.int32:
            raise ValueError(f"{hidden.dtype}, {slots.dtype} and {positions.dtype} are not what the kernel reads")
        if tokens > self._room or self._room > max(tokens, KEPT_TOKENS):
            self._reserve(tokens)
        run = self._pass
        run.hidden, run.slots, run.positions = find_address(hidden), find_address(slots), find_address(positions)
        run.tokens = tokens
        run.keys, run.values, run.capacity = find_address(keys), find_address(values), capacity
        run.layer_bytes = keys.stride(0) * keys.element_size() if len(keys) > 1 else 0
        run.narrow = keys.dtype == torch.bfloat16
        for i, (cosines, sines) in enumerate(angles):
            run.cosines[i], run.sines[i] = find_address(cosines), find_address(sines)
        require_library().bb_forward(byref(run), torch.get_num_threads())

    def _reserve(self, tokens: int) -> None:
        """Make buffers for *tokens* tokens, after the former ones were given back."""
        self._buffers = ()
        shape, heads, most = self._shape, self._shape.heads * self._shape.dimension, min(tokens, MLP_TOKENS_AT_ONCE)
        floats = {
            "between": torch.empty(tokens, shape.hidden),
            "qkv": torch.empty(tokens, heads + 2 * shape.kv_heads * shape.dimension),
            "attended": torch.empty(tokens, heads),
            "gate_up": torch.empty(most, 2 * shape.intermediate),
            "tiles": torch.empty(tokens, 2, dtype=torch.int32),
        }
        rows = {
            "wide": self._make_rows(tokens, shape.hidden),
            "headed": self._make_rows(tokens, heads),
            "gated": self._make_rows(most, shape.intermediate),
        }
        for name, tensor in floats.items():
            setattr(self._pass, name, tensor.data_ptr())
        for name, quantized in rows.items():
            setattr(self._pass, name, quantized.pointers(None))
        self._pass.mlp_tokens = most
        self._room, self._buffers = tokens, (floats, rows)
