"""The int8 copy of a head chooses the token with the largest logit of the stored head, whatever the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitnet_bench.backends.ternary import greedy_head
from bitnet_bench.backends.ternary.engine import Head
from bitnet_bench.backends.ternary.greedy_head import GreedyHead, is_wanted
from bitnet_bench.backends.token_choice import NO_TOKEN, choose_greedy
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary import kernel

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
LARGEST = {torch.bfloat16: 3e38, torch.float16: 6e4, torch.float32: 3e38}
SMALLEST = {torch.bfloat16: 9.2e-41, torch.float16: 6e-8, torch.float32: 1.4e-45}
ROW_KINDS = ["plain", "same", "near", "opposite", "huge", "large", "tiny", "zero", "sparse", "outlier", "along"]
TOKEN_KINDS = ["plain", "huge", "large", "tiny", "zero", "sparse", "outlier", "row"]


def make_head(table: Tensor) -> Head:
    """Return a head whose greedy tokens are chosen by a copy, however small it is."""
    head = Head(table, int8=False)
    head.greedy = GreedyHead(head.table, least_weights=0)
    return head


def make_values(kind: str, columns: int, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    """Return float64 values of one *kind*, which `dtype` can hold."""
    values = torch.randn(columns, generator=random, dtype=torch.float64)
    if kind in ("huge", "large"):
        return values.sign() * LARGEST[dtype] ** (1.0 if kind == "huge" else 0.5)
    if kind == "tiny":
        return (values * 4).round() * SMALLEST[dtype]
    if kind == "zero":
        return values * 0.0
    if kind == "sparse":
        return values * (torch.rand(columns, generator=random) < 0.1)
    if kind == "outlier":
        values[int(torch.randint(columns, (1,), generator=random))] *= 1000
    return values


def make_table(rows: list[tuple[str, int]], columns: int, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a table of the kinds of *rows*: like an earlier row, along x, or by itself."""
    random = torch.Generator().manual_seed(len(rows))
    made: list[Tensor] = []
    for kind, place in rows:
        before = made[place % len(made)] if made else torch.ones(columns, dtype=dtype)
        if kind == "same":
            row = before.clone()
        elif kind == "near":
            row = before.clone()
            row[place % columns] = torch.nextafter(row[place % columns], torch.tensor(math.inf, dtype=dtype))
        elif kind == "opposite":
            row = -before
        elif kind == "along":
            row = (x[place % len(x)].double() / x.double().abs().max().clamp(min=1e-30)).to(dtype)
        else:
            row = make_values(kind, columns, dtype, random).to(dtype)
        made.append(row.nan_to_num(0.0, 0.0, 0.0))
    return torch.stack(made)


def first_of_largest(logits: Tensor) -> list[int]:
    """Return the tokens that `choose_greedy` defines, without torch's own search: the first of the largest logits."""
    tokens = []
    for row in logits.tolist():
        largest = max(row) if all(value == value for value in row) else math.nan
        tokens.append(row.index(largest) if math.isfinite(largest) else NO_TOKEN)
    return tokens


kinds_of_rows = st.lists(st.tuples(st.sampled_from(ROW_KINDS), st.integers(0, 99)), min_size=1, max_size=70)
kinds_of_tokens = st.lists(st.sampled_from(TOKEN_KINDS), min_size=1, max_size=7)


@settings(deadline=None, max_examples=150)
@given(kinds_of_rows, kinds_of_tokens, st.sampled_from([16, 64, 80, 208]), st.sampled_from(DTYPES), st.integers(0, 9))
@example([("same", 0)] * 40, ["plain"], 64, torch.bfloat16, 0)
@example([("plain", 0), *[("near", i) for i in range(40)]], ["row"] * 5, 64, torch.bfloat16, 0)
@example([("tiny", 0)] * 33, ["tiny"], 80, torch.float32, 0)
@example([("huge", 0)] * 3, ["huge", "plain"], 16, torch.float32, 0)
def test_the_token_is_that_of_the_stored_head(
    rows: list[tuple[str, int]], tokens: list[str], columns: int, dtype: torch.dtype, seed: int
) -> None:
    """Ties, near ties, huge rows, zeros and subnormals: the stored head's logits decide, and the first of them wins."""
    random = torch.Generator().manual_seed(seed)
    kinds = ["plain" if kind == "row" else kind for kind in tokens]
    x = torch.stack([make_values(kind, columns, torch.float32, random) for kind in kinds]).float()
    table = make_table(rows, columns, x, dtype)
    for t, kind in enumerate(tokens):
        if kind == "row":  # along a row of the table, so that rows near it compete
            x[t] = table[t % len(table)].float()
    head = make_head(table)
    assert head.choose(x).tolist() == first_of_largest(head(x))


def check_paths(rows: int, columns: int, tokens: int, dtype: torch.dtype) -> None:
    """Compare the tokens of a head in which many rows compete, and the bounds with the exact logits."""
    random = torch.Generator().manual_seed(rows)
    x = torch.randn(tokens, columns, generator=random)
    x[:, 3] *= 30
    table = torch.randn(rows, columns, generator=random).to(dtype)
    for t in range(tokens):
        near = torch.randint(rows, (40,), generator=random)
        table[near] = (x[t] / x[t].norm() * 8 + 1e-3 * torch.randn(40, columns, generator=random)).to(dtype)
    head = make_head(table)
    assert head.greedy is not None
    found = head.greedy.choose(x)
    assert found is not None
    assert found.ids.tolist() == first_of_largest(torch.cat([head(one[None]) for one in x]))
    assert 1 < found.counts.min() <= found.counts.max() < rows / 4
    assert (found.found.double() >= x.double() @ table.double().t() - 1e-2).all()
    assert head.choose(x).tolist() == first_of_largest(head(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 4, 7])
