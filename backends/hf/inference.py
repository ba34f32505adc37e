"""Score and generate with a transformers model.

A document's context is read once for all its choices, unless the model is ternary or does not allow it (`reading`).
Rows of a ternary batch are independent: ternary layers sum integers exactly, attention works on each row alone, and
only the head's float sums may differ in the last bits with the size of a batch.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from bitnet_bench.backends.batch_size import activation_bytes, choose_logits, choose_tokens
from bitnet_bench.backends.batched_session import (
    BatchedSession,
    Ids,
    Row,
    Tree,
    TreePosition,
    explain_gpu_failures,
    split_by_budget,
)
from bitnet_bench.backends.hf.reading import TreeReader, head_is_linear
from bitnet_bench.backends.hf.slots import LENGTH_STEP, DecodingState, Draw, Slots
from bitnet_bench.backends.transfers import send
from bitnet_bench.checkpoints.loading import find_end_ids, load_model, load_tokenizer
from bitnet_bench.checkpoints.shape import LOGIT_CAP, has_plain_head
from bitnet_bench.machine.gpu import choose_gpu, find_gpu, why_no_kernels
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
_log = logging.getLogger(__name__)


@contextmanager
def open_session(checkpoint: Checkpoint, precision: Precision, dense: bool = False) -> Iterator[HFSession]:
    """Yield a session on *checkpoint* at *precision*, on a GPU if there is one; *dense*: packed codes become floats.

    With ternary codes, other weights are bfloat16 on a GPU that has it, else float32.
    """
    tokenizer = load_tokenizer(checkpoint)
    gpu = choose_gpu(checkpoint.source, _estimate_gpu_bytes(checkpoint, precision))
    if gpu is not None and precision == "bf16" and not gpu.has_bf16:
        _log.warning("%s emulates bfloat16, slowly: `precision=fp32` or `precision=fp16` is faster there.", gpu.name)
    rest: Literal["fp32", "bf16", "fp16"] = "bf16" if gpu is not None and gpu.has_bf16 else "fp32"
    if gpu is not None and checkpoint.group_size:
        rest = "fp16"  # which holds the scales of groups; bfloat16 would round them
    model = load_model(checkpoint, "run", precision, dense=dense, rest=rest)
    with torch.inference_mode(), explain_gpu_failures():
        model = model.to("cuda" if gpu else "cpu")
        if gpu is not None and precision == "ternary" and why_no_kernels(gpu) is None:
            from bitnet_bench.ternary.gpu.layer import use_gpu_layers

            model = use_gpu_layers(model)
        session = HFSession(model, tokenizer, precision)
        session.ends = find_end_ids(checkpoint, tokenizer)
        yield session


def _estimate_gpu_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Return the bytes of the weights: with ternary precision int8 codes, and bfloat16 for other weights.

    A model with a scale per group is dense, in float16.
    """
    if precision == "ternary" and not checkpoint.group_size:
        return checkpoint.ternary_parameters + 2 * (checkpoint.parameters - checkpoint.ternary_parameters)
    dense: Precision = "fp16" if precision == "ternary" else precision
    return WEIGHT_BYTES.get(dense, 4) * checkpoint.parameters


