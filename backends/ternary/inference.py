"""Score and generate on the ternary engine, with sequences of any length in a batch and no padding."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bitnet_bench.backends.batched_session import (
    BatchedSession,
    Ids,
    Row,
    Tree,
    TreePosition,
    explain_gpu_failures,
    split_by_budget,
    split_by_padded_budget,
)
from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.ternary.engine import Batch, Engine, why_unsupported, why_unsupported_on_gpu
from bitnet_bench.backends.transfers import send
from bitnet_bench.checkpoints.building import load_config_object
from bitnet_bench.checkpoints.loading import check_config_fits, find_end_ids, load_model, load_tokenizer
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.gpu import Gpu, choose_gpu, find_gpu, why_no_kernels
from bitnet_bench.runs.choices import Activations, KvCache, Precision
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.linear import replace_layer
from bitnet_bench.ternary.ops import PanelsLinear

if TYPE_CHECKING:
    from bitnet_bench.backends.ternary.gpu_engine import GpuEngine

GPU_VARIABLE = "BITNET_BENCH_GPU"
GPU_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "off": None}
"""Dtype between the GPU engine's kernels, by the value of `GPU_VARIABLE`: `fp32` computes as the CPU does."""
_log = logging.getLogger(__name__)
COPIED_POSITIONS = 2048
"""Most positions whose keys and values are copied at once for branches: 0.3 GB in the shape of 2B-4T."""


@contextmanager
def open_session(
    checkpoint: Checkpoint,
    precision: Precision,
    head: str,
    activations: Activations = "checkpoint",
    kv_cache: KvCache = "exact",
) -> Iterator[BatchedSession]:
    """Yield a session on *checkpoint*, on a capable GPU if there is one; *head* is `stored`, or `int8` on the CPU.

    A model with scales of groups runs on the CPU; *activations* `int8` rounds those that it takes as floats.
    """
    if precision != "ternary" or not checkpoint.is_ternary:
        raise BenchError(
            f"The backend `ternary` runs ternary weights only, and {checkpoint.source} was asked for at {precision}.",
            "Use `backend=hf` for other precisions and for float checkpoints.",
        )
    weights = Weights(checkpoint)
    config = load_config_object(checkpoint.path)
    reason = why_unsupported(weights, config)
    _check_groups(checkpoint, head, activations, reason)
    dtype = None if checkpoint.group_size else choose_gpu_dtype()
    gpu_reason = reason or why_unsupported_on_gpu(config)
    gpu = _choose_gpu(weights, as_modules=gpu_reason is not None) if dtype is not None and head == "stored" else None
    reason = gpu_reason if gpu else reason
    _check_cache(checkpoint, kv_cache, "runs on a GPU" if gpu else reason and f"has {reason}")
    if gpu is None and kernel.load_library() is None:
        raise BenchError(
            "The CPU kernel is not built or turned off, and the backend `ternary` needs it.",
            f"Reinstall bitnet-bench with a C compiler, or unset {kernel.KERNEL_VARIABLE}; "
            "`backend=hf` runs without it.",
        )
    tokenizer = load_tokenizer(checkpoint)
    if reason and head != "stored":
        raise BenchError(
            f"{checkpoint.source} has {reason}, and runs as transformers modules, whose head is not quantized.",
            "Use `backend=ternary`.",
        )
    if not reason:
        check_config_fits(weights)
    with torch.inference_mode(), explain_gpu_failures():
        session: BatchedSession
        if reason:
            session = HFSession(_load_modules(checkpoint, weights, gpu, dtype), tokenizer, precision)
            session.arithmetic = f"{session.device} {str(dtype).removeprefix('torch.')}" if gpu else "cpu"
        elif gpu is not None and dtype is not None:
            session = _open_on_gpu(weights, config, gpu, dtype, tokenizer)
        else:
            session = _open_on_kernel(weights, config, head, activations, kv_cache, tokenizer)
        session.ends = find_end_ids(checkpoint, tokenizer)
        yield session


def _open_on_gpu(weights: Weights, config: Any, gpu: Gpu, dtype: torch.dtype, tokenizer: Any) -> TernarySession:
    from bitnet_bench.backends.ternary.gpu_engine import GpuEngine
    from bitnet_bench.backends.ternary.gpu_inference import GpuTernarySession

    engine = GpuEngine(weights, config, torch.device("cuda", gpu.index), dtype)
    return GpuTernarySession(engine, tokenizer, find_gpu() or gpu)  # find_gpu: the memory that is free now


