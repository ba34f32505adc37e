"""The kernels of ternary training on a GPU: their bits in Triton's interpreter, their machine code, their graphs."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitnet_bench.ternary.gpu import training_product
from bitnet_bench.ternary.linear import BitLinear
from bitnet_bench.ternary.quantizer import quantize_activations, ternarize

has_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

# the interpreter is chosen when a kernel is defined, so it has a process of its own
PREAMBLE = """
import sys
import torch
from bitnet_bench.ternary.gpu import training, training_product
from bitnet_bench.ternary.quantizer import quantize_activations, ternarize

def same(a, b):
    return torch.equal(a.nan_to_num(-7.0), b.nan_to_num(-7.0))
"""


def interpret(script: str) -> None:
    """Run *script* in Triton's interpreter; it prints "equal" at its end."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr


@has_triton
def test_interpreted_rows_have_the_bits_of_the_quantizer() -> None:
    """Over shapes that fill no block and more than one; zeros, a NaN, an infinity, halves that round to even."""
    interpret(
        """
shapes = (0, 16), (1, 1), (3, 5), (7, 129), (2, 5000), (5, 768)
for rows, columns, dtype in [(*s, d) for s in shapes for d in (torch.float32, torch.bfloat16, torch.float16)]:
    torch.manual_seed(rows * columns)
    x = (torch.randn(rows, columns) * 3).to(dtype)
    if rows > 4:
        x[0], x[1, -1], x[2, 0] = 0, float("nan"), float("inf")
        x[3] = torch.arange(columns) / 2
        x[3, 254:] = 0
    (q, step), (expected, expected_step) = training.quantize_rows(x), quantize_activations(x)
    assert q.dtype == torch.bfloat16
    assert torch.equal(q.to(torch.int8), expected), (rows, columns, dtype, q, expected)
    assert same(step, expected_step), (rows, columns, dtype)
print("equal")
"""
    )


@has_triton
def test_interpreted_codes_have_the_bits_of_the_quantizer() -> None:
    """Of one weight and of several together, over sizes of one chunk and of more; a NaN reaches gamma."""
    interpret(
        """
torch.manual_seed(0)
weights = [torch.randn(5, 3), torch.randn(130, 100) * 0.02, torch.zeros(4, 4), torch.randn(1, 1), torch.randn(64, 256)]
broken = torch.randn(6, 7)
broken[2, 2] = float("nan")
weights.append(broken)
weights.append(torch.tensor([[1.0, 0.5, -0.5, 2.0]]) )  # gamma is 1: halves round to 0
def check(found, weight):
    (codes, gamma), (expected, expected_gamma) = found, ternarize(weight)
    assert codes.dtype == torch.bfloat16 and codes.shape == weight.shape
    assert torch.equal(codes.to(torch.int8), expected)
    assert torch.allclose(gamma, expected_gamma, rtol=1e-6, atol=0, equal_nan=True)
writer = training.CodesWriter(weights)
for _ in range(2):  # the second time the weights have other values in the same place
    assert writer.fits(weights)
    for found, weight in zip(writer.write(weights), weights, strict=True):
        check(found, weight)
    for weight in weights:
        weight.mul_(0.5)
moved = [weight + 1 for weight in weights]
for found, weight in zip(writer.write(moved), moved, strict=True):
    check(found, weight)
assert not writer.fits(moved[1:])
for weight in (*moved, torch.randn(9, 9).half(), torch.randn(9, 9).bfloat16(), torch.randn(9, 8).t()):
    check(training.ternarize(weight), weight)
aligned = [torch.randn(16, 32), torch.randn(64, 256)]
for found, weight in zip(training.CodesWriter(aligned).write(aligned), aligned, strict=True):
    check(found, weight)
print("equal")
"""
    )


