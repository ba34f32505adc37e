"""Lay out what runs cost: one table per scenario, so that what stands side by side was measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitnet_bench.reports.charts import bar_chart, pareto_chart, weight_chart
from bitnet_bench.reports.figures import figure, missing, quantity, size, value_of
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.scores import primary_mean
from bitnet_bench.reports.sections import Block, Cell, Facts, Group, Paragraph, Row, Section, Table
from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.records import Cost, Measured, Modelled
from bitnet_bench.wording import Said, catalogue, plain, say

METRICS = ("load_s", "prefill_s", "prefill_tokens_per_s", "decode_s", "decode_tokens_per_s", "peak_bytes", "energy_j")
KINDS = ("ternary", "embedding", "head", "linear", "norm")
DRAWN = ("decode_tokens_per_s", "prefill_tokens_per_s", "peak_bytes", "energy_j")
AGAINST = (("peak_bytes", 2**20, "axis.memory"), ("decode_s", 1e-3, "axis.latency"), ("energy_j", 1, "axis.energy"))
"""What quality is set against: a metric, the size of the axis's unit, the axis."""
Scenario = tuple[int, int, int, int]
Column = tuple[NamedRun, Cost]


def scenario(cost: Cost) -> Scenario:
    """Return what two costs must share to be compared."""
    return cost.prompt_tokens, cost.new_tokens, cost.batch, cost.threads


def scenario_words(cost: Cost) -> Said:
    """Say what was timed."""
    prompt, new, batch, threads = scenario(cost)
    return say("costs.scenario", prompt=f"{prompt:,}", new=f"{new:,}", batch=f"{batch:,}", threads=f"{threads:,}")


def machine(run: NamedRun) -> tuple[str, str]:
    """Return what two runs must share for their timings to be compared."""
    here = run.record.environment
    return f"{here.cpu} {here.gpu or ''}", here.platform


def main_cost(run: NamedRun, wanted: Scenario | None = None) -> Cost | None:
    """Return the cost that stands for *run*, in the *wanted* scenario or else in its first one.

    That is the cost at the precision of its scores. A float run that was not measured at that precision is
    represented by its fastest float cost: ternary has to beat that one, not the slowest.
    """
    ternary = run.record.precision in TERNARY_PRECISIONS
    costs = [cost for cost in run.record.costs if (cost.precision in TERNARY_PRECISIONS) == ternary]
    if wanted is None and costs:
        wanted = scenario(costs[0])
    costs = [cost for cost in costs if scenario(cost) == wanted]
    exact = [cost for cost in costs if cost.precision == run.record.precision]
    return exact[0] if exact else max(costs, key=_decode_speed, default=None)


def _decode_speed(cost: Cost) -> float:
    speed = cost.metrics.get("decode_tokens_per_s")
    return speed.median if isinstance(speed, Measured) else 0.0


def precision_note(run: NamedRun, cost: Cost) -> Said | None:
    """Say that costs and scores are of different precisions, if they are."""
    if cost.precision == run.record.precision:
        return None
    tried = {other.precision for other in run.record.costs if other.precision not in TERNARY_PRECISIONS}
    key = "costs.precision.fastest" if len(tried) > 1 else "costs.precision"
    return say(key, run=run.key, scored=run.record.precision, measured=cost.precision)


def metric_words(name: str) -> Said:
    """Return the name of a metric; one that the catalogue does not know has its own."""
    return say(f"metric.{name}") if f"metric.{name}" in catalogue() else plain(name)


def cost_section(runs: Sequence[NamedRun]) -> Section:
    """Return the section of costs: what is drawn, then a table for each scenario in the order in which they come."""
    columns: dict[Scenario, list[Column]] = {}
    for run in runs:
        for cost in run.record.costs:
            columns.setdefault(scenario(cost), []).append((run, cost))
    stored = [(run, run.record.checkpoint.weight_bytes) for run in runs if run.record.checkpoint.weight_bytes]
    blocks: list[Block] = [weight_chart(say("costs.weights"), stored)] if stored else []
    if not columns:
        blocks.append(Paragraph(say("costs.none")))
    for group in columns.values():
        blocks += _scenario(group)
    blocks += [
        Paragraph(say("costs.left-out", run=run.key, who=who, why=why), "hint")
        for run in runs
        for who, why in run.record.cost_left_out.items()
    ]
    return Section("costs", say("costs.title"), tuple(blocks))


