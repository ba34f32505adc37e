"""Draw charts as Vega-Lite specifications, one for each language."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitnet_bench.comparison.results import Comparison, Difference
from bitnet_bench.reports.figures import format_number, format_points
from bitnet_bench.reports.named_runs import COLOURS, NamedRun
from bitnet_bench.reports.sections import Chart, Spec
from bitnet_bench.reports.visible import make_visible
from bitnet_bench.runs.records import Score
from bitnet_bench.wording import LANGUAGES, Language, Text, get_text, join_texts, plain_text
from bitnet_bench.wording.names import format_metric, format_task_name

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
VERDICT_COLOURS = {"better": "#0072b2", "worse": "#d55e00", "equal": "#009e73", "undecided": "#8a8f98"}
MAX_LABEL_CHARS = 28
MAX_CURVE_POINTS = 400
"""Number of points of a training curve above which it is thinned."""
MODELLED_RING = {"type": "point", "size": 300, "filled": False, "strokeDash": [3, 2], "color": "gray"}
"""Mark around modelled values."""
BAR_ROOM_FACTOR = 1.35
"""Length of the axis relative to the longest bar, which leaves room for its number."""
LOG_AXIS_RATIO = 20.0
"""Ratio of the greatest cost to the least above which the axis is logarithmic."""
Values = list[dict[str, Any]]


def make_chart(title: Text, description: Text, build: Callable[[Callable[[str], str]], Spec]) -> Chart:
    """Return a chart with a specification for each language; *build* gets a function that looks up catalogue keys."""

    def build_in(language: Language) -> Spec:
        spec = build(lambda key: get_text(key).in_language(language))
        fitted = {"$schema": SCHEMA, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
        return {**fitted, "description": description.in_language(language), **spec}

    return Chart(title, description, {language: build_in(language) for language in LANGUAGES})


def score_chart(runs: Sequence[NamedRun]) -> list[Chart]:
    """Return the primary scores of all tasks whose values are at most 100, with intervals and chance, if any."""
    found = [(run, s) for run in runs for s in run.primary.values() if s.limits[1] == 100.0]
    if not found:
        return []
    chance = {s.task: s.chance for _, s in found if s.chance is not None}
    spoken = join_texts(
        [format_task_name(s.task) + plain_text(f" {run.key} {format_points(s.value)}") for run, s in found], "; "
    )
    by_run = _encode_runs([run for run, _ in found], legend=True)

    def build(words: Callable[[str], str]) -> Spec:
        language = _get_language(words)
        values = [_score_value(run, score, language) for run, score in found]
        layers = [
            {
                "data": {"values": values},
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": _encode_span(words, "score", by_run),
            },
            {"data": {"values": values}, "mark": _make_point_mark(), "encoding": _score_point(words, by_run)},
        ]
        if chance:
            marks = [{"task": _name_task(task, language), "chance": value} for task, value in chance.items()]
            layers.append(_chance_layer(marks, words))
        return {
            "height": {"step": 13, "for": "offset"},
            "encoding": {"y": _task_axis([_name_task(s.task, language) for _, s in found])},
            "layer": layers,
        }

    return [make_chart(get_text("chart.scores"), get_text("chart.scores.words", values=spoken), build)]


def _score_value(run: NamedRun, score: Score, language: Language) -> dict[str, Any]:
    limits = score.interval or (score.value, score.value)
    return {
        "run": run.key,
        "name": _label_run(run),
        "task": _name_task(score.task, language),
        "metric": _shorten(format_metric(score.metric).in_language(language)),
        "value": score.value,
        "low": limits[0],
        "high": limits[1],
        "n": score.n,
    }


def _score_point(words: Callable[[str], str], by_run: Spec) -> Spec:
    tooltip = [
        {"field": field, "title": words(f"column.{title}"), **({"format": ".1f"} if title in ("score",) else {})}
        for field, title in (("name", "run"), ("task", "task"), ("metric", "metric"), ("value", "score"), ("n", "n"))
    ]
    span = [{"field": f, "title": words(f"column.{f}"), "format": ".1f"} for f in ("low", "high")]
    return {
        "x": {"field": "value", "type": "quantitative"},
        "yOffset": {"field": "run"},
        **by_run,
        "tooltip": [*tooltip, *span],
    }


def _chance_layer(marks: Values, words: Callable[[str], str]) -> Spec:
    return {
        "data": {"values": marks},
        "mark": {"type": "tick", "thickness": 1.5, "strokeDash": [3, 2], "bandSize": 30, "color": "gray"},
        "encoding": {
            "x": {"field": "chance", "type": "quantitative"},
            "tooltip": [{"field": "chance", "title": words("column.chance")}],
        },
    }


def difference_chart(title: Text, comparison: Comparison) -> Chart:
    """Return the differences in points with their intervals, and the margin as a band."""
    found = [d for d in comparison.differences if d.equivalence_p is not None]
    spoken = join_texts(
        [format_task_name(d.task) + plain_text(f" {d.difference:+.1f} ({d.low:+.1f}, {d.high:+.1f})") for d in found],
        "; ",
    )

    def build(words: Callable[[str], str]) -> Spec:
        values = [_difference_value(d, words) for d in found]
        scale = {
            "domain": [words(f"finding.{key}") for key in VERDICT_COLOURS],
            "range": list(VERDICT_COLOURS.values()),
        }
        colour = {"field": "verdict", "type": "nominal", "scale": scale, "title": None}
        tooltip = [
            {"field": "task", "title": words("column.task")},
            *({"field": f, "title": words(f"column.{f}"), "format": "+.1f"} for f in ("difference", "low", "high")),
        ]
        return {
            "height": {"step": 26},
            "data": {"values": values},
            "encoding": {"y": _task_axis([_name_task(d.task, _get_language(words)) for d in found])},
            "layer": [
                _margin_layer(comparison.margin),
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {**_encode_span(words, "difference"), "color": colour, "yOffset": {"value": 13}},
                },
                {
                    "mark": {**_make_point_mark(), "size": 80},
                    "encoding": {
                        "x": {"field": "difference", "type": "quantitative"},
                        "color": colour,
                        "shape": {**colour, "scale": {**scale, "range": list(SHAPES[:4])}},
                        "tooltip": tooltip,
                    },
                },
            ],
        }

    return make_chart(
        title + plain_text(": ") + get_text("chart.differences"),
        get_text("chart.differences.words", values=spoken),
        build,
    )


def _difference_value(difference: Difference, words: Callable[[str], str]) -> dict[str, Any]:
    return {
        "task": _name_task(difference.task, _get_language(words)),
        "difference": difference.difference,
        "low": difference.low,
        "high": difference.high,
        "verdict": words(f"finding.{_simplify_verdict(difference.verdict)}"),
    }


def _margin_layer(margin: float) -> Spec:
    return {
        "data": {"values": [{"from": -margin, "to": margin}]},
        "mark": {"type": "rect", "opacity": 0.18, "color": "#009e73"},
        "encoding": {
            "x": {"field": "from", "type": "quantitative"},
            "x2": {"field": "to"},
            "y": {"value": 0},
            "y2": {"value": "height"},
        },
    }


def _simplify_verdict(verdict: str) -> str:
    return verdict.removeprefix("slightly-")


@dataclass(frozen=True)
class QualityPoint:
    """The quality of a run against one cost of one backend and precision."""

    run: NamedRun
    label: Text
    """Backend and precision."""
    cost: tuple[float, float, float]
    """Least reading, median, greatest reading."""
    score: float
    interval: tuple[float, float] | None
    is_modelled: bool
    is_scored: bool
    """Whether the run was scored at this precision."""


def pareto_chart(title: Text, x_title: str, points: Sequence[QualityPoint]) -> Chart:
    """Return quality against a cost, with the intervals of both; less cost is better."""
    by_run = _encode_runs([point.run for point in points], legend=True)
    front = pareto_front([(point.cost[1], point.score) for point in points])
    spoken = join_texts([_describe_point(point) for point in points], "; ")
    costs = [cost for point in points for cost in point.cost]
    is_wide = min(costs) > 0 and max(costs) / min(costs) > LOG_AXIS_RATIO

    def build(words: Callable[[str], str]) -> Spec:
        language = _get_language(words)
        values = [_point_value(point, language) for point in points]
        scale = {"zero": False, "padding": 30, **({"type": "log"} if is_wide else {})}
        axis = {"format": ",.4~g", "tickCount": 4}
        x = {"field": "cost", "type": "quantitative", "title": words(x_title), "scale": scale, "axis": axis}
        y = {"field": "score", "type": "quantitative", "title": words("column.mean"), "scale": {"zero": False}}
        marks = [
            {
                "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.6},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "x": x, "color": by_run["color"]},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.6},
                "encoding": {"x": {**x, "field": "least"}, "x2": {"field": "most"}, "y": y, "color": by_run["color"]},
            },
            {
                "mark": {**_make_point_mark(), "size": 110},
                "encoding": {"x": x, "y": y, **by_run, **_point_look(), "tooltip": _point_tooltip(words, x_title)},
            },
            {
                "mark": {"type": "text", "dx": 9, "dy": -8, "align": "left", "fontSize": 11},
                "encoding": {"x": x, "y": y, "text": {"field": "label"}},
            },
        ]
        hollow = {"transform": [{"filter": "datum.modelled"}], "mark": MODELLED_RING, "encoding": {"x": x, "y": y}}
        steps = [{"cost": cost, "score": score} for cost, score in front]
        line = {"type": "line", "interpolate": "step-after", "strokeDash": [4, 3], "color": "gray"}
        return {
            "height": 260,
            "data": {"values": values},
            "layer": [{"data": {"values": steps}, "mark": line, "encoding": {"x": x, "y": y}}, *marks, hollow],
        }

    return make_chart(title, get_text("chart.pareto.words", values=spoken), build)


def _describe_point(point: QualityPoint) -> Text:
    figures = plain_text(f": {format_number(point.cost[1])}, {format_points(point.score)}")
    return plain_text(f"{point.run.key} ") + point.label + figures


def _point_value(point: QualityPoint, language: Language) -> dict[str, Any]:
    low, high = point.interval or (point.score, point.score)
    return {
        "run": point.run.key,
        "name": _label_run(point.run),
        "label": _shorten(f"{point.run.key} {point.label.in_language(language)}"),
        "cost": point.cost[1],
        "least": point.cost[0],
        "most": point.cost[2],
        "score": point.score,
        "low": low,
        "high": high,
        "modelled": point.is_modelled,
        "scored": point.is_scored,
    }


def _point_look() -> Spec:
    """Return the opacity of a point: pale if its run was scored at another precision."""
    return {"opacity": {"condition": {"test": "datum.scored", "value": 1}, "value": 0.45}}


def _point_tooltip(words: Callable[[str], str], x_title: str) -> list[Spec]:
    names = [("name", "column.run"), ("label", "column.item")]
    numbers = [("cost", x_title, ",.4~g"), ("score", "column.mean", ".1f")]
    numbers += [("low", "column.low", ".1f"), ("high", "column.high", ".1f")]
    named: list[Spec] = [{"field": field, "title": words(title)} for field, title in names]
    return named + [{"field": field, "title": words(title), "format": form} for field, title, form in numbers]


def pareto_front(points_of: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, score) pairs that no other pair beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points_of, key=lambda pair: (pair[0], -pair[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def bar_chart(title: Text, found: Sequence[tuple[Text, float, bool, str]], unit: str) -> Chart:
    """Return one bar for each (label, value, whether it is modelled, value as text); modelled ones are hollow."""
    spoken = join_texts([label + plain_text(f" {text}") for label, _, _, text in found], "; ")
    modelled = any(one for _, _, one, _ in found)

    def build(words: Callable[[str], str]) -> Spec:
        language = _get_language(words)
        values = [
            {
                "label": _shorten(make_visible(label.in_language(language))),
                "value": value,
                "text": text,
                "kind": words("figure.modelled" if one else "figure.measured"),
            }
            for label, value, one, text in found
        ]
        kinds = [words("figure.measured"), words("figure.modelled")]
        y = {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 150}}
        x = {"field": "value", "type": "quantitative", "title": unit, "axis": {"format": "~s", "tickCount": 4}}
        x["scale"] = {"domain": [0, BAR_ROOM_FACTOR * max(value for _, value, _, _ in found)], "nice": False}
        legend = {"title": None} if modelled else None
        dash = {"field": "kind", "type": "nominal", "scale": {"domain": kinds, "range": [[1, 0], [4, 3]]}}
        fill = {"field": "kind", "type": "nominal", "scale": {"domain": kinds, "range": [COLOURS[0], "transparent"]}}
        return {
            "height": {"step": 30},
            "data": {"values": values},
            "encoding": {"y": y, "x": x},
            "layer": [
                {
                    "mark": {"type": "bar", "stroke": COLOURS[0], "strokeWidth": 1.5, "height": 16},
                    "encoding": {
                        "strokeDash": {**dash, "legend": None},
                        "fill": {**fill, "legend": legend},
                        "tooltip": [{"field": f, "title": words(f"column.{f}")} for f in ("label", "text", "kind")],
                    },
                },
                {
                    "mark": {"type": "text", "align": "left", "dx": 5},
                    "encoding": {"text": {"field": "text"}},
                },
            ],
        }

    return make_chart(title, get_text("chart.bars.words", values=spoken), build)


def weight_chart(title: Text, found: Sequence[tuple[NamedRun, Mapping[str, int]]]) -> Chart:
    """Return the bytes of stored weights of each run, stacked by kind."""
    sums = [plain_text(f"{run.key} {sum(kinds.values()) / 2**20:.1f} MiB") for run, kinds in found]

    def build(words: Callable[[str], str]) -> Spec:
        names = list(dict.fromkeys(kind for _, kinds in found for kind in kinds))
        values = [
            {
                "run": _shorten(make_visible(f"{run.key} · {run.name}")),
                "kind": words(f"weights.{k}") if k in WEIGHT_KINDS else k,
                "size": b / 2**20,
            }
            for run, kinds in found
            for k, b in kinds.items()
        ]
        domain = [words(f"weights.{kind}") if kind in WEIGHT_KINDS else kind for kind in names]
        kind = {"field": "kind", "type": "nominal", "title": None, "scale": {"domain": domain, "range": list(COLOURS)}}
        return {
            "height": {"step": 30},
            "data": {"values": values},
            "mark": {"type": "bar", "height": 16, "stroke": "white", "strokeWidth": 0.5},
            "encoding": {
                "y": {"field": "run", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 150}},
                "x": {"field": "size", "type": "quantitative", "title": "MiB", "axis": {"tickCount": 4}},
                "color": kind,
                "tooltip": [
                    {"field": "run", "title": words("column.run")},
                    {"field": "kind", "title": words("column.kind")},
                    {"field": "size", "title": "MiB", "format": ".2f"},
                ],
            },
        }

    return make_chart(title, get_text("chart.bars.words", values=join_texts(sums, "; ")), build)


WEIGHT_KINDS = ("ternary", "embedding", "head", "linear", "norm")


def curve_chart(title: Text, y_title: str, curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> Chart:
    """Return lines over training steps, for (letter, name, points), with the ends as text."""
    ends = [
        plain_text(f"{key} {format_number(line[0][1])} → {format_number(line[-1][1])}")
        for key, _, line in curves
        if line
    ]

    def build(words: Callable[[str], str]) -> Spec:
        values = [
            {"run": key, "name": make_visible(name), "step": step, "value": value}
            for key, name, line in curves
            for step, value in thin_line(line)
        ]
        tooltip = [
            {"field": "name", "title": words("column.run")},
            {"field": "step", "title": words("column.step")},
            {"field": "value", "title": words(y_title), "format": ".4~g"},
        ]
        letters = [key for key, _, _ in curves]
        colours = [COLOURS[(ord(key) - ord("A")) % len(COLOURS)] if len(key) == 1 else COLOURS[-1] for key in letters]
        colour = {"field": "run", "type": "nominal", "title": None}
        dashes = [[1, 0], [5, 3], [2, 2], [8, 3, 2, 3]]
        return {
            "height": 200,
            "data": {"values": values},
            "mark": {"type": "line", "strokeWidth": 1.8, "interpolate": "linear"},
            "encoding": {
                "x": {"field": "step", "type": "quantitative", "title": words("column.step"), "axis": {"tickCount": 5}},
                "y": {
                    "field": "value",
                    "type": "quantitative",
                    "title": None,
                    "axis": {"tickCount": 5},
                    "scale": {"zero": False},
                },
                "color": {**colour, "scale": {"domain": letters, "range": colours}},
                "strokeDash": {
                    **colour,
                    "scale": {"domain": letters, "range": [dashes[i % 4] for i in range(len(letters))]},
                },
                "tooltip": tooltip,
            },
        }

    return make_chart(title, get_text("chart.curve.words", values=join_texts(ends, "; ")), build)


def thin_line(line: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most MAX_CURVE_POINTS points of a curve, its ends included."""
    if len(line) <= MAX_CURVE_POINTS:
        return line
    return [line[round(i * (len(line) - 1) / (MAX_CURVE_POINTS - 1))] for i in range(MAX_CURVE_POINTS)]