@has_triton
def test_interpreted_scales_have_the_bits_of_torch() -> None:
    """Of sums and of gradients; bfloat16 to within its last bit, which the interpreter cuts off instead of rounding."""
    interpret(
        """
torch.manual_seed(0)
step, gamma = torch.rand(7, 1), torch.tensor(0.37)
for columns in (1, 130, 2500):
    sums = torch.randint(-999, 1000, (7, columns)).float()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        expected = (sums * (step * gamma)).to(dtype)
        found = training.scale_sums(sums.clone(), step, gamma, dtype)
        assert found.dtype == dtype
        bound = 2**-7 if dtype == torch.bfloat16 else 0
        torch.testing.assert_close(found, expected, rtol=bound, atol=0)
        gradient = torch.randn(7, columns).to(dtype)
        pair = training.scale_gradient(gradient, step, gamma)
        wanted = (gradient.float() * gamma).to(dtype), (gradient.float() * step).to(dtype)
        torch.testing.assert_close(pair, wanted, rtol=bound, atol=0)
print("equal")
"""
    )


@has_triton
def test_a_layer_with_interpreted_kernels_is_the_layer_of_the_cpu() -> None:
    """Forward bit for bit, gradients within float rounding; queries, keys and values share one quantization."""
    interpret(
        """
from bitnet_bench.ternary.linear import BitLinear
from bitnet_bench.training.schedule import StepCodes

calls = []
quantize = training.quantize_rows
def counted(x):
    calls.append(x)
    return quantize(x)
training.quantize_rows = counted
torch.manual_seed(0)
layers = torch.nn.ModuleList(BitLinear(129, 33, bias=i == 0) for i in range(3))
x = torch.randn(2, 5, 129)
def run():
    mine = x.clone().requires_grad_()
    ys = [layer(mine) for layer in layers]
    sum(y.square().sum() for y in ys).backward()
    found = [*ys, mine.grad, *(p.grad for p in layers.parameters())]
    layers.zero_grad()
    return found
expected = run()
assert not calls
training_product._runs_kernels = training_product.has_training_kernels = lambda device: True
codes = StepCodes(layers)
for _ in range(2):
    codes.refresh()
    assert layers[0]._get_codes()[0].dtype == torch.bfloat16
    found = run()
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # gamma is summed in another order
    for ours, theirs in zip(found[3:], expected[3:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
assert len(calls) == 2, len(calls)
with torch.no_grad():
    layers[0].weight.add_(1.0)
    codes.refresh()
    assert torch.equal(layers[0]._get_codes()[0].to(torch.int8), ternarize(layers[0].weight)[0])
    x[0, 0] = 100.0  # the same tensor, changed in place, is quantized again
    for layer in layers:
        layer(x)
    x[0, 0] = 1.0
    layers[0](x)
assert len(calls) == 4, len(calls)
print("equal")
"""
    )


DIVISIBLE = [["tt.divisibility", 16]]
ROWS = {"q": "*bf16", "step": "*fp32", "columns": "i32"}
GROUP = {"weights": "*i64", "sizes": "*i64", "firsts": "*i32", "layers": "*i32", "partials": "*fp32"}
ALONE = {"weights": "*fp32", "sizes": "i32", "firsts": None, "layers": None, "partials": "*fp32"}
KERNELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "rows of float32": ("_quantize_rows", {"x": "*fp32", **ROWS}, 4096),
    "rows of bfloat16": ("_quantize_rows", {"x": "*bf16", **ROWS}, 4096),
    "sums to bfloat16": (
        "_scale_sums",
        {"sums": "*fp32", "step": "*fp32", "gamma": "*fp32", "y": "*bf16", "columns": "i32"},
        1024,
    ),
    "gradients": (
        "_scale_gradient",
        {
            "grad": "*bf16",
            "step": "*fp32",
            "gamma": "*fp32",
            "by_gamma": "*bf16",
            "by_step": "*bf16",
            "columns": "i32",
        },
        1024,
    ),
    "magnitudes of a group": ("_sum_magnitudes", GROUP, 8192),
    "magnitudes of one": ("_sum_magnitudes", ALONE, 8192),
    "codes of a group": ("_write_codes", {**GROUP, "places": "*i64", "codes": "*bf16", "gammas": "*fp32"}, 8192),
    "codes of one": ("_write_codes", {**ALONE, "places": None, "codes": "*bf16", "gammas": "*fp32"}, 8192),
}


