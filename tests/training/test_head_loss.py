"""The losses of a head in chunks against plain PyTorch in float64, and what they hold and leave out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bitnet_bench.training import head_loss
from bitnet_bench.training.head_loss import HeadInput, Teaching, list_row_losses, sum_head_loss

VOCABULARY, WIDTH = 50, 16
CHUNK = 3


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold three rows of logits at a time, and widen seven rows of the head."""
    monkeypatch.setattr(head_loss, "count_chunk_rows", lambda *_: CHUNK)
    monkeypatch.setattr(head_loss, "CPU_TABLE_ROWS", 7)


def make_head(rows: int, dtype: torch.dtype = torch.float64, seed: int = 0, biased: bool = True) -> HeadInput:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    )
    return HeadInput(hidden, weight, bias if biased else None)


def make_targets(rows: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows,), generator=torch.Generator().manual_seed(9))


def find_logits(given: HeadInput) -> Tensor:
    return given.hidden if given.weight is None else F.linear(given.hidden, given.weight, given.bias)


def plain_divergence(given: HeadInput, teaching: Teaching) -> Tensor:
    """Return KL(teacher || student) of whole logits."""
    ours, theirs = ((find_logits(side) / teaching.temperature).softmax(-1) for side in (given, teaching.given))
    return (theirs.detach() * (theirs.detach().log() - ours.log())).sum()


def list_parts(given: HeadInput) -> list[Tensor]:
    return [part for part in (given.hidden, given.weight, given.bias) if part is not None]


ROWS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 2]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [True, False])
def test_a_sum_has_the_value_and_gradients_of_whole_logits(rows: int, biased: bool) -> None:
    given, targets = make_head(rows, biased=biased), make_targets(rows)
    expected = F.cross_entropy(find_logits(given), targets, reduction="sum")
    loss, entropy, divergence = sum_head_loss(given, targets)
    assert divergence is None
    assert not entropy.requires_grad
    torch.testing.assert_close((loss, entropy), (expected, expected))
    gradients = torch.autograd.grad(0.3 * loss, list_parts(given))
    torch.testing.assert_close(gradients, torch.autograd.grad(0.3 * expected, list_parts(given)))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_distillation_has_the_values_and_gradients_of_whole_logits(rows: int, temperature: float) -> None:
    """A teacher may be wider than its student."""
    given, targets = make_head(rows), make_targets(rows)
    wider = torch.randn(rows, 24, dtype=torch.float64), torch.randn(VOCABULARY, 24, dtype=torch.float64)
    teaching = Teaching(HeadInput(*wider), 10.0, temperature)
    entropy = F.cross_entropy(find_logits(given), targets, reduction="sum")
    divergence = plain_divergence(given, teaching)
    expected = entropy + 10 * divergence
    found = sum_head_loss(given, targets, teaching)
    torch.testing.assert_close(found, (expected, entropy, divergence))
    gradients = torch.autograd.grad(0.3 * found[0], list_parts(given))
    torch.testing.assert_close(gradients, torch.autograd.grad(0.3 * expected, list_parts(given)))


@pytest.mark.parametrize("rows", ROWS)
def test_losses_by_row_have_the_values_and_gradients_of_whole_logits(rows: int) -> None:
    given, targets = make_head(rows), make_targets(rows)
    expected = F.cross_entropy(find_logits(given), targets, reduction="none")
    found = list_row_losses(given, targets)
    torch.testing.assert_close(found, expected)
    factors = torch.linspace(-1, 2, rows, dtype=torch.float64)
    gradients = torch.autograd.grad((found * factors).sum(), list_parts(given))
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * factors).sum(), list_parts(given)))


def test_logits_without_a_head_are_used_as_they_are() -> None:
    """A family whose own forward caps its logits gives them, not hidden states."""
    logits = torch.randn(7, VOCABULARY, dtype=torch.float64, requires_grad=True)
    before, targets = logits.detach().clone(), make_targets(7)
    teaching = Teaching(HeadInput(torch.randn(7, VOCABULARY, dtype=torch.float64), None), 2.0, 3.0)
    given = HeadInput(logits, None)
    expected = F.cross_entropy(logits, targets, reduction="sum") + 2 * plain_divergence(given, teaching)
    found = sum_head_loss(given, targets, teaching)[0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))
    assert torch.equal(logits.detach(), before)


