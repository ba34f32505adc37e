"""One ternary layer of 6912 x 2560 under pytest-benchmark, so that two revisions can be compared.

    make benchmark                                        # or: pytest benchmarks --benchmark-compare

The contestants of one size run one after the other; `benchmarks/engine.py layer` alternates weights and reads ceilings.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

spec = importlib.util.spec_from_file_location("engine", Path(__file__).parent / "engine.py")
assert spec
assert spec.loader
engine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(engine)


@pytest.mark.parametrize("tokens", engine.TOKENS)
@pytest.mark.parametrize("name", ["kernel", "_int_mm", "bf16", "fp32"])
def test_layer(benchmark: Any, name: str, tokens: int) -> None:
    """Time one contestant on *tokens* rows, each call on another copy of the weights; the kernel is checked first."""
    contestants = engine.contestants(tokens, {name})
    copies = iter(range(10**9))
    benchmark.extra_info["operations"] = 2 * tokens * engine.ROWS * engine.COLUMNS
    benchmark.group = f"M={tokens}, {torch.get_num_threads()} threads"
    benchmark(lambda: contestants[name](next(copies) % engine.COPIES))
