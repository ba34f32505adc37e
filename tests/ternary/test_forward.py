"""All layers in one call give the bits of their steps one by one, allocate nothing, and are one call of the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bitnet_bench.backends.ternary.engine import Cache, Engine
from bitnet_bench.backends.ternary.greedy_head import GreedyHead
from bitnet_bench.backends.ternary.inference import TernarySession
from bitnet_bench.checkpoints.building import load_config_object
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.kernel import Block, Forward, JoinedLayers, ModelShape, Norm, QuantizedRows
from bitnet_bench.ternary.kernel import calls as kernel_calls
from bitnet_bench.ternary.kernel import forward as kernel_forward
from bitnet_bench.ternary.kernel import greedy as kernel_greedy
from bitnet_bench.ternary.panels import scales_to_panels, to_panels

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, DIMENSION, LAYERS = 96, 160, 6, 2, 32, 3
POSITIONS = 64
NO_NORMS = (None, None)


@dataclass(frozen=True)
class Kind:
    """What a model's layers have: names of the norms, and the rest."""

    norms: str
    activation: str = "silu"
    inner: bool = False
    head_norms: bool = False
    biased: bool = False
    windows: tuple[int | None, ...] = (None, None, None)
    group: int = 0
    digits: int = 1


KINDS = {
    "bitnet": Kind("input attended mlp gated", "relu2"),
    "llama": Kind("input mlp", biased=True),
    "qwen3": Kind("input mlp", head_norms=True),
    "gemma": Kind("input attention_out mlp mlp_out", "gelu_pytorch_tanh", head_norms=True, windows=(11, None, 20)),
    "exaone": Kind("attention_out mlp_out", head_norms=True, windows=(16, None, None)),
    "inner": Kind("input attended mlp gated", inner=True),
    "groups": Kind("input mlp", group=32),
    "groups of floats": Kind("input mlp", group=32, digits=3),
}
NORM_NAMES = ("input", "attended", "attention_out", "mlp", "gated", "mlp_out")