def test_no_row_gives_zero_and_gradients_of_zero() -> None:
    given = make_head(0)
    for found in (sum_head_loss(given, make_targets(0))[0], list_row_losses(given, make_targets(0)).sum()):
        assert float(found.detach()) == 0
        gradients = torch.autograd.grad(found, list_parts(given))
        assert [float(one.abs().sum()) for one in gradients] == [0, 0, 0]


class Allocations(TorchDispatchMode):
    """Keeps the shapes of all tensors that operators make, without views of what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        known, made = (list_tensors(some) for some in ((args, kwargs), found))
        places = {one.untyped_storage().data_ptr() for one in known}
        self.shapes += [tuple(one.shape) for one in made if one.untyped_storage().data_ptr() not in places]
        return found


def list_tensors(some: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(some) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("by_row", [False, True])
def test_logits_of_all_rows_never_exist(taught: bool, by_row: bool) -> None:
    """Neither in the forward pass nor in the backward pass; a table is as large as the head at most."""
    given, targets = make_head(20, torch.float32), make_targets(20)
    teaching = Teaching(HeadInput(torch.randn(20, WIDTH), torch.randn(VOCABULARY, WIDTH)), 1.0, 1.0) if taught else None
    with Allocations() as seen:
        loss = list_row_losses(given, targets).sum() if by_row else sum_head_loss(given, targets, teaching)[0]
        loss.backward()  # type: ignore[no-untyped-call]
    with_logits = [shape for shape in seen.shapes if VOCABULARY in shape and len(shape) == 2 and WIDTH not in shape]
    assert with_logits
    assert max(min(shape) for shape in with_logits) == CHUNK


@pytest.mark.parametrize("by_row", [False, True])
def test_a_frozen_head_gets_no_gradient_and_no_product_for_one(by_row: bool) -> None:
    given, targets = make_head(20, torch.float32, biased=False), make_targets(20)
    assert given.weight is not None
    given.weight.requires_grad_(False)
    with Allocations() as seen:
        loss = list_row_losses(given, targets).sum() if by_row else sum_head_loss(given, targets)[0]
        loss.backward()  # type: ignore[no-untyped-call]
    assert given.weight.grad is None
    assert given.hidden.grad is not None
    assert (VOCABULARY, WIDTH) not in seen.shapes


def test_validation_computes_no_gradients() -> None:
    given, targets = make_head(20, torch.float32), make_targets(20)
    with torch.no_grad(), Allocations() as seen:
        sum_head_loss(given, targets)
    assert (20, WIDTH) not in seen.shapes


def test_gradients_are_taken_once() -> None:
    """They are scaled where they are, so a second backward pass must not go unnoticed."""
    loss, *_ = sum_head_loss(make_head(4), make_targets(4))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        loss.backward()


def test_autocast_rounds_products_and_not_sums() -> None:
    """Losses and gradients under bfloat16 autocast are near those in float64, and float32."""
    given, exact, targets = make_head(20, torch.float32), make_head(20), make_targets(20)
    with torch.autocast("cpu", torch.bfloat16):
        loss, *_ = sum_head_loss(given, targets)
    assert loss.dtype == torch.float32
    expected = F.cross_entropy(find_logits(exact), targets, reduction="sum")
    torch.testing.assert_close(loss.double(), expected, rtol=5e-3, atol=0)
    both = (torch.autograd.grad(loss, list_parts(given)), torch.autograd.grad(expected, list_parts(exact)))
    for ours, theirs in zip(*both, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_a_head_that_keeps_its_dtype_is_not_rounded() -> None:
    """A ternary head has scales that bfloat16 would round."""
    given, targets = make_head(20, torch.float32), make_targets(20)
    kept = HeadInput(given.hidden, given.weight, given.bias, keeps_dtype=True)
    expected = sum_head_loss(given, targets)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sum_head_loss(kept, targets)[0], expected)
        assert not torch.equal(sum_head_loss(given, targets)[0], expected)


def test_a_rounded_head_that_is_held_is_not_made_again() -> None:
    """As a teacher has it in bfloat16: the same loss and gradients, without a table of its own."""
    given, targets = make_head(20, torch.float32, biased=False), make_targets(20)
    assert given.weight is not None
    given.weight.requires_grad_(False)
    held = HeadInput(given.hidden, given.weight, rounded=given.weight.bfloat16())
    found = []
    for one in (given, held):
        with torch.autocast("cpu", torch.bfloat16), Allocations() as seen:
            loss = sum_head_loss(one, targets)[0]
        assert ((VOCABULARY, WIDTH) in seen.shapes) == (one is given)
        found.append((loss, *torch.autograd.grad(loss, given.hidden)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
