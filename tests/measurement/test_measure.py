"""Measuring the embedded pair: contestants alternate in processes of their own, and who fails says why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.cli.output import costs_table, list_notes
from bitnet_bench.cli.tables import show
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.measurement import candidates
from bitnet_bench.measurement.candidates import add_twin
from bitnet_bench.measurement.contest import Scenario
from bitnet_bench.measurement.measure import measure
from bitnet_bench.protocols import Progress
from bitnet_bench.runs.folder import load_record, save_record
from bitnet_bench.runs.records import Cost, Measured, Measurement, Modelled, RunRecord

SHORT = Scenario(prompt_tokens=16, new_tokens=4, rounds=2, threads=1, budget_s=600)


def make_run(folder: Path, model: str) -> Path:
    """Write the record of a run of *model*, without scores."""
    checkpoint = open_checkpoint(model)
    record = RunRecord(
        name=folder.name, checkpoint=checkpoint, backend="hf", precision="ternary", environment=read_environment()
    )
    save_record(folder, record)
    return folder


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


def test_the_pair_is_measured_in_alternating_rounds_and_one_that_cannot_run_leaves_the_others() -> None:
    """Every contestant has as many readings as rounds; ternary weights are smaller, on disk and in memory.

    A precision that a checkpoint has not stands in its record with the reason.
    """
    told: list[str] = []

    @contextmanager
    def steps(title: str) -> Iterator[Progress]:
        yield lambda done, total, note="": told.append(note)

    contenders = candidates.make_candidates(["demo", "demo-fp16"], [], None)
    records = list(measure([("demo", "bf16", None), *contenders], SHORT, backend="hf", steps=steps))  # type: ignore[list-item,arg-type]
    ternary, fp16, bf16 = _cost_of(records)  # type: ignore[arg-type]
    assert [c.precision for c in (ternary, fp16, bf16)] == ["ternary", "fp16", "bf16"]
    rounds = [note for note in dict.fromkeys(told) if note.startswith("round")]
    names = ("demo hf ternary", "demo-fp16 hf fp16", "demo-fp16 hf bf16")
    assert rounds == [f"round {number}, {name}" for number in (1, 2) for name in names]
    for cost in (ternary, fp16, bf16):
        assert len(cost.metrics["prefill_s"].readings) == 2  # type: ignore[union-attr]
        assert len(cost.metrics["token_s"].readings) == 2 * 3  # type: ignore[union-attr]
        assert sum(cost.resident_by_kind.values()) == cost.resident_weight_bytes
        assert isinstance(cost.metrics.get("decode_floor_s"), Modelled) == (find_gpu() is None)
        assert all(m.median > 0 for m in cost.metrics.values() if isinstance(m, Measured))
        wide = cost.precision == "ternary" and find_gpu() is None  # beside codes a GPU holds bfloat16
        assert cost.kv_bytes == 2 * 4 * 2 * 64 * 19 * (4 if wide else 2)
    assert sum(ternary.weight_bytes.values()) < 0.5 * sum(fp16.weight_bytes.values())
    assert set(ternary.weight_bytes) == {"ternary", "embedding", "norm"}
    assert [record.cost_errors.keys() for record in records] == [{"hf bf16"}, set()]
    assert "packed ternary" in records[0].cost_errors["hf bf16"]
    assert "status 1" in records[0].cost_errors["hf bf16"]
    assert any("was not measured" in note for note in list_notes(records))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a run and of its twin, measured once: the twin has no ternary weights to be measured."""
    folder = tmp_path_factory.mktemp("measured")
    make_run(folder / "mine-fp16", "demo-fp16")
    named = add_twin([str(make_run(folder / "mine", "demo"))])
    measure(candidates.make_candidates(named, ["ternary"], None), SHORT.model_copy(update={"rounds": 1}))
    return folder


def test_both_records_are_written_though_one_cannot_run(measured: Path) -> None:
    """A run folder and its twin's: the costs of the one, the reason of the other, and what was there before stays."""
    ours, failed = load_record(measured / "mine"), load_record(measured / "mine-fp16")
    assert [cost.precision for cost in ours.costs] == ["ternary"]
    assert not ours.cost_errors
    assert not failed.costs
    assert "plain float weights" in failed.cost_errors["hf ternary"]
    assert failed.checkpoint.source == "demo-fp16"


def test_a_wrong_run_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """Minutes of measuring would be lost: nothing is loaded, and no progress is shown."""
    run = make_run(tmp_path / "mine", "demo-fp16")
    told: list[str] = []

    @contextmanager
    def steps(title: str) -> Iterator[Progress]:
        told.append(title)
        yield lambda done, total, note="": None

    with pytest.raises(BenchError, match="another checkpoint"):
        measure([("demo", "ternary", run)], SHORT, steps=steps)
    assert not told


def test_a_budget_that_is_too_short_leaves_out_and_says_so(tmp_path: Path) -> None:
    """Half a second: nobody can be loaded; that is no error of theirs, but nothing was measured."""
    run = make_run(tmp_path / "mine", "demo")
    (record,) = measure([("demo", "ternary", run)], SHORT.model_copy(update={"budget_s": 0.5}), backend="hf")
    assert not record.costs
    assert not record.cost_errors
    assert "No time was left for it" in record.cost_left_out["hf ternary"]
    assert load_record(run).cost_left_out == record.cost_left_out
    assert any("was left out by the budget" in note for note in list_notes([record]))
    assert len(costs_table([record]).rows) == 1


def test_a_measurement_of_nothing_keeps_the_costs_that_were_there(measured: Path, tmp_path: Path) -> None:
    """A budget that leaves everything out does not delete what an earlier run measured."""
    run = shutil.copytree(measured / "mine", tmp_path / "mine")
    (before,) = load_record(run).costs
    contender = ("demo", "ternary", run)
    (record,) = measure([contender], SHORT.model_copy(update={"budget_s": 0.5}), backend=before.backend)
    assert record.costs == (before,)
    left_out = f"{before.backend} ternary"
    assert record.cost_left_out == {left_out: "No time was left for it in the budget of 0.5 s."}
    assert load_record(run) == record


def test_a_single_round_has_no_interval(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table says that it is one round, and the note why the budget had no time for more."""
    record = load_record(measured / "mine")
    (cost,) = record.costs
    assert cost.once_because is None, "one round was asked for"
    once = record.model_copy(update={"costs": (cost.model_copy(update={"once_because": "3 rounds exceed it."}),)})
    show(costs_table([once]))
    shown = capsys.readouterr().out
    assert "(1 round)" in shown
    assert "±0 %" not in shown
    assert f"mine {cost.backend} ternary ran once, without an interval. 3 rounds exceed it." in list_notes([once])
