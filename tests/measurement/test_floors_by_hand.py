"""Floors, forecasts, rates and modelled joules, from round numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.shape import ModelShape, compute_shape
from bitnet_bench.errors import UsageError
from bitnet_bench.measurement import ceilings, forecast, planning
from bitnet_bench.measurement.ceilings import ProductRates, measure_machine, set_threads
from bitnet_bench.measurement.devices import DEVICES, Device, find_device
from bitnet_bench.measurement.floors import (
    add_floors,
    decode_floor_s,
    plan_precision,
    prefill_floor_s,
    with_modelled_energy,
)
from bitnet_bench.measurement.forecast import Forecast, LayerRates, forecast_run
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.runs.records import Checkpoint, Cost, Measured, Measurement, Modelled, Unavailable

SHAPE = ModelShape(
    hidden=10,
    intermediate=20,
    layers=1,
    vocabulary=100,
    matrices=8000,
    head_weights=1000,
    embedding_weights=500,
    norm_weights=25,
    kv_values=6,
    attention_operations=40,
)
MACHINE = Device(name="a", read_bytes_per_s=100.0, int8_ops_per_s=2000.0, float_ops_per_s=1000.0, source="by hand")


@pytest.mark.parametrize(
    ("precision", "layers", "kv"),
    [
        ("ternary", 2000 + 100, 6 * 4),
        ("tq2_0", 2062 + 100, 6 * 2),  # 2.0625 bits
        ("tq1_0", 1688 + 100, 6 * 2),  # 1.6875 bits: 1687.5 goes to the even 1688
        ("tl2", 1667 + 100, 6 * 2),  # 5/3 bits
        ("q4_0", 4500 + 100, 6 * 2),
        ("q8_0", 8500 + 100, 6 * 2),
        ("bf16", 16000 + 100, 6 * 2),
        ("fp32", 32000 + 100, 6 * 4),
    ],
)
def test_the_bytes_of_a_plan(precision: Any, layers: int, kv: int) -> None:
    """8,000 weights at their bits, 25 norms in float32, head and embedding at 16 or 8 bits, keys of 3 x 2 tokens."""
    plan = plan_precision(SHAPE, precision, MACHINE, context=3, batch=2)
    assert (plan.layer_bytes, plan.head_bytes, plan.embedding_bytes, plan.kv_bytes) == (layers, 2000, 1000, 6 * kv)
    assert (plan.precision, plan.head) == (precision, "16-bit")
    assert plan.total_bytes == layers + 2000 + 1000 + 6 * kv
    narrow = plan_precision(SHAPE, precision, MACHINE, context=3, batch=2, head_bits=8)
    assert (narrow.head, narrow.head_bytes, narrow.embedding_bytes) == ("8-bit", 1000, 500)


def test_the_times_of_a_plan() -> None:
    """A token reads layers, head and keys, not the embedding, at 100 B/s; prompts take their products."""
    plan = plan_precision(SHAPE, "ternary", MACHINE, context=3, batch=2)
    assert plan.decode_floor_s == pytest.approx((2100 + 2000 + 144) / 100)
    assert plan.prefill_floor_s == prefill_floor_s(SHAPE, "ternary", MACHINE, 3, 2)
    fast = MACHINE.model_copy(update={"read_bytes_per_s": 1e9})
    assert plan_precision(SHAPE, "ternary", fast, 3, 2).decode_floor_s == pytest.approx(16 + (2000 * 2 + 40 * 6) / 1000)


def test_a_prompt_by_hand() -> None:
    """Two prompts of 4: 8 tokens through the layers, 2 x 10 positions of attention, the head twice."""
    floats = (40 * 20 + 2 * 2 * 1000) / 1000
    assert prefill_floor_s(SHAPE, "ternary", MACHINE, 4, 2) == pytest.approx(2 * 8000 * 8 / 2000 + floats)
    assert prefill_floor_s(SHAPE, "bf16", MACHINE, 4, 2) == pytest.approx(2 * 8000 * 8 / 1000 + floats)


def test_a_token_by_hand() -> None:
    """Two rows after 5 tokens: what takes longer of reading and of products, where ternary layers pay int8 rates."""
    ternary = 2 * 8000 * 2 / 2000 + (2 * 1000 * 2 + 40 * 10) / 1000
    assert decode_floor_s(SHAPE, "ternary", MACHINE, 5, 2, 100.0) == pytest.approx(ternary)
    assert decode_floor_s(SHAPE, "fp16", MACHINE, 5, 2, 100.0) == pytest.approx(ternary + 2 * 8000 * 2 / 2000)
    assert decode_floor_s(SHAPE, "ternary", MACHINE, 5, 2, 1e6) == pytest.approx(1e4)


TERNARY, FLOAT = open_checkpoint("demo"), open_checkpoint("demo-fp16")


def cost(precision: Any = "fp16", **fields: Any) -> Cost:
    """Return a cost of 6 prompt tokens and 4 new ones that took 50 s and 20 s a token."""
    metrics: dict[str, Measurement] = {
        "prefill_s": Measured(unit="s", method="m", readings=(60.0, 50.0)),
        "decode_s": Measured(unit="s", method="m", readings=(20.0, 30.0)),
        "peak_bytes": Measured(unit="B", method="m", readings=(1e6,)),
    }
    given = {
        "backend": "any", "precision": precision, "prompt_tokens": 6, "new_tokens": 4, "batch": 1, "threads": 1,
        "weight_bytes": {}, "resident_weight_bytes": 5000, "kv_bytes": 900, "metrics": metrics, "foreign_load": 0.0,
    }  # fmt: skip
    return Cost.model_validate({**given, **fields})


def floors(found: Cost) -> tuple[float, float]:
    both = found.metrics["prefill_floor_s"], found.metrics["decode_floor_s"]
    assert all(isinstance(one, Modelled) and one.unit == "s" for one in both)
    return both[0].value, both[1].value  # type: ignore[union-attr]


def test_a_cost_has_the_floors_of_its_middle_token() -> None:
    """5,000 bytes of weights and 8 of the 9 positions of 900 bytes of keys; the products see 8 positions."""
    asked = []

    def measured(read_bytes: int, threads: int) -> Device:
        asked.append((read_bytes, threads))
        return Device(name="a", read_bytes_per_s=1e4, int8_ops_per_s=1e15, float_ops_per_s=1e15, source="a stopwatch")

    (found,) = add_floors([(cost(threads=3), FLOAT)], measured)
    assert asked == [(5800, 3)]
    assert floors(found)[1] == pytest.approx(5800 / 1e4)
    assert found.metrics["decode_floor_s"].model == (  # type: ignore[union-attr]
        "bytes read or products, whichever takes longer, at the best ceilings seen in this run: a stopwatch, and what "
        "any contestant reached"
    )
    shape = compute_shape(read_config(Path(FLOAT.path)))
    slow = Device(name="a", read_bytes_per_s=1e15, int8_ops_per_s=1e6, float_ops_per_s=1e6, source="s")
    (found,) = add_floors([(cost(), FLOAT)], lambda read_bytes, threads: slow)
    assert floors(found)[1] == pytest.approx(decode_floor_s(shape, "fp16", slow, 8, 1, 0.0), rel=1e-6)
    assert floors(found)[0] == pytest.approx(prefill_floor_s(shape, "fp16", slow, 6, 1), rel=1e-6)


@pytest.mark.parametrize(("tied", "read"), [(True, 5000), (False, 4000)])
def test_an_embedding_is_read_only_where_it_is_the_head(tied: bool, read: int, tmp_path: Path) -> None:
    """1,000 bytes of an embedding of its own are looked up row by row, and are no bytes of a token."""
    import json

    config = {**read_config(Path(FLOAT.path)), "tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = FLOAT.model_copy(update={"path": str(tmp_path)})
    fast = Device(name="a", read_bytes_per_s=1e3, int8_ops_per_s=1e15, float_ops_per_s=1e15, source="s")
    by_kind = {"embedding bfloat16": 1000, "head bfloat16": 4000}
    (found,) = add_floors([(cost(resident_by_kind=by_kind, kv_bytes=0), checkpoint)], lambda size, threads: fast)
    assert floors(found)[1] == pytest.approx(read / 1e3)


@pytest.mark.parametrize(("kinds", "read"), [(["embedding"], 600), (["embedding", "head"], 600)])
def test_a_head_whose_tokens_are_chosen_by_a_copy_is_not_read(kinds: list[str], read: int) -> None:
    """Of 5,000 bytes of a tied or an untied table a token reads some rows, and the 600 bytes of its copy as a whole."""
    fast = Device(name="a", read_bytes_per_s=1e3, int8_ops_per_s=1e15, float_ops_per_s=1e15, source="s")
    stored = {f"{kind} bfloat16": 5000 // len(kinds) for kind in kinds}
    held = cost(resident_by_kind=stored | {"greedy head uint8": 600}, resident_weight_bytes=5600, kv_bytes=0)
    (found,) = add_floors([(held, FLOAT)], lambda size, threads: fast)
    assert floors(found)[1] == pytest.approx(read / 1e3)


def test_a_gpu_and_an_unknown_shape_have_no_floors(tmp_path: Path) -> None:
    """A GPU's ceilings are not measured; a shape is not guessed. The others keep theirs."""
    fast = Device(name="a", read_bytes_per_s=1e3, int8_ops_per_s=1e15, float_ops_per_s=1e15, source="s")
    on_gpu = Measured(unit="B", method="peak of torch's allocator on the GPU in the warm-up", readings=(1.0,))
    of_gpu = cost(metrics={**cost().metrics, "peak_bytes": on_gpu})
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    unknown = FLOAT.model_copy(update={"path": str(tmp_path)})
    measured: list[tuple[Cost, Checkpoint]] = [(of_gpu, FLOAT), (cost(), unknown), (cost(), FLOAT)]
    found = add_floors(measured, lambda size, threads: fast)
    assert ["decode_floor_s" in one.metrics for one in found] == [False, False, True]
    assert found[:2] == [of_gpu, cost()]


