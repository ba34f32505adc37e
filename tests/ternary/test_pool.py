"""The kernel's helper threads: they change no bit, serve any caller, and are forgotten in a fork."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.panels import to_panels
from bitnet_bench.ternary.quantizer import quantize_activations

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
ROWS, COLUMNS, TOKENS = 700, 512, 9
"""Enough work for the kernel to share it."""


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def product() -> tuple[kernel.JoinedLayers, torch.Tensor, torch.Tensor]:
    """Return a layer, what it multiplies, and their product from torch's own integers."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (ROWS, COLUMNS), generator=generator, dtype=torch.int8)
    x = torch.randn(TOKENS, COLUMNS, generator=generator)
    q, step = quantize_activations(x)
    expected = (q.int() @ codes.int().t()).float() * (step * torch.tensor(0.5))
    return kernel.JoinedLayers([(to_panels(codes), 0.5, ROWS, None)], COLUMNS), x, expected


def multiply(layers: kernel.JoinedLayers, x: torch.Tensor, threads: int, times: int = 1) -> torch.Tensor:
    torch.set_num_threads(threads)
    rows, y = kernel.QuantizedRows.empty(*x.shape), torch.zeros(len(x), ROWS)
    kernel.quantize_rows(x, len(x), rows)
    for _ in range(times):
        layers(rows, len(x), y, add=True)
    return y


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_any_number_of_threads_adds_each_product_once(
    product: tuple[kernel.JoinedLayers, torch.Tensor, torch.Tensor], threads: int
) -> None:
    """Also more threads than cores: 64 products are added up in the order in which torch adds them."""
    layers, x, expected = product
    total = torch.zeros_like(expected)
    for _ in range(64):
        total += expected
    assert torch.equal(multiply(layers, x, threads, times=64), total)


def test_callers_on_several_threads_get_their_own_products(
    product: tuple[kernel.JoinedLayers, torch.Tensor, torch.Tensor],
) -> None:
    """One caller at a time has the helpers; the others work alone."""
    layers, x, expected = product
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda _: multiply(layers, x, 3), range(64)))
    assert all(torch.equal(one, expected) for one in found)


def test_the_child_of_a_fork_has_helpers_of_its_own(
    product: tuple[kernel.JoinedLayers, torch.Tensor, torch.Tensor],
) -> None:
    """The parent's helpers do not exist there, and nobody waits for them."""
    layers, x, expected = product
    multiply(layers, x, 3)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(multiply(layers, x, 3, times=1), expected) else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(multiply(layers, x, 3), expected)


def read_running_times(threads: set[str]) -> dict[str, int]:
    """Return the nanoseconds that each of *threads* has run on a processor."""
    return {i: int(Path(f"/proc/self/task/{i}/schedstat").read_text().split()[0]) for i in threads}


def count_helpers_that_run(layers: kernel.JoinedLayers, x: torch.Tensor) -> int:
    """Return how many helpers run while two threads multiply, after six did: the fewest in 40 rounds of products."""
    before = set(os.listdir("/proc/self/task"))
    multiply(layers, x, 6)
    helpers = set(os.listdir("/proc/self/task")) - before
    fewest = len(helpers)
    for _ in range(40):
        start = read_running_times(helpers)
        multiply(layers, x, 2, times=500)
        end = read_running_times(helpers)
        fewest = min(fewest, sum(end[i] > start[i] for i in helpers))
        if fewest <= 1:
            break
    return fewest


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this system does not say how long threads ran")
def test_helpers_that_no_job_takes_do_not_spin(
    product: tuple[kernel.JoinedLayers, torch.Tensor, torch.Tensor],
) -> None:
    """After torch.set_num_threads with fewer threads; in a fork, whose helpers are all its own."""
    layers, x, _ = product
    child = os.fork()
    if child == 0:
        os._exit(count_helpers_that_run(layers, x))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) <= 1
