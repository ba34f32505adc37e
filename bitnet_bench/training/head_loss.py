"""The losses of an output head, whose logits exist for a few rows at a time, with their gradients.

Logits of a vocabulary of 262,144 are 1 MB a token, and a loss in plain PyTorch holds several copies of them for the
backward pass. Here a chunk of rows becomes logits, loss and gradients of hidden states and head at once, in the forward
pass, so nothing is computed twice and no logits are kept (as in Liger Kernel and cut cross-entropy, arXiv:2411.09009).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitnet_bench.ternary.linear import has_float32_sums

CPU_CHUNK_BYTES, GPU_CHUNK_BYTES = 1 << 28, 1 << 30
"""Bytes of float32 logits of a chunk: large enough for efficient products, small beside a model."""
CPU_TABLE_ROWS = 1 << 14
"""Rows of the head whose bfloat16 gradient is widened at a time on a CPU, so that no second table exists."""


def count_chunk_rows(vocabulary: int, on_gpu: bool = False) -> int:
    """Return how many rows of logits are held at a time, in float32."""
    return max(1, (GPU_CHUNK_BYTES if on_gpu else CPU_CHUNK_BYTES) // (4 * vocabulary))


@dataclass(frozen=True)
class HeadInput:
    """Hidden states [n, H] and the head, weight [V, H] and bias [V], that makes logits of them.

    Without a weight, the states are the logits [n, V].
    """

    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None = None
    keeps_dtype: bool = False
    """True if products are taken in the weight's dtype, whatever autocast's is."""
    rounded: Tensor | None = None
    """The weight in another dtype, such as autocast's, if it is held anyway."""


@dataclass(frozen=True)
class Teaching:
    """A teacher's side of a distillation: KL(teacher || student) of softmax(logits / temperature), times a weight."""

    given: HeadInput
    weight: float
    temperature: float


