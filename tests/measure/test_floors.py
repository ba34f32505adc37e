"""Plans: the counts of published shapes, and times that follow from bytes and products alone."""

from __future__ import annotations

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.measure.devices import Device, device
from bitnet_bench.measure.floors import plan
from bitnet_bench.measure.shape import shape_of
from bitnet_bench.ternary.initializing import preset_config

MACHINE = Device(name="a", read_bytes_per_s=40e9, int8_ops_per_s=944e9, float_ops_per_s=472e9, source="test")


def test_the_shape_of_2b_4t_has_its_published_counts() -> None:
    """2.084 B ternary weights, a head of 128,256 x 2560 that is the embedding, 5 heads of keys and values."""
    shape = shape_of(preset_config("bitnet-2b-4t"))
    assert shape.layer_weights == 2_084_044_800
    assert shape.head_weights == 128_256 * 2560
    assert shape.embedding_weights == 0
    assert shape.kv_values == 2 * 30 * 5 * 128


def test_a_token_takes_the_bytes_that_it_reads() -> None:
    """521 MB of codes and a 657 MB head at 40 GB/s are 29.5 ms; the keys of a context and a batch come on top."""
    shape = shape_of(preset_config("bitnet-2b-4t"))
    short = plan(shape, "ternary", MACHINE, context=1, batch=1)
    assert short.decode_floor_s == pytest.approx(1.18e9 / 40e9, rel=0.01)
    assert short.layer_bytes == pytest.approx(521e6, rel=0.01)
    long = plan(shape, "ternary", MACHINE, context=4096, batch=8)
    assert long.kv_bytes == 8 * 4096 * shape.kv_values * 4
    assert long.decode_floor_s > short.decode_floor_s
    assert plan(shape, "ternary", MACHINE, 1, 1, head_bits=8).decode_floor_s < short.decode_floor_s


def test_a_prompt_takes_its_products() -> None:
    """4.17 GOP a token at the int8 peak, as the ceilings say: about 226 tokens/s; dense weights pay float rates."""
    shape = shape_of(preset_config("bitnet-2b-4t"))
    prefill = plan(shape, "ternary", MACHINE, context=512, batch=1).prefill_floor_s
    assert 512 / prefill == pytest.approx(220, rel=0.05)
    assert plan(shape, "bf16", MACHINE, context=512, batch=1).prefill_floor_s > 1.8 * prefill


def test_devices_have_names() -> None:
    """A named GPU has its data sheet's rates; another name lists those there are."""
    assert device("H100-SXM").read_bytes_per_s == 3350e9
    with pytest.raises(BenchError, match="no device") as error:
        device("abacus")
    assert "cpu" in error.value.hint
