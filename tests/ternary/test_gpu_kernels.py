"""The kernels of the GPU engine: their bits in Triton's interpreter and on a GPU, and their machine code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.ternary.gpu.layout import count_blocks, deinterleave_codes, interleave_codes

has_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
has_gpu = pytest.mark.skipif(find_gpu() is None, reason="there is no GPU")

# the interpreter is chosen when a kernel is defined, so it has a process of its own
COMPARE = """
import sys
import torch
from bitnet_bench.ternary.gpu import calls
from bitnet_bench.ternary.kernel import Norm
from bitnet_bench.ternary.linear import integer_matmul
from bitnet_bench.ternary.quantizer import quantize_activations

device = torch.device(sys.argv[1])

def same(found, expected):
    assert found.dtype == expected.dtype and torch.equal(found.cpu().nan_to_num(-7.0), expected.nan_to_num(-7.0))

def quantized(x):
    rows = calls.QuantizedRows.empty(*x.shape, device)
    rows.q.fill_(99)  # the filling must be written, too
    calls.quantize_rows(x.to(device), rows)
    q, step = quantize_activations(x)
    same(rows.q[:, : x.shape[1]], q)
    assert not rows.q[:, x.shape[1] :].any()
    same(rows.steps, step[:, 0])
    same(rows.sums, q.sum(1, dtype=torch.int32))
    return rows, q, step

def multiply(tokens, rows, columns):
    torch.manual_seed(tokens + rows + columns)
    codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8)
    x = torch.randn(tokens, columns) * 3
    x[0] = 0
    x[-1, 0] = 1e30
    on_gpu, q, step = quantized(x)
    split = rows // 3
    bias, before = torch.randn(rows), torch.randn(tokens, rows)
    gammas = torch.cat([torch.full((split,), 0.37), torch.full((rows - split,), 1.7)])
    exact = integer_matmul(q, codes) * (step * gammas)
    for with_bias in (False, True):
        parts = [(codes[:split], 0.37, bias[:split] if with_bias else None), (codes[split:], 1.7, None)]
        weights = calls.GpuJoinedLayers(parts, columns, device)
        expected = exact + torch.cat([bias[:split], torch.zeros(rows - split)]) if with_bias else exact
        for few in (False, True):
            calls.is_few_product = lambda tokens, rows: few
            y = torch.full((tokens, rows), float("nan"), device=device)
            weights.multiply(on_gpu, y)
            same(y, expected)
            added = before.to(device, copy=True)
            weights.multiply(on_gpu, added, add=True)
            same(added, expected + before)
"""
SHAPES = [(1, 3, 16), (3, 17, 33), (5, 130, 700), (20, 70, 300)]
LARGE_SHAPES = [(1, 2560, 2560), (2, 100, 6912), (7, 9000, 512), (40, 2560, 6912), (300, 3840, 2560), (1100, 9000, 700)]


def interpret(script: str, device: str = "cpu") -> None:
    """Run *script*, in Triton's interpreter on the CPU; it prints "equal" at its end."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARE + script + "\nprint('equal')", device],
        env={**os.environ, **({"TRITON_INTERPRET": "1"} if device == "cpu" else {}), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]


def shapes_of(shapes: list[tuple[int, int, int]]) -> str:
    return "\n".join(f"multiply({tokens}, {rows}, {columns})" for tokens, rows, columns in shapes)


