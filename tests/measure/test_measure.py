"""Measuring the embedded pair: contestants alternate in processes of their own, and who fails says why."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from bitnet_bench import api, console
from bitnet_bench.measure.run import Scenario
from bitnet_bench.records import Cost, Measured, Measurement, Modelled

SHORT = Scenario(prompt_tokens=16, new_tokens=4, rounds=2, threads=1)


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
    assert [note.split(",")[0] for note in told[3:]] == ["round 1"] * 3 + ["round 2"] * 3
    for cost in (ternary, fp16, bf16):
        assert len(cost.metrics["prefill_s"].readings) == 2  # type: ignore[union-attr]
        assert len(cost.metrics["token_s"].readings) == 2 * 3  # type: ignore[union-attr]
        assert sum(cost.resident_by_kind.values()) == cost.resident_weight_bytes
        assert isinstance(cost.metrics["decode_floor_s"], Modelled)
        assert all(m.median > 0 for m in cost.metrics.values() if isinstance(m, Measured))
        assert cost.kv_bytes == 2 * 4 * 2 * 64 * 19 * (4 if cost.precision == "ternary" else 2)
    assert sum(ternary.weight_bytes.values()) < 0.5 * sum(fp16.weight_bytes.values())
    assert set(ternary.weight_bytes) == {"ternary", "embedding", "norm"}


def test_one_that_cannot_run_leaves_the_others() -> None:
    """A precision that the checkpoint has not stands in the record with the reason; the other one is measured."""
    (record,) = api.measure([("demo", "bf16", None), ("demo", "ternary", None)], SHORT)
    assert [cost.precision for cost in record.costs] == ["ternary"]
    assert "packed ternary" in record.cost_errors["hf bf16"]
    assert "status 1" in record.cost_errors["hf bf16"]
    assert any("was not measured" in note for note in console.notes([record]))