def device(read: float = 1e15, int8: float = 1e15, floats: float = 1e15) -> Device:
    return Device(name="a", read_bytes_per_s=read, int8_ops_per_s=int8, float_ops_per_s=floats, source="s")


def timed(prefill_s: float, decode_s: float, precision: Any = "fp16", **fields: Any) -> Cost:
    times = {"prefill_s": prefill_s, "decode_s": decode_s}
    metrics = {name: Measured(unit="s", method="m", readings=(seconds,)) for name, seconds in times.items()}
    return cost(precision, metrics={**cost().metrics, **metrics}, **fields)


def test_products_that_outpaced_the_ceilings_raise_them() -> None:
    """A float cost that multiplies 10 times as fast as was measured raises both rates; a ternary one its own only."""
    shape = compute_shape(read_config(Path(FLOAT.path)))
    prefill = prefill_floor_s(shape, "fp16", device(floats=1e6, int8=1e6), 6, 1)
    slow = device(floats=1e6, int8=1e6)
    quick = timed(prefill / 10, 1e9)
    other = timed(1e9, 1e9)
    _, found = add_floors([(quick, FLOAT), (other, FLOAT)], lambda size, threads: slow)
    assert floors(found)[0] == pytest.approx(prefill / 10, rel=1e-6)
    ternary = prefill_floor_s(shape, "ternary", device(floats=1e6, int8=2e6), 6, 1)
    machine = device(floats=1e6, int8=2e6)
    _, found = add_floors(
        [(timed(ternary * 2, 1e9, "ternary"), TERNARY), (timed(1e9, 1e9, "ternary"), TERNARY)],
        lambda size, threads: machine,
    )
    assert floors(found)[0] == pytest.approx(ternary, rel=1e-6), "slower than the ceilings: they stand"


