"""Measure candidates and keep their costs in the records of runs."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench import plugins
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import is_file
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.machine.runtime_choice import AUTO, choose_backend
from bitnet_bench.measurement.candidates import Candidate, CostTarget
from bitnet_bench.measurement.exclusive import own_machine
from bitnet_bench.protocols import NO_OPTIONS, CheckedBackend, ProgressDisplay, RuntimeOptions, no_display
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.folder import RECORD_FILE, load_record, load_record_to_extend, lock_folder, save_record
from bitnet_bench.runs.jobs import MeasureJob
from bitnet_bench.runs.records import Checkpoint, RunRecord

if TYPE_CHECKING:
    from bitnet_bench.measurement.contest import CandidateOutcome, PreparedCandidate
    from bitnet_bench.measurement.scenario import Scenario


def measure(
    contestants: Sequence[Candidate | tuple[str, Precision, Path | None]],
    scenario: Scenario,
    *,
    backend: str = AUTO,
    meter: str = MeasureJob.default("meter"),
    model_energy: bool = MeasureJob.default("model_energy"),
    options: RuntimeOptions = NO_OPTIONS,
    steps: ProgressDisplay = no_display,
    began_s: float | None = None,
) -> list[RunRecord]:
    """Measure the candidates in alternating rounds within the scenario's budget; return a record for each checkpoint.

    *backend* is used for those of *contestants* that name none. One that cannot be measured is listed in its record's
    `cost_errors`, and one that the budget has no time for in `cost_left_out`. With *model_energy*, joules are computed
    from the operations where no counter exists, and marked as modelled. If a run folder is given, its record gains the
    costs; it must be of the same checkpoint. The budget counts from *began_s* on the monotonic clock, else from this
    call. While another process measures on this machine, this one waits, which is not counted.
    """
    from bitnet_bench.measurement.budget import Budget, Countdown
    from bitnet_bench.measurement.contest import measure_in_rounds as run_rounds
    from bitnet_bench.measurement.neighbours import NeighbourWatch

    began_s = time.monotonic() if began_s is None else began_s

    entered = [Candidate(*given) for given in contestants]
    meters = plugins.list_plugins("meters")
    meter = _choose_meter() if meter == AUTO else meter
    if meter not in meters:
        plugins.load_plugin("meters", meter)  # raises an error that lists the meters
    opened = {one.model: one.opened for one in entered if one.opened}
    opened |= {one.model: open_checkpoint(one.model) for one in entered if one.model not in opened}
    ready = [_prepare_candidate(opened[one.model], one, backend, options) for one in entered]
    _check_context_length(ready, scenario)
    folders = {one.out for one in entered if one.out is not None}
    with own_machine() as waited_s, _held(folders):
        records = _prepare_records(entered, ready)
        with steps("measure (s)") as progress:
            countdown = Countdown(Budget(scenario.budget_s, time.monotonic, began_s + waited_s), progress)
            watch = NeighbourWatch()
            watch.look()
            outcomes = run_rounds(ready, scenario, meters[meter].value, countdown, watch)
            watch.look()
            found = _record_outcomes(records, entered, ready, outcomes, model_energy, watch.describe_place(waited_s))
            countdown.finish()
    return found


@contextmanager
def _held(folders: Collection[Path]) -> Iterator[None]:
    """Lock run folders from before their records are read until they are written, so that no other process writes."""
    with ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):
            stack.enter_context(lock_folder(folder))
        yield


def _choose_meter() -> str:
    return "rapl" if find_gpu() is None else "nvml"


def _prepare_candidate(
    checkpoint: Checkpoint, one: Candidate, backend: str, options: RuntimeOptions
) -> PreparedCandidate:
    from bitnet_bench.measurement.contest import PreparedCandidate

    name, reason = choose_backend(one.backend or backend, checkpoint, one.precision)
    loaded, path = plugins.load_plugin("backends", name), plugins.list_plugins("backends")[name].value
    return PreparedCandidate(checkpoint, one.precision, name, path, options, isinstance(loaded, CheckedBackend), reason)


def _prepare_records(entered: Sequence[Candidate], ready: Sequence[PreparedCandidate]) -> dict[CostTarget, RunRecord]:
    """Return the record of every checkpoint and run folder without costs; BenchError if one is of another checkpoint.

    Records are made before anything is measured, so that no measurement is lost because of a wrong folder.
    """
    records: dict[CostTarget, RunRecord] = {}
    for one, contestant in zip(entered, ready, strict=True):
        if one.cost_target not in records:
            records[one.cost_target] = _prepare_record(one.out, contestant)
    return records


def _record_outcomes(
    records: dict[CostTarget, RunRecord],
    entered: Sequence[Candidate],
    ready: Sequence[PreparedCandidate],
    outcomes: Sequence[CandidateOutcome],
    model_energy: bool,
    where: Mapping[str, Any],
) -> list[RunRecord]:
    """Return *records* with costs, failures and what was left out; save those that have a run folder.

    *where* are the fields of a cost that say on which machine it was measured, beside what.
    """
    from bitnet_bench.measurement.floors import add_floors, with_modelled_energy

    measured = [(cost, c.checkpoint) for c, outcome in zip(ready, outcomes, strict=True) for cost in outcome.costs]
    floored = iter(add_floors(measured))
    for one, contestant, outcome in zip(entered, ready, outcomes, strict=True):
        record, who = records[one.cost_target], f"{contestant.backend} {contestant.precision}"
        common = {"backend_reason": contestant.backend_reason, **where}
        costs = [next(floored).model_copy(update=common) for _ in outcome.costs]
        if model_energy:
            costs = [with_modelled_energy(cost, contestant.checkpoint) for cost in costs]
        failed = {who: str(outcome.error)} if outcome.error else {}
        left_out = {who: outcome.left_out} if outcome.left_out else {}
        records[one.cost_target] = record.model_copy(
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


def _keep_earlier_costs(record: RunRecord, place: CostTarget) -> RunRecord:
    """Return *record* with the costs that its folder already holds, if nothing was measured this time."""
    if record.costs or place.out is None or not is_file(place.out / RECORD_FILE):
        return record
    return record.model_copy(update={"costs": load_record(place.out).costs})


def _check_context_length(contestants: Sequence[PreparedCandidate], scenario: Scenario) -> None:
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


def _prepare_record(out: Path | None, contestant: PreparedCandidate) -> RunRecord:
    checkpoint = contestant.checkpoint
    if out is not None and is_file(out / RECORD_FILE):
        record = load_record_to_extend(out)
        if record.checkpoint.weights_id != checkpoint.weights_id:
            raise BenchError(f"{out} holds a run of another checkpoint.", "Give another `out`, or delete the folder.")
        return record.model_copy(update={"costs": (), "cost_errors": {}, "cost_left_out": {}})
    return RunRecord(
        name=out.name if out else checkpoint.source,
        checkpoint=checkpoint,
        backend=contestant.backend,
        backend_reason=contestant.backend_reason,
        precision=contestant.precision,
        environment=read_environment(),
    )
