"""Lay out what runs cost: one table per scenario, so that costs in a table were measured in the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bitnet_bench.reports.charts import bar_chart, weight_chart
from bitnet_bench.reports.figures import (
    DASH,
    find_value,
    format_bytes,
    format_quantity,
    make_figure_cell,
    make_missing_cell,
)
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Facts, Group, Paragraph, Row, Section, Table
from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.machines import Machine, Neighbour
from bitnet_bench.runs.records import Cost, Measured, Modelled
from bitnet_bench.wording import Count, Text, get_text, join_texts, load_catalogue, plain_text
from bitnet_bench.wording.names import format_precision
from bitnet_bench.wording.sentences import translate_sentence

MAIN_METRICS = ("peak_bytes", "prefill_tokens_per_s", "decode_tokens_per_s", "energy_j")
DETAIL_METRICS = ("load_s", "prefill_s", "decode_s")
WEIGHT_KINDS = ("ternary", "embedding", "head", "linear", "norm")
CHARTED_METRICS = ("decode_tokens_per_s", "peak_bytes", "energy_j")
Column = tuple[NamedRun, Cost]


class CostScenario(NamedTuple):
    """What two costs must share to be compared."""

    prompt_tokens: int
    new_tokens: int
    batch: int
    threads: int
    machine: str | None
    """Id of the machine; None if costs of different machines are to be compared."""


def get_scenario(cost: Cost) -> CostScenario:
    """Return what two of `NamedRun.costs` must share to be compared."""
    machine = cost.machine.id if cost.machine else None
    return CostScenario(cost.prompt_tokens, cost.new_tokens, cost.batch, cost.threads, machine)


def format_scenario(cost: Cost) -> Text:
    """Return what was timed as words."""
    prompt, new, batch, threads, _ = get_scenario(cost)
    counts = {"prompt": Count(prompt), "new": Count(new), "batch": Count(batch), "threads": Count(threads)}
    return get_text("costs.scenario", **counts)


def format_machine(machine: Machine) -> str:
    """Return what a machine is, without the instructions of its processor if it has a GPU."""
    processor = machine.cpu.partition(" (")[0] if machine.gpus else machine.cpu
    return ", ".join((*machine.gpus, f"{processor} × {machine.cores}", format_bytes(machine.memory_bytes)))


def find_main_machine(runs: Iterable[NamedRun]) -> str | None:
    """Return the id of the machine that most of *runs* were measured on; None if it does not count, or for no costs."""
    counted = Counter(
        machine for run in runs for machine in dict.fromkeys(c.machine.id for c in run.costs if c.machine)
    )
    return max(counted, key=lambda machine: counted[machine], default=None)


def has_several_machines(runs: Iterable[NamedRun]) -> bool:
    """Return whether *runs* were measured on machines of different kinds."""
    return len({machine for run in runs for machine in run.machines}) > 1


def find_main_cost(run: NamedRun, wanted: CostScenario | None = None, machine: str | None = None) -> Cost | None:
    """Return the cost that represents *run*, in the *wanted* scenario or else in its first one on *machine*.

    It is the cost at the precision of its scores. A float run that was not measured at that precision is represented by
    its fastest float cost: ternary has to beat that one, not the slowest.
    """
    ternary = run.record.precision in TERNARY_PRECISIONS
    costs = [cost for cost in run.costs if (cost.precision in TERNARY_PRECISIONS) == ternary]
    if machine is not None:
        costs = [cost for cost in costs if cost.machine and cost.machine.id == machine]
    if wanted is None and costs:
        wanted = get_scenario(costs[0])
    costs = [cost for cost in costs if get_scenario(cost) == wanted]
    exact = [cost for cost in costs if cost.precision == run.record.precision]
    return exact[0] if exact else max(costs, key=_decode_speed, default=None)


def _decode_speed(cost: Cost) -> float:
    speed = cost.metrics.get("decode_tokens_per_s")
    return speed.median if isinstance(speed, Measured) else 0.0


def make_precision_note(run: NamedRun, cost: Cost) -> Text | None:
    """Return a note if costs and scores are of different precisions."""
    if cost.precision == run.record.precision:
        return None
    tried = {other.precision for other in run.record.costs if other.precision not in TERNARY_PRECISIONS}
    key = "costs.precision.fastest" if len(tried) > 1 else "costs.precision"
    precisions = {"scored": format_precision(run.record.precision), "measured": format_precision(cost.precision)}
    return get_text(key, run=run.key, **precisions)


def format_metric_name(name: str) -> Text:
    """Return the name of a metric; one that is not in the catalogue keeps its own."""
    return get_text(f"metric.{name}") if f"metric.{name}" in load_catalogue() else plain_text(name)


def cost_section(runs: Sequence[NamedRun]) -> Section:
    """Return the section of costs: charts, then a table for each scenario in order of appearance."""
    columns: dict[CostScenario, list[Column]] = {}
    for run in runs:
        for cost in run.costs:
            columns.setdefault(get_scenario(cost), []).append((run, cost))
    stored = [(run, run.record.checkpoint.weight_bytes) for run in runs if run.record.checkpoint.weight_bytes]
    blocks: list[Block] = [weight_chart(get_text("costs.weights"), stored)] if stored else []
    if not columns:
        blocks.append(Paragraph(get_text("costs.none")))
    several = has_several_machines(runs)
    if several:
        blocks.append(make_machine_warning(runs))
    for group in columns.values():
        blocks += _make_scenario_blocks(group, several)
    blocks += [
        Paragraph(get_text("costs.left-out", run=run.key, who=who, why=translate_sentence(why)), "hint")
        for run in runs
        for who, why in run.record.cost_left_out.items()
    ]
    return Section("costs", get_text("costs.title"), tuple(blocks))


def make_machine_warning(runs: Iterable[NamedRun]) -> Paragraph:
    """Return what became of costs of different machines: kept apart, or compared because the reader asked for it."""
    told = any(run.across_machines for run in runs)
    return Paragraph(get_text("costs.machines" if told else "costs.machines.apart"), "warning")


def _make_scenario_blocks(columns: Sequence[Column], names_machine: bool) -> Iterable[Block]:
    yield Paragraph(format_scenario(columns[0][1]))
    machine = columns[0][1].machine
    if machine and names_machine:
        yield Paragraph(get_text("costs.machine", machine=format_machine(machine)))
    nodes = {cost.machine.node for _, cost in columns if cost.machine and cost.machine.node}
    if len(nodes) > 1:
        yield Paragraph(get_text("costs.nodes", count=len(nodes)), "hint")
    named = [_name_column(column) for column in columns if column[1].is_disturbed]
    if named:
        yield Paragraph(get_text("costs.disturbed", runs=join_texts(named)), "warning")
    once = [_name_column(column) for column in columns if column[1].once_because]
    if once:
        yield Paragraph(get_text("costs.once", runs=join_texts(once)), "hint")
    yield from _draw_charts(columns)
    costs = [cost for _, cost in columns]
    yield _make_table(columns, _list_main_rows(costs))
    facts = (*_list_methods(costs), *_list_neighbours(columns))
    details: list[Block] = [_make_table(columns, _list_detail_rows(costs)), Facts(facts)]
    yield Group(get_text("costs.details"), tuple(details))


def _make_table(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    headings = (get_text("column.item"), *(run.label + plain_text(", ") + name_cost(cost) for run, cost in columns))
    labels = (headings[0], *map(_name_column, columns))
    return Table(headings, tuple(rows), keys=tuple(range(1, len(headings))), labels=labels)


def _name_column(column: Column) -> Text:
    """Return the letter of the run, with what computed."""
    run, cost = column
    return plain_text(f"{run.key} ") + name_cost(cost)


def name_cost(cost: Cost) -> Text:
    """Return backend and precision, once if they are called the same."""
    if cost.backend == cost.precision:
        return format_precision(cost.precision)
    return plain_text(f"{cost.backend} ") + format_precision(cost.precision)


def _draw_charts(columns: Sequence[Column]) -> Iterable[Block]:
    for name in CHARTED_METRICS:
        found = [
            (_name_column((run, cost)), value, isinstance(measurement, Modelled), measurement)
            for run, cost in columns
            if (measurement := cost.metrics.get(name)) and (value := find_value(measurement)) is not None
        ]
        if found:
            unit = next(m.unit for *_, m in found if m.kind != "unavailable")
            scale, shown = (2**20, "MiB") if unit == "B" else (1, unit)
            bars = [
                (label, value / scale, modelled, format_quantity(value, unit)) for label, value, modelled, _ in found
            ]
            yield bar_chart(format_metric_name(name), bars, shown)


def _list_main_rows(costs: Sequence[Cost]) -> Iterable[Row]:
    totals = [Cell(plain_text(format_bytes(sum(cost.weight_bytes.values()))), (), "strong") for cost in costs]
    yield _row(get_text("costs.stored") + plain_text(" · ") + get_text("costs.total"), totals)
    resident = [Cell(plain_text(format_bytes(cost.resident_weight_bytes))) for cost in costs]
    yield _row(get_text("costs.resident"), resident)
    for name in MAIN_METRICS:
        if any(name in cost.metrics for cost in costs):
            yield _row(format_metric_name(name), [make_figure_cell(cost.metrics.get(name)) for cost in costs])


def _list_detail_rows(costs: Sequence[Cost]) -> Iterable[Row]:
    for kind in _order_keys(WEIGHT_KINDS, [cost.weight_bytes for cost in costs]):
        kind_words = get_text(f"weights.{kind}") if kind in WEIGHT_KINDS else plain_text(kind)
        yield _row(get_text("costs.stored") + plain_text(" · ") + kind_words, [_bytes(cost, kind) for cost in costs])
    yield _row(get_text("costs.kv"), [Cell(plain_text(format_bytes(cost.kv_bytes))) for cost in costs])
    for name in _order_keys(DETAIL_METRICS, [cost.metrics for cost in costs]):
        if name in MAIN_METRICS:
            continue
        yield _row(format_metric_name(name), [make_figure_cell(cost.metrics.get(name)) for cost in costs])
    yield _row(get_text("costs.load"), [_load(cost) for cost in costs])


def _row(label: Text, cells: Iterable[Cell]) -> Row:
    return Row((Cell(label, (), "strong"), *cells))


def _order_keys(known: Sequence[str], found: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the *known* keys that occur, then the others in order of appearance."""
    there = dict.fromkeys(key for one in found for key in one)
    return [key for key in known if key in there] + [key for key in there if key not in known]


