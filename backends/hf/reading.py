"""Read trees with a transformers model in the cheapest way in which it agrees with itself.

There are three ways. *Forest*: all trees of a batch side by side under a mask, a context once with its branches after
it. *Branches*: a context once, its cache copied for the branches, which are a padded batch. *Whole*: each branch with
its own context. The first that suits a model is compared with whole reads when it is first used, and given up with a
word in the log if the hidden states differ. A batch is the same whatever the way, so workers need not agree on it.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from bitnet_bench.backends.batched_session import Ids, Tree, TreePosition, split_by_budget, split_by_padded_budget
from bitnet_bench.backends.hf.tree_mask import SharedPrefix, TreeMask, give_mask, takes_trees
from bitnet_bench.backends.hf.tree_rows import TreeRows
from bitnet_bench.backends.transfers import send
from bitnet_bench.machine.gpu import is_gpu_failure, is_out_of_memory

Way = Literal["forest", "branches", "whole"]
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest mean distance between hidden states of two ways, as a share of their length, by dtype.

Noise was 0.016 at most in bfloat16 (Gemma 3 270M, SmolLM2 135M); with positions that were not obeyed, 0.02 to 0.14.
"""
LONGER = 1.5
"""A way is compared again when a sequence is longer than the longest compared by this factor."""
COPIED_POSITIONS = 2048
"""Most positions whose keys and values are copied at once for branches, unless one document has more."""
WORDS: dict[Way, str] = {
    "forest": "under a mask",
    "branches": "from a copied cache",
    "whole": "with its whole context",
}
_log = logging.getLogger(__name__)


def choose_ways(model: Any) -> list[Way]:
    """Return the ways in which *model* may read trees, the cheapest first, by what its class and config say."""
    ways: list[Way] = ["whole"]
    parameters = inspect.signature(model.base_model.forward).parameters
    if "past_key_values" in parameters and not getattr(model, "_is_stateful", False):
        ways.insert(0, "branches")
        if takes_trees(model):
            ways.insert(0, "forest")
    return ways


def head_is_linear(model: Any) -> bool:
    """Return whether the output layer of *model* alone makes its logits from the hidden states of its base model."""
    ids = torch.arange(4, device=model.device)[None]
    try:
        with torch.inference_mode():
            logits = model(ids, use_cache=False).logits
            made = model.get_output_embeddings()(model.base_model(ids, use_cache=False).last_hidden_state)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return bool(made.shape == logits.shape and torch.equal(made.to(logits.dtype), logits))


def _masked_attention(device: torch.device) -> AbstractContextManager[None]:
    """Use the attention kernels that take any mask at once: cuDNN plans anew for each shape of a batch."""
    if device.type != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def lay_side_by_side(shapes: Sequence[tuple[int, ...]], prefix: int) -> tuple[Tensor, Tensor]:
    """Return (positions [1, T], tokens that each may see [1, T, T]) of trees in one row, given their `Tree.shape`.

    A branch sees its context and its own earlier tokens, at the positions it would have without the others.
    """
    lengths = torch.tensor([length for shape in shapes for length in shape])
    tree = torch.repeat_interleave(torch.arange(len(shapes)), torch.tensor([sum(shape) for shape in shapes]))
    part = torch.repeat_interleave(torch.tensor([p for shape in shapes for p in range(len(shape))]), lengths)
    starts = [prefix + (shape[0] if p else 0) for shape in shapes for p in range(len(shape))]
    positions = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths.tolist(), strict=True)])
    order = torch.arange(len(positions))
    seen = (order[:, None] >= order) & (tree[:, None] == tree) & ((part[:, None] == part) | (part == 0))
    return positions[None], seen[None]