def sum_head_loss(
    given: HeadInput, targets: Tensor, teaching: Teaching | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (loss, cross-entropy, divergence) in nats, summed over rows; the loss alone has gradients.

    The loss is the cross-entropy, with *teaching* plus its weight times the divergence. Products are taken in
    autocast's dtype, sums over the vocabulary in float32.
    """
    work = _HeadWork.begin(given, targets, teaching)
    loss, entropy, divergence = _SummedLoss.apply(given.hidden, given.weight, given.bias, work)  # type: ignore[no-untyped-call]
    return loss, entropy, divergence if teaching else None


def list_row_losses(given: HeadInput, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each row [n] in nats; logits are computed again in the backward pass."""
    work = _HeadWork.begin(given, targets, None)
    losses: Tensor = _RowLosses.apply(given.hidden, given.weight, given.bias, work)  # type: ignore[no-untyped-call]
    return losses


class _SummedLoss(torch.autograd.Function):
    """Sums of losses whose gradients are known, up to one factor, when the forward pass ends.

    Those of logits in one chunk wait for the factor: it costs less there than in a table.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, work: _HeadWork
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, cross-entropy, divergence)."""
        entropy, divergence = work.new_zero(), work.new_zero()
        chunks = list(work.list_chunks())
        ctx.work, ctx.waiting = work, None
        for rows in chunks:
            losses, taught, logit_grads = work.compute_chunk(rows)
            entropy += losses.sum()
            divergence += taught
            if len(chunks) > 1:
                work.add_gradients(rows, logit_grads)
            elif any(work.wants):
                ctx.waiting = rows, logit_grads
        work.forget_table(keep=ctx.waiting is not None)
        loss = entropy if work.teaching is None else entropy + work.teaching.weight * divergence
        entropy = entropy.clone()
        ctx.mark_non_differentiable(entropy, divergence)
        return loss, entropy, divergence

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times that of the loss; they are scaled in place, so there is one backward pass."""
        work, ctx.work = ctx.work, None
        if work is None:
            raise RuntimeError("The gradients of this loss were taken already: call it again.")
        if ctx.waiting is None:
            return (*(None if one is None else one.mul_(grads[0]) for one in work.pop_gradients()), None)
        (rows, logit_grads), ctx.waiting = ctx.waiting, None
        work.add_gradients(rows, logit_grads.mul_(grads[0]))
        return (*work.pop_gradients(), None)


class _RowLosses(torch.autograd.Function):
    """Losses by row, each with a gradient of its own that is not known before the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, work: _HeadWork) -> Tensor:
        """Return the losses [n]."""
        ctx.work = work
        found = [work.compute_chunk(rows)[0] for rows in work.list_chunks()]
        return torch.cat(found) if found else hidden.new_zeros(0, dtype=work.wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients for those of the losses [n]."""
        work: _HeadWork = ctx.work
        for rows in work.list_chunks():
            work.add_gradients(rows, work.compute_chunk(rows)[2].mul_(grads[0][rows, None]))
        return (*work.pop_gradients(), None)


@dataclass
class _HeadWork:
    """What one call computes with, and the gradients that it adds up."""

    given: HeadInput
    targets: Tensor
    teaching: Teaching | None
    dtype: torch.dtype
    """Dtype of the products."""
    wants: tuple[bool, bool, bool]
    """Whether hidden states, weight and bias need a gradient: a frozen head has none."""
    hidden_grad: Tensor | None = None
    weight_grad: Tensor | None = None
    bias_grad: Tensor | None = None
    table: Tensor | None = None
    """The head in the dtype of the products, once a chunk has needed it."""

    @classmethod
    def begin(cls, given: HeadInput, targets: Tensor, teaching: Teaching | None) -> _HeadWork:
        """Return the work of a call, which must be begun outside of autograd to see what needs a gradient."""
        on = torch.is_grad_enabled()
        wants = [on and part is not None and part.requires_grad for part in (given.hidden, given.weight, given.bias)]
        device = given.hidden.device.type
        dtype = given.hidden.dtype if given.weight is None else given.weight.dtype
        if torch.is_autocast_enabled(device) and not given.keeps_dtype:
            dtype = torch.get_autocast_dtype(device)
        held = HeadInput(given.hidden.detach(), _detach(given.weight), _detach(given.bias), rounded=given.rounded)
        return cls(held, targets, teaching, dtype, (wants[0], wants[1], wants[2]))

    @property
    def wide(self) -> torch.dtype:
        """Dtype of sums over the vocabulary."""
        return torch.float64 if self.given.hidden.dtype == torch.float64 else torch.float32

    def new_zero(self) -> Tensor:
        """Return a sum to add to."""
        return self.given.hidden.new_zeros((), dtype=self.wide)

    def list_chunks(self) -> Iterator[slice]:
        """Yield the rows of each chunk; with a teacher, logits of both are held."""
        head = self.given.weight
        vocabulary = self.given.hidden.shape[1] if head is None else head.shape[0]
        size = count_chunk_rows(vocabulary * (2 if self.teaching else 1), self.given.hidden.is_cuda)
        return (slice(start, start + size) for start in range(0, len(self.targets), size))

    def compute_chunk(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return (cross-entropy by row, divergence, gradient of the loss by logits [r, V]) of a chunk."""
        logits = self._logits(self.given, rows)
        logprobs = torch.log_softmax(logits, 1)
        targets = self.targets[rows, None]
        losses = -logprobs.gather(1, targets)[:, 0]
        grads = logprobs.exp_()
        grads.scatter_add_(1, targets, torch.full_like(targets, -1, dtype=grads.dtype))
        if self.teaching is None:
            return losses, self.new_zero(), grads
        hot = self.teaching.temperature
        mine = torch.log_softmax(logits.div_(hot), 1)
        del logits
        theirs = torch.log_softmax(self._logits(self.teaching.given, rows).div_(hot), 1)
        apart = theirs - mine
        grads.add_(mine.exp_().sub_(theirs.exp_()), alpha=self.teaching.weight / hot)
        return losses, apart.mul_(theirs).sum(), grads

    def _logits(self, given: HeadInput, rows: slice) -> Tensor:
        """Return logits [r, V] in `wide`; products of a teacher are taken in its weight's own dtype."""
        if given.weight is None:
            return given.hidden[rows].to(self.wide, copy=True)
        weight = self._table() if given is self.given else given.weight
        with torch.autocast(given.hidden.device.type, enabled=False):
            logits = _multiply_wide(given.hidden[rows].to(weight.dtype), weight.t(), self.wide)
        return logits if given.bias is None else logits.add_(given.bias)

    def _table(self) -> Tensor:
        """Return the head in the dtype of the products, which is cast once for all chunks."""
        if self.table is None:
            assert self.given.weight is not None, "logits are not multiplied"
            rounded = self.given.rounded
            if rounded is None or rounded.dtype != self.dtype:
                rounded = self.given.weight.to(self.dtype)
            self.table = rounded
        return self.table

    def add_gradients(self, rows: slice, logit_grads: Tensor) -> None:
        """Add a chunk's part to the gradients."""
        given, narrow = self.given, logit_grads.to(self.dtype)
        with torch.autocast(given.hidden.device.type, enabled=False):
            if self.wants[0]:
                if self.hidden_grad is None:
                    self.hidden_grad = torch.empty_like(given.hidden)
                self.hidden_grad[rows] = logit_grads if given.weight is None else narrow @ self._table()
            if self.wants[1]:
                self._add_weight_gradient(narrow, given.hidden[rows].to(self.dtype))
        if self.wants[2]:
            added = logit_grads.sum(0)
            self.bias_grad = added if self.bias_grad is None else self.bias_grad.add_(added)

    def _add_weight_gradient(self, logit_grads: Tensor, hidden: Tensor) -> None:
        weight = self.given.weight
        assert weight is not None, "logits have no weight"
        if self.weight_grad is None and self.dtype == weight.dtype:
            self.weight_grad = logit_grads.t() @ hidden
        elif self.dtype == weight.dtype:
            self.weight_grad.addmm_(logit_grads.t(), hidden)  # type: ignore[union-attr]
        else:
            is_first = self.weight_grad is None
            if self.weight_grad is None:
                self.weight_grad = torch.empty_like(weight)
            size = len(weight) if weight.is_cuda else CPU_TABLE_ROWS
            for some, grads in zip(torch.split(self.weight_grad, size), torch.split(logit_grads, size, 1), strict=True):
                added = _multiply_wide(grads.t(), hidden, self.wide) if weight.is_cuda else grads.t() @ hidden
                some.copy_(added) if is_first else some.add_(added)

    def forget_table(self, *, keep: bool = False) -> None:
        """Forget the cast head, unless it is needed again."""
        if not keep:
            self.table = None

    def pop_gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of hidden states, weight and bias, zeros if there is no row, and forget them."""
        found = (self.hidden_grad, self.weight_grad, self.bias_grad)
        parts = (self.given.hidden, self.given.weight, self.given.bias)
        self.hidden_grad = self.weight_grad = self.bias_grad = None
        self.forget_table()
        hidden, weight, bias = (
            torch.zeros_like(part) if part is not None and wanted and one is None else one
            for part, wanted, one in zip(parts, self.wants, found, strict=True)
        )
        return hidden, weight, bias


def _multiply_wide(a: Tensor, b: Tensor, wide: torch.dtype) -> Tensor:
    """Return a @ b in *wide*; a GPU gives its float32 sums where a CPU rounds them to the operands' dtype."""
    if a.is_cuda and a.dtype == torch.bfloat16 and has_float32_sums(a.device):
        return torch.mm(a, b, out_dtype=wide)
    return (a @ b).to(wide)


def _detach(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
