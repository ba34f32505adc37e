"""The gradient of a tied embedding, added row by row to the head's: autograd would make a second table of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitnet_bench.processes import count_processes
from bitnet_bench.ternary.group_linear import GroupEmbedding


class _Lookup(torch.autograd.Function):
    """Rows of a table, whose gradient waits until the rest of the table's is there."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int | None, waiting: list[Any]) -> Tensor:
        """Return rows [..., H] of *table* [V, H]."""
        ctx.ids, ctx.padding, ctx.waiting = ids, padding, waiting
        return nn.functional.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, None]:
        """Append (ids [n], gradients of their rows [n, H]) to what waits; that of the row *padding* is zero."""
        ids, rows = ctx.ids.flatten(), grads[0].flatten(0, -2)
        if ctx.padding is not None:  # as in `nn.Embedding`
            rows = rows * (ids != ctx.padding)[:, None]
        ctx.waiting.append((ids, rows))
        return None, None, None, None


class RowGradientEmbedding(nn.Embedding):
    """An embedding whose backward pass adds the rows that were looked up to `weight.grad`.

    `torch.autograd.grad`, which fills no `grad`, does not see them.
    """

    waiting: list[tuple[Tensor, Tensor]]

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows [..., H]."""
        rows: Tensor = _Lookup.apply(self.weight, ids, self.padding_idx, self.waiting)  # type: ignore[no-untyped-call]
        return rows

    def add_waiting(self, weight: Tensor) -> None:
        """Add the rows that wait to the gradient of *weight*, in an order that is the same each time."""
        assert weight.grad is not None, "called when it was accumulated"
        for ids, rows in self.waiting:
            if rows.is_cuda:  # sorts, where `index_add_` adds in any order
                weight.grad.index_put_((ids,), rows.to(weight.grad.dtype), accumulate=True)
            else:
                weight.grad.index_add_(0, ids, rows.to(weight.grad.dtype))
        self.waiting.clear()


def give_row_gradients(model: nn.Module) -> bool:
    """Make the embedding of *model* a `RowGradientEmbedding` if a head is tied to it that trains; return if it is.

    Only such a head's gradient is there to be added to, and processes would exchange it before that. A class that
    scales its rows keeps doing so: it finds the lookup as its base.
    """
    found: Any = model
    embedding, head = found.get_input_embeddings(), found.get_output_embeddings()
    weight: Tensor = embedding.weight
    trains_tied_head = weight.requires_grad and getattr(head, "weight", None) is weight
    if not trains_tied_head or count_processes() > 1 or isinstance(embedding, GroupEmbedding | RowGradientEmbedding):
        return False
    kind = type(embedding)
    bases = (RowGradientEmbedding,) if kind is nn.Embedding else (kind, RowGradientEmbedding)
    embedding.__class__ = type(kind.__name__, bases, {})
    embedding.waiting = []
    weight.register_post_accumulate_grad_hook(embedding.add_waiting)  # type: ignore[no-untyped-call]
    return True
