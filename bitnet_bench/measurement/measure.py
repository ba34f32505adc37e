"""Measure candidates and keep their costs in the records of runs."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench import plugins
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.machine.environment import environment
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.machine.runtime_choice import AUTO, choose_backend
from bitnet_bench.measurement.candidates import Contender, Place
from bitnet_bench.protocols import NO_OPTIONS, CheckedBackend, RuntimeOptions, Steps, quiet
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.folder import RECORD, load_record, load_record_to_extend, locked, save_record
from bitnet_bench.runs.jobs import MeasureJob
from bitnet_bench.runs.records import Checkpoint, RunRecord

if TYPE_CHECKING:
    from bitnet_bench.measurement.contest import Contestant, Outcome
    from bitnet_bench.measurement.scenario import Scenario


def measure(
    contestants: Sequence[Contender | tuple[str, Precision, Path | None]],
    scenario: Scenario,
    *,
    backend: str = AUTO,
    meter: str = MeasureJob.default("meter"),
    model_energy: bool = MeasureJob.default("model_energy"),
    options: RuntimeOptions = NO_OPTIONS,
    steps: Steps = quiet,
    began_s: float | None = None,
) -> list[RunRecord]:
    """Measure *contestants* in alternating rounds within the scenario's budget; return a record for each checkpoint.

    *backend* is that of contestants that name none. One that cannot be measured stands in its record's `cost_errors`,
    and one for which the budget has no time in `cost_left_out`. *model_energy*: where no counter is, work joules out
    of the operations, and call them modelled. Where a run folder is given its record gains the costs; it must be of
    the same checkpoint. The budget counts from *began_s* on the monotonic clock, else from this call.
    """
    from bitnet_bench.measurement.budget import Budget, Countdown
    from bitnet_bench.measurement.contest import measure as run_rounds

    began_s = time.monotonic() if began_s is None else began_s

    entered = [Contender(*given) for given in contestants]
    meters = plugins.names("meters")
    meter = _meter() if meter == AUTO else meter
    if meter not in meters:
        plugins.load("meters", meter)  # says what there is
    opened = {one.model: one.opened for one in entered if one.opened}
    opened |= {one.model: open_checkpoint(one.model) for one in entered if one.model not in opened}
    ready = [_contestant(opened[one.model], one, backend, options) for one in entered]
    _refuse_too_long(ready, scenario)
    with _held({one.out for one in entered if one.out is not None}):
        records = _records_to_extend(entered, ready)
        with steps("measure (s)") as progress:
            countdown = Countdown(Budget(scenario.budget_s, time.monotonic, began_s), progress)
            outcomes = run_rounds(ready, scenario, meters[meter].value, countdown)
            found = _recorded(records, entered, ready, outcomes, model_energy)
            countdown.finish()
    return found


@contextmanager
def _held(folders: Collection[Path]) -> Iterator[None]:
    """Hold run folders from before their records are read until they are written: nobody else writes meanwhile."""
    with ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):
            stack.enter_context(locked(folder))
        yield


def _meter() -> str:
    return "rapl" if find_gpu() is None else "nvml"


def _contestant(checkpoint: Checkpoint, one: Contender, backend: str, options: RuntimeOptions) -> Contestant:
    from bitnet_bench.measurement.contest import Contestant

    name, reason = choose_backend(one.backend or backend, checkpoint, one.precision)
    loaded, path = plugins.load("backends", name), plugins.names("backends")[name].value
    return Contestant(checkpoint, one.precision, name, path, options, isinstance(loaded, CheckedBackend), reason)


def _records_to_extend(entered: Sequence[Contender], ready: Sequence[Contestant]) -> dict[Place, RunRecord]:
    """Return the record of every checkpoint and run folder without costs; BenchError if one is of another checkpoint.

    It is made before anything is measured, so that no measurement is lost to a wrong folder.
    """
    records: dict[Place, RunRecord] = {}
    for one, contestant in zip(entered, ready, strict=True):
        if one.place not in records:
            records[one.place] = _record_to_extend(one.out, contestant)
    return records


def _recorded(
    records: dict[Place, RunRecord],
    entered: Sequence[Contender],
    ready: Sequence[Contestant],
    outcomes: Sequence[Outcome],
    model_energy: bool,
) -> list[RunRecord]:
    """Return *records* with costs, failures and what was left out; those with a run folder are saved."""
    from bitnet_bench.measurement.floors import add_floors, with_modelled_energy

    measured = [(cost, c.checkpoint) for c, outcome in zip(ready, outcomes, strict=True) for cost in outcome.costs]
    floored = iter(add_floors(measured))
    for one, contestant, outcome in zip(entered, ready, outcomes, strict=True):
        record, who = records[one.place], f"{contestant.backend} {contestant.precision}"
        reason = {"backend_reason": contestant.backend_reason}
        costs = [next(floored).model_copy(update=reason) for _ in outcome.costs]
        if model_energy:
            costs = [with_modelled_energy(cost, contestant.checkpoint) for cost in costs]
        failed = {who: str(outcome.error)} if outcome.error else {}
        left_out = {who: outcome.left_out} if outcome.left_out else {}
        records[one.place] = record.model_copy(
            update={
                "costs": (*record.costs, *costs),
                "cost_errors": record.cost_errors | failed,
                "cost_left_out": record.cost_left_out | left_out,
            }
        )
    found = [_keep_earlier_costs(record, place) for place, record in records.items()]
    for place, record in zip(records, found, strict=True):
        if place.out is not None:
            save_record(place.out, record)
    return found


def _keep_earlier_costs(record: RunRecord, place: Place) -> RunRecord:
    """Return *record* with the costs that its folder holds already, where nothing was measured this time."""
    if record.costs or place.out is None or not (place.out / RECORD).is_file():
        return record
    return record.model_copy(update={"costs": load_record(place.out).costs})


def _refuse_too_long(contestants: Sequence[Contestant], scenario: Scenario) -> None:
    from bitnet_bench.checkpoints.config import read_config

    for contestant in contestants:
        checkpoint = contestant.checkpoint
        context = read_config(Path(checkpoint.path)).get("max_position_embeddings", 2**31)
        if scenario.prompt_tokens + scenario.new_tokens > context:
            raise UsageError(
                f"{scenario.prompt_tokens} + {scenario.new_tokens} tokens exceed the context of "
                f"{checkpoint.source}, {context}.",
                "Lower `prompt_tokens` or `new_tokens`.",
            )


def _record_to_extend(out: Path | None, contestant: Contestant) -> RunRecord:
    checkpoint = contestant.checkpoint
    if out is not None and (out / RECORD).is_file():
        record = load_record_to_extend(out)
        if record.checkpoint.sha256 != checkpoint.sha256:
            raise BenchError(f"{out} holds a run of another checkpoint.", "Give another `out`, or delete the folder.")
        return record.model_copy(update={"costs": (), "cost_errors": {}, "cost_left_out": {}})
    return RunRecord(
        name=out.name if out else checkpoint.source,
        checkpoint=checkpoint,
        backend=contestant.backend,
        backend_reason=contestant.backend_reason,
        precision=contestant.precision,
        environment=environment(),
    )