def _open_on_kernel(
    weights: Weights, config: Any, head: str, activations: Activations, kv_cache: KvCache, tokenizer: Any
) -> TernarySession:
    """Return a session on the CPU engine, with the prompts on which a rounding that was asked for is measured."""
    rounds = activations == "int8" and not weights.quantizes_activations
    dtype = torch.bfloat16 if kv_cache == "bf16" else torch.float32
    session = TernarySession(Engine(weights, config, head, rounds_groups=rounds, cache_dtype=dtype), tokenizer)
    if rounds:
        session.arithmetic = "int8 activations by group"
        session.rounded_prompts = tuple(encode_prompts(weights.checkpoint))
    if kv_cache == "bf16":
        session.arithmetic = f"{session.arithmetic}, keys and values in bfloat16"
        session.narrow_prompts = tuple(encode_prompts(weights.checkpoint))
    return session


def _check_cache(checkpoint: Checkpoint, kv_cache: KvCache, obstacle: str | None) -> None:
    """Raise BenchError if keys and values in bfloat16 are asked for where *obstacle* keeps the CPU engine away."""
    if kv_cache != "exact" and obstacle:
        raise BenchError(
            f"{checkpoint.source} {obstacle}, where keys and values have the dtype of the model.",
            f"Leave out `kv_cache`; it is for the CPU engine ({GPU_VARIABLE}=off keeps a model off the GPU).",
        )


def _check_groups(checkpoint: Checkpoint, head: str, activations: Activations, reason: str | None) -> None:
    """Raise BenchError for what cannot be done with a checkpoint's groups, or without them."""
    if activations != "checkpoint" and not checkpoint.group_size:
        raise BenchError(
            f"{checkpoint.source} rounds the activations of its ternary layers to int8 already.",
            "Leave out `activations`; it is for models with a scale per group, which take floats.",
        )
    if checkpoint.group_size and head != "stored":
        raise BenchError(
            f"{checkpoint.source} has a scale per group, and its head is not quantized further.",
            "Use `backend=ternary`.",
        )
    if checkpoint.group_size and reason:
        raise BenchError(
            f"{checkpoint.source} has {reason}, which the ternary engine does not run with a scale per group.",
            "Use `backend=hf`, which runs its weights as dense floats.",
        )


def choose_gpu_dtype() -> torch.dtype | None:
    """Return the dtype between the GPU engine's kernels, or None if the user turned the GPU off."""
    wanted = os.environ.get(GPU_VARIABLE, "bf16")
    if wanted not in GPU_DTYPES:
        raise BenchError(f"{GPU_VARIABLE} is {wanted!r}.", f"Set it to {', '.join(GPU_DTYPES)}, or unset it.")
    return GPU_DTYPES[wanted]


def _choose_gpu(weights: Weights, *, as_modules: bool) -> Gpu | None:
    """Return a GPU that can hold *weights* and run our kernels, or None; warn if a GPU cannot be used."""
    source = weights.checkpoint.source
    gpu = choose_gpu(source, _estimate_gpu_bytes(weights, as_modules))
    why = gpu and why_no_kernels(gpu)
    if why:
        _log.warning("%s runs on the CPU: %s.", source, why)
        return None
    return gpu


def _estimate_gpu_bytes(weights: Weights, as_modules: bool) -> int:
    """Return the GPU memory that the weights take: two bits per code, and other tensors as they are stored.

    Modules are moved to the GPU with one byte per code.
    """
    codes = sum(rows * columns for rows, columns in weights.ternary.values()) // (1 if as_modules else 4)
    outlines = [weights.dtype_and_shape(name) for name in weights.floats]
    return codes + sum(dtype.itemsize * math.prod(shape) for dtype, shape in outlines)


def find_obstacle(checkpoint: Checkpoint) -> str | None:
    """Return why the ternary engine is not the best runtime of *checkpoint* here, or None if it is."""
    if not checkpoint.is_ternary:
        return "its weights are not ternary"
    gpu = find_gpu() if choose_gpu_dtype() is not None else None
    if gpu is not None and checkpoint.group_size:
        return "scales of groups are multiplied on the CPU only, and a GPU runs its dense weights faster"
    on_gpu = gpu is not None and not why_no_kernels(gpu)
    if not on_gpu:
        if os.environ.get(kernel.KERNEL_VARIABLE) == "off":
            return f"the CPU kernel is turned off (unset {kernel.KERNEL_VARIABLE})"
        if kernel.load_library() is None:
            return "the CPU kernel is not built (reinstall bitnet-bench with a C compiler)"
    config = load_config_object(checkpoint.path)
    reason = why_unsupported(Weights(checkpoint), config) or (why_unsupported_on_gpu(config) if on_gpu else None)
    return reason and f"the checkpoint has {reason}, which the ternary engine does not run"


