"""Plans: the counts of published shapes, and times that follow from bytes and products alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.random_weights import read_preset_config
from bitnet_bench.checkpoints.shape import compute_shape
from bitnet_bench.errors import BenchError
from bitnet_bench.measurement.devices import Device, find_device
from bitnet_bench.measurement.floors import add_floors, plan_precision
from bitnet_bench.measurement.planning import plan_shape as plan_of
from bitnet_bench.runs.choices import TERNARY_PRECISIONS, Precision
from bitnet_bench.runs.records import Cost, Measured, Modelled

MACHINE = Device(name="a", read_bytes_per_s=40e9, int8_ops_per_s=944e9, float_ops_per_s=472e9, source="test")


def test_the_shape_of_2b_4t_has_its_published_counts() -> None:
    """2.084 B ternary weights, a head of 128,256 x 2560 that is the embedding, 5 heads of keys and values."""
    shape = compute_shape(read_preset_config("bitnet-2b-4t"))
    assert shape.matrices == 2_084_044_800
    assert shape.head_weights == 128_256 * 2560
    assert shape.embedding_weights == 0
    assert shape.kv_values == 2 * 30 * 5 * 128


def test_a_token_takes_the_bytes_that_it_reads() -> None:
    """521 MB of codes and a 657 MB head at 40 GB/s are 29.5 ms; the keys of a context and a batch come on top."""
    shape = compute_shape(read_preset_config("bitnet-2b-4t"))
    short = plan_precision(shape, "ternary", MACHINE, context=1, batch=1)
    assert short.decode_floor_s == pytest.approx(1.18e9 / 40e9, rel=0.01)
    assert short.layer_bytes == pytest.approx(521e6, rel=0.01)
    long = plan_precision(shape, "ternary", MACHINE, context=4096, batch=8)
    assert long.kv_bytes == 8 * 4096 * shape.kv_values * 4
    assert long.decode_floor_s > short.decode_floor_s
    assert plan_precision(shape, "ternary", MACHINE, 1, 1, head_bits=8).decode_floor_s < short.decode_floor_s


def test_a_prompt_takes_its_products() -> None:
    """4.17 GOP a token at the int8 peak, as the ceilings say: about 226 tokens/s; dense weights pay float rates."""
    shape = compute_shape(read_preset_config("bitnet-2b-4t"))
    prefill = plan_precision(shape, "ternary", MACHINE, context=512, batch=1).prefill_floor_s
    assert 512 / prefill == pytest.approx(220, rel=0.05)
    assert plan_precision(shape, "bf16", MACHINE, context=512, batch=1).prefill_floor_s > 1.8 * prefill


def test_devices_have_names() -> None:
    """A named GPU has its data sheet's rates; another name lists those there are."""
    assert find_device("H100-SXM").read_bytes_per_s == 3350e9
    with pytest.raises(BenchError, match="no device") as error:
        find_device("abacus")
    assert "cpu" in error.value.hint


SHAPES = {"ternary": open_checkpoint("demo"), "fp16": open_checkpoint("demo-fp16")}


def _cost(precision: Precision, prefill_s: list[float], decode_s: list[float], resident: int, batch: int) -> Cost:
    times = {"prefill_s": prefill_s, "decode_s": decode_s, "peak_bytes": [1e6]}
    return Cost(
        backend="any",
        precision=precision,
        prompt_tokens=128,
        new_tokens=32,
        batch=batch,
        threads=1,
        weight_bytes={},
        resident_weight_bytes=resident,
        kv_bytes=1000 * batch,
        metrics={name: Measured(unit="s", method="m", readings=tuple(found)) for name, found in times.items()},
        foreign_load=0.0,
    )


seconds = st.lists(st.floats(1e-7, 10), min_size=1, max_size=3)
some_costs = st.lists(
    st.builds(
        _cost,
        st.sampled_from(["ternary", "tq2_0", "fp16", "bf16", "fp32"]),
        seconds,
        seconds,
        st.integers(10**4, 10**9),
        st.sampled_from([1, 8]),
    ),
    min_size=1,
    max_size=5,
)


@given(some_costs, st.floats(1e6, 1e12), st.floats(1e6, 1e13))
def test_no_cost_is_ever_faster_than_its_floor(found: list[Cost], read: float, products: float) -> None:
    """Whatever the ceilings that were measured and whoever outpaced them: no reading is below its floor."""
    slow = Device(name="a", read_bytes_per_s=read, int8_ops_per_s=products, float_ops_per_s=products / 3, source="test")
    measured = [(cost, SHAPES["ternary" if cost.precision in TERNARY_PRECISIONS else "fp16"]) for cost in found]
    for cost in add_floors(measured, lambda size, threads: slow):
        for phase in ("prefill", "decode"):
            floor, taken = cost.metrics[f"{phase}_floor_s"], cost.metrics[f"{phase}_s"]
            assert isinstance(floor, Modelled)
            assert isinstance(taken, Measured)
            assert floor.value <= min(taken.readings)
            assert "best ceilings seen in this run" in floor.model


def test_a_floor_is_from_the_best_ceiling_seen() -> None:
    """Reading twice as fast as was measured halves the floor of what reads less, and not of what reads more."""
    slow = Device(name="a", read_bytes_per_s=1e9, int8_ops_per_s=1e15, float_ops_per_s=1e15, source="test")

    def floor(*sizes_and_times: tuple[int, float]) -> float:
        costs = [(_cost("fp16", [9.0], [taken], size, 1), SHAPES["fp16"]) for size, taken in sizes_and_times]
        found = add_floors(costs, lambda size, threads: slow)[0].metrics["decode_floor_s"]
        assert isinstance(found, Modelled)
        return found.value

    alone = floor((10**8, 5.0))
    assert alone == pytest.approx(0.1, rel=0.01)
    assert floor((10**8, 5.0), (10**9, 0.5)) == pytest.approx(alone / 2, rel=0.01)
    assert floor((10**8, 5.0), (10**7, 0.001)) == pytest.approx(alone, rel=0.01)
    assert floor((10**8, 0.02)) == pytest.approx(0.02, rel=0.01)


def test_a_plan_of_a_model_of_the_hub_downloads_its_config_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes of weights came for the sake of one file of a kilobyte."""
    asked: list[list[str]] = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        source = open_checkpoint("demo").path
        shutil.copy(f"{source}/config.json", tmp_path)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    _, of_the_hub = plan_of(None, "somebody/tiny", 128, 1, "h100-sxm")
    _, of_the_folder = plan_of(None, "demo", 128, 1, "h100-sxm")
    assert asked == [["config.json"]]
    assert of_the_hub == of_the_folder
