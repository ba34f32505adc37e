"""Find, load and set up the library: plain C, built with the package as an optional extension."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from functools import cache
from importlib.util import find_spec
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.ternary.kernel.structs import (
    Attention,
    CodeCount,
    Greedy,
    GreedyToken,
    Head,
    HeadCopy,
    LayerPointers,
    Lookup,
    Matrix,
    Model,
    NormPointers,
    Part,
    Pass,
    Processor,
    RowsJob,
    RowsPointers,
)

KERNEL_VARIABLE = "BITNET_BENCH_KERNEL"
STRUCTS = {
    "bb_part_size": Part,
    "bb_rows_pointers_size": RowsPointers,
    "bb_rows_size": RowsJob,
    "bb_attention_size": Attention,
    "bb_norm_size": NormPointers,
    "bb_layer_size": LayerPointers,
    "bb_model_size": Model,
    "bb_pass_size": Pass,
    "bb_head_size": Head,
    "bb_copy_head_size": HeadCopy,
    "bb_greedy_size": Greedy,
    "bb_greedy_token_size": GreedyToken,
    "bb_lookup_size": Lookup,
    "bb_matrix_size": Matrix,
    "bb_count_codes_size": CodeCount,
    "bb_processor_size": Processor,
}
"""Structs of the library that Python mirrors, by the function that returns their size."""
VECTOR_WIDTHS = (16, 8, 4)
"""Floats of a vector in the attention and head functions."""


@cache
def load_library() -> ctypes.CDLL | None:
    """Return the loaded kernel, or None if it was not built or is turned off; raise BenchError for an unknown name."""
    wanted = os.environ.get(KERNEL_VARIABLE, "")
    spec = find_spec(f"{__package__}._library")
    if wanted == "off" or spec is None or spec.origin is None:
        return None
    loaded = ctypes.CDLL(spec.origin)
    check_structs(loaded)
    for function in (loaded.bb_path, loaded.bb_current, loaded.bb_why_not):
        function.restype = c_char_p
    loaded.bb_linear.argtypes = (POINTER(Part), c_int, POINTER(RowsPointers), c_void_p, c_int64, c_int, c_int)
    if wanted and not loaded.bb_use_path(wanted.encode()):
        raise BenchError(
            f"{KERNEL_VARIABLE} is {wanted!r}, which {loaded.bb_why_not(wanted.encode()).decode()}.",
            f"It has {', '.join(_read_instruction_sets(loaded))}; or set it to `off`.",
        )
    return loaded


def check_structs(loaded: Any) -> None:
    """Raise BenchError if a struct of the *loaded* library has another size than its mirror here."""
    for name, mirror in STRUCTS.items():
        size_of = getattr(loaded, name, None)
        if size_of is not None:
            size_of.restype = c_int64
        if size_of is None or size_of() != ctypes.sizeof(mirror):
            raise BenchError(
                "The CPU kernel was built from other sources than these: its structs differ.",
                f"Build it again: pip install --no-deps --editable . in the checkout; or set {KERNEL_VARIABLE}=off.",
            )


def require_library() -> ctypes.CDLL:
    """Return the loaded kernel, for callers that have checked that `load_library` returns one."""
    loaded = load_library()
    assert loaded is not None, "whoever calls the kernel has asked library() whether it is there"
    return loaded


def list_instruction_sets() -> list[str]:
    """Return the instruction sets that this machine can run, best first; empty without the kernel."""
    loaded = load_library()
    return _read_instruction_sets(loaded) if loaded else []


def _read_instruction_sets(loaded: ctypes.CDLL) -> list[str]:
    names: list[str] = []
    while name := loaded.bb_path(len(names)):
        names.append(name.decode())
    return names


def get_instruction_set() -> str:
    """Return the instruction set in use."""
    name: bytes = require_library().bb_current()
    return name.decode()


def use_instruction_set(name: str) -> None:
    """Switch to another of `list_instruction_sets()`, for tests and benchmarks."""
    loaded = load_library()
    if loaded is None or not loaded.bb_use_path(name.encode()):
        raise ValueError(f"no kernel path {name}")


def use_width(floats: int) -> bool:
    """Switch to another of `VECTOR_WIDTHS`, for tests; return False if this processor does not have it."""
    loaded = load_library()
    return loaded is not None and bool(loaded.bb_use_width(floats))
