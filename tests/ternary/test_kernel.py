"""The CPU kernel gives the bits of the naive product, on every instruction set that this machine has."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.backends.ternary.engine import MAX_ROWS_OF_HEAD, Head
from bitnet_bench.errors import BenchError
from bitnet_bench.ternary import kernel, ops
from bitnet_bench.ternary.kernel.loader import STRUCTS, check_structs
from bitnet_bench.ternary.panels import to_panels
from bitnet_bench.ternary.quantizer import quantize_activations

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
SHAPES = [(1, 1, 1), (17, 33, 5), (16, 16, 1), (50, 70, 13), (31, 100, 3), (64, 256, 40), (97, 129, 25), (700, 512, 12)]


def random_codes(rows: int, columns: int) -> torch.Tensor:
    return torch.randint(-1, 2, (rows, columns), generator=torch.Generator().manual_seed(rows), dtype=torch.int8)


def naive(x: torch.Tensor, codes: torch.Tensor, gamma: float) -> torch.Tensor:
    q, step = quantize_activations(x)
    return (q.int() @ codes.int().t()).float() * (step * torch.tensor(gamma))


def run(parts: kernel.JoinedLayers, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    out = torch.empty(len(x), parts.rows) if y is None else y
    rows = kernel.QuantizedRows.empty(*x.shape)
    kernel.quantize_rows(x, len(x), rows)
    parts(rows, len(x), out, add=y is not None)
    return out


@pytest.mark.parametrize(("rows", "columns", "tokens"), SHAPES)
def test_every_path_is_the_naive_product(path: str, rows: int, columns: int, tokens: int) -> None:
    """Integer sums, scale and all: equal to the bit, in shapes that fill no panel and no step."""
    codes, x = random_codes(rows, columns), torch.randn(tokens, columns)
    assert torch.equal(
        run(kernel.JoinedLayers([(to_panels(codes), 0.37, rows, None)], columns), x), naive(x, codes, 0.37)
    )


def test_the_largest_sums_do_not_wrap(path: str) -> None:
    """All codes +1 and all activations at -128 or 127 sum up exactly, over more columns than 16 bits would hold."""
    codes, x = torch.ones(20, 6912, dtype=torch.int8), torch.full((3, 6912), -1.0)
    expected = torch.full((3, 20), -127.0 * 6912) * (1 / 127.0)
    assert torch.equal(run(kernel.JoinedLayers([(to_panels(codes), 1.0, 20, None)], 6912), x), expected)


def test_several_layers_are_one_call(path: str) -> None:
    """q, k and v of different heights and scales, two with a bias, stand side by side as if computed alone."""
    x, layers = torch.randn(7, 48), [(40, 0.5, True), (17, 2.0, False), (16, 0.1, True)]
    parts, alone = [], []
    for rows, gamma, biased in layers:
        codes, bias = random_codes(rows, 48), torch.randn(rows) if biased else None
        parts.append((to_panels(codes), gamma, rows, bias))
        alone.append(naive(x, codes, gamma) + (bias if bias is not None else 0))
    assert torch.equal(run(kernel.JoinedLayers(parts, 48), x), torch.cat(alone, dim=1))


def test_a_residual_is_added(path: str) -> None:
    """With add the product comes on top of what was there."""
    codes, x, residual = random_codes(33, 64), torch.randn(5, 64), torch.randn(5, 33)
    parts = kernel.JoinedLayers([(to_panels(codes), 0.3, 33, None)], 64)
    assert torch.equal(run(parts, x, residual.clone()), residual + naive(x, codes, 0.3))


def test_an_int8_head_is_the_naive_int8_product(path: str) -> None:
    """Rows quantized to absmax / 127, activations to int8, and exact sums between."""
    table, x = torch.randn(70, 48), torch.randn(6, 48)
    q, step = quantize_activations(x)
    largest = table.abs().amax(dim=1, keepdim=True)
    codes = (table * (127 / largest)).round().int()
    expected = (q.int() @ codes.t()).float() * (step * (largest[:, 0] / 127))
    assert torch.equal(Head(table, int8=True)(x), expected)


@pytest.mark.usefixtures("threads")
def test_threads_do_not_change_a_bit(path: str) -> None:
    """One thread and two give the same."""
    codes, x = random_codes(700, 512), torch.randn(40, 512)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run(kernel.JoinedLayers([(to_panels(codes), 0.37, 700, None)], 512), x))
    assert torch.equal(*results)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=80))
def test_activations_are_quantized_as_in_torch(values: list[float]) -> None:
    """Codes, step and sum of any finite row are those of `quantize_activations`."""
    x = torch.tensor([values])
    rows = kernel.QuantizedRows.empty(*x.shape)
    kernel.quantize_rows(x, 1, rows)
    q, step = quantize_activations(x)
    assert torch.equal(rows.q[:, : len(values)], q)
    assert torch.equal(rows.steps, step[:, 0])
    assert int(rows.sums) == int(q.int().sum())
    assert not rows.q[:, len(values) :].any()


def test_a_million_activations_are_quantized_as_in_torch() -> None:
    """No code differs where a scale rounded once instead of twice would change one in a hundred thousand."""
    x = torch.randn(512, 2560, generator=torch.Generator().manual_seed(0))
    rows = kernel.QuantizedRows.empty(*x.shape)
    kernel.quantize_rows(x, len(x), rows)
    q, step = quantize_activations(x)
    assert torch.equal(rows.q[:, :2560], q)
    assert torch.equal(rows.steps, step[:, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_the_output(value: float) -> None:
    """A NaN or an infinity in one row leaves no finite number in that row, and others alone."""
    codes, x = torch.ones(20, 32, dtype=torch.int8), torch.randn(2, 32)
    x[0, 5] = value
    y = run(kernel.JoinedLayers([(to_panels(codes), 1.0, 20, None)], 32), x)
    assert not y[0].isfinite().any()
    assert y[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_head_reads_its_table_exactly(width: int, dtype: torch.dtype) -> None:
    """Few rows and many agree with the float64 product of the table as stored, subnormals included."""
    table = torch.randn(300, 112).mul_(10.0 ** torch.randint(-7, 2, (300, 112))).to(dtype)
    for tokens in (1, 3, 9, 60):
        x = torch.randn(tokens, 112)
        exact, terms = x.double() @ table.double().t(), x.double().abs() @ table.double().abs().t()
        assert bool(((Head(table, int8=False)(x) - exact).abs() <= 2e-6 * terms).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_head_gives_the_same_bits_at_every_width(dtype: torch.dtype) -> None:
    """Its 64 sums and their order are those of the widest vectors; columns that fill no 64 among them."""
    table, x = torch.randn(300, 144).to(dtype), torch.randn(2, 144)
    found = []
    for floats in filter(kernel.use_width, kernel.VECTOR_WIDTHS):
        found.append(Head(table, int8=False)(x))
        assert torch.equal(found[-1], found[0]), floats
    assert any(map(kernel.use_width, kernel.VECTOR_WIDTHS))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("columns", [16, 64, 240])
def test_a_logit_has_the_same_bits_beside_any_others(width: int, columns: int, dtype: torch.dtype) -> None:
    """One token, a few, or more than a pass over the table takes; rows that fill no tile, and one thread or three."""
    table, x = torch.randn(301, columns).to(dtype), torch.randn(101, columns)
    alone = torch.cat([Head(table, int8=False)(one) for one in x.split(1)])
    for tokens in (*range(2, 15), 47, 48, 49, 101):
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = torch.empty(tokens, 301)
            kernel.multiply_head(table, x[:tokens], y)
            assert torch.equal(y, alone[:tokens]), (tokens, threads)


def test_a_token_is_chosen_alike_alone_and_among_many() -> None:
    """More rows than the kernel computes logits of at once, whose logits are another order of sums."""
    table, x = torch.randn(301, 64).bfloat16(), torch.randn(2 * MAX_ROWS_OF_HEAD + 3, 64)
    table[151:] = table[:150]  # rows that appear twice: the first wins
    head = Head(table, int8=False)
    assert torch.equal(head.choose(x), torch.cat([head.choose(one) for one in x.split(1)]))
    assert int(head.choose(x).max()) <= 150


@pytest.mark.parametrize("activation", ["silu", "relu2", "gelu_pytorch_tanh"])
def test_gates_are_those_of_transformers(activation: str) -> None:
    """act(gate) * up, for large and small values; in float64, because 1 + tanh(u) in float32 loses its last digits."""
    from transformers.activations import ACT2FN

    x, y = torch.randn(5, 2 * 50) * 8, torch.empty(5, 50)
    kernel.quantize_rows(x, 5, kernel.QuantizedRows.empty(5, 50), activation=activation, y=y)
    gate, up = x.chunk(2, dim=1)
    torch.testing.assert_close(y, (ACT2FN[activation](gate.double()) * up).float(), rtol=2e-6, atol=1e-6)


def test_the_norm_is_torch_s() -> None:
    """With and without a weight."""
    x, weight, y = torch.randn(5, 50), torch.randn(50), torch.empty(5, 50)
    for w in (weight, None):
        kernel.quantize_rows(x, 5, None, norm=kernel.Norm(w, 1e-5), y=y)
        torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, (50,), w, 1e-5), rtol=1e-6, atol=1e-6)


def test_a_normalized_row_is_added() -> None:
    """To what was there, as Gemma adds to its residual stream."""
    x, weight, y = torch.randn(5, 50), torch.randn(50), torch.randn(5, 50)
    expected = y + torch.nn.functional.rms_norm(x, (50,), weight, 1e-5)
    function, arguments = kernel.rows_call(x, None, norm=kernel.Norm(weight, 1e-5), y=y, add=True)
    function(*arguments)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


def test_without_the_kernel_torch_gives_the_same_bits() -> None:
    """The operator's two CPU paths agree exactly."""
    codes, x, bias = random_codes(50, 70), torch.randn(9, 70), torch.randn(50)
    arguments = (x, to_panels(codes), 0.37, 50, bias)
    assert torch.equal(ops._multiply_by_kernel(*arguments), ops._multiply_by_torch(*arguments))


