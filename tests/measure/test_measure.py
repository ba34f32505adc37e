"""Measuring: what is missing says why, counters wrap, contestants alternate in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from bitnet_bench import api
from bitnet_bench.errors import BenchError
from bitnet_bench.measure.energy import RaplMeter
from bitnet_bench.measure.run import Scenario
from bitnet_bench.records import Cost, Measured, Measurement, Modelled, Unavailable

SHORT = Scenario(prompt_tokens=16, new_tokens=4, rounds=2, threads=1)


def _domain(root: Path, name: str, energy: int, span: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return folder


def test_rapl_sums_packages_and_unwraps_a_counter(tmp_path: Path) -> None:
    """Two packages add up, one of them passing the end of its range; core domains inside them are not counted twice."""
    first, second = _domain(tmp_path, "intel-rapl:0", 900_000), _domain(tmp_path, "intel-rapl:1", 100_000)
    _domain(tmp_path, "intel-rapl:0:0", 5)
    meter = RaplMeter(tmp_path)
    meter.start()
    (first / "energy_uj").write_text("100000\n")
    (second / "energy_uj").write_text("400000\n")
    energy = meter.stop()
    assert isinstance(energy, Measured)
    assert energy.readings == pytest.approx((0.5,))


def test_missing_energy_is_not_zero(tmp_path: Path) -> None:
    """A machine without a counter says so; a meter that was never started too."""
    meter = RaplMeter(tmp_path)
    meter.start()
    assert isinstance(meter.stop(), Unavailable)
    _domain(tmp_path, "intel-rapl:0", 1)
    assert isinstance(RaplMeter(tmp_path).stop(), Unavailable)


def test_a_modelled_number_is_never_read_as_measured() -> None:
    """The kind is part of the value: without it, or with the other's fields, it is refused."""
    adapter = TypeAdapter[Measurement](Measurement)
    modelled = Modelled(unit="J", model="operations x pJ", value=1.0)
    assert isinstance(adapter.validate_python(modelled.model_dump()), Modelled)
    with pytest.raises(ValidationError):
        adapter.validate_python({**modelled.model_dump(), "kind": "measured"})
    with pytest.raises(ValidationError):
        Measured(unit="J", method="none", readings=())


def _cost_of(records: list[object]) -> list[Cost]:
    return [cost for record in records for cost in record.costs]  # type: ignore[attr-defined]


def test_the_pair_is_measured_in_alternating_rounds() -> None:
    """Every contestant has as many readings as rounds; ternary weights are smaller, on disk and in memory."""
    told: list[str] = []

    from collections.abc import Iterator
    from contextlib import contextmanager

    @contextmanager
    def steps(title: str) -> Iterator[object]:
        yield lambda done, total, note="": told.append(note)

    contenders = api.contenders(["demo", "demo-fp16"], [], None)
    ternary, fp16, bf16 = _cost_of(list(api.measure(contenders, SHORT, steps=steps)))  # type: ignore[arg-type]
    assert [c.precision for c in (ternary, fp16, bf16)] == ["ternary", "fp16", "bf16"]
    assert told[3:] == ["round 1"] * 3 + ["round 2"] * 3
    for cost in (ternary, fp16, bf16):
        assert len(cost.metrics["prefill_s"].readings) == 2  # type: ignore[union-attr]
        assert all(m.median > 0 for m in cost.metrics.values() if isinstance(m, Measured))
        assert cost.kv_bytes == 2 * 4 * 2 * 64 * 19 * (4 if cost.precision == "ternary" else 2)
    assert sum(ternary.weight_bytes.values()) < 0.5 * sum(fp16.weight_bytes.values())
    assert set(ternary.weight_bytes) == {"ternary", "embedding", "norm"}


def test_a_worker_that_dies_says_of_what() -> None:
    """A precision that the checkpoint has not fails with the reason and the exit status, not with a hang."""
    with pytest.raises(BenchError, match="packed ternary") as error:
        api.measure([("demo", "bf16", None)], SHORT)
    assert "status 1" in error.value.hint
