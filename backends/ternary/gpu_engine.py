"""The forward pass of the ternary engine on a GPU, in Triton kernels.

It computes the same model as `engine`. Tokens of several sequences are concatenated without padding, as on the CPU.
Integer products are exact; the residual stream, norms, scores and the softmax are float32. Outputs of products, keys
and values, and the input of the head are bfloat16, or float32 if the engine is opened with that dtype.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitnet_bench.backends.graphs import record_graph
from bitnet_bench.backends.ternary.base_engine import POSITIONS_AT_ONCE, BaseEngine, Layer
from bitnet_bench.backends.ternary.engine import HEAD_ROWS_AT_ONCE, Batch
from bitnet_bench.backends.token_choice import choose_greedy
from bitnet_bench.backends.transfers import send
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.ternary.gpu import calls
from bitnet_bench.ternary.gpu.calls import (
    NO_SPLITS,
    GpuJoinedLayers,
    Heads,
    QuantizedRows,
    Splits,
    TokenPlacement,
    choose_attention,
    make_tiles,
)

MOST_PREFILLS = 8
"""Most shapes of prompts whose graphs are kept."""


class Cache:
    """Keys and values of *slots* sequences, per layer [slots, kv heads, capacity, dimension]; grows with positions."""

    def __init__(self, layers: int, slots: int, positions: int, like: GpuEngine) -> None:
        shape = slots, like.kv_heads, -(-positions // 16) * 16, like.dimension
        self.keys = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(layers)]

    @property
    def capacity(self) -> int:
        """Positions of a slot."""
        return self.keys[0].shape[2]

    def reserve(self, positions: int) -> None:
        """Make room for *positions* positions in every slot, keeping its contents."""
        if positions > self.capacity:
            more = -(-positions // POSITIONS_AT_ONCE) * POSITIONS_AT_ONCE - self.capacity
            self.keys = [F.pad(t, (0, 0, 0, more)) for t in self.keys]
            self.values = [F.pad(t, (0, 0, 0, more)) for t in self.values]

    def copy_slots(self, slots: Sequence[int], positions: int) -> Cache:
        """Return a cache whose slot i holds what slot *slots*[i] holds here, with room for *positions* positions."""
        made = copy(self)
        kept = min(-(-positions // 16) * 16, self.capacity)
        chosen = torch.tensor(slots, device=self.keys[0].device)
        made.keys = [t[:, :, :kept].index_select(0, chosen) for t in self.keys]
        made.values = [t[:, :, :kept].index_select(0, chosen) for t in self.values]
        made.reserve(positions)
        return made


class GpuEngine(BaseEngine[GpuJoinedLayers]):
    """A ternary model in GPU memory; its dtype is that of products' outputs, bfloat16 or float32."""

    embedding: Tensor
    head_table: Tensor

    def _make_product(self, weights: Weights, columns: int, names: Sequence[str]) -> GpuJoinedLayers:
        made = GpuJoinedLayers([self._read_layer(weights, name) for name in names], columns, self.device)
        self._count(made.codes, "ternary")
        return made

    @staticmethod
    def _read_layer(weights: Weights, module: str) -> tuple[Tensor, float, Tensor | None]:
        codes, gamma = weights.codes(module)
        return codes, float(gamma), weights.bias(module)

    @property
    def token_bytes(self) -> int:
        """Bytes that a token of a batch takes while it is read, including its keys and values and copies of them."""
        config, width = self.config, self.heads * self.dimension
        handed = 2 * width + 2 * self.kv_heads * self.dimension + 2 * config.intermediate_size
        quantized = config.hidden_size + width + config.intermediate_size
        return int(3 * 4 * config.hidden_size + self.dtype.itemsize * handed + quantized + 3 * self.kv_bytes)

    def cache(self, slots: int, positions: int, layers: int | None = None) -> Cache:
        """Return an empty cache; with *layers* = 1 all layers share it, for scoring in one pass."""
        return Cache(layers or len(self.layers), slots, positions, self)

    def hidden(self, batch: Batch, cache: Cache) -> Tensor:
        """Return the last hidden states [T, hidden] of *batch*, before the final norm; add its tokens to *cache*."""
        positions = int(batch.positions.max()) + 1
        cache.reserve(positions)
        self.grow_angles(positions)
        return self.run(send(batch.ids, self.device), self.place_tokens(batch), cache)

    def place_tokens(self, batch: Batch) -> TokenPlacement:
        """Return the slots, positions and tiles of the tokens of *batch* on the GPU."""
        decodes = len(batch.ids) == len(torch.unique_consecutive(batch.slots))  # every token has its own slot
        rows = choose_attention(self.dimension, self.dtype, decodes=False).rows
        # tiles of one token append their key and attend in one kernel, so a slot must not have two of them
        most = 1 if decodes else max(2, rows // (self.heads // self.kv_heads))
        slots, positions, tiles = (
            send(t, self.device) for t in (batch.slots, batch.positions, make_tiles(batch.slots, most))
        )
        return TokenPlacement(slots, positions, tiles, most)

    def run(self, ids: Tensor, places: TokenPlacement, cache: Cache, splits: Splits = NO_SPLITS) -> Tensor:
        """Queue the forward pass of tokens [T] whose placement is already on the GPU; see `hidden`."""
        tokens, config, width = len(ids), self.config, self.heads * self.dimension

        def rows(columns: int) -> QuantizedRows:
            return QuantizedRows.empty(tokens, columns, self.device)

        def floats(columns: int) -> Tensor:
            return torch.empty(tokens, columns, dtype=self.dtype, device=self.device)

        hidden = self.embedding[ids].float()
        wide, headed, gated = rows(config.hidden_size), rows(width), rows(config.intermediate_size)
        qkv, attended = floats(width + 2 * self.kv_heads * self.dimension), floats(width)
        gate_up, between = floats(2 * config.intermediate_size), torch.empty_like(hidden)
        for i, layer in enumerate(self.layers):
            calls.quantize_rows(hidden, wide, norm=layer.input_norm)
            layer.qkv.multiply(wide, qkv)
            calls.attend(
                qkv,
                attended,
                places,
                (cache.keys[i % len(cache.keys)], cache.values[i % len(cache.values)]),
                (self.cosines, self.sines),
                self._heads(layer),
                splits,
            )
            calls.quantize_rows(attended, headed, norm=layer.attention_norm)
            layer.out.multiply(headed, hidden, add=True)
            if self._inner is None:
                calls.quantize_rows(hidden, wide, norm=layer.mlp_norm)
            else:
                assert layer.mlp_norm is not None
                calls.normalize_rows(hidden, layer.mlp_norm, between)
                calls.quantize_rows(between, wide, norm=self._inner)
            layer.gate_up.multiply(wide, gate_up)
            calls.quantize_rows(gate_up, gated, norm=layer.gated_norm, gate=config.hidden_act)
            layer.down.multiply(gated, hidden, add=True)
        return hidden

    def _heads(self, layer: Layer[GpuJoinedLayers]) -> Heads:
        return Heads(self.heads, self.kv_heads, self.dimension, layer.query_norm, layer.key_norm, self.epsilon)

    def splits(self, slots: int) -> Splits:
        """Return buffers for splitting the keys of *slots* slots over programs, for one token each."""
        return Splits.empty(slots, self._heads(self.layers[0]), self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits float32 [R, vocabulary] of hidden states [R, hidden]."""
        exact = self.dtype == torch.float32
        normed = torch.empty_like(hidden, dtype=torch.float32 if exact else self.head_table.dtype)
        calls.normalize_rows(hidden, self.final_norm, normed)
        if not exact and self.device.type == "cuda" and self.head_table.dtype != torch.float32:
            return torch.mm(normed, self.head_table.t(), out_dtype=torch.float32)
        if self.head_table.dtype == torch.float32:
            return normed @ self.head_table.t()
        y = torch.empty(len(hidden), len(self.head_table), device=self.device)
        for i in range(0, len(self.head_table), HEAD_ROWS_AT_ONCE):
            y[:, i : i + HEAD_ROWS_AT_ONCE] = normed.float() @ self.head_table[i : i + HEAD_ROWS_AT_ONCE].float().t()
        return y


class SlotGraphs:
    """Prefill and decoding of all slots of a cache as CUDA graphs, so that no Python runs between layers."""

    def __init__(self, engine: GpuEngine, slots: int, capacity: int) -> None:
        """Capture a decoding step of *slots* slots with *capacity* positions; on the CPU nothing is captured."""
        self._engine, self.cache = engine, engine.cache(slots, capacity)
        engine.grow_angles(self.cache.capacity)
        self.tokens = torch.zeros(slots, dtype=torch.int64, device=engine.device)
        """Last chosen token of every slot."""
        self.positions = torch.zeros(slots, dtype=torch.int32, device=engine.device)
        self._last = torch.zeros(slots, engine.config.hidden_size, device=engine.device)
        """Last hidden state of every slot, before the final norm."""
        order = torch.arange(slots, dtype=torch.int32, device=engine.device)
        self._places = TokenPlacement(order, self.positions, torch.stack([order, torch.ones_like(order)], 1), 1)
        self._splits = engine.splits(slots)
        self.lengths = [0] * slots
        """Number of positions of every slot that have been read."""
        self._step = self._capture(self._decode)
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        """Live decoding states that continue in these slots."""
        self._prefills: dict[tuple[int, ...], tuple[Tensor, Callable[[], None]] | None] = {}

    def prefill(self, batch: Sequence[Sequence[int]]) -> None:
        """Read a prompt into every slot and choose its first token; recurring lengths are captured."""
        lengths = tuple(map(len, batch))
        ids = torch.tensor([i for prompt in batch for i in prompt], device=self._engine.device)
        known = self._prefills.get(lengths)
        if known is None:
            if len(self._prefills) >= MOST_PREFILLS:
                self._prefills.clear()
            known = ids, self._prepare_prefill(batch, ids, captured=lengths in self._prefills)
            self._prefills[lengths] = known if lengths in self._prefills else None
        known[0].copy_(ids)
        known[1]()
        self._set_positions(lengths)

    def _prepare_prefill(self, batch: Sequence[Sequence[int]], ids: Tensor, captured: bool) -> Callable[[], None]:
        places = self._engine.place_tokens(Batch.from_sequences(batch))
        ends = torch.tensor([len(prompt) for prompt in batch]).cumsum(0) - 1
        last = ends.to(self._engine.device)

        def read(cache: Cache) -> None:
            self._last.copy_(self._engine.run(ids, places, cache)[last])
            self.tokens.copy_(choose_greedy(self._engine.logits(self._last)))

        return self._capture(read) if captured else lambda: read(self.cache)

    def fits(self, slots: int, capacity: int) -> bool:
        """Return whether there are exactly *slots* slots of *capacity* positions."""
        return (len(self.tokens), self.cache.capacity) == (slots, capacity)

    def set_lengths(self, lengths: Sequence[int], tokens: Tensor) -> None:
        """Continue from *tokens* [slots] at positions *lengths*."""
        self._set_positions(lengths)
        self.tokens.copy_(tokens)

    def copy_cache(self, other: SlotGraphs) -> None:
        """Copy the keys and values of *other*, which has the same number of slots and fewer positions."""
        mine = self.cache.keys + self.cache.values
        for kept, given in zip(mine, other.cache.keys + other.cache.values, strict=True):
            kept[:, :, : given.shape[2]].copy_(given)

    def step(self) -> None:
        """Queue one step; `tokens` holds the new tokens when it is done."""
        self._step()
        self.lengths = [length + 1 for length in self.lengths]

    def redraw(self, draw: Callable[[Tensor], Tensor]) -> None:
        """Replace the tokens that the last prompt or step chose with those that *draw* returns for their logits.

        A graph cannot hold the random numbers, so the head is applied again after it.
        """
        self.tokens.copy_(draw(self._engine.logits(self._last)))

    def _set_positions(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self.positions.copy_(send(torch.tensor(lengths, dtype=torch.int32), self._engine.device))

    def _decode(self, cache: Cache) -> None:
        self._last.copy_(self._engine.run(self.tokens.clamp(min=0), self._places, cache, self._splits))
        self.tokens.copy_(choose_greedy(self._engine.logits(self._last)))
        self.positions.add_(1)

    def _capture(self, work: Callable[[Cache], None]) -> Callable[[], None]:
        """Return a function that repeats *work* on the cache, on a GPU by replaying a graph."""
        if self._engine.device.type != "cuda":
            return lambda: work(self.cache)
        slots, _, capacity, _ = self.cache.keys[0].shape
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles kernels, on a cache of its own
            work(self._engine.cache(slots, capacity, layers=1))
        torch.cuda.current_stream().wait_stream(side)
        recorded = record_graph(lambda: work(self.cache))
        used = work, self._engine.cosines, self._engine.sines  # the graph reads their memory

        def replay() -> None:
            assert used
            recorded()

        return replay