def test_other_threads_show_nothing() -> None:
    """What four threads reached is no ceiling of one."""
    slow = device(read=1e3)
    one, _ = add_floors([(timed(1e9, 50.0), FLOAT), (timed(1e9, 0.5, threads=4), FLOAT)], lambda size, threads: slow)
    assert floors(one)[1] == pytest.approx(5.8)
    one, _ = add_floors([(timed(1e9, 50.0), FLOAT), (timed(1e9, 0.5), FLOAT)], lambda size, threads: slow)
    assert floors(one)[1] == pytest.approx(0.5)


def test_modelled_joules_of_a_cost() -> None:
    """Each of 9 tokens: additions of ternary weights, FP16 or FP32 multiplications and additions of the others."""
    shape = compute_shape(read_config(Path(TERNARY.path)))
    unread = {**cost().metrics, "energy_j": Unavailable(reason="no counter")}
    joules = {}
    for precision, checkpoint in (("ternary", TERNARY), ("fp16", FLOAT), ("bf16", FLOAT), ("fp32", FLOAT)):
        found = with_modelled_energy(cost(precision, metrics=unread), checkpoint)
        energy, token = found.metrics["energy_j"], found.metrics["energy_j_per_token"]
        assert isinstance(energy, Modelled)
        assert isinstance(token, Modelled)
        assert token.value == pytest.approx(energy.value / 4)
        assert (energy.unit, token.unit) == ("J", "J/token")
        assert token.model == f"{energy.model}; over new tokens"
        joules[precision] = energy.value
    dense = shape.matrices + shape.head_weights
    assert joules == pytest.approx(
        {
            "ternary": 9e-12 * (0.007 * shape.matrices + 0.5 * shape.head_weights),
            "fp16": 9e-12 * 0.5 * dense,
            "bf16": 9e-12 * 0.5 * dense,
            "fp32": 9e-12 * 1.69 * dense,
        }
    )