class MadeModel:
    """A random model: what the kernel runs at once, and its steps one by one."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self._random = kind, torch.Generator().manual_seed(0)
        self.shape = ModelShape(HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, DIMENSION, kind.activation, 1e-6, 0.2)
        self.inner = Norm(None, 1e-5) if kind.inner else None
        self.final = self._draw_norm(HIDDEN)
        self.blocks = [self._draw_block(window) for window in kind.windows]
        self.forward = Forward(self.shape, self.blocks, self.inner, self.final, self.make_rows)
        angles = torch.rand(2, POSITIONS, DIMENSION // 2, generator=self._random) * 6
        self.angles = [(one.cos(), one.sin()) for one in angles]

    def make_rows(self, tokens: int, columns: int) -> QuantizedRows:
        """Return buffers."""
        return QuantizedRows.empty(tokens, columns, self.kind.group, self.kind.digits)

    def _draw_norm(self, columns: int) -> Norm:
        return Norm(torch.rand(columns, generator=self._random) + 0.5, 1e-5)

    def _draw_product(self, columns: int, *heights: int) -> JoinedLayers:
        parts: list[tuple[Tensor, Tensor | float, int, Tensor | None]] = []
        for rows in heights:
            codes = torch.randint(-1, 2, (rows, columns), generator=self._random, dtype=torch.int8)
            scale: Tensor | float = 0.1
            if self.kind.group:
                scales = torch.rand(rows, columns // self.kind.group, generator=self._random) / 5
                scale = scales_to_panels(scales.half())
            bias = torch.randn(rows, generator=self._random) if self.kind.biased else None
            parts.append((to_panels(codes), scale, rows, bias))
        return JoinedLayers(parts, columns)

    def _draw_block(self, window: int | None) -> Block:
        columns = (HIDDEN, HEADS * DIMENSION, HIDDEN, HIDDEN, INTERMEDIATE, HIDDEN)
        norms = [
            self._draw_norm(width) if name in self.kind.norms.split() else None
            for name, width in zip(NORM_NAMES, columns, strict=True)
        ]
        if self.inner:
            norms[0] = norms[1] = norms[4] = self.inner
        qkv = self._draw_product(HIDDEN, HEADS * DIMENSION, KV_HEADS * DIMENSION, KV_HEADS * DIMENSION)
        out = self._draw_product(HEADS * DIMENSION, HIDDEN)
        gate_up = self._draw_product(HIDDEN, INTERMEDIATE, INTERMEDIATE)
        down = self._draw_product(INTERMEDIATE, HIDDEN)
        head_norms = [torch.rand(DIMENSION, generator=self._random) + 0.5 for _ in range(2)]
        both = (head_norms[0], head_norms[1]) if self.kind.head_norms else NO_NORMS
        made = (norms[0], norms[1], norms[2], norms[3], norms[4], norms[5])
        return Block(made, (qkv, out, gate_up, down), both, window, 0 if window is None else 1)

    def run(self, x: Tensor, slots: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the last hidden states by one call."""
        hidden = x.clone()
        self.forward(hidden, (slots, positions), (cache.keys, cache.values, cache.capacity), self.angles)
        return hidden

    def run_by_steps(self, x: Tensor, slots: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the same by a call for each step of each layer."""
        hidden = x.clone()
        for i, block in enumerate(self.blocks):
            self._attend(hidden, (slots, positions), cache, i)
            self._run_mlp(hidden, block)
        y = torch.empty_like(hidden)
        kernel.quantize_rows(hidden, len(hidden), None, norm=self.final, y=y)
        return y

    def _quantize(self, x: Tensor, columns: int, norm: Norm | None, activation: str = "") -> QuantizedRows:
        rows = self.make_rows(len(x), columns)
        kernel.quantize_rows(x, len(x), rows, norm=norm, activation=activation)
        return rows

    def _attend(self, hidden: Tensor, places: tuple[Tensor, Tensor], cache: Cache, number: int) -> None:
        block, tokens = self.blocks[number], len(hidden)
        qkv, attended = torch.empty(tokens, block.products[0].rows), torch.empty(tokens, HEADS * DIMENSION)
        block.products[0](self._quantize(hidden, HIDDEN, block.norms[0]), tokens, qkv)
        layer, tiles = number % len(cache.keys), torch.empty(tokens, 2, dtype=torch.int32)
        function, arguments = kernel.attention_call(
            qkv,
            attended,
            (*places, tiles),
            (cache.keys[layer], cache.values[layer], cache.capacity),
            self.angles[block.angles],
            (*block.head_norms, self.shape.epsilon),
            (HEADS, KV_HEADS, DIMENSION),
            scale=self.shape.scale,
            window=block.window,
        )
        function(*arguments)
        rows = self._quantize(attended, HEADS * DIMENSION, block.norms[1])
        self._add(hidden, block.products[1], rows, block.norms[2])

    def _run_mlp(self, hidden: Tensor, block: Block) -> None:
        x, norm = hidden, block.norms[3]
        if self.inner is not None:
            x = torch.empty_like(hidden)
            kernel.quantize_rows(hidden, len(hidden), None, norm=norm, y=x)
            norm = self.inner
        gate_up = torch.empty(len(hidden), 2 * INTERMEDIATE)
        block.products[2](self._quantize(x, HIDDEN, norm), len(hidden), gate_up)
        rows = self._quantize(gate_up, INTERMEDIATE, block.norms[4], self.shape.activation)
        self._add(hidden, block.products[3], rows, block.norms[5])

    def _add(self, hidden: Tensor, product: JoinedLayers, rows: QuantizedRows, norm: Norm | None) -> None:
        if norm is None:
            product(rows, len(hidden), hidden, add=True)
            return
        y = torch.empty_like(hidden)
        product(rows, len(hidden), y)
        function, arguments = kernel.rows_call(y, None, norm=norm, y=hidden, add=True)
        function(*arguments)


def check_bits(kind: str, dtype: torch.dtype = torch.float32, shared: bool = False) -> None:
    """Compare both ways on a prompt of two sequences and on three tokens after each, caches included."""
    model = MadeModel(KINDS[kind])
    caches = [Cache(1 if shared else LAYERS, 2, KV_HEADS, DIMENSION, POSITIONS, dtype) for _ in range(2)]
    lengths, random = torch.tensor([29, 14]), torch.Generator().manual_seed(1)
    slots = torch.repeat_interleave(torch.arange(2, dtype=torch.int32), lengths)
    positions = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths.tolist()])
    for step in range(4):
        x = torch.randn(len(slots), HIDDEN, generator=random)
        found, expected = (
            run(x, slots, positions, cache) for run, cache in zip((model.run, model.run_by_steps), caches, strict=True)
        )
        assert torch.equal(found, expected), step
        assert found.isfinite().all()
        assert torch.equal(caches[0].keys, caches[1].keys)
        assert torch.equal(caches[0].values, caches[1].values)
        slots, positions = torch.arange(2, dtype=torch.int32), (lengths + step).int()


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_has_the_bits_of_its_steps(path: str, kind: str) -> None:
    """Every instruction set; norms, gates, windows, biases and scales of every family."""
    check_bits(kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [False, True])
def test_caches_of_both_dtypes_and_one_for_all_layers(width: int, dtype: torch.dtype, shared: bool) -> None:
    """At every width of vectors."""
    check_bits("gemma", dtype, shared)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [2, 3])
def test_helper_threads_change_no_bit(count: int) -> None:
    """More of them than cores, too."""
    torch.set_num_threads(count)
    check_bits("bitnet")


def test_tokens_go_through_an_mlp_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pieces that do not divide the tokens, to the same bits."""
    monkeypatch.setattr(kernel_forward, "MLP_TOKENS_AT_ONCE", 7)
    check_bits("gemma")


def test_buffers_are_kept_until_a_shorter_call_follows_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens after a prompt use the prompt's buffers; those of more than `KEPT_TOKENS` are given back."""
    monkeypatch.setattr(kernel_forward, "KEPT_TOKENS", 20)
    model, made = MadeModel(KINDS["llama"]), []
    rows = model.forward._make_rows
    model.forward._make_rows = lambda tokens, columns: made.append(tokens) or rows(tokens, columns)  # type: ignore[func-returns-value]
    cache = Cache(LAYERS, 2, KV_HEADS, DIMENSION, POSITIONS)
    for tokens in (9, 1, 4, 9, 20, 3, 30, 30, 21, 2, 1):
        places = torch.zeros(tokens, dtype=torch.int32), torch.arange(tokens, dtype=torch.int32)
        model.run(torch.randn(tokens, HIDDEN), *places, cache)
    assert made[::3] == [9, 20, 30, 21, 2]


def test_tensors_of_another_dtype_are_refused() -> None:
    """The kernel would read them beyond their end."""
    model, cache = MadeModel(KINDS["llama"]), Cache(LAYERS, 1, KV_HEADS, DIMENSION, POSITIONS)
    places = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="not what the kernel reads"):
        model.run(torch.zeros(1, HIDDEN, dtype=torch.bfloat16), *places, cache)
    with pytest.raises(ValueError, match="not what the kernel reads"):
        model.run(torch.zeros(1, HIDDEN), places[0].long(), places[1], cache)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions of the library that are called, in order."""
    names: list[str] = []
    library = kernel.load_library()

    class Counted:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            function = getattr(library, name)
            return lambda *arguments: names.append(name) or function(*arguments)

    for module in (kernel_calls, kernel_forward, kernel_greedy):
        monkeypatch.setattr(module, "require_library", Counted)
    return names


def open_engine(folder: Path) -> Engine:
    return Engine(Weights(inspect_folder(folder)), load_config_object(folder))


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["bitnet", "qwen3"])
@pytest.mark.parametrize(("bounded", "head"), [(False, "bb_head"), (True, "bb_greedy")])
def test_a_token_is_a_call_for_its_layers_and_one_for_its_head(
    architecture: str, bounded: bool, head: str, stored_as: Any, called: list[str]
) -> None:
    """Whatever the number of layers and of rows; a prompt too."""
    engine = open_engine(stored_as(architecture, "packed"))
    if bounded:
        engine.head.greedy = GreedyHead(engine.head.table, least_weights=0)  # type: ignore[union-attr]
    session = TernarySession(engine, SimpleNamespace(eos_token_id=None))
    state = session.prefill([(5, 6, 7), (8,), (9, 10), (11, 12), (13,)])
    assert [name for name in called if name != "bb_copy_head"] == ["bb_forward", head]
    called.clear()
    session.decode(state, 3)
    assert called == ["bb_forward", head] * 3


COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
static long count;
#define NEXT(type, name, ...) static type (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, name)
static void note(void) { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); }
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t n) { note(); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { note(); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { note(); return __libc_realloc(p, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    NEXT(int, "posix_memalign", void **, size_t, size_t);
    note();
    return next(p, a, n);
}
void *aligned_alloc(size_t a, size_t n) {
    NEXT(void *, "aligned_alloc", size_t, size_t);
    note();
    return next(a, n);
}
void *mmap(void *p, size_t n, int a, int b, int c, long d) {
    NEXT(void *, "mmap", void *, size_t, int, int, int, long);
    note();
    return next(p, n, a, b, c, d);
}
long count_during(void (*work)(const void *, int), const void *argument, int threads) {
    const long before = count;
    work(argument, threads);
    return count - before;
}
"""
COUNTING = """
import ctypes, sys
import torch
from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.kernel import forward
from tests.ternary.test_forward import open_engine
from pathlib import Path
from bitnet_bench.backends.ternary.engine import Batch

torch.set_num_threads(1)  # a helper makes its buffers when it first gets hold of a chunk
counter, library, found = ctypes.CDLL(sys.argv[1]), kernel.load_library(), []

class Counted:
    @staticmethod
    def bb_forward(run, threads):
        found.append(counter.count_during(library.bb_forward, run, threads))

forward.require_library = Counted
engine = open_engine(Path(sys.argv[2]))
cache = engine.cache(2, 40)
engine.hidden(Batch.from_sequences([[5, 6, 7], [8, 9]]), cache)
for step in range(3):
    engine.hidden(Batch.from_sequences([[1], [2]], [3 + step, 2 + step]), cache)
print(found)
"""


def test_nothing_is_allocated_while_layers_run(stored_as: Any, tmp_path: Path) -> None:
    """No call of malloc and its like, and no mapping of memory, once a prompt was read."""
    if not sys.platform.startswith("linux") or not shutil.which("gcc"):
        pytest.skip("allocations are counted by a library that gcc builds for Linux")
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    script = tmp_path / "counting.py"
    script.write_text(COUNTING)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, str(script), str(library), str(stored_as("qwen3", "packed"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    counts = [int(count) for count in done.stdout.strip(" []\n").split(",")]
    assert counts[0] > 0, "the counter sees the buffers of the first call"
    assert counts[1:] == [0, 0, 0]
