"""Score and generate on the GPU engine, with batches sized by free memory, and CUDA graphs for prompts and steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bitnet_bench.backends.batch_size import choose_logits, choose_tokens
from bitnet_bench.backends.batched_session import Row, Tree, split_by_padded_budget
from bitnet_bench.backends.ternary.gpu_engine import GpuEngine, SlotGraphs
from bitnet_bench.backends.ternary.inference import TernarySession
from bitnet_bench.machine.gpu import Gpu

CAPACITY_STEP = 256
"""Step in positions between sizes of caches; slots of one size reuse their graphs."""
MOST_SLOTS = 2
"""Most sets of slots that are kept with their graphs from one batch to the next."""
COPIED_BUDGETS = 2
"""Most positions copied at once for branches, in units of the budget, so that all workers cut batches alike."""


class SlotState:
    """State of decoding: the slots and lengths of rows, and the last token of each [B]."""

    def __init__(self, slots: SlotGraphs, lengths: list[int]) -> None:
        self.slots, self.lengths, self.tokens = slots, lengths, slots.tokens.clone()
        slots.users.add(self)


class GpuTernarySession(TernarySession):
    """A session on the GPU engine; see `bitnet_bench.protocols.Session`."""

    device = "cuda"

    def __init__(self, engine: GpuEngine, tokenizer: Any, gpu: Gpu) -> None:
        super().__init__(engine, tokenizer)
        self._gpu = gpu
        self.in_flight = 1
        self.device = engine.device.type
        self.arithmetic = f"{self.device} {str(engine.dtype).removeprefix('torch.')}"
        self._head_rows = max(1, choose_logits(gpu.free_bytes) // engine.config.vocab_size)
        self.budget = choose_tokens(gpu.free_bytes, engine.token_bytes)
        self._kept: list[SlotGraphs] = []
        """Slots with their graphs, the most recently used last."""

    @property
    def copied_positions(self) -> int:
        """Most positions whose keys and values are copied at once for branches."""
        return COPIED_BUDGETS * self.budget

    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows* into batches, longest first, that are within the budget or hold one row.

        A cache has as much room for every row as for the longest, and prompts also need room for generated tokens.
        """

        def cost(row: Row) -> int:
            return len(row) + (prefix // COPIED_BUDGETS if isinstance(row, Tree) else CAPACITY_STEP)

        return split_by_padded_budget(sorted(rows, key=len, reverse=True), cost, self.budget)

    def prefill(self, batch: Sequence[Sequence[int]]) -> SlotState:
        """Read prompts of any lengths and choose the first new token of each."""
        lengths = [len(prompt) for prompt in batch]
        slots = self._find_slots(len(batch), max(lengths) + 1)
        slots.prefill(batch)
        self._redraw(slots)
        return self._finish(SlotState(slots, lengths))

    def decode(self, state: SlotState, steps: int) -> SlotState:
        """Choose *steps* more tokens for every row, one after the other."""
        return self._finish(self._advance(state, steps))

    def queue(self, state: SlotState) -> SlotState:
        """Start to choose one more token for every row."""
        return self._keep(self._advance(state, 1))

    def _advance(self, state: SlotState, steps: int) -> SlotState:
        slots, lengths = state.slots, [length + steps for length in state.lengths]
        if max(lengths) > slots.cache.capacity:
            slots = self._find_slots(len(lengths), max(lengths))
            slots.copy_cache(state.slots)
        if slots.lengths != state.lengths or slots is not state.slots:
            slots.set_lengths(state.lengths, state.tokens)
        for _ in range(steps):
            slots.step()
            self._redraw(slots)
        return SlotState(slots, lengths)

    def _redraw(self, slots: SlotGraphs) -> None:
        if self._sampler is not None:
            slots.redraw(self._sampler.choose)

    def release(self) -> None:
        """Free the slots that are not in use."""
        self._kept = [slots for slots in self._kept if slots.users]

    def describe_runtime(self) -> str:
        """Return the runtime's description: the engine, the GPU, and the dtype between the integer products."""
        return f"ternary engine on {self._gpu.name}, 2-bit codes, the rest in {self.arithmetic.split()[1]}"

    def _finish(self, state: SlotState) -> SlotState:
        self._keep(state)
        self.wait()
        return state

    def _keep(self, state: SlotState) -> SlotState:
        others = [slots for slots in self._kept if slots is not state.slots]
        self._kept = [*others[-(MOST_SLOTS - 1) :], state.slots]
        return state

    def _find_slots(self, rows: int, positions: int) -> SlotGraphs:
        """Return slots that are not in use, with their graphs if slots of this size are kept."""
        capacity = -(-positions // CAPACITY_STEP) * CAPACITY_STEP
        for slots in self._kept:
            if not slots.users and slots.fits(rows, capacity):
                return slots
        if len(self._kept) == MOST_SLOTS and not self._kept[0].users:
            del self._kept[0]  # before memory is allocated for new ones
        engine: GpuEngine = self._engine
        return SlotGraphs(engine, rows, capacity)
