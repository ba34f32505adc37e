"""The Triton product in Triton's interpreter, on the CPU, against the product in torch: the same bits."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

# the interpreter is chosen when a kernel is defined, so it has a process of its own
COMPARE = """
import sys
import torch
from bitnet_bench.ternary import ops
from bitnet_bench.ternary.panels import to_panels

tokens, rows, columns = map(int, sys.argv[1:])
torch.manual_seed(tokens + rows + columns)
codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8)
x = torch.randn(tokens, columns) * 3
if tokens:
    x[0] = 0
for bias in (None, torch.randn(rows)):
    arguments = (x, to_panels(codes), 0.37, rows, bias)
    assert torch.equal(ops._by_triton(*arguments), ops._by_torch(*arguments)), (tokens, rows, columns)
print("equal")
"""


@pytest.mark.parametrize(
    ("tokens", "rows", "columns"),
    [(1, 16, 16), (1, 1, 1), (3, 17, 33), (16, 64, 64), (17, 65, 129), (70, 50, 70), (2, 100, 200), (0, 16, 16)],
)
def test_the_interpreted_kernel_gives_the_bits_of_torch(tokens: int, rows: int, columns: int) -> None:
    """Over shapes that fill no block, no panel and no step; a token of zeros; with and without a bias."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(tokens), str(rows), str(columns)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no GPU")
def test_the_operator_runs_on_a_gpu() -> None:
    """On CUDA tensors, compiled, the operator gives the bits that it gives on the CPU."""
    import torch

    from bitnet_bench.ternary import ops
    from bitnet_bench.ternary.panels import to_panels

    for tokens, rows, columns in [(1, 2560, 2560), (17, 65, 129), (512, 6912, 2560)]:
        codes = torch.randint(-1, 2, (rows, columns), dtype=torch.int8)
        x, bias = torch.randn(tokens, columns), torch.randn(rows)
        on_cpu = ops.ternary_linear(x, to_panels(codes), 0.37, rows, bias)
        on_gpu = ops.ternary_linear(x.cuda(), to_panels(codes).cuda(), 0.37, rows, bias.cuda())
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-6, atol=1e-6)
