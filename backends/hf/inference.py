"""Score and generate with a transformers model, without padding.

A document's context is read once, with its choices as branches after it (a tree mask), if the model supports that.
Rows of a batch are independent: ternary layers sum integers exactly, attention works on each row alone, and only the
head's float sums may differ in the last bits with the size of a batch.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate, chain
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
from bitnet_bench.backends.hf.slots import LENGTH_STEP, DecodingState, Draw, Slots
from bitnet_bench.backends.hf.tree_rows import SharedPrefix, TreeRows
from bitnet_bench.backends.transfers import send
from bitnet_bench.checkpoints.loading import find_end_ids, load_model, load_tokenizer
from bitnet_bench.checkpoints.shape import LOGIT_CAP, has_plain_head
from bitnet_bench.machine.gpu import choose_gpu, find_gpu, why_no_kernels
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint

BRANCHING_FAMILIES = {"llama", "qwen2", "qwen3"}
"""Architectures that accept given positions and a given mask, and attend to everything the mask shows."""

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


def _masked_attention() -> AbstractContextManager[None]:
    """Use the attention kernels that take any mask at once: cuDNN plans anew for each shape of a batch."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _make_forest_mask(shapes: Sequence[tuple[int, ...]], prefix: int) -> tuple[Tensor, Tensor]:
    """Return (additive mask [1, 1, T, prefix + T], positions [1, T]) of trees in one row, given their `Tree.shape`.

    A branch sees the prefix, its context and its own earlier tokens, at the positions it would have without the others.
    """
    lengths = torch.tensor([length for shape in shapes for length in shape])
    tree = torch.repeat_interleave(torch.arange(len(shapes)), torch.tensor([sum(shape) for shape in shapes]))
    part = torch.repeat_interleave(torch.tensor([p for shape in shapes for p in range(len(shape))]), lengths)
    starts = [prefix + (shape[0] if p else 0) for shape in shapes for p in range(len(shape))]
    positions = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths.tolist(), strict=True)])
    order = torch.arange(len(positions))
    seen = (order[:, None] >= order) & (tree[:, None] == tree) & ((part[:, None] == part) | (part == 0))
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    return torch.nn.functional.pad(mask, (prefix, 0))[None, None], positions[None]


class HFSession(BatchedSession):
    """A session on a transformers model; see `bitnet_bench.protocols.Session`."""

    def __init__(self, model: Any, tokenizer: Any, precision: Precision) -> None:
        context = int(getattr(model.config, "max_position_embeddings", 2048))
        super().__init__(tokenizer, precision, context, model.config.vocab_size)
        self._model = model
        # other families process their logits further, so these come from the model's own forward
        self._plain_head = has_plain_head(model.config.model_type, getattr(model.config, LOGIT_CAP, None))
        self.in_rows = model.device.type == "cuda"
        """True if rows are padded to one length: on a GPU, few batches and attention within rows are faster."""
        layers = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        self.device = model.device.type
        self.slots = Slots(model)
        self.uses_slots = self.device == "cuda" and self._plain_head and layers == {"full_attention"}
        """True if rows of any lengths are decoded together, in `slots`."""
        if model.config.model_type == "mistral" and model.config.sliding_window is not None:
            self.uses_slots = False
        if self.device == "cuda":
            self._fit_to_memory()
            self.in_flight = 1
        # int8 rounding amplifies the float noise of masked attention, so a ternary model reads plain rows
        self.shares_contexts = (
            precision != "ternary" and model.config.model_type in BRANCHING_FAMILIES and layers == {"full_attention"}
        )

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
            mixed = self.shares_contexts or self.in_rows if isinstance(row, Tree) else self.uses_slots
            groups[0 if mixed else len(row)].append(row)
        for group in groups.values():
            yield from split_by_budget(group, self._cost, budget)

    def _cost(self, row: Row) -> int:
        """Return the tokens that a row takes, with the least room of a slot if it is continued in one."""
        return len(row) if isinstance(row, Tree) or not self.uses_slots else len(row) + LENGTH_STEP

    def hidden(self, batch: list[Tree], places: list[TreePosition]) -> Tensor:
        """Return the head's inputs [len(places), H], or the logits for a family with its own head."""
        if self.in_rows:
            ids, where, options = (self._lay_in_rows if self.shares_contexts else self._lay_padded)(batch, places)
        else:
            ids, where, options = self._lay_side_by_side(batch, places)
        with _masked_attention() if self.device == "cuda" and "attention_mask" in options else nullcontext():
            output = (self._model.base_model if self._plain_head else self._model)(ids, **options)
        if self._prefix_cache is not None and not self.in_rows:
            self._prefix_cache.crop(-ids.shape[1])  # the tokens of this batch
        found: Tensor = (output.last_hidden_state if self._plain_head else output.logits).flatten(0, 1)[where]
        return found

    def _lay_in_rows(self, batch: list[Tree], places: list[TreePosition]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return (ids [rows, T], indices of *places*, options) with several trees per row, and padding."""
        device, prefix = self._model.device, self._prefix_length
        layout = TreeRows.from_trees(batch, prefix, self._model.config.hidden_size)
        options: dict[str, Any] = {
            "use_cache": False,
            "attention_mask": layout.make_mask(prefix, device, self._model.dtype),
            "position_ids": send(layout.positions, device),
        }
        if self._prefix_cache is not None:
            options |= {"past_key_values": SharedPrefix(self._prefix_cache.layers), "use_cache": True}
        return send(layout.ids, device), send(layout.find_indices(places), device), options

    def _lay_padded(self, batch: list[Tree], places: list[TreePosition]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return (ids [trees, T], indices of *places*, options); no token sees the padding, which comes after it."""
        rows = [[*tree.context, *chain(*tree.branches)] for tree in batch]
        longest = max(map(len, rows))
        # a tree has one branch here, and the offset -1 is the token before it
        at = torch.tensor([t * longest + len(batch[t].context) + offset for t, _, offset in places])
        return self._tensor(rows), send(at, self._model.device), {"use_cache": False}

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return ids [rows, T] on the model's device, padded on the right."""
        longest = max(map(len, rows))
        return send(torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows]), self._model.device)

    def _lay_side_by_side(self, batch: list[Tree], places: list[TreePosition]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return (ids, indices of *places*, options) with all trees in one row, or rows of one length."""
        device = self._model.device
        rows = [[*tree.context, *chain(*tree.branches)] for tree in batch]
        starts = [0, *accumulate(map(len, batch))]
        # the offset -1, whose branch is 0, is the token before the first branch
        at = [starts[t] + sum(batch[t].shape[: branch + 1]) + offset for t, branch, offset in places]
        options: dict[str, Any] = {"use_cache": False}
        if self.shares_contexts:
            mask, positions = _make_forest_mask([tree.shape for tree in batch], self._prefix_length)
            options |= {"attention_mask": mask.to(device, self._model.dtype), "position_ids": positions.to(device)}
            if self._prefix_cache is not None:
                options |= {"past_key_values": self._prefix_cache, "use_cache": True}
            rows = [list(chain(*rows))]
        return send(torch.tensor(rows), device), send(torch.tensor(at), device), options

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V] of *hidden*, which are already logits for a family with its own head."""
        return self._model.get_output_embeddings()(hidden) if self._plain_head else hidden

    def read_prefix(self, prefix: Ids) -> None:
        """Compute and keep the keys and values of *prefix*."""
        self._prefix_length, self._prefix_cache = len(prefix), None
        if prefix:
            ids = torch.tensor([prefix], device=self._model.device)
            self._prefix_cache = self._model.base_model(ids, use_cache=True).past_key_values

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