def layer_chart(title: Text, layers: Sequence[tuple[str, int, float]]) -> Chart:
    """Return the share of zeros of every layer, for (kind such as q_proj, block, share)."""
    shares = [share for _, _, share in layers]
    spoken = plain_text(f"{min(shares):.1%} ~ {max(shares):.1%}")

    def build(words: Callable[[str], str]) -> Spec:
        values = [{"kind": kind, "block": block, "zeros": share} for kind, block, share in layers]
        return {
            "height": {"step": 22},
            "data": {"values": values},
            "mark": {"type": "rect"},
            "encoding": {
                "y": {"field": "kind", "type": "nominal", "sort": None, "title": None},
                "x": {"field": "block", "type": "ordinal", "title": words("column.block"), "axis": {"labelAngle": 0}},
                "color": {
                    "field": "zeros",
                    "type": "quantitative",
                    "scale": {"scheme": "viridis"},
                    "legend": {"format": ".0%", "title": None},
                },
                "tooltip": [
                    {"field": "kind", "title": words("column.kind")},
                    {"field": "block", "title": words("column.block")},
                    {"field": "zeros", "title": words("column.zeros"), "format": ".2%"},
                ],
            },
        }

    return make_chart(title, get_text("chart.layers.words", span=spoken), build)


def _encode_runs(runs: Sequence[NamedRun], legend: bool = False) -> Spec:
    """Return colour and shape of each run, with a legend if *legend*."""
    field = {"field": "name", "type": "nominal", "legend": {"title": None, "symbolOpacity": 1} if legend else None}
    each = {run.key: run for run in runs}.values()
    names = [_label_run(run) for run in each]
    colours = [COLOURS[run.colour] for run in each]
    shapes = [SHAPES[run.colour] for run in each]
    return {
        "color": {**field, "scale": {"domain": names, "range": colours}},
        "shape": {**field, "scale": {"domain": names, "range": shapes}},
    }