class HFSession(BatchedSession):
    """A session on a transformers model; see `bitnet_bench.protocols.Session`."""

    def __init__(self, model: Any, tokenizer: Any, precision: Precision) -> None:
        context = int(getattr(model.config, "max_position_embeddings", 2048))
        super().__init__(tokenizer, precision, context, model.config.vocab_size)
        self._model = model
        # other heads process their logits further, so these come from the model's own forward
        plain = has_plain_head(model.config.model_type, getattr(model.config, LOGIT_CAP, None))
        self._plain_head = plain or head_is_linear(model)
        layers = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        self.device = model.device.type
        self.slots = Slots(model)
        self.uses_slots = self.device == "cuda" and plain and layers == {"full_attention"}
        """True if rows of any lengths are decoded together, in `slots`."""
        if model.config.model_type == "mistral" and model.config.sliding_window is not None:
            self.uses_slots = False
        if self.device == "cuda":
            self._fit_to_memory()
            self.in_flight = 1
        # int8 rounding amplifies the float noise of masked attention, so a ternary model reads plain rows
        self.shares_contexts = precision != "ternary"
        self.reader = TreeReader(model, self._plain_head, self.shares_contexts)

    def _fit_to_memory(self) -> None:
        """Choose the size of batches and the number of logits held at a time from the GPU's free memory."""
        gpu = find_gpu()
        if gpu is None:
            return
        config, itemsize = self._model.config.get_text_config(), self._model.dtype.itemsize
        token = activation_bytes(config, itemsize)
        if not self._plain_head:  # the model's forward returns the logits of all tokens
            token += 2 * itemsize * config.vocab_size
        self.budget = choose_tokens(gpu.free_bytes, token)
        self._head_rows = max(1, choose_logits(gpu.free_bytes) // config.vocab_size)

    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows* into batches, longest first, that are within the budget or hold one row.

        If rows are neither joined nor padded nor decoded in slots, those of a batch have one length.
        """
        budget = self.budget  # it may shrink meanwhile, but all workers must cut alike
        groups: dict[int, list[Row]] = defaultdict(list)
        for row in sorted(rows, key=len, reverse=True):
            mixed = self.shares_contexts or self.reader.in_rows if isinstance(row, Tree) else self.uses_slots
            groups[0 if mixed else len(row)].append(row)
        for group in groups.values():
            yield from split_by_budget(group, self._cost, budget)

    def _cost(self, row: Row) -> int:
        """Return the tokens that a row takes, with the least room of a slot if it is continued in one."""
        return len(row) if isinstance(row, Tree) or not self.uses_slots else len(row) + LENGTH_STEP

    def hidden(self, batch: list[Tree], places: list[TreePosition]) -> Tensor:
        """Return the head's inputs [len(places), H], or the logits for a family with its own head."""
        return self.reader.read(batch, places, self.budget)

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return ids [rows, T] on the model's device, padded on the right."""
        longest = max(map(len, rows))
        return send(torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows]), self._model.device)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V] of *hidden*, which are already logits for a family with its own head."""
        return self._model.get_output_embeddings()(hidden) if self._plain_head else hidden

    def read_prefix(self, prefix: Ids) -> None:
        """Read trees after *prefix* from now on."""
        self.reader.start(prefix)

    def release(self) -> None:
        """Free the slots that are not in use."""
        self.slots.release()

    def prefill(self, batch: Sequence[Sequence[int]]) -> DecodingState:
        """Read prompts, of one length unless there are slots, and choose the first new token of each."""
        if not self.uses_slots:
            output = self._model(torch.tensor(batch, device=self._model.device), use_cache=True, logits_to_keep=1)
            return self._finish(DecodingState(output.past_key_values, self._choose(output.logits[:, -1])))
        lengths = [len(prompt) for prompt in batch]
        output = self._model.base_model(self._tensor(batch), use_cache=True)
        rows = torch.arange(len(batch))
        last = send(torch.stack([rows, torch.tensor(lengths) - 1]), self._model.device)
        tokens = self._choose(self.head(output.last_hidden_state[last[0], last[1]]))
        return self._finish(DecodingState(output.past_key_values, tokens, lengths))

    def decode(self, state: DecodingState, steps: int) -> DecodingState:
        """Choose *steps* more tokens for every row, one after the other."""
        if self.uses_slots:
            return self._finish(self.slots.decode(state, steps, self._draw()))
        for _ in range(steps):
            output = self._model(state.tokens[:, None].clamp(min=0), past_key_values=state.cache, use_cache=True)
            state = DecodingState(output.past_key_values, self._choose(output.logits[:, -1]))
        return self._finish(state)

    def queue(self, state: DecodingState) -> DecodingState | None:
        """Start to choose one more token for every row in slots; return None without slots."""
        return self.slots.decode(state, 1, self._draw()) if self.uses_slots else None

    def _draw(self) -> Draw | None:
        """Return the function that draws tokens from logits; None if they are greedy."""
        return None if self._sampler is None else self._sampler.choose

    def _finish(self, state: DecodingState) -> DecodingState:
        self.wait()
        return state

    def describe_runtime(self) -> str:
        """Return the runtime's description: its name, its device, and the dtype of its products."""
        gpu = find_gpu() if self.device == "cuda" else None
        held = str(self._model.dtype).removeprefix("torch.")
        bits = "2-bit" if "ternary 2-bit" in self.weights_by_kind() else "int8"
        codes = f"{bits} codes, the rest in " if self.precision == "ternary" else ""
        graph = ", tokens from a CUDA graph" if self.uses_slots and self.slots.graphs else ""
        return f"transformers on {gpu.name if gpu else 'the CPU'}, {codes}{held}{graph}"

    def weights_by_kind(self) -> dict[str, int]:
        """Return the bytes of the weights by kind and dtype; a tied head is counted once, as the embedding."""
        found: dict[str, int] = {}
        seen = set()
        for name, t in (*self._model.named_parameters(), *self._model.named_buffers()):
            if t.data_ptr() not in seen:
                seen.add(t.data_ptr())
                key = (
                    "ternary 2-bit"
                    if t.dtype == torch.uint8
                    else f"{_kind(name, t)} {str(t.dtype).removeprefix('torch.')}"
                )
                found[key] = found.get(key, 0) + t.numel() * t.element_size()
        return found

    def footprint(self) -> tuple[int, int]:
        """Return (bytes of the weights in memory, bytes of key-value cache per token and row)."""
        weights = sum(self.weights_by_kind().values())
        layers = self.prefill([[0]]).cache.layers
        return weights, sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))


def _kind(name: str, tensor: Tensor) -> str:
    """Return the kind of a model's tensor, as in `Checkpoint.weight_bytes`."""
    if tensor.dtype == torch.int8:
        return "ternary"
    if "embed" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    return "linear" if tensor.dim() == 2 else "norm"