def _load_modules(checkpoint: Checkpoint, weights: Weights, gpu: Gpu | None, dtype: torch.dtype | None) -> Any:
    """Return the transformers model with our kernels in its ternary layers, for architectures without an engine."""
    model = load_model(checkpoint, "run", "ternary", rest="fp32" if gpu is None or dtype == torch.float32 else "bf16")
    if gpu is not None:
        from bitnet_bench.ternary.gpu.layer import use_gpu_layers

        return use_gpu_layers(model.to("cuda"))
    for module, shape in weights.ternary.items():
        panels, gamma = weights.panels(module)
        norm = (weights.inner_norm(module), checkpoint.inner_norm_eps or 1e-6) if checkpoint.inner_norm else None
        layer = PanelsLinear(panels, float(gamma), shape, weights.bias(module), norm)
        replace_layer(model, module, layer)
    return model


@dataclass
class DecodingState:
    """State of decoding: the cache, the lengths of rows in it, and the last token of each [B]."""

    cache: Any
    lengths: list[int]
    tokens: Tensor


class TernarySession(BatchedSession, adds=("cache_difference", "copied_positions", "rounding_error")):
    """A session on the ternary engine; see `bitnet_bench.protocols.Session`."""

    def __init__(self, engine: Engine | GpuEngine, tokenizer: Any) -> None:
        context = int(getattr(engine.config, "max_position_embeddings", 2048))
        super().__init__(tokenizer, "ternary", context, engine.config.vocab_size)
        self._engine: Any = engine
        self._prefix: Ids = ()
        self._prefix_cache: Any = None
        self.rounded_prompts: tuple[Tensor, ...] = ()
        """Prompts on which the rounding of activations is measured, where the user asked for it; () if it is not."""
        self.narrow_prompts: tuple[Tensor, ...] = ()
        """Prompts on which bfloat16 keys and values are measured, where the user asked for them; () if they are not."""

    @property
    def copied_positions(self) -> int:
        """Most positions whose keys and values are copied at once for branches."""
        return COPIED_POSITIONS

    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows* into batches, longest first, that are within the budget or hold one row.

        A prefix is copied for every row, so each row also counts the share of `copied_positions` that its copy takes.
        """
        copied = prefix * self.budget // self.copied_positions
        return split_by_budget(sorted(rows, key=len, reverse=True), lambda row: len(row) + copied, self.budget)

    def hidden(self, batch: list[Tree], places: list[TreePosition]) -> Tensor:
        """Return hidden states [len(places), H]: contexts are read together, then branches after them."""
        branches = [(t, b) for t, tree in enumerate(batch) for b, ids in enumerate(tree.branches) if ids]
        contexts = [tree.context for tree in batch]
        longest = len(self._prefix) + max(map(len, contexts))
        if self._prefix_cache is None:
            cache = self._engine.cache(len(batch), longest, layers=None if branches else 1)
        else:
            cache = self._prefix_cache.copy_slots([0] * len(batch), longest)
        hidden = self._engine.hidden(Batch.from_sequences(contexts, [len(self._prefix)] * len(batch)), cache)
        found: Tensor = hidden.new_empty(len(places), hidden.shape[1])
        ends = (_find_starts(contexts) + torch.tensor([len(context) for context in contexts]) - 1).tolist()
        at_ends = [(row, ends[t]) for row, (t, _, offset) in enumerate(places) if offset < 0]
        _gather(hidden, at_ends, found)
        at: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for row, (t, b, offset) in enumerate(places):
            if offset >= 0:
                at[t, b].append((row, offset))

        def positions(place: tuple[int, int]) -> int:
            t, b = place
            return len(self._prefix) + len(batch[t].context) + len(batch[t].branches[b])

        for some in split_by_padded_budget(branches, positions, self.copied_positions):
            self._read_branches(batch, some, cache, at, found)
        return found

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V]."""
        logits: Tensor = self._engine.logits(hidden)
        return logits

    def _read_branches(
        self,
        batch: list[Tree],
        branches: list[tuple[int, int]],
        cache: Any,
        at: Mapping[tuple[int, int], list[tuple[int, int]]],
        found: Tensor,
    ) -> None:
        """Read *branches* (tree, branch) after copies of their contexts, and write the rows in *at* into *found*."""
        sequences = [batch[t].branches[b] for t, b in branches]
        past = [len(self._prefix) + len(batch[t].context) for t, _ in branches]
        longest = max(p + len(ids) for p, ids in zip(past, sequences, strict=True))
        hidden = self._engine.hidden(
            Batch.from_sequences(sequences, past), cache.copy_slots([t for t, _ in branches], longest)
        )
        starts = zip(_find_starts(sequences).tolist(), branches, strict=True)
        _gather(hidden, [(row, start + offset) for start, branch in starts for row, offset in at[branch]], found)

    def read_prefix(self, prefix: Ids) -> None:
        """Keep the keys and values of *prefix*."""
        self._prefix, self._prefix_cache = prefix, None
        if prefix:
            self._prefix_cache = self._engine.cache(1, len(prefix))
            self._engine.hidden(Batch.from_sequences([prefix]), self._prefix_cache)

    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Read prompts of any lengths and choose the first new token of each."""
        lengths = [len(prompt) for prompt in batch]
        cache = self._engine.cache(len(batch), max(lengths))
        hidden = self._engine.hidden(Batch.from_sequences(batch), cache)
        last = _find_starts(batch) + torch.tensor(lengths) - 1
        return DecodingState(cache, lengths, self._choose_next(hidden[last]))

    def decode(self, state: Any, steps: int) -> Any:
        """Choose *steps* more tokens for every row, one after the other."""
        tokens, lengths = state.tokens, list(state.lengths)
        slots = torch.arange(len(lengths), dtype=torch.int32)
        positions = torch.tensor(lengths, dtype=torch.int32)
        for _ in range(steps):
            hidden = self._engine.hidden(Batch(tokens.clamp(min=0), slots, positions), state.cache)
            tokens = self._choose_next(hidden)
            positions += 1
        return DecodingState(state.cache, [length + steps for length in lengths], tokens)

    def _choose_next(self, hidden: Tensor) -> Tensor:
        """Return the next token of each hidden state; a greedy one without all logits where the head allows it."""
        if self._sampler is not None:
            return self._choose(self._engine.logits(hidden))
        tokens: Tensor = self._engine.choose(hidden)
        return tokens

    def describe_runtime(self) -> str:
        """Return the runtime's description: the engine and the instruction set of its kernel."""
        where = f"ternary engine on the CPU, kernel {kernel.get_instruction_set()}"
        if self._engine.bounds_head:
            where += ", greedy tokens by a bounded int8 copy of the head"
        if self.narrow_prompts:
            where = f"{where}, keys and values in bfloat16: {self.cache_difference}"
        if not self._engine.group_size:
            return where
        if self.rounded_prompts:
            return f"{where}, activations rounded to int8 by group: {self._describe_rounding()}"
        kind = "int8 by group" if self._engine.rounds_activations else "float32"
        return f"{where}, activations {kind}"

    @cached_property
    def rounding_error(self) -> float:
        """Mean |difference| of log-probabilities in nats that rounding activations makes on `rounded_prompts`."""
        ours, theirs = (self._prompt_logits(rounds).log_softmax(-1) for rounds in (False, True))
        return float((ours - theirs).abs().mean())

    @cached_property
    def cache_difference(self) -> str:
        """What keeping keys and values in bfloat16 changes on `narrow_prompts`, in words."""
        ours, theirs = (self._logits_with_cache(dtype) for dtype in (torch.bfloat16, torch.float32))
        nats = float((ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().mean())
        changed = int((ours.argmax(-1) != theirs.argmax(-1)).sum())
        return (
            f"log-probabilities are off by {nats:.2g} nats in the mean from those with float32, and {changed} of "
            f"{len(ours)} most likely next tokens are others, on Korean prompts"
        )

    def _logits_with_cache(self, dtype: torch.dtype) -> Tensor:
        before, self._engine.dtype = self._engine.dtype, dtype
        logits: Tensor = self._engine.score([ids.tolist() for ids in self.narrow_prompts])
        self._engine.dtype = before
        return logits

    def _describe_rounding(self) -> str:
        tokens = sum(map(len, self.rounded_prompts))
        return (
            f"log-probabilities are off by {self.rounding_error:.2g} nats in the mean from those of float activations, "
            f"on {tokens} tokens of Korean prompts"
        )

    def _prompt_logits(self, rounds: bool) -> Tensor:
        before = self._engine.rounds_activations
        self._engine.set_rounding(rounds)
        logits: Tensor = self._engine.score([ids.tolist() for ids in self.rounded_prompts])
        self._engine.set_rounding(before)
        return logits

    def weights_by_kind(self) -> dict[str, int]:
        """Return the bytes of the weights by kind and dtype; a tied head is counted once, as the embedding."""
        found: dict[str, int] = self._engine.weights_by_kind
        return found

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in memory, bytes of key-value cache per token and row)."""
        return self._engine.weight_bytes, self._engine.kv_bytes


def _gather(hidden: Tensor, pairs: Sequence[tuple[int, int]], found: Tensor) -> None:
    """Write row *b* of *hidden* into row *a* of *found* for every (a, b)."""
    if pairs:
        rows, at = send(torch.tensor(pairs).t().contiguous(), hidden.device)
        found[rows] = hidden[at]


def _find_starts(batch: Sequence[Sequence[int]]) -> Tensor:
    """Return the index of each sequence's first token when they are concatenated."""
    lengths = torch.tensor([len(row) for row in batch])
    return lengths.cumsum(0) - lengths