@torch._dynamo.config.patch(disable=False)  # off in the other tests, for their speed
def test_the_operator_is_sound_and_compiles() -> None:
    """opcheck finds no fault, and torch.compile takes a layer whole."""
    codes = random_codes(50, 70)
    torch.library.opcheck(ops.ternary_linear, (torch.randn(2, 3, 70), to_panels(codes), 0.37, 50, None))
    layer = ops.PanelsLinear(to_panels(codes), 0.37, (50, 70), torch.randn(50), (torch.randn(70), 1e-6))
    x = torch.randn(4, 70)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize(("setting", "said"), [("off", "None"), ("portable", "portable"), ("sse9", "does not have")])
def test_a_variable_chooses_the_path(setting: str, said: str) -> None:
    """BITNET_BENCH_KERNEL turns the kernel off, forces a path, or is refused with those there are."""
    code = "from bitnet_bench.ternary import kernel; print(kernel.load_library() and kernel.get_instruction_set())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"BITNET_BENCH_KERNEL": setting, "PATH": ""}, capture_output=True, text=True
    )
    assert said in done.stdout + done.stderr


def test_wrong_shapes_are_refused() -> None:
    """Panels that cannot hold the layer, and activations of another width, never reach the library."""
    codes = to_panels(random_codes(20, 32))
    with pytest.raises(ValueError, match="do not hold"):
        kernel.JoinedLayers([(codes, 1.0, 33, None)], 32)
    with pytest.raises(ValueError, match="columns"):
        kernel.JoinedLayers([(codes, 1.0, 20, None)], 32)(kernel.QuantizedRows.empty(1, 48), 1, torch.empty(1, 20))


def test_a_library_of_other_sources_is_refused() -> None:
    """A struct that grew in C and not in Python would be read beyond its end."""
    sizes = {name: ctypes.sizeof(mirror) for name, mirror in STRUCTS.items()}
    other = sizes | {"bb_head_size": sizes["bb_head_size"] + 8}
    stale = {name: size for name, size in sizes.items() if name != "bb_head_size"}

    def library_with(found: dict[str, int]) -> Any:
        return SimpleNamespace(**{name: Mock(return_value=size) for name, size in found.items()})

    check_structs(library_with(sizes))
    for wrong in (other, stale):
        with pytest.raises(BenchError, match="its structs differ"):
            check_structs(library_with(wrong))
