"""The CPU kernel: 2-bit weights times int8 activations with exact integer sums, and what stands between two products.

The library is plain C, built with the package as an optional extension and reached through ctypes. Its threads are
those of torch's own OpenMP pool. `BITNET_BENCH_KERNEL` names the instruction set to use, or `off`.
"""

from __future__ import annotations

from bitnet_bench.ternary.kernel.calls import (
    ACTIVATIONS,
    CACHE_LINE,
    TABLES,
    Call,
    Norm,
    Parts,
    Rows,
    attention_call,
    filled_columns,
    head,
    quantize,
    quantize_rows,
    rows_call,
    scale_codes,
    scale_sums,
    ternarize,
)
from bitnet_bench.ternary.kernel.loader import (
    VARIABLE,
    WIDTHS,
    current_path,
    library,
    paths,
    threaded,
    use_path,
    use_width,
)

__all__ = [
    "ACTIVATIONS",
    "CACHE_LINE",
    "TABLES",
    "VARIABLE",
    "WIDTHS",
    "Call",
    "Norm",
    "Parts",
    "Rows",
    "attention_call",
    "current_path",
    "filled_columns",
    "head",
    "library",
    "paths",
    "quantize",
    "quantize_rows",
    "rows_call",
    "scale_codes",
    "scale_sums",
    "ternarize",
    "threaded",
    "use_path",
    "use_width",
]