def _scenario(columns: Sequence[Column]) -> Iterable[Block]:
    yield Paragraph(scenario_words(columns[0][1]))
    if len({machine(run) for run, _ in columns}) > 1:
        yield Paragraph(say("costs.machines"), "warning")
    named = [f"{run.key} ({cost.precision})" for run, cost in columns if cost.disturbed]
    if named:
        yield Paragraph(say("costs.disturbed", runs=", ".join(named)), "warning")
    once = [f"{run.key} ({cost.precision})" for run, cost in columns if cost.once_because]
    if once:
        yield Paragraph(say("costs.once", runs=", ".join(once)), "hint")
    yield from _charts(columns)
    headings = tuple(plain(f"{run.key} · {run.name}, {cost.backend} {cost.precision}") for run, cost in columns)
    yield Table((say("column.item"), *headings), tuple(_rows([cost for _, cost in columns])))
    methods = tuple(_methods([cost for _, cost in columns]))
    if methods:
        yield Group(say("costs.methods"), (Facts(methods),))


def _charts(columns: Sequence[Column]) -> Iterable[Block]:
    for name in DRAWN:
        found = [
            (plain(f"{run.key} {cost.precision}"), value, isinstance(measurement, Modelled), measurement)
            for run, cost in columns
            if (measurement := cost.metrics.get(name)) and (value := value_of(measurement)) is not None
        ]
        if found:
            unit = next(m.unit for *_, m in found if m.kind != "unavailable")
            scale, shown = (2**20, "MiB") if unit == "B" else (1, unit)
            bars = [(label, value / scale, modelled, quantity(value, unit)) for label, value, modelled, _ in found]
            yield bar_chart(metric_words(name), bars, shown)


def _rows(costs: Sequence[Cost]) -> Iterable[Row]:
    for kind in _ordered(KINDS, [cost.weight_bytes for cost in costs]):
        kind_words = say(f"weights.{kind}") if kind in KINDS else plain(kind)
        yield _row(say("costs.stored") + plain(" · ") + kind_words, [_bytes(cost, kind) for cost in costs])
    totals = [Cell(plain(size(sum(cost.weight_bytes.values()))), (), "strong") for cost in costs]
    yield _row(say("costs.stored") + plain(" · ") + say("costs.total"), totals)
    yield _row(say("costs.resident"), [Cell(plain(size(cost.resident_weight_bytes))) for cost in costs])
    yield _row(say("costs.kv"), [Cell(plain(size(cost.kv_bytes))) for cost in costs])
    for name in _ordered(METRICS, [cost.metrics for cost in costs]):
        yield _row(metric_words(name), [figure(cost.metrics.get(name)) for cost in costs])
    yield _row(say("costs.load"), [_load(cost) for cost in costs])


def _row(label: Said, cells: Iterable[Cell]) -> Row:
    return Row((Cell(label, (), "strong"), *cells))


def _ordered(known: Sequence[str], found: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the *known* keys that occur, then the others in the order in which they come."""
    there = dict.fromkeys(key for one in found for key in one)
    return [key for key in known if key in there] + [key for key in there if key not in known]


def _bytes(cost: Cost, kind: str) -> Cell:
    if not cost.weight_bytes.get(kind):
        return missing(say("costs.not-stored"))
    return Cell(plain(size(cost.weight_bytes[kind])))


def _load(cost: Cost) -> Cell:
    shown = plain(f"{cost.foreign_load:.0%}")
    return Cell(shown, (say("costs.disturbed.short"),), "warning") if cost.disturbed else Cell(shown)


def _methods(costs: Sequence[Cost]) -> Iterable[tuple[Said, Cell]]:
    found = dict.fromkeys(
        (name, measurement.method)
        for cost in costs
        for name, measurement in cost.metrics.items()
        if isinstance(measurement, Measured)
    )
    for name, method in found:
        yield metric_words(name), Cell(plain(method))


def pareto_section(runs: Sequence[NamedRun]) -> Section:
    """Return quality against memory, latency and energy; where fewer than two runs have both, the reason."""
    blocks: list[Block] = []
    lacking: list[Said] = []
    for name, unit, axis in AGAINST:
        found = [
            (run, value / unit, mean.value, isinstance(cost.metrics[name], Modelled))
            for run in runs
            if (cost := main_cost(run))
            and (mean := primary_mean(run))
            and (value := value_of(cost.metrics.get(name))) is not None
        ]
        if len(found) > 1:
            blocks.append(pareto_chart(say(f"pareto.{name}"), axis, found, ",.4~g"))
        else:
            lacking.append(metric_words(name))
    if blocks:
        blocks.append(Paragraph(say("pareto.hint"), "hint"))
    blocks += [Paragraph(say("pareto.lacking", metric=name), "hint") for name in lacking]
    return Section("pareto", say("pareto.title"), tuple(blocks))