def test_joules_that_were_read_are_not_modelled(tmp_path: Path) -> None:
    """A counter's reading stays; a cost without the metric, or of an unknown shape, gains none."""
    read = cost(metrics={**cost().metrics, "energy_j": Measured(unit="J", method="m", readings=(1.0,))})
    assert with_modelled_energy(read, FLOAT) is read
    assert "energy_j" not in with_modelled_energy(cost(), FLOAT).metrics
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    unread = cost(metrics={**cost().metrics, "energy_j": Unavailable(reason="no counter")})
    assert with_modelled_energy(unread, FLOAT.model_copy(update={"path": str(tmp_path)})) is unread


@pytest.mark.parametrize(
    ("name", "gigabytes", "tops", "tflops"),
    [("h200", 4800, 1979, 989), ("l4", 300, 242, 121), ("rtx-4090", 1008, 661, 165), ("jetson-orin-nano", 68, 20, 10)],
)
def test_data_sheets_are_in_units(name: str, gigabytes: float, tops: float, tflops: float) -> None:
    """GB/s are 10^9 bytes, TOPS and TFLOPS 10^12 operations; the name is found in capitals too."""
    found = find_device(name.upper())
    assert (found.name, found.source) == (name, "the vendor's data sheet, dense")
    assert (found.read_bytes_per_s, found.int8_ops_per_s, found.float_ops_per_s) == (
        gigabytes * 1e9,
        tops * 1e12,
        tflops * 1e12,
    )
    with pytest.raises(UsageError, match="There is no device 'Abacus'") as error:
        find_device("Abacus")
    assert error.value.hint == f"`cpu` measures this machine; named are {', '.join(DEVICES)}."


