"""Arrange trees in the rows of a batch for a GPU, so that a token attends to its row, not to the whole batch."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitnet_bench.backends.batched_session import Tree, TreePosition
from bitnet_bench.backends.transfers import send

ALIGNMENT = 8
"""Columns of a mask are a multiple of this: attention kernels first copy a mask of another width."""
ROW_TOKENS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Lengths of rows that are tried in addition to that of the longest tree."""


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return rows of indices whose *lengths*, in descending order, sum to at most *room* (best fit)."""
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # (free tokens, row), ascending
    for index, length in enumerate(lengths):
        at = bisect_left(left, (length, 0))
        if at < len(left):
            rest, row = left.pop(at)
        else:
            rest, row = room, len(rows)
            rows.append([])
        rows[row].append(index)
        insort(left, (rest - length, row))
    return rows


def choose_rows(lengths: Sequence[int], prefix: int, hidden_size: int) -> tuple[int, list[list[int]]]:
    """Return the cheapest (tokens of a row, trees of each row) for trees of *lengths*, in descending order.

    A token or padding costs 1, and attention costs about 1 more for as many columns as the model is wide. Rows are not
    shorter than *prefix*, whose keys and values are copied for each.
    """
    least = max(lengths[0], prefix)
    found = []
    for tokens in (least, *(size for size in ROW_TOKENS if least < size <= 4 * least)):
        room = -(-(prefix + tokens) // ALIGNMENT) * ALIGNMENT - prefix
        rows = pack(lengths, room)
        found.append((len(rows) * room * (1 + (prefix + room) / hidden_size), room, rows))
    _, room, rows = min(found, key=lambda one: one[:2])
    return room, rows


@dataclass(frozen=True)
class TreeRows:
    """Trees in rows of one length, as tensors on the CPU [rows, tokens]."""

    ids: Tensor
    positions: Tensor
    tree: Tensor
    """Number of a token's tree in the batch, from 1; 0 is padding, which attends to padding."""
    part: Tensor
    """Branch of a token, from 1; 0 is the context."""
    starts: Sequence[int]
    """Index of each tree's first token when rows are concatenated."""
    shapes: Sequence[tuple[int, ...]]

    @classmethod
    def from_trees(cls, batch: Sequence[Tree], prefix: int, hidden_size: int) -> TreeRows:
        """Arrange *batch*, whose contexts follow *prefix* tokens, in rows."""
        order = sorted(range(len(batch)), key=lambda t: -len(batch[t]))
        room, rows = choose_rows([len(batch[t]) for t in order], prefix, hidden_size)
        ids: list[int] = []
        positions: list[int] = []
        trees: list[int] = []
        parts: list[int] = []
        starts = [0] * len(batch)
        for number, row in enumerate(rows, 1):
            for t in (order[i] for i in row):
                starts[t] = len(ids)
                context, *branches = batch[t].shape
                ids += batch[t].context
                positions += range(prefix, prefix + context)
                parts += [0] * context
                for branch, length in enumerate(branches):
                    ids += batch[t].branches[branch]
                    positions += range(prefix + context, prefix + context + length)
                    parts += [branch + 1] * length
                trees += [t + 1] * len(batch[t])
            padding = [0] * (number * room - len(ids))
            for column in (ids, positions, trees, parts):
                column += padding

        def tensor(column: list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(column, dtype=dtype).view(len(rows), room)

        return cls(
            tensor(ids, torch.int64),
            tensor(positions, torch.int64),
            tensor(trees, torch.int32),
            tensor(parts, torch.int32),
            starts,
            [tree.shape for tree in batch],
        )

    def find_indices(self, places: Sequence[TreePosition]) -> Tensor:
        """Return the indices of *places* when rows are concatenated; offset -1 is the context's last token."""
        ends = [(0, *_sums(shape)) for shape in self.shapes]
        return torch.tensor([self.starts[t] + ends[t][branch + 1] + offset for t, branch, offset in places])

    def find_seen(self, device: torch.device) -> Tensor:
        """Return which tokens of its row each token may see [rows, tokens, tokens], found on *device*.

        They are the context of its tree and the earlier tokens of its own branch.
        """
        tree, part = send(self.tree, device), send(self.part, device)
        order = torch.arange(tree.shape[1], device=device)
        seen = order[:, None] >= order
        seen = seen & (tree[:, :, None] == tree[:, None, :])
        return seen & ((part[:, :, None] == part[:, None, :]) | (part == 0)[:, None, :])


def _sums(shape: Sequence[int]) -> list[int]:
    total, found = 0, []
    for length in shape:
        total += length
        found.append(total)
    return found