def _bytes(cost: Cost, kind: str) -> Cell:
    if not cost.weight_bytes.get(kind):
        return make_missing_cell(get_text("costs.not-stored"))
    return Cell(plain_text(format_bytes(cost.weight_bytes[kind])))


def _load(cost: Cost) -> Cell:
    shown = plain_text(f"{cost.foreign_load:.0%}")
    return Cell(shown, (get_text("costs.disturbed.short"),), "warning") if cost.is_disturbed else Cell(shown)


def _list_methods(costs: Sequence[Cost]) -> Iterable[tuple[Text, Cell]]:
    found = dict.fromkeys(
        (name, measurement.method)
        for cost in costs
        for name, measurement in cost.metrics.items()
        if isinstance(measurement, Measured)
    )
    for name, method in found:
        yield format_metric_name(name), Cell(translate_sentence(method))


def _list_neighbours(columns: Sequence[Column]) -> Iterable[tuple[Text, Cell]]:
    """Return what else computed on the machine of each cost, where that is recorded; the same is said once."""
    found: dict[str, list[Text]] = {}
    for column in columns:
        if said := _describe_neighbours(column[1]):
            found.setdefault(said, []).append(_name_column(column))
    for said, names in found.items():
        yield get_text("costs.neighbours"), Cell(plain_text(said), (join_texts(names),), "code")


def _describe_neighbours(cost: Cost) -> str:
    around = cost.neighbours
    if around is None:
        return ""
    loads = [DASH if load is None else f"{load:.2f}" for load in (around.load_before, around.load_after)]
    named = [*map(_name_neighbour, around.busy), *(f"GPU: {_name_neighbour(one)}" for one in around.on_gpu)]
    return ", ".join((f"load {loads[0]} → {loads[1]}", *named))


def _name_neighbour(one: Neighbour) -> str:
    held = f", {format_bytes(one.gpu_bytes)}" if one.gpu_bytes else ""
    return f"{one.name} ({one.pid}) {one.cores:.2f} cores{held}"
