"""Draw quality against memory and speed of many runs: a picture for each machine and scenario, with twins joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_bench.comparison.board_values import BoardMean, BoardScore
from bitnet_bench.reports.board_view import BoardView, name_mean, shorten_machine
from bitnet_bench.reports.charts import make_chart, pareto_front
from bitnet_bench.reports.cost_section import (
    CostScenario,
    find_main_cost,
    format_scenario,
    get_scenario,
    make_machine_warning,
)
from bitnet_bench.reports.figures import format_number
from bitnet_bench.reports.named_runs import COLOURS
from bitnet_bench.reports.sections import Block, Chart, Group, Paragraph, Section, Spec, Switch
from bitnet_bench.reports.visible import make_visible
from bitnet_bench.runs.records import Cost, Measured
from bitnet_bench.wording import Text, get_text, join_texts, plain_text

AXES = (("peak_bytes", 2**20, "axis.memory", False), ("decode_tokens_per_s", 1, "axis.speed", True))
"""Costs that quality is plotted against: a metric, the size of the axis's unit, the axis, whether more is better."""
MAX_PLACES = 3
"""Number of combinations of machine and scenario that are drawn."""
MAX_NAMED_POINTS = 14
"""Number of points up to which each has its name beside it, and not its letter alone."""
NAMES_WIDTH = 500
"""Width of a picture in pixels below which points have their letters alone."""
MAX_NAME_CHARS = 24
LOG_AXIS_RATIO = 20.0
PlacedCosts = tuple[CostScenario, dict[str, Cost]]
"""Costs that stand in one picture, by run, with the machine and the scenario that they share."""


@dataclass(frozen=True)
class BoardPoint:
    """A run in a picture."""

    key: str
    name: str
    is_ternary: bool
    cost: tuple[float, float, float]
    """Least reading, median, greatest reading."""
    score: BoardScore


def board_cost_section(view: BoardView) -> Section | None:
    """Return quality against memory and speed; None if fewer than two runs on a machine have both."""
    mean = view.main_mean
    if mean is None:
        return None
    scores = {score.run: score for score in mean.scores if not score.differs}
    places = _group_costs(view, scores)
    charts = [
        chart for place, costs in places[:MAX_PLACES] for chart in _draw(view, mean, scores, place, costs, places)
    ]
    if not charts:
        return None
    shown = name_mean(mean)
    blocks: list[Block] = [Switch(get_text("pareto.switch"), tuple(charts))]
    blocks += [Paragraph(format_scenario(next(iter(places[0][1].values()))), "hint")]
    if len(places) > 1:
        blocks.append(Paragraph(get_text("board.machines"), "warning"))
    elif view.has_several_machines:
        blocks.append(make_machine_warning(view.runs.values()))
    blocks.append(Group(get_text("how-to-read"), (Paragraph(get_text("board.picture", what=shown), "hint"),)))
    return Section("cost", get_text("board.picture.title"), tuple(blocks))


def _group_costs(view: BoardView, scores: Mapping[str, BoardScore]) -> list[PlacedCosts]:
    """Return the main cost of each run by machine and scenario, where two runs are or more; the largest group first."""
    found: dict[CostScenario, dict[str, Cost]] = {}
    for key in scores:
        run = view.runs[key]
        for scenario in dict.fromkeys(map(get_scenario, run.costs)):
            cost = find_main_cost(run, scenario)
            if cost is not None:
                found.setdefault(scenario, {})[key] = cost
    several = [(place, costs) for place, costs in found.items() if len(costs) > 1]
    return sorted(several, key=lambda one: -len(one[1]))


def _draw(
    view: BoardView,
    mean: BoardMean,
    scores: Mapping[str, BoardScore],
    place: CostScenario,
    costs: Mapping[str, Cost],
    places: Sequence[PlacedCosts],
) -> Iterable[tuple[Text, Chart]]:
    for metric, unit, axis, more in AXES:
        points = list(_make_points(view, scores, costs, metric, unit))
        if len(points) < 2:
            continue
        name = get_text(f"pareto.{metric}")
        yield name + _name_place(view, place, costs, places), _make_chart(name, axis, points, view, mean, more)


def _name_place(view: BoardView, place: CostScenario, costs: Mapping[str, Cost], places: Sequence[PlacedCosts]) -> Text:
    """Return what tells a picture from those of other places: the machine, or the scenario, or both."""
    told = []
    if len({other.machine for other, _ in places}) > 1:
        told.append(plain_text(shorten_machine(view.runs[next(iter(costs))])))
    if len({other[:4] for other, _ in places}) > 1:
        told.append(plain_text("{}+{}×{} ({})".format(*place[:4])))
    return join_texts([plain_text(""), *told], " · ")


def _make_points(
    view: BoardView, scores: Mapping[str, BoardScore], costs: Mapping[str, Cost], metric: str, unit: float
) -> Iterable[BoardPoint]:
    for key, cost in costs.items():
        found = cost.metrics.get(metric)
        if isinstance(found, Measured):
            readings = (min(found.readings), found.median, max(found.readings))
            limits = (readings[0] / unit, readings[1] / unit, readings[2] / unit)
            yield BoardPoint(key, view.runs[key].name, view.described[key].ternary, limits, scores[key])


