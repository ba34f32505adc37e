"""Which device the `ternary` backend takes, on cards that are not here, and what it says where it takes the CPU."""

from __future__ import annotations

import dataclasses
import weakref
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bitnet_bench.backends.batched_session import Tree
from bitnet_bench.backends.ternary import Int8HeadBackend, TernaryBackend, gpu_engine, gpu_inference
from bitnet_bench.backends.ternary.gpu_inference import GpuTernarySession
from bitnet_bench.backends.ternary.inference import GPU_VARIABLE, TernarySession, choose_gpu_dtype
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.machine import gpu
from bitnet_bench.machine.gpu import CardState, Gpu
from bitnet_bench.machine.runtime_choice import choose_backend
from bitnet_bench.ternary import kernel
from tests.machine.test_gpu import H100

needs_kernel = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")


class OpenedError(Exception):
    """Thrown in place of copying weights to a card that is not here."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.dtype]]:
    """Give the (device, dtype) of every engine that is opened on a GPU."""
    found: list[tuple[str, torch.dtype]] = []

    def engine(weights: Any, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        found.append((str(device), dtype))
        raise OpenedError

    monkeypatch.setattr(gpu_engine, "GpuEngine", engine)
    return found


def use(card: CardState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "inspect_card", lambda: card)


@pytest.mark.parametrize(
    ("wanted", "dtype"), [(None, torch.bfloat16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_ternary_weights_run_on_a_gpu_that_runs_the_kernels(
    wanted: str | None, dtype: torch.dtype, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 between products, or in float32 where the user says so; `auto` takes it."""
    use(H100, monkeypatch)
    if wanted is not None:
        monkeypatch.setenv(GPU_VARIABLE, wanted)
    checkpoint = open_checkpoint("demo")
    assert choose_backend("auto", checkpoint, "ternary").backend == "ternary"
    with suppress(OpenedError), TernaryBackend().open(checkpoint, "ternary"):
        pass
    assert opened == [("cuda:0", dtype)]


@needs_kernel
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"capability": (7, 5), "name": "T4"}, "the T4 is sm_75, and the GPU kernels need sm_80 (Ampere) or newer"),
        ({"triton": None}, "Triton is not installed, and the GPU kernels need it (pip install triton)"),
        ({"free_bytes": 10**8}, "has 0.1 of 80.0 GB free"),
    ],
)
def test_a_card_that_cannot_is_named_and_the_cpu_serves(
    changes: dict[str, Any],
    said: str,
    opened: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An old card, no Triton, no free memory: a sentence, and the same numbers from the CPU engine."""
    use(dataclasses.replace(H100, **changes), monkeypatch)
    checkpoint = open_checkpoint("demo")
    assert choose_backend("auto", checkpoint, "ternary").backend == "ternary"
    with TernaryBackend().open(checkpoint, "ternary") as session:
        assert isinstance(session, TernarySession)
        assert session.device == "cpu"
    assert not opened
    assert said in caplog.text


@needs_kernel
def test_the_engine_stays_on_the_cpu_where_it_is_told_to(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable, and for the int8 head, which has no kernel on a GPU."""
    use(H100, monkeypatch)
    checkpoint = open_checkpoint("demo")
    with Int8HeadBackend().open(checkpoint, "ternary") as session:
        assert session.device == "cpu"
    monkeypatch.setenv(GPU_VARIABLE, "off")
    with TernaryBackend().open(checkpoint, "ternary") as session:
        assert session.device == "cpu"
    assert not opened


def test_an_unknown_value_of_the_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt dtype must not become another one silently."""
    monkeypatch.setenv(GPU_VARIABLE, "fp64")
    with pytest.raises(BenchError, match="BITNET_BENCH_GPU is 'fp64'") as error:
        choose_gpu_dtype()
    assert error.value.hint == "Set it to bf16, fp32, off, or unset it."


def test_without_the_cpu_kernel_a_gpu_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The GPU needs no C compiler."""
    use(H100, monkeypatch)
    monkeypatch.setenv(kernel.KERNEL_VARIABLE, "off")
    assert TernaryBackend().find_obstacle(open_checkpoint("demo")) is None


class Slots:
    """Slots that read and write nothing."""

    def __init__(self, engine: Any, rows: int, capacity: int) -> None:
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.tokens, self.lengths = torch.zeros(rows, dtype=torch.int64), [0] * rows
        self.cache = SimpleNamespace(capacity=capacity)

    def fits(self, rows: int, capacity: int) -> bool:
        """Compare the size."""
        return (len(self.tokens), self.cache.capacity) == (rows, capacity)

    def prefill(self, batch: list[list[int]]) -> None:
        """Note the lengths."""
        self.lengths = list(map(len, batch))


def session_with(free_bytes: int) -> GpuTernarySession:
    engine: Any = SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=4096, vocab_size=1000),
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        token_bytes=10_000,
        kv_bytes=1_000,
    )
    return GpuTernarySession(engine, None, Gpu(0, "a card", (9, 0), free_bytes, 2 * free_bytes))


def test_workers_whose_cards_differ_in_free_memory_cut_the_same_batches() -> None:
    """Once they have agreed on a budget: each computes its share of one list of batches."""
    rows = [Tree(tuple(range(n)), ((1,), (2, 3))) for n in range(3, 90)]
    cut = []
    for free in (140 * 10**9, 20 * 10**9):
        session = session_with(free)
        session.budget = 2048
        cut.append((list(session.batches(rows, 200)), session.copied_positions))
    assert cut[0] == cut[1]
    assert len(cut[0][0]) > 2


def test_a_batch_of_prompts_has_room_for_the_longest_in_every_slot() -> None:
    """One long prompt among short ones would make a cache of its length for all of them."""
    session = session_with(10**9)
    session.budget = 8192
    prompts = [tuple(range(4000)), *(tuple(range(15)) for _ in range(40))]
    batches = list(session.batches(prompts, 0))
    assert [len(batch) for batch in batches] == [1, 30, 10]
    assert all(max(map(len, batch)) * len(batch) <= session.budget for batch in batches)


def test_slots_are_not_given_away_while_a_state_in_them_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another prompt in the same slots would go on in the first one's name."""
    monkeypatch.setattr(gpu_inference, "SlotGraphs", Slots)
    session = session_with(10**9)
    first = session.prefill([[1, 2, 3]])
    second = session.prefill([[4, 5, 6]])
    assert first.slots is not second.slots
    slots = first.slots
    del first
    assert session.prefill([[7, 8, 9]]).slots is slots
