"""Decode with keys and values of a fixed size, so that each step runs the same kernels and can be a graph."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from bitnet_bench.backends.graphs import Work, capture
from bitnet_bench.backends.token_choice import choose_greedy
from bitnet_bench.backends.transfers import send

LENGTH_STEP = 256
"""Step in tokens between lengths of slots; a slot is reused for rows of its size."""
ROWS_STEP = 8
"""Step between numbers of rows of slots, from this number on."""
MOST_SLOTS = 4
Draw = Callable[[Tensor], Tensor]
"""Function that returns a token [N] for each row of logits [N, V]."""


@dataclass
class DecodingState:
    """State of a batch in decoding: *tokens* [B] is the last token of each row."""

    cache: Any
    tokens: Tensor
    lengths: list[int] = field(default_factory=list)
    """Tokens of each row in the cache; empty if all rows have one length."""
    slot: Slot | None = None
    """Slot with the keys and values, instead of *cache*."""

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, [rows, heads, length, width]."""
        if self.slot is not None:
            return self.slot.kept
        return [(layer.keys, layer.values) for layer in self.cache.layers]


class _SlotCache(DynamicCache):  # type: ignore[misc]
    """Cache that writes the new token of each row and returns the whole slot to a layer."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self._slot = slot

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values [rows, heads, length, width]; the mask hides positions that are not written."""
        return self._slot.write(key_states, value_states, layer_idx)


class Slot:
    """Keys and values of *rows* rows of at most *length* tokens, and the step that adds a token to each."""

    def __init__(self, model: Any, like: Sequence[tuple[Tensor, Tensor]], rows: int, length: int) -> None:
        """Allocate keys and values *like* those of each layer, [rows, heads, length, width]."""
        self.rows, self.length = rows, length
        self._model = model
        self._head = model.get_output_embeddings()
        first, _ = like[0]

        def room(given: Tensor) -> Tensor:
            return given.new_zeros(rows, given.shape[1], length, given.shape[3])

        self.kept = [(room(keys), room(values)) for keys, values in like]
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=first.device)
        self._positions = torch.zeros_like(self.tokens)
        self._row = torch.arange(rows, device=first.device)
        self._column = torch.arange(length, device=first.device)
        self._zero = torch.zeros((), dtype=first.dtype, device=first.device)
        self._hidden = torch.full_like(self._zero, float("-inf"))
        self.owner: weakref.ref[DecodingState] | None = None
        self.advance: Work = self.step

    @property
    def is_free(self) -> bool:
        """True if no live state uses the slot."""
        return self.owner is None or self.owner() is None

    def write(self, key_states: Tensor, value_states: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write one token of each row, [rows, heads, 1, width], into a layer, and return the whole layer."""
        keys, values = self.kept[layer]
        for kept, new in ((keys, key_states), (values, value_states)):
            kept.transpose(1, 2).index_put_((self._row, self._positions), new[:, :, 0])
        return keys, values

    def step(self) -> None:
        """Read the last token of each row and choose the next one."""
        seen = self._column <= self._positions[:, None]
        output = self._model.base_model(
            self.tokens[:, None].clamp(min=0),
            attention_mask=torch.where(seen, self._zero, self._hidden)[:, None, None],
            position_ids=self._positions[:, None],
            past_key_values=_SlotCache(self),
            use_cache=True,
        )
        self._last = output.last_hidden_state[:, -1]  # a graph writes it anew in the same memory
        self.tokens.copy_(choose_greedy(self._head(self._last)))
        self._positions += 1

    def redraw(self, draw: Draw, rows: int) -> None:
        """Replace the tokens that the last step chose for the first *rows* rows with drawn ones.

        A graph cannot hold the random numbers, so the head is applied again after it.
        """
        self.tokens[:rows].copy_(draw(self._head(self._last[:rows])))

    def load(self, state: DecodingState) -> None:
        """Copy the rows of *state* from its cache or its slot; further rows are ignored."""
        rows = len(state.lengths)
        for kept, given in zip(self.kept, state.layers, strict=True):
            for whole, part in zip(kept, given, strict=True):
                whole[:rows, :, : part.shape[2]].copy_(part[:rows])
        self.tokens.zero_()[:rows].copy_(state.tokens)
        self._positions.zero_()[:rows].copy_(send(torch.tensor(state.lengths), self.tokens.device))


class Slots:
    """The slots of a model, each with its graph, kept from one batch to the next."""

    def __init__(self, model: Any, capturing: Callable[[Work], Work | None] = capture) -> None:
        self._model, self._capturing = model, capturing
        self._slots: list[Slot] = []
        self.graphs = True
        """True if steps are captured; False once a capture has failed."""

    def decode(self, state: DecodingState, steps: int, draw: Draw | None = None) -> DecodingState:
        """Queue *steps* more tokens for every row of *state*, which must not be used again; do not wait for them.

        They are greedy, or drawn by *draw*.
        """
        longest = max(state.lengths) + steps
        slot = state.slot
        if slot is None or slot.length < longest:
            slot = self._free_slot(state, len(state.lengths), longest)
            slot.load(state)
        for _ in range(steps):
            slot.advance()
            if draw is not None:
                slot.redraw(draw, len(state.lengths))
        found = DecodingState(
            None, slot.tokens[: len(state.lengths)].clone(), [length + steps for length in state.lengths], slot
        )
        slot.owner = weakref.ref(found)
        return found

    def release(self) -> None:
        """Free the slots that are not in use."""
        self._slots = [slot for slot in self._slots if not slot.is_free]

    def _free_slot(self, state: DecodingState, rows: int, length: int) -> Slot:
        rows = rows if rows < ROWS_STEP else -(-rows // ROWS_STEP) * ROWS_STEP
        length = -(-length // LENGTH_STEP) * LENGTH_STEP
        for slot in self._slots:
            if slot.is_free and (slot.rows, slot.length) == (rows, length):
                self._slots.remove(slot)
                self._slots.append(slot)  # the most recently used is last
                return slot
        while len(self._slots) >= MOST_SLOTS and (free := next((s for s in self._slots if s.is_free), None)):
            self._slots.remove(free)
        slot = Slot(self._model, state.layers, rows, length)
        if self.graphs:
            replay = self._capturing(slot.step)
            self.graphs = replay is not None
            slot.advance = replay or slot.step
        self._slots.append(slot)
        return slot