@given(st.integers(1, 5), st.integers(1, 600), st.integers(0, 2**32 - 1))
def test_codes_come_back_from_the_layout(rows: int, columns: int, seed: int) -> None:
    """Of any shape; filling is code 0, whose field is 1."""
    codes = torch.randint(-1, 2, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = interleave_codes(codes)
    assert packed.shape == (rows, 64 * count_blocks(columns))
    assert torch.equal(deinterleave_codes(packed, columns), codes)
    assert not deinterleave_codes(packed, packed.shape[1] * 4)[:, columns:].any()


def test_a_field_is_where_the_layout_says() -> None:
    """Bits 2 j and 2 j + 1 of byte p hold column 64 j + p of a block of 256 columns, as code + 1."""
    codes = torch.zeros(1, 512, dtype=torch.int8)
    codes[0, 256 + 64 * 2 + 5] = 1
    codes[0, 256 + 64 * 3 + 5] = -1
    assert interleave_codes(codes)[0, 64 + 5] == 0b00_10_01_01
    assert interleave_codes(codes)[0, 5] == 0b01_01_01_01


@has_triton
def test_interpreted_products_have_the_bits_of_torch() -> None:
    """Over shapes that fill no block; a token of zeros, a large value, biases, scales by part, added sums."""
    interpret(shapes_of(SHAPES))


@has_triton
def test_interpreted_rows_have_the_numbers_of_torch() -> None:
    """Norms with and without a weight, both gates, a NaN that is not lost, rows that are not quantized."""
    interpret(
        """
torch.manual_seed(0)
for columns in (5, 300):
    x, weight = torch.randn(3, columns) * 3, torch.rand(columns)
    x[1, 2] = float("nan")
    rows, q, step = quantized(x)
    assert step[1].isnan() and not step[[0, 2]].isnan().any()
    for given in (None, weight):
        y = torch.empty(3, columns)
        calls.normalize_rows(x, Norm(given, 1e-5), y)
        torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, (columns,), given, 1e-5), equal_nan=True)
    both = torch.randn(3, 2 * columns)
    for gate, act in {"silu": torch.nn.functional.silu, "relu2": lambda x: x.relu().square()}.items():
        expected = act(both[:, :columns]) * both[:, columns:]
        expected = torch.nn.functional.rms_norm(expected, (columns,), weight, 1e-5)
        calls.quantize_rows(both, rows, norm=Norm(weight, 1e-5), gate=gate)
        q, step = quantize_activations(expected)
        torch.testing.assert_close(rows.steps, step[:, 0])
        assert (rows.q[:, :columns].int() - q.int()).abs().max() <= 1
"""
    )


@has_gpu
def test_products_on_a_gpu_have_the_bits_of_the_cpu() -> None:
    """Compiled for this GPU: few tokens by dp4a and many on int8 tensor cores, each block size of the tables."""
    interpret(shapes_of(SHAPES + LARGE_SHAPES), "cuda")


POINTERS: dict[str, Any] = {"q": "*i8", "steps": "*fp32", "sums": "*i32", "scales": "*fp32", "y": "*bf16"}
PLACES: dict[str, Any] = {"slots": "*i32", "positions": "*i32", "cosines": "*fp32", "sines": "*fp32"}
CACHES: dict[str, Any] = {"qkv": "*bf16", "keys": "*bf16", "values": "*bf16", "key_norm": "*fp32", "epsilon": "fp32"}
ATTENTION = {"HEADS": 20, "KV_HEADS": 5, "HALF": 64, "BLOCK": 128, "NORMED": True}
ROWS = {"x": "*bf16", "x_stride": "i32", "norm": "*fp32", "epsilon": "fp32"}
KERNELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rows": (
        "quantize_rows",
        POINTERS | ROWS,
        {"COLUMNS": 6912, "FILLED": 6912, "BLOCK": 8192, "GATE": 1, "NORMED": 1, "WEIGHTED": 1, "QUANTIZED": 1},
    ),
    "norms": (
        "quantize_rows",
        ROWS | {"y": "*bf16"},
        {"COLUMNS": 2560, "FILLED": 2560, "BLOCK": 4096, "GATE": 0, "NORMED": 1, "WEIGHTED": 1, "QUANTIZED": 0}
        | {"q": None, "steps": None, "sums": None},
    ),
    "few": (
        "multiply_few",
        POINTERS | {"q": "*i32", "codes": "*i32", "rows": "i32", "bias": "*fp32"},
        {"WORDS": 160, "BLOCK_WORDS": 256, "BLOCK_ROWS": 8, "ADD": True, "BIASED": True},
    ),
    "many": (
        "multiply_many",
        POINTERS | {"codes": "*u8", "tokens": "i32", "rows": "i32", "blocks": "i32"},
        {"bias": None, "BLOCK_ROWS": 128, "BLOCK_TOKENS": 64, "GROUP": 8, "ADD": False, "BIASED": False},
    ),
    "many, 16 tokens": (
        "multiply_many",
        POINTERS | {"codes": "*u8", "tokens": "i32", "rows": "i32", "blocks": "i32"},
        {"bias": None, "BLOCK_ROWS": 32, "BLOCK_TOKENS": 16, "GROUP": 8, "ADD": False, "BIASED": False},
    ),
    "keys": ("append_keys", PLACES | CACHES | {"capacity": "i32"}, ATTENTION),
    "decoding": (
        "attend",
        PLACES
        | CACHES
        | {"out": "*bf16", "tiles": "*i32", "query_norm": "*fp32", "parts": "*fp32", "arrived": "*i32"}
        | {"scale": "fp32", "capacity": "i32"},
        ATTENTION | {"ROWS": 16, "BLOCK_KEYS": 64, "SPLITS": 16, "APPENDS": True},
    ),
    "decoding, heads of 256": (
        "attend",
        PLACES
        | CACHES
        | {"out": "*bf16", "tiles": "*i32", "query_norm": "*fp32", "parts": "*fp32", "arrived": "*i32"}
        | {"scale": "fp32", "capacity": "i32"},
        ATTENTION | {"HALF": 128, "BLOCK": 256, "ROWS": 16, "BLOCK_KEYS": 64, "SPLITS": 8, "APPENDS": True},
    ),
    "prefill, heads of 256": (
        "attend",
        PLACES | CACHES | {"out": "*bf16", "tiles": "*i32", "query_norm": "*fp32", "scale": "fp32", "capacity": "i32"},
        ATTENTION
        | {"HALF": 128, "BLOCK": 256, "parts": None, "arrived": None, "ROWS": 64, "BLOCK_KEYS": 32, "SPLITS": 1}
        | {"APPENDS": False},
    ),
    "prefill": (
        "attend",
        PLACES | CACHES | {"out": "*bf16", "tiles": "*i32", "query_norm": "*fp32", "scale": "fp32", "capacity": "i32"},
        ATTENTION | {"parts": None, "arrived": None, "ROWS": 64, "BLOCK_KEYS": 64, "SPLITS": 1, "APPENDS": False},
    ),
}
INSTRUCTIONS = {"few": "dp4a", "many": "mma", "many, 16 tokens": "mma", "decoding": "mma", "prefill": "mma"}
LARGEST_SHARED_BYTES = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
STAGES = {"prefill": 2, "prefill, heads of 256": 2, "decoding, heads of 256": 2}


@has_triton
@pytest.mark.parametrize("capability", LARGEST_SHARED_BYTES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_each_kernel_compiles(kernel: str, capability: int) -> None:
    """Ahead of time, for a GPU that is not here, with the instructions meant and no more shared memory than it has."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bitnet_bench.ternary.gpu import kernels

    name, types, constants = KERNELS[kernel]
    function = getattr(kernels, name)
    overlapping = capability >= 90 and tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 5)
    own = {"PDL": overlapping, "ASM": True}
    constants = constants | {one: value for one, value in own.items() if one in function.arg_names}
    signature = {one: "constexpr" if one in constants else types[one] for one in function.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": 2 if kernel == "few" else 4, "num_stages": STAGES.get(kernel, 3)}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = compiled.asm["ptx"]
    assert f".target sm_{capability}" in ptx
    assert INSTRUCTIONS.get(kernel, "") in ptx
    assert ("griddepcontrol" in ptx) == overlapping
    assert compiled.metadata.shared <= LARGEST_SHARED_BYTES[capability]