def test_a_plan_is_of_one_shape_at_five_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset or a model, not both and not neither; `cpu` is this machine with all its cores or those asked for."""
    for preset, model in ((None, None), ("bitnet-2b-4t", "demo")):
        with pytest.raises(UsageError, match="A plan is of a `preset` or of a `model`"):
            planning.plan_shape(preset, model, 8, 1, "l4")
    found, plans = planning.plan_shape("bitnet-2b-4t", None, 8, 2, "l4")
    assert found == find_device("l4")
    kinds = [(plan.precision, plan.head) for plan in plans]
    assert kinds == [
        ("ternary", "16-bit"), ("ternary", "8-bit"), ("tq2_0", "16-bit"), ("q8_0", "8-bit"), ("bf16", "16-bit")
    ]  # fmt: skip
    assert plans[0].kv_bytes == 4 * 8 * 2 * 2 * 30 * 5 * 128
    asked = []
    monkeypatch.setattr(ceilings, "measure_machine", lambda size, threads: asked.append((size, threads)) or MACHINE)
    monkeypatch.setattr("bitnet_bench.measurement.machine_state.count_cores", lambda: 7)
    assert planning.plan_shape(None, "demo", 8, 1)[0] is MACHINE
    planning.plan_shape(None, "demo", 8, 1, threads=3)
    assert asked == [(1 << 29, 7), (1 << 29, 3)]


def test_a_forecast_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts at the rate of many tokens, the head once a row; each further token at the rate of one."""
    asked = []
    rates = LayerRates(operations_per_s=2e6, token_weights_per_s=1e5)
    monkeypatch.setattr(forecast, "_measure_layer_rates", lambda *given: asked.append(given) or rates)
    monkeypatch.setattr(forecast, "find_gpu", lambda: None)
    config = read_config(Path(FLOAT.path))
    shape = compute_shape(config)
    scenario = Scenario(prompt_tokens=10, new_tokens=4, batches=(6, 2))
    found = forecast_run(config, "hf", "fp16", scenario, 3)
    prompt = 2 * (shape.matrices * 10 + shape.head_weights) * 2 / 2e6
    token = (shape.matrices + shape.head_weights) / 1e5
    assert found == Forecast("fp16", pytest.approx(prompt + 3 * token), rates)
    assert asked == [("float16", config["hidden_size"], config["intermediate_size"], 3)]
    assert forecast_run(config, "hf-dense", "bf16", scenario, 3) is not None
    assert forecast_run(config, "hf-dense", "fp32", scenario, 3) is not None
    assert [given[0] for given in asked] == ["float16", "bfloat16", "float32"]
    assert forecast_run(config, "llamacpp", "fp16", scenario, 3) is None
    assert forecast_run(config, "hf", "ternary", scenario, 3) is None
    assert forecast_run({}, "hf", "fp16", scenario, 3) is None
    monkeypatch.setattr(forecast, "find_gpu", lambda: object())
    assert forecast_run(config, "hf", "fp16", scenario, 3) is None


def test_a_forecast_in_words() -> None:
    """The time, and the rate that it rests on, of three digits."""
    assert Forecast("bf16", 90.0, LayerRates(12.3456e9, 1.0)).describe() == (
        "one run would take about 90 s, because BF16 products reach 12.3 GFLOP/s on this processor"
    )


def test_a_probe_of_a_layer_doubles_until_it_takes_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """8, 16 and 32 tokens at 2 ms each: 64 ms are enough. One token is the best of three."""
    asked: list[int] = []
    single = iter([0.009, 0.004, 0.005])

    def time_product(weight: Any, tokens: int) -> float:
        asked.append(tokens)
        assert tuple(weight.shape) == (20, 10)
        return next(single) if tokens == 1 else 0.002 * tokens

    monkeypatch.setattr(forecast, "_time_product", time_product)
    found = forecast._measure_layer_rates.__wrapped__("float32", 10, 20, 1)
    assert asked == [8, 16, 32, 1, 1, 1]
    assert found == LayerRates(pytest.approx(2 * 32 * 200 / 0.064), pytest.approx(200 / 0.004))
    monkeypatch.setattr(forecast, "_time_product", lambda weight, tokens: asked.append(tokens) or 1e-6)
    asked.clear()
    forecast._measure_layer_rates.__wrapped__("float32", 10, 20, 1)
    assert max(asked) == 2048, "however fast the machine is, it ends"