def _make_chart(
    title: Text, axis: str, points: Sequence[BoardPoint], view: BoardView, mean: BoardMean, more: bool
) -> Chart:
    sign = -1 if more else 1
    front = [(sign * cost, score) for cost, score in pareto_front([(sign * p.cost[1], p.score.value) for p in points])]
    by_key = {point.key: point for point in points}
    joined = [
        (by_key[pair.ternary], by_key[pair.twin])
        for pair in view.board.twins
        if pair.ternary in by_key and pair.twin in by_key
    ]
    spoken = join_texts(
        [plain_text(f"{p.key} {p.name}: {format_number(p.cost[1])}, {p.score.value:.1f}") for p in points], "; "
    )

    def build(words: Callable[[str], str]) -> Spec:
        values = [_point_value(point, words, len(points)) for point in points]
        return {
            "height": 340,
            "data": {"values": values},
            "layer": list(_make_layers(words, axis, mean, front, joined, values)),
        }

    return make_chart(title, get_text("chart.pareto.words", values=spoken), build)


def _make_layers(
    words: Callable[[str], str],
    axis: str,
    mean: BoardMean,
    front: Sequence[tuple[float, float]],
    joined: Sequence[tuple[BoardPoint, BoardPoint]],
    values: Sequence[Mapping[str, Any]],
) -> Iterable[Spec]:
    costs = [value["cost"] for value in values]
    is_wide = min(costs) > 0 and max(costs) / min(costs) > LOG_AXIS_RATIO
    scale = {"padding": 36, "nice": False, **({"type": "log"} if is_wide else {"zero": False})}
    x = {"field": "cost", "type": "quantitative", "title": words(axis), "scale": scale}
    x["axis"] = {"format": ",.3~r", "tickCount": 4}
    name = name_mean(mean).ko if words("language") == "ko" else name_mean(mean).en
    y = {"field": "score", "type": "quantitative", "title": f"{words('column.mean')}: {name}", "scale": {"zero": False}}
    kinds = [words("board.kind.ternary"), words("board.kind.float")]
    kind = {"field": "kind", "type": "nominal", "legend": {"title": None, "symbolOpacity": 1}}
    colour = {**kind, "scale": {"domain": kinds, "range": [COLOURS[0], COLOURS[1]]}}
    shape = {**kind, "scale": {"domain": kinds, "range": ["circle", "square"]}}
    steps = [{"cost": cost, "score": score} for cost, score in front]
    line = {"type": "line", "interpolate": "linear", "strokeDash": [4, 3], "color": "gray"}
    yield {"data": {"values": steps}, "mark": line, "encoding": {"x": x, "y": y}}
    pairs = [
        {"cost": a.cost[1], "score": a.score.value, "cost2": b.cost[1], "score2": b.score.value} for a, b in joined
    ]
    if pairs:
        ends = {"x2": {"field": "cost2"}, "y2": {"field": "score2"}}
        rule = {"type": "rule", "strokeWidth": 1, "opacity": 0.7}
        yield {"data": {"values": pairs}, "mark": rule, "encoding": {"x": x, "y": y, **ends}}
    bar = {"type": "rule", "strokeWidth": 1.5, "opacity": 0.55}
    yield {"mark": bar, "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour}}
    yield {"mark": bar, "encoding": {"x": {**x, "field": "least"}, "x2": {"field": "most"}, "y": y, "color": colour}}
    tooltip = [
        {"field": field, "title": words(title), **({"format": form} if form else {})}
        for field, title, form in (
            ("name", "column.run", None),
            ("kind", "column.kind", None),
            ("cost", axis, ",.3~r"),
            ("score", "column.mean", ".1f"),
            ("low", "column.low", ".1f"),
            ("high", "column.high", ".1f"),
        )
    ]
    mark = {"type": "point", "filled": True, "size": 95, "opacity": 1}
    yield {"mark": mark, "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": tooltip}}
    text = {"type": "text", "dx": 8, "dy": -8, "align": "left", "fontSize": 11}
    room = {"calculate": f"width < {NAMES_WIDTH} ? datum.key : datum.label", "as": "shown"}
    yield {"transform": [room], "mark": text, "encoding": {"x": x, "y": y, "text": {"field": "shown"}}}


def _point_value(point: BoardPoint, words: Callable[[str], str], points: int) -> dict[str, Any]:
    value, low, high = point.score.value, point.score.low, point.score.high
    return {
        "key": point.key,
        "name": _shorten(f"{point.key} · {point.name}"),
        "label": _shorten(f"{point.key} {point.name}") if points <= MAX_NAMED_POINTS else point.key,
        "kind": words("board.kind.ternary" if point.is_ternary else "board.kind.float"),
        "cost": point.cost[1],
        "least": point.cost[0],
        "most": point.cost[2],
        "score": value,
        "low": value if low is None else low,
        "high": value if high is None else high,
    }


def _shorten(text: str) -> str:
    shown = make_visible(text)
    return shown if len(shown) <= MAX_NAME_CHARS else f"{shown[: MAX_NAME_CHARS - 1]}…"