class TreeReader:
    """Reads batches of trees that follow a prefix."""

    def __init__(self, model: Any, linear_head: bool, shares: bool) -> None:
        self._model, self._linear_head = model, linear_head
        self._ways: list[Way] = choose_ways(model) if shares else ["whole"]
        self._keeps_some = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._compared: dict[tuple[bool, bool], int] = {}
        """Length of the longest sequence on which the way was compared, by whether it had a prefix and branches."""
        self.in_rows = model.device.type == "cuda"
        """True if rows are padded to one length: on a GPU, few batches and attention within rows are faster."""
        self.start(())

    @property
    def way(self) -> Way:
        """The way in which batches are read."""
        return self._ways[0]

    def start(self, prefix: Ids) -> None:
        """Read trees after *prefix* from now on; its keys and values are computed when they are first needed."""
        self._prefix = prefix
        self._prefix_cache: Any = None

    def read(self, batch: Sequence[Tree], places: Sequence[TreePosition], budget: int) -> Tensor:
        """Return the hidden states [len(places), H] at *places*, or the logits of a model whose head is not linear.

        Whole reads are cut into parts of *budget* tokens.
        """
        while self.way != "whole":
            try:
                found = self._read_forest(batch, places) if self.way == "forest" else self._read_branches(batch, places)
            except Exception as error:
                if self._compared or is_out_of_memory(error) or is_gpu_failure(error):
                    raise
                self._give_up(f"it cannot ({type(error).__name__}: {error})")
                continue
            if self._agrees(batch, places, found, budget):
                return found
        return self._read_whole(batch, places, budget)

    def _agrees(self, batch: Sequence[Tree], places: Sequence[TreePosition], found: Tensor, budget: int) -> bool:
        """Return whether the states *found* are those of a whole read, as far as that is still to be compared.

        The last branch of the last tree that has one is compared: under a mask that is not obeyed it sees all others.
        """
        number = max(range(len(batch)), key=lambda t: (any(batch[t].branches), t))
        tree = batch[number]
        length = len(self._prefix) + max(len(one.context) + max(map(len, one.branches)) for one in batch)
        kind = bool(self._prefix), any(tree.branches)
        alone_anyway = not self._prefix and len(batch) == len(tree.branches) == 1
        if alone_anyway or length <= LONGER * self._compared.get(kind, 0):
            return True
        last = max(range(len(tree.branches)), key=lambda b: (len(tree.branches[b]) > 0, b))
        at = [i for i, (t, b, offset) in enumerate(places) if t == number and (b == last or offset < 0)]
        alone = Tree(tree.context, (tree.branches[last],))
        wanted = self._read_whole([alone], [(0, 0, places[i][2]) for i in at], budget).float()
        distance = float(((found[at].float() - wanted).norm(dim=-1) / wanted.norm(dim=-1)).mean())
        allowed = TOLERANCES.get(found.dtype, 1e-3)
        if distance > allowed:
            self._give_up(f"its hidden states are {distance:.2g} from those of a whole read ({allowed:g} is allowed)")
            return False
        self._compared[kind] = length
        return True

    def _give_up(self, reason: str) -> None:
        given_up = self._ways.pop(0)
        self._compared = {}
        name = self._model.config.model_type
        _log.warning(
            "%s reads each choice %s instead of %s: %s.", name, WORDS[self.way], WORDS[given_up], reason.rstrip(".")
        )

    def _run(self, ids: Tensor, where: Tensor, **options: Any) -> tuple[Tensor, Any]:
        """Return (states or logits at the indices *where* in the joined rows of *ids*, the model's whole output)."""
        if self._linear_head:
            output = self._model.base_model(ids, **options)
            return output.last_hidden_state.flatten(0, 1)[where], output
        rows, columns = where // ids.shape[1], where % ids.shape[1]
        if self._keeps_some:
            kept, columns = torch.unique(columns, return_inverse=True)
            options["logits_to_keep"] = kept
        output = self._model(ids, **options)
        return output.logits[rows, columns], output

    def _find_prefix_cache(self) -> Any:
        """Return the keys and values of the prefix, or None without one."""
        if self._prefix and self._prefix_cache is None:
            ids = torch.tensor([self._prefix], device=self._model.device)
            self._prefix_cache = self._model.base_model(ids, use_cache=True).past_key_values
        return self._prefix_cache

    def _read_forest(self, batch: Sequence[Tree], places: Sequence[TreePosition]) -> Tensor:
        """Read all trees at once under a mask, in one row or, on a GPU, in rows of one length."""
        device, prefix = self._model.device, len(self._prefix)
        if self.in_rows:
            layout = TreeRows.from_trees(batch, prefix, self._model.config.get_text_config().hidden_size)
            ids, positions, where = layout.ids, layout.positions, layout.find_indices(places)
            seen = layout.find_seen(device)
        else:
            ids = torch.tensor([[*chain.from_iterable(chain(tree.context, *tree.branches) for tree in batch)]])
            positions, seen = lay_side_by_side([tree.shape for tree in batch], prefix)
            where = torch.tensor(list(_find_places(batch, places)))
        positions = send(positions, device)
        mask = TreeMask(prefix, positions, seen.to(device))
        cache = self._find_prefix_cache()
        options: dict[str, Any] = {"use_cache": False}
        if cache is not None:
            options = {"use_cache": True, "past_key_values": SharedPrefix(cache.layers)}
        # given, and all true: without it, transformers looks for packed rows in the positions
        everything = torch.ones((len(ids), prefix + ids.shape[1]), dtype=torch.int64, device=device)
        with give_mask(self._model, mask), _masked_attention(device):
            found, _ = self._run(
                send(ids, device), send(where, device), attention_mask=everything, position_ids=positions, **options
            )
        if not mask.calls:
            raise NotImplementedError("it makes no mask through transformers")
        return found

    def _read_branches(self, batch: Sequence[Tree], places: Sequence[TreePosition]) -> Tensor:
        """Read contexts of one length together, then all their branches on copies of the cache."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for t, tree in enumerate(batch):
            by_length[len(tree.context)].append(t)
        index = {place: i for i, place in enumerate(places)}
        parts: list[Tensor] = []
        order: list[int] = []
        for length, trees in by_length.items():
            positions = len(self._prefix) + length
            most = max(1, COPIED_POSITIONS // positions)
            for some in split_by_budget(trees, lambda t: len(batch[t].branches), most):
                for states, of in self._read_copies({t: batch[t] for t in some}, index):
                    parts.append(states)
                    order += of
        return torch.cat(parts)[self._tensor(order).argsort()]

    def _read_copies(
        self, trees: dict[int, Tree], index: dict[TreePosition, int]
    ) -> Iterator[tuple[Tensor, list[int]]]:
        """Yield (states, their indices) of *trees* by number, whose contexts have one length."""
        cache = deepcopy(self._find_prefix_cache())
        if cache is not None:
            cache.batch_repeat_interleave(len(trees))
        branches = [(row, t, b) for row, t in enumerate(trees) for b, ids in enumerate(trees[t].branches) if ids]
        ids = self._pad([tree.context for tree in trees.values()])
        last = ids.shape[1] - 1
        ends = {(row, last): index[t, 0, -1] for row, t in enumerate(trees) if (t, 0, -1) in index}
        states, cache = self._run_cached(ids, ends, cache, use_cache=bool(branches))
        yield states, list(ends.values())
        if branches:
            cache.batch_select_indices(self._tensor([row for row, _, _ in branches]))
            inner = {
                (row, offset): index[t, b, offset]
                for row, (_, t, b) in enumerate(branches)
                for offset in range(len(trees[t].branches[b]))
                if (t, b, offset) in index
            }
            ids = self._pad([trees[t].branches[b] for _, t, b in branches])
            yield self._run_cached(ids, inner, cache, use_cache=True)[0], list(inner.values())

    def _run_cached(
        self, ids: Tensor, where: dict[tuple[int, int], int], cache: Any, use_cache: bool
    ) -> tuple[Tensor, Any]:
        """Return (the states at *where* (row, column), the cache) of *ids* that follow *cache*."""
        at = self._tensor([row * ids.shape[1] + column for row, column in where])
        states, output = self._run(ids, at, past_key_values=cache, use_cache=use_cache)
        return states, output.past_key_values

    def _read_whole(self, batch: Sequence[Tree], places: Sequence[TreePosition], budget: int) -> Tensor:
        """Read each branch after the prefix and its context, padded on the right, where no earlier token sees it."""
        wanted: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (t, b, _) in enumerate(places):
            wanted[t, b].append(i)
        before = len(self._prefix)
        rows = sorted(wanted, key=lambda at: -len(batch[at[0]].context) - len(batch[at[0]].branches[at[1]]))
        parts: list[Tensor] = []
        order: list[int] = []
        for some in split_by_padded_budget(
            rows, lambda at: before + len(batch[at[0]].context) + len(batch[at[0]].branches[at[1]]), budget
        ):
            ids = self._pad([(*self._prefix, *batch[t].context, *batch[t].branches[b]) for t, b in some])
            where = [
                row * ids.shape[1] + before + len(batch[t].context) + places[i][2]
                for row, (t, b) in enumerate(some)
                for i in wanted[t, b]
            ]
            parts.append(self._run(ids, self._tensor(where), use_cache=False)[0])
            order += [i for at in some for i in wanted[at]]
        return torch.cat(parts)[self._tensor(order).argsort()]

    def _pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return ids [rows, T] on the model's device, padded on the right."""
        longest = max(map(len, rows))
        return send(torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows]), self._model.device)

    def _tensor(self, numbers: list[int]) -> Tensor:
        return send(torch.tensor(numbers, dtype=torch.int64), self._model.device)


def _find_places(batch: Sequence[Tree], places: Sequence[TreePosition]) -> Iterator[int]:
    """Give the index of each of *places* in the joined trees of *batch*; offset -1 is the context's last token."""
    starts: list[list[int]] = []
    total = 0
    for tree in batch:
        sums = []
        for length in tree.shape:
            total += length
            sums.append(total)
        starts.append(sums)
    for t, branch, offset in places:
        yield starts[t][branch] + offset
