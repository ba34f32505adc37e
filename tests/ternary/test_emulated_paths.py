"""Paths for processors that are not at hand give the bits of the naive product, in emulators.

AVX-VNNI and AMX run as the instructions they are: `paths/emulate.c` does what the processor refuses. Where there is no
AVX512 for AMX to stand on, its loop runs over tiles in C. ARM's paths run under qemu-aarch64, if there are a cross
compiler and qemu.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.groups import DIGITS, multiply_float, multiply_int8, quantize_activation_groups
from bitnet_bench.ternary.panels import scales_to_panels, to_panels
from bitnet_bench.ternary.quantizer import quantize_activations

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
HERE, KERNEL = Path(__file__).parent / "paths", Path(kernel.__file__).parent
FILES = [
    "paths.c",
    "pool.c",
    "processor.c",
    "linear.c",
    "rows.c",
    "attention.c",
    "head.c",
    "groups.c",
    "dots_portable.c",
    "dots_x86.c",
    "dots_amx.c",
    "dots_arm.c",
]
FLAGS = ["-O1", "-std=gnu11", "-ffp-contract=off", "-Wno-psabi"]
AVX_VNNI, AMX_INT8 = 2, 8
"""Features of processor.h."""


@dataclass(frozen=True)
class Case:
    """A product as the driver reads it, and what must come out."""

    kind: int
    codes: Tensor
    scales: Tensor
    rows: kernel.QuantizedRows
    expected: Tensor

    def to_bytes(self) -> bytes:
        """Return what the driver reads: seven numbers, then five arrays, each after its size."""
        digits, (tokens, rows) = self.rows.digits, self.expected.shape
        numbers = [self.kind, rows, tokens, self.rows.columns, self.rows.q.shape[1], self.rows.group, digits]
        arrays = [self.codes, self.scales, self.rows.q, self.rows.steps, self.rows.sums]
        blocks = [struct.pack("7q", *numbers), *(a.contiguous().numpy().tobytes() for a in arrays)]
        return b"".join(struct.pack("q", len(block)) + block for block in blocks)


@dataclass(frozen=True)
class HeadCase:
    """A head and its tokens, as the driver reads them, and what must come out."""

    table: Tensor
    x: Tensor
    expected: Tensor

    def to_bytes(self) -> bytes:
        """Return what the driver reads: four numbers, then two arrays, each after its size."""
        (tokens, rows), columns = self.expected.shape, self.x.shape[1]
        table, x = self.table.view(torch.int16).numpy().tobytes(), self.x.numpy().tobytes()
        blocks = [struct.pack("4q", kernel.TABLES[self.table.dtype], rows, tokens, columns), table, x]
        return b"".join(struct.pack("q", len(block)) + block for block in blocks)


def head_case(dtype: torch.dtype, rows: int, columns: int, tokens: int) -> HeadCase:
    random = torch.Generator().manual_seed(rows)
    table, x = torch.randn(rows, columns, generator=random).to(dtype), torch.randn(tokens, columns, generator=random)
    expected = torch.empty(tokens, rows)
    kernel.multiply_head(table, x, expected)
    return HeadCase(table, x, expected)


def quantized(x: Tensor, group: int = 0, digits: int = 1) -> kernel.QuantizedRows:
    rows = kernel.QuantizedRows.empty(*x.shape, group, digits)
    kernel.quantize_rows(x, len(x), rows)
    return rows


def ternary_case(rows: int, columns: int, tokens: int, codes: Tensor | None = None, x: Tensor | None = None) -> Case:
    random = torch.Generator().manual_seed(rows * columns)
    codes = torch.randint(-1, 2, (rows, columns), generator=random, dtype=torch.int8) if codes is None else codes
    x = torch.randn(tokens, columns, generator=random) if x is None else x
    q, step = quantize_activations(x)
    expected = (q.int() @ codes.int().t()).float() * (step * torch.tensor(0.37))
    return Case(0, to_panels(codes), torch.tensor([0.37]), quantized(x), expected)


def int8_case(rows: int, columns: int, tokens: int) -> Case:
    random = torch.Generator().manual_seed(rows + columns)
    table, x = torch.randn(rows, columns, generator=random), torch.randn(tokens, columns, generator=random)
    largest = table.abs().amax(dim=1, keepdim=True)
    values, scales = (table * (127 / largest)).round().int(), largest[:, 0] / 127
    panels, steps = -(-rows // 16), -(-columns // 16) * 4
    padded = torch.zeros(panels * 16, steps * 4, dtype=torch.int32)
    padded[:rows, :columns] = values
    stored = (padded + 128).to(torch.uint8).view(panels, 16, steps, 4).permute(0, 2, 1, 3).reshape(panels, steps, 64)
    q, step = quantize_activations(x)
    expected = (q.int() @ values.t()).float() * (step * scales)
    return Case(1, stored.contiguous(), scales, quantized(x), expected)


def group_case(rows: int, columns: int, group: int, tokens: int, digits: int) -> Case:
    random = torch.Generator().manual_seed(rows + columns)
    codes = torch.randint(-1, 2, (rows, columns), generator=random, dtype=torch.int8)
    scales = torch.rand(rows, columns // group, generator=random).half().float()
    x = torch.randn(tokens, columns, generator=random)
    exact = multiply_int8(*quantize_activation_groups(x, group), codes, scales)
    expected = exact if digits == 1 else multiply_float(x, codes, scales)
    return Case(2, to_panels(codes), scales_to_panels(scales.half()), quantized(x, group, digits), expected)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Shapes that fill no panel, no step and no tile; every number of rows; the largest sums; all kinds of layers."""
    shapes = [(1, 1, 1), (17, 33, 5), (50, 70, 13), (31, 100, 3), (64, 256, 40), (50, 129, 25), (17, 200, 79)]
    ones, lowest = torch.ones(20, 6912, dtype=torch.int8), torch.full((3, 6912), -1.0)
    return [
        *(ternary_case(*shape) for shape in shapes),
        *(ternary_case(16, 48, tokens) for tokens in range(1, 17)),
        ternary_case(20, 6912, 3, ones, lowest),
        *(int8_case(*shape) for shape in shapes),
        *(group_case(50, 256, 64, 13, digits) for digits in (1, DIGITS)),
        *(group_case(17, 384, 128, tokens, 1) for tokens in range(1, 10)),
    ]