@pytest.mark.parametrize(("asked", "size"), [(1, 1 << 16), (1 << 20, 1 << 20), (1 << 40, 1 << 29)])
def test_the_machine_reads_what_it_is_asked_within_bounds(
    asked: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least 64 KiB, at most 512 MiB, and the source says how much."""
    read = []
    monkeypatch.setattr(ceilings, "_measure_reading", lambda *given: read.append(given) or 5.0)
    monkeypatch.setattr(ceilings, "measure_rates", lambda threads: ProductRates(int8=7.0 * threads, floats=3.0))
    found = measure_machine(asked, 2)
    assert read == [(size, 2)]
    assert (found.read_bytes_per_s, found.int8_ops_per_s, found.float_ops_per_s) == (5.0, 14.0, 3.0)
    assert found.name == "this machine, 2 threads"
    assert f"a sum over {size / 2**20:.0f} MiB" in found.source


@pytest.mark.parametrize(
    ("int8", "kernel", "float32", "bfloat16", "expected"),
    [
        (4.0, 9.0, 2.0, 3.0, ProductRates(9.0, 3.0)),
        (9.0, 4.0, 3.0, 2.0, ProductRates(9.0, 3.0)),
        (1.0, 0.0, 5.0, 2.0, ProductRates(5.0, 5.0)),
    ],
)
def test_the_best_products_are_the_rates(
    int8: float, kernel: float, float32: float, bfloat16: float, expected: ProductRates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integers are no slower than floats; floats are the better of FP32 and BF16."""
    import torch

    floats = {torch.float32: float32, torch.bfloat16: bfloat16}
    monkeypatch.setattr(ceilings, "_measure_float_product", lambda dtype: floats[dtype])
    monkeypatch.setattr(ceilings, "_measure_int8_product", lambda: int8)
    monkeypatch.setattr(ceilings, "_measure_kernel_product", lambda: kernel)
    assert ceilings.measure_rates.__wrapped__(1) == expected


@pytest.mark.parametrize(
    ("seconds", "best", "calls"),
    [
        ([0.2, 0.02, 0.03, 0.01, 0.04, 0.05, 0.06], 0.01, 6),  # the warm-up does not count; five do
        ([0.3, 0.1], 0.3, 1),  # a slow warm-up is the measurement
        ([0.24, 0.1, 0.2, 0.05], 0.1, 3),  # a quarter of a second is enough
        ([0.001, 0.3, 0.1], 0.3, 2),
    ],
)
def test_the_best_time_of_a_few(seconds: list[float], best: float, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up, then at most five, and no more than a quarter of a second."""
    left = iter(seconds)
    made = []

    def time_work(work: Any) -> float:
        made.append(work)
        return next(left)

    monkeypatch.setattr(ceilings, "_time", time_work)
    assert ceilings._find_best_time(lambda: None) == best
    assert len(made) == calls


def test_rates_are_operations_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x 256 x 2560 x 2560 operations in two seconds; 64 MiB of a small array, one pass of a large one."""
    import torch

    worked = []

    def best(work: Any) -> float:
        worked.append(work())
        return 2.0

    monkeypatch.setattr(ceilings, "_find_best_time", best)
    operations = 256 * 2560 * 2560
    assert ceilings._measure_float_product(torch.float32) == operations
    assert worked[-1].shape == (256, 2560)
    assert ceilings._measure_int8_product() == operations
    assert worked[-1].shape == (256, 2560)
    assert int(worked[-1][0, 0]) == 2560
    assert ceilings._measure_kernel_product() in (0.0, operations)
    assert ceilings._measure_reading.__wrapped__(1 << 24, 1) == (1 << 26) / 2
    assert [float(one) for one in worked[-1]] == [1 << 22] * 4
    assert ceilings._measure_reading.__wrapped__(1 << 27, 1) == (1 << 27) / 2
    assert len(worked[-1]) == 1


def test_threads_are_set_inside_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the work fails."""
    import torch

    now = [5]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    with set_threads(2):
        assert now[-1] == 2
    assert now == [5, 2, 5]
    with pytest.raises(KeyError), set_threads(3):
        raise KeyError
    assert now == [5, 2, 5, 3, 5]


def test_nothing_is_infinite() -> None:
    """A cost without a time of its own cannot show that the machine is faster."""
    unread = cost(metrics={"peak_bytes": Unavailable(reason="none"), "prefill_s": Unavailable(reason="none")})
    (found,) = add_floors([(unread, FLOAT)], lambda size, threads: device(read=1e3))
    assert floors(found)[1] == pytest.approx(5.8)
    assert math.isfinite(floors(found)[0])
