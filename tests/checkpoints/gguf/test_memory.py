"""Codes of a layer become panels within little more memory than they and their panels take."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.running import _forget_peak, _read_memory
from gguf import GGMLQuantizationType, quants

from bitnet_bench.checkpoints.gguf.types import I2_S, Q4_K, Q8_0, TensorType, pack_tensor, unpack_codes, unpack_tensor
from bitnet_bench.ternary.panels import from_panels, to_panels

ROWS, COLUMNS = 6912, 4096
CODES_BYTES = ROWS * COLUMNS

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak of memory is Linux's")


@pytest.fixture(scope="module")
def codes() -> Any:
    """Give random codes of a wide layer, as int8."""
    return np.random.default_rng(0).integers(-1, 2, (ROWS, COLUMNS), dtype=np.int8)


def measure_peak(compute: Callable[[], Any]) -> tuple[Any, int]:
    """Return what *compute* returns, and the memory that it took at most beyond what there was."""
    _forget_peak()
    before = _read_memory("VmRSS")
    found = compute()
    return found, _read_memory("VmHWM") - before


def test_codes_are_unpacked_a_quarter_at_once(codes: Any) -> None:
    """The codes themselves, and two steps of a quarter."""
    data = pack_tensor(codes, I2_S, 1.0).reshape(-1)
    found, peak_bytes = measure_peak(lambda: unpack_codes(data, I2_S, codes.shape))
    assert np.array_equal(found, codes)
    assert peak_bytes < 1.75 * CODES_BYTES  # 2 at once


def test_panels_are_made_a_few_at_once(codes: Any) -> None:
    """The panels, which take a quarter of the codes, and a few MiB."""
    given = torch.from_numpy(codes)
    to_panels(given[:512])  # pages of torch's code count as memory when they are first used
    found, peak_bytes = measure_peak(lambda: to_panels(given))
    assert torch.equal(from_panels(found, ROWS, COLUMNS), given)
    assert peak_bytes < 0.25 * CODES_BYTES + (16 << 20)  # 4 at once


@pytest.mark.parametrize("kind", [Q4_K, Q8_0], ids=lambda kind: kind.name)
def test_floats_are_decoded_a_few_rows_at_once(kind: TensorType) -> None:
    """The values, and the temporaries of a few rows; each value is the one that the library gives for the whole."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // kind.block, kind.block_bytes), dtype=np.uint8)
    for place in kind.scales:
        blocks[:, place : place + 2] = np.array([0.01], dtype=np.float16).view(np.uint8)
    data = blocks.reshape(-1)
    tracemalloc.start()
    found = unpack_tensor(data, kind, (ROWS, COLUMNS))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1.2 * 4 * ROWS * COLUMNS  # 2.0 at once
    whole = quants.dequantize(data.reshape(ROWS, -1), GGMLQuantizationType(kind.number))
    assert np.array_equal(found, whole)
