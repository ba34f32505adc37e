"""Lay out quality against cost: a point for every backend and precision that was measured, a chart for every cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bitnet_bench.reports.charts import QualityPoint, pareto_chart
from bitnet_bench.reports.cost_section import (
    format_metric_name,
    format_scenario,
    get_scenario,
    has_several_machines,
    make_machine_warning,
    name_cost,
)
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.scores import PrimaryMean, compute_primary_mean
from bitnet_bench.reports.sections import Block, Chart, Group, Paragraph, Section, Switch
from bitnet_bench.runs.records import Cost, Measured, Measurement, Modelled
from bitnet_bench.wording import Text, get_text

PARETO_AXES = (("peak_bytes", 2**20, "axis.memory"), ("decode_s", 1e-3, "axis.latency"), ("energy_j", 1, "axis.energy"))
"""Costs that quality is plotted against: a metric, the size of the axis's unit, the axis."""
Candidate = tuple[NamedRun, PrimaryMean, Cost]


def pareto_section(runs: Sequence[NamedRun]) -> Section:
    """Return quality against memory, latency and energy, with the reason for each that fewer than two points have."""
    candidates = [(run, mean, cost) for run in runs if (mean := compute_primary_mean(run)) for cost in run.costs]
    counted = Counter(get_scenario(cost) for _, _, cost in candidates)
    drawn = [one for one in candidates if get_scenario(one[2]) == counted.most_common(1)[0][0]]
    charts: list[tuple[Text, Chart]] = []
    lacking: list[Text] = []
    for name, unit, axis in PARETO_AXES:
        points = list(_make_points(drawn, name, unit))
        if len(points) > 1:
            charts.append((get_text(f"pareto.{name}"), pareto_chart(get_text(f"pareto.{name}"), axis, points)))
        else:
            lacking.append(format_metric_name(name))
    blocks: list[Block] = [Switch(get_text("pareto.switch"), tuple(charts)), *_explain(drawn, runs)] if charts else []
    if len(counted) > 1 and charts:
        blocks.append(Paragraph(get_text("pareto.scenario", scenario=format_scenario(drawn[0][2])), "hint"))
    blocks += [Paragraph(get_text("pareto.lacking", metric=name), "hint") for name in lacking]
    return Section("pareto", get_text("pareto.title"), tuple(blocks))


def _make_points(candidates: Iterable[Candidate], name: str, unit: float) -> Iterable[QualityPoint]:
    for run, mean, cost in candidates:
        limits = _find_limits(cost.metrics.get(name))
        if limits is not None:
            yield QualityPoint(
                run,
                name_cost(cost),
                cost=(limits[0] / unit, limits[1] / unit, limits[2] / unit),
                score=mean.value,
                interval=mean.interval,
                is_modelled=isinstance(cost.metrics[name], Modelled),
                is_scored=cost.precision == run.record.precision,
            )


def _find_limits(found: Measurement | None) -> tuple[float, float, float] | None:
    """Return the least reading, the median and the greatest; None if there is no number."""
    if isinstance(found, Measured):
        return min(found.readings), found.median, max(found.readings)
    return (found.value,) * 3 if isinstance(found, Modelled) else None


def _explain(drawn: Sequence[Candidate], runs: Sequence[NamedRun]) -> Iterable[Block]:
    hints = ["pareto.hint"]
    if any(cost.precision != run.record.precision for run, _, cost in drawn):
        hints.append("pareto.other-precision")
    yield Group(get_text("how-to-read"), tuple(Paragraph(get_text(key), "hint") for key in hints))
    if has_several_machines(runs):
        yield make_machine_warning(runs)