def _label_run(run: NamedRun) -> str:
    return _shorten(f"{run.key} · {run.name}")


def _encode_span(words: Callable[[str], str], title: str, by_run: Spec | None = None) -> Spec:
    return {
        "x": {"field": "low", "type": "quantitative", "title": words(f"axis.{title}")},
        "x2": {"field": "high"},
        **({"yOffset": {"field": "run"}, "color": by_run["color"]} if by_run else {}),
    }


def _make_point_mark() -> Spec:
    return {"type": "point", "filled": True, "size": 55, "opacity": 1}


def _task_axis(tasks: Sequence[str]) -> Spec:
    return {
        "field": "task",
        "type": "nominal",
        "sort": list(dict.fromkeys(tasks)),
        "title": None,
        "axis": {"labelLimit": 170, "grid": True, "tickBand": "extent"},
    }


def _get_language(words: Callable[[str], str]) -> Language:
    """Return the language in which *words* looks up."""
    return "ko" if words("language") == "ko" else "en"


def _name_task(task: str, language: Language) -> str:
    return _shorten(format_task_name(task).in_language(language))


def _shorten(text: str) -> str:
    shown = make_visible(text)
    return shown if len(shown) <= MAX_LABEL_CHARS else f"{shown[: MAX_LABEL_CHARS - 1]}…"