def test_every_path_finds_the_token(path: str, tokens: int, dtype: torch.dtype) -> None:
    """Every instruction set, with 40 rows within a rounding of int8 of the best one, and rows that fill no panel."""
    check_paths(1003, 208, tokens, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width_finds_the_token(width: int, dtype: torch.dtype) -> None:
    """Vectors of every width compute the rows that are left with the bits of the whole head."""
    check_paths(1003, 208, 3, dtype)


@pytest.mark.usefixtures("threads")
def test_threads_find_the_same_token(path: str) -> None:
    """One thread and two give the same tokens and counts."""
    x, table = torch.randn(3, 256), torch.randn(5000, 256).bfloat16()
    copy = kernel.copy_head(table)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(kernel.choose_rows(table, copy, x))
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.equal(found[0].counts, found[1].counts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bounds_of_the_copy_hold(dtype: torch.dtype) -> None:
    """Norms of rows and of what int8 leaves of them are at least the exact ones, and within a millionth of them."""
    table = (torch.randn(50, 96) * 10.0 ** torch.randint(-6, 3, (50, 1))).to(dtype)
    copy = kernel.copy_head(table)
    values = (copy.codes.view(4, 24, 16, 4).permute(0, 2, 1, 3).reshape(64, 96)[:50].int() - 128).double()
    exact = (table.double() - values * copy.scales[:50, None].double()).norm(dim=1)
    assert (copy.errors[:50].double() >= exact).all()
    assert (copy.errors[:50].double() <= exact * 1.00001 + 2e-30).all()
    norms = table.double().norm(dim=1)
    assert (copy.norms[:50].double() >= norms).all()
    assert (copy.norms[:50].double() <= norms * 1.00001 + 2e-30).all()
    assert copy.largest_norm >= float(norms.max())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_table_that_is_not_finite_is_computed_whole(value: float, dtype: torch.dtype) -> None:
    """One NaN or infinity among the weights, and the stored head alone decides, from the first token on."""
    table, x = torch.randn(40, 32).to(dtype), torch.randn(3, 32)
    table[7, 5] = value
    head = make_head(table)
    assert head.choose(x).tolist() == choose_greedy(head(x)).tolist()
    assert head.greedy is not None
    assert not head.greedy.pays
    assert head.greedy.copied_bytes == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_token_that_is_not_finite_is_computed_whole(value: float) -> None:
    """NaN, infinity and sums that may overflow give what the stored head gives, and the next token uses the copy."""
    table, x = torch.randn(40, 32) * 100, torch.randn(3, 32)
    x[1, 5] = value
    head = make_head(table)
    assert head.greedy is not None
    assert head.greedy.choose(x) is None
    assert head.choose(x).tolist() == first_of_largest(head(x))
    assert head.greedy.choose(x[:1]) is not None


def test_rows_that_are_too_much_alike_turn_the_copy_off() -> None:
    """A head whose bounds leave most rows is computed whole after a while, and its copy is freed."""
    table = torch.ones(300, 32)
    head = make_head(table)
    assert head.greedy is not None
    for _ in range(greedy_head.TRIAL_TOKENS):
        assert head.greedy.pays
        assert head.choose(torch.ones(1, 32)).tolist() == [0]
    assert not head.greedy.pays
    assert head.choose(torch.ones(1, 32)).tolist() == [0]


def test_a_wrong_bound_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the errors of the rows taken for zero, some token of a close race is another one: the tests can fail."""

    def without_errors(table: Tensor) -> kernel.BoundedCopy:
        copy = copy_head(table)
        return kernel.BoundedCopy(copy.codes, copy.scales, copy.errors * 0, copy.norms * 0, copy.rows, 1.0)

    copy_head: Callable[..., kernel.BoundedCopy] = kernel.copy_head
    monkeypatch.setattr(greedy_head, "kernel", SimpleNamespace(**vars(kernel) | {"copy_head": without_errors}))
    random = torch.Generator().manual_seed(0)
    wrong = 0
    for _ in range(50):
        x = torch.randn(1, 64, generator=random)
        head = make_head((x + 0.01 * torch.randn(64, 64, generator=random)).bfloat16())
        wrong += head.choose(x).tolist() != first_of_largest(head(x))
    assert wrong > 5


def test_small_heads_are_not_copied() -> None:
    """A head that the processor's cache holds is read as it is stored, and takes no memory twice."""
    head = Head(torch.randn(40, 32), int8=False)
    assert head.greedy is not None
    assert not head.greedy.pays
    assert head.greedy.copied_bytes == 0


def test_the_stored_head_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """BITNET_BENCH_GREEDY_HEAD=stored turns the copy off; another word is refused with the words there are."""
    assert is_wanted()
    monkeypatch.setenv(greedy_head.GREEDY_VARIABLE, "stored")
    assert not is_wanted()
    assert Head(torch.randn(40, 32), int8=False).greedy is None
    monkeypatch.setenv(greedy_head.GREEDY_VARIABLE, "int8")
    with pytest.raises(BenchError, match="bounded or stored"):
        is_wanted()


@pytest.mark.parametrize(
    ("table", "x"),
    [
        (torch.zeros(20, 24), torch.zeros(1, 24)),
        (torch.zeros(20, 32, dtype=torch.float64), torch.zeros(1, 32)),
        (torch.zeros(20, 32), torch.zeros(1, 16)),
        (torch.zeros(20, 32), torch.zeros(1, 32, dtype=torch.bfloat16)),
    ],
)
def test_what_does_not_fit_is_refused(table: Any, x: Any) -> None:
    """Tables and hidden states of another shape or dtype never reach the library."""
    with pytest.raises(ValueError, match=r"head|table"):
        kernel.choose_rows(table, kernel.copy_head(table), x)
