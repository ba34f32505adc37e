"""The CPU kernel: products of 2-bit weights and int8 activations with exact integer sums, and the steps between them.

The library is plain C, built with the package as an optional extension and called through ctypes. It has helper threads
of its own (pool.c), as many as torch is set to. `BITNET_BENCH_KERNEL` names the instruction set to use, or `off`.
"""

from __future__ import annotations

from bitnet_bench.ternary.kernel.calls import (
    ACTIVATIONS,
    CACHE_LINE,
    TABLES,
    Call,
    JoinedLayers,
    Norm,
    QuantizedRows,
    attention_call,
    count_codes,
    count_filled_columns,
    lookup_rows,
    multiply_head,
    quantize,
    quantize_rows,
    rows_call,
    scale_codes,
    scale_sums,
    ternarize,
)
from bitnet_bench.ternary.kernel.forward import Block, Forward, ModelShape
from bitnet_bench.ternary.kernel.greedy import MOST_COLUMNS, BoundedCopy, GreedyChoice, choose_rows, copy_head
from bitnet_bench.ternary.kernel.loader import (
    KERNEL_VARIABLE,
    VECTOR_WIDTHS,
    get_instruction_set,
    list_instruction_sets,
    load_library,
    use_instruction_set,
    use_width,
)

__all__ = [
    "ACTIVATIONS",
    "CACHE_LINE",
    "KERNEL_VARIABLE",
    "MOST_COLUMNS",
    "TABLES",
    "VECTOR_WIDTHS",
    "Block",
    "BoundedCopy",
    "Call",
    "Forward",
    "GreedyChoice",
    "JoinedLayers",
    "ModelShape",
    "Norm",
    "QuantizedRows",
    "attention_call",
    "choose_rows",
    "copy_head",
    "count_codes",
    "count_filled_columns",
    "get_instruction_set",
    "list_instruction_sets",
    "load_library",
    "lookup_rows",
    "multiply_head",
    "quantize",
    "quantize_rows",
    "rows_call",
    "scale_codes",
    "scale_sums",
    "ternarize",
    "use_instruction_set",
    "use_width",
]