Run = Callable[..., subprocess.CompletedProcess[bytes]]


def make_runner(program: Sequence[str], environment: dict[str, str] | None = None) -> Run:
    def run(*arguments: str, cases: Sequence[Case | HeadCase] = ()) -> subprocess.CompletedProcess[bytes]:
        given = b"".join(case.to_bytes() for case in cases)
        command = [*program, *arguments]
        return subprocess.run(command, input=given, capture_output=True, env=os.environ | (environment or {}))

    return run


def build(folder: Path, compiler: str, *more: str) -> str:
    sources = [str(KERNEL / name) for name in FILES] + [str(HERE / "driver.c")]
    program = str(folder / "driver")
    subprocess.run([compiler, *FLAGS, f"-I{KERNEL}", *sources, *more, "-o", program, "-pthread", "-lm"], check=True)
    return program


@pytest.fixture(scope="module")
def x86(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Give the driver on this machine, which takes AVX-VNNI and AMX for present."""
    if platform.machine() != "x86_64" or platform.system() != "Linux" or not shutil.which("gcc"):
        pytest.skip("the emulator is for x86-64, Linux and gcc")
    names = kernel.list_instruction_sets()
    if "avx2" not in names:
        pytest.skip("the emulated paths need AVX2 beside the emulated instructions")
    if "avx512-vnni" in names:
        more, assumed = [], AVX_VNNI | AMX_INT8
    else:
        more, assumed = ["-DTILES_IN_C"], AVX_VNNI
    program = build(tmp_path_factory.mktemp("x86"), "gcc", str(HERE / "emulate.c"), *more)
    return make_runner([program], {"ASSUME": str(assumed)})


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Give the driver for ARM by the processor that qemu plays, the loop over tiles in C beside ARM's own paths."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not compiler or not qemu:
        pytest.skip("no aarch64-linux-gnu-gcc and qemu-aarch64 here: make emulators")
    program = build(tmp_path_factory.mktemp("arm"), compiler, "-static", "-DTILES_IN_C")
    return lambda processor: make_runner([qemu, "-cpu", processor, program])


def read_numbers(run: Run, *arguments: str, cases: Sequence[Case | HeadCase] = ()) -> Tensor:
    done = run(*arguments, cases=cases)
    assert done.returncode == 0, done.stderr.decode()
    return torch.frombuffer(bytearray(done.stdout), dtype=torch.float32)


def check_path(run: Run, *arguments: str, cases: Sequence[Case | HeadCase]) -> None:
    numbers = read_numbers(run, *arguments, cases=cases)
    for number, (case, found) in enumerate(
        zip(cases, numbers.split([case.expected.numel() for case in cases]), strict=True)
    ):
        assert torch.equal(found.view_as(case.expected), case.expected), (number, tuple(case.expected.shape))


@pytest.mark.parametrize("path", ["amx-int8", "avx-vnni", "avx2", "portable"])
def test_x86_paths_are_the_naive_product(x86: Run, path: str, cases: list[Case]) -> None:
    """Ternary, int8 and grouped layers are equal to the bit."""
    check_path(x86, path, cases=cases)


@pytest.mark.parametrize("path", ["neon-i8mm", "neon-dotprod", "portable", "amx-int8"])
def test_arm_paths_are_the_naive_product(arm: Callable[[str], Run], path: str, cases: list[Case]) -> None:
    """The same in an emulated ARM processor; the loop over tiles among them, which is C there."""
    check_path(arm("max"), path, cases=cases)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_have_the_bits_of_this_processor_on_arm(arm: Callable[[str], Run], dtype: torch.dtype) -> None:
    """Tokens one by one, in tiles, and in more than one pass over the table."""
    cases = [head_case(dtype, 70, 80, tokens) for tokens in (1, 4, 5, 7, 13, 50)]
    check_path(arm("max"), "portable", "head", cases=cases)


@pytest.mark.parametrize("path", ["amx-int8", "avx-vnni", "avx2"])
def test_whole_models_are_alike_on_every_x86_path(x86: Run, path: str) -> None:
    """Prompts and tokens, to the bits of the portable path."""
    expected = read_numbers(x86, "portable", "forward")
    assert expected.numel() == (30 + 3 * 2) * 80
    assert torch.equal(read_numbers(x86, path, "forward"), expected)


@pytest.mark.parametrize("path", ["neon-i8mm", "neon-dotprod", "amx-int8"])
def test_whole_models_are_alike_on_every_arm_path(arm: Callable[[str], Run], x86: Run, path: str) -> None:
    """To the bits of the portable path there, and near those of x86, whose attention contracts other products."""
    expected = read_numbers(arm("max"), "portable", "forward")
    assert torch.equal(read_numbers(arm("max"), path, "forward"), expected)
    difference = (expected - read_numbers(x86, "portable", "forward")).abs()
    assert difference.median() < 1e-5 * expected.std()
    assert difference.max() < 0.2 * expected.std()


@pytest.mark.parametrize(
    ("processor", "names"),
    [
        ("max", ["neon-i8mm", "neon-dotprod", "portable"]),
        ("neoverse-n1", ["neon-dotprod", "portable"]),
        ("cortex-a72", ["portable"]),
    ],
)
def test_arm_processors_offer_what_they_have(arm: Callable[[str], Run], processor: str, names: list[str]) -> None:
    """A processor without int8 matrices, or without dot products, gets the next best path."""
    found = arm(processor)("list").stdout.decode().split()
    assert [name for name in found[:-1] if name != "amx-int8"] == names
    refused = {"neon-i8mm", "neon-dotprod"} - set(names)
    assert all(arm(processor)(name).returncode == 2 for name in refused)


def test_an_emulated_path_is_the_first_choice(x86: Run) -> None:
    """What computes fastest is chosen once its sums were found right."""
    assert x86("list").stdout.decode().split()[-1] == "amx-int8"


def test_without_its_instructions_a_path_is_refused_in_words() -> None:
    """Every instruction set that is built in but missing here, and a name that no build knows."""
    library = kernel.load_library()
    assert library is not None
    for name in {"amx-int8", "avx-vnni"} - set(kernel.list_instruction_sets()):
        assert library.bb_why_not(name.encode()) == b"this processor, or its operating system, does not have"
    assert library.bb_why_not(b"sse9") == b"the kernel as it was built here does not have"
    assert all(library.bb_why_not(name.encode()) is None for name in kernel.list_instruction_sets())