@has_triton
@pytest.mark.parametrize("capability", [80, 89, 90, 100])
@pytest.mark.parametrize("kernel", KERNELS)
def test_each_training_kernel_compiles(kernel: str, capability: int) -> None:
    """Ahead of time, for a GPU that is not here; loads are of 16 bytes, and no product is fused into a sum."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bitnet_bench.ternary.gpu import training

    name, parameters, block = KERNELS[kernel]
    constants = {"BLOCK": block} | {one: None for one, kind in parameters.items() if kind is None}
    if name in ("_sum_magnitudes", "_write_codes"):
        constants |= {"DTYPE": tl.float32, "ALIGNED": parameters["layers"] is not None}
    function = getattr(training, name)
    signature = {one: "constexpr" if one in constants else parameters[one] for one in function.arg_names}
    wide = {(i,): DIVISIBLE for i, kind in enumerate(signature.values()) if kind not in ("constexpr", "*i64")}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=wide)
    options = {"num_warps": 8, **training.EXACT}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = compiled.asm["ptx"]
    assert f".target sm_{capability}" in ptx
    assert "v4.b32" in ptx or "v2.b32" in ptx
    assert "fma" not in ptx


def _gradients(layer: nn.Module, x: Tensor, casting: bool) -> list[Tensor]:
    mine = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=casting):
        y = layer(mine)
    y.float().square().sum().backward()
    assert mine.grad is not None
    return [y, mine.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


@torch._dynamo.config.patch(disable=False)  # off in the other tests, for their speed
@pytest.mark.parametrize("casting", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_layer_is_one_graph_with_the_same_numbers(backend: str, casting: bool) -> None:
    """The forward has the bits of the eager layer; gradients differ by the roundings of their dtype."""
    torch.manual_seed(0)
    layer = BitLinear(64, 33)
    compiled = copy.deepcopy(layer)
    compiled.compile(backend=backend, fullgraph=True)
    x = torch.randn(3, 7, 64)
    expected, found = _gradients(layer, x, casting), _gradients(compiled, x, casting)
    assert found[0].dtype == expected[0].dtype
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < (2**-7 if casting else 1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch's own tracing
@torch._dynamo.config.patch(disable=False)
def test_layers_of_one_kind_are_compiled_once(tiny_llama: Any) -> None:
    """All decoder layers share one graph, and codes that are kept do not make another."""
    compiled = []

    def count(graph: Any, _inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    layers = tiny_llama.model.layers
    for layer in layers:
        layer.compile(backend=count, fullgraph=True)
    for bit in tiny_llama.modules():
        if isinstance(bit, BitLinear):
            codes, gamma = ternarize(bit.weight.detach())
            bit.store_codes(codes.bfloat16(), gamma)
    ids = torch.randint(0, 300, (2, 16))
    for _ in range(2):
        tiny_llama(input_ids=ids, use_cache=False).logits.sum().backward()
    assert (len(layers), len(compiled)) == (5, 1)


@pytest.fixture
def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from bitnet_bench.ternary.linear import make_trainable_ternary

    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=5, num_attention_heads=2
    )
    return make_trainable_ternary(LlamaForCausalLM(config)).train()


def test_the_compiled_definition_is_that_of_the_quantizer() -> None:
    """What a compiler is given for the activations: the same integers, in bfloat16, and the same steps."""
    torch.manual_seed(0)
    x = torch.randn(9, 130) * 3
    x[0] = 0
    (q, step), (expected, expected_step) = training_product._quantize_by_definition(x), quantize_activations(x)
    assert torch.equal(q.to(torch.int8), expected)
    assert torch.equal(step, expected_step)


def test_no_kernel_is_taken_on_a_cpu() -> None:
    """The bits of training on a CPU are those of the C kernel and of its definitions, as ever."""
    assert not training_product.has_training_kernels(torch.device("cpu"))


def test_the_benchmark_runs_on_a_cpu() -> None:
    """Tiny: all its checks hold, and its table has a row."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "benchmarks/gpu_training.py", "--device", "cpu", "--tiny", "--eager"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert "| tiny | eager |" in done.stdout, done.stdout + done.stderr
    assert not {"WRONG", "FAILED", "Traceback"} & set(done.stdout.replace(":", " ").split())
