"""Draw charts as Vega-Lite specifications: values in, a specification for each language out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bitnet_bench.comparison.results import Comparison
from bitnet_bench.reports.figures import number, points
from bitnet_bench.reports.named_runs import COLOURS, NamedRun
from bitnet_bench.reports.sections import Chart, Spec
from bitnet_bench.reports.visible import visible
from bitnet_bench.runs.records import Score
from bitnet_bench.statistics import interval
from bitnet_bench.wording import LANGUAGES, Language, Said, joined, plain, say

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
VERDICTS = {"better": "#0072b2", "worse": "#d55e00", "equal": "#009e73", "undecided": "#8a8f98"}
LONGEST_LABEL = 28
MOST_STEPS = 400
"""Points of a training curve; longer ones are thinned."""
RING = {"type": "point", "size": 300, "filled": False, "strokeDash": [3, 2], "color": "gray"}
"""Around what comes from a model."""
ROOM = 1.35
"""Of the longest bar, for its number."""
Values = list[dict[str, Any]]


def drawn(title: Said, description: Said, build: Callable[[Callable[[str], str]], Spec]) -> Chart:
    """Return a chart whose specification is built once for each language, by what says a catalogue key in it."""

    def build_in(language: Language) -> Spec:
        spec = build(lambda key: say(key).in_(language))
        fitted = {"$schema": SCHEMA, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
        return {**fitted, "description": description.in_(language), **spec}

    return Chart(title, description, {language: build_in(language) for language in LANGUAGES})


def score_chart(runs: Sequence[NamedRun]) -> list[Chart]:
    """Return the primary scores of all tasks whose values are at most 100, with intervals and chance, if any."""
    found = [(run, s) for run in runs for s in run.primary.values() if s.limits[1] == 100.0]
    if not found:
        return []
    values = [_score_value(run, score) for run, score in found]
    chance = {s.task: s.chance for _, s in found if s.chance is not None}
    spoken = joined([plain(f"{s.task} {run.key} {points(s.value)}") for run, s in found], "; ")
    by_run = _by_run([run for run, _ in found], legend=True)

    def build(words: Callable[[str], str]) -> Spec:
        layers = [
            {
                "data": {"values": values},
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": _span(words, "score", by_run),
            },
            {"data": {"values": values}, "mark": _point(), "encoding": _score_point(words, by_run)},
        ]
        if chance:
            marks = [{"task": _short(task), "chance": value} for task, value in chance.items()]
            layers.append(_chance_layer(marks, words))
        return {
            "height": {"step": 13, "for": "offset"},
            "encoding": {"y": _task_axis([_short(s.task) for _, s in found])},
            "layer": layers,
        }

    return [drawn(say("chart.scores"), say("chart.scores.words", values=spoken), build)]


def _score_value(run: NamedRun, score: Score) -> dict[str, Any]:
    limits = interval(score.value, score.stderr, *score.limits) or (score.value, score.value)
    return {
        "run": run.key,
        "name": _name(run),
        "task": _short(score.task),
        "metric": score.metric,
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


def difference_chart(title: Said, comparison: Comparison) -> Chart:
    """Return the differences in points with their intervals, and the margin as a band."""
    found = [d for d in comparison.differences if d.equivalence_p is not None]
    spoken = joined([plain(f"{d.task} {d.difference:+.1f} ({d.low:+.1f}, {d.high:+.1f})") for d in found], "; ")

    def build(words: Callable[[str], str]) -> Spec:
        values = [
            {
                "task": _short(d.task),
                "difference": d.difference,
                "low": d.low,
                "high": d.high,
                "verdict": words(f"finding.{_finding(d.verdict)}"),
            }
            for d in found
        ]
        scale = {"domain": [words(f"finding.{key}") for key in VERDICTS], "range": list(VERDICTS.values())}
        colour = {"field": "verdict", "type": "nominal", "scale": scale, "title": None}
        tooltip = [
            {"field": "task", "title": words("column.task")},
            *({"field": f, "title": words(f"column.{f}"), "format": "+.1f"} for f in ("difference", "low", "high")),
        ]
        return {
            "height": {"step": 26},
            "data": {"values": values},
            "encoding": {"y": _task_axis([_short(d.task) for d in found])},
            "layer": [
                _margin_layer(comparison.margin),
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {**_span(words, "difference"), "color": colour, "yOffset": {"value": 13}},
                },
                {
                    "mark": {**_point(), "size": 80},
                    "encoding": {
                        "x": {"field": "difference", "type": "quantitative"},
                        "color": colour,
                        "shape": {**colour, "scale": {**scale, "range": list(SHAPES[:4])}},
                        "tooltip": tooltip,
                    },
                },
            ],
        }

    return drawn(title + plain(": ") + say("chart.differences"), say("chart.differences.words", values=spoken), build)


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


def _finding(verdict: str) -> str:
    return verdict.removeprefix("slightly-")


def pareto_chart(title: Said, x_title: str, found: Sequence[tuple[NamedRun, float, float, bool]], form: str) -> Chart:
    """Return quality against a cost, for (run, cost, mean score, whether the cost is modelled); less cost is better."""
    by_run = _by_run([run for run, *_ in found])
    front = pareto_front([(cost, score) for _, cost, score, _ in found])
    spoken = joined([plain(f"{run.key} {number(cost)}, {points(score)}") for run, cost, score, _ in found], "; ")

    def build(words: Callable[[str], str]) -> Spec:
        values = [{"run": run.key, "name": _name(run), "cost": cost, "score": score} for run, cost, score, _ in found]
        hollow = [value for value, (*_, modelled) in zip(values, found, strict=True) if modelled]
        x = {"field": "cost", "type": "quantitative", "title": words(x_title), "scale": {"zero": False, "padding": 25}}
        x["axis"] = {"format": form, "tickCount": 4}
        y = {"field": "score", "type": "quantitative", "title": words("column.mean"), "scale": {"zero": False}}
        y["scale"] = {"zero": False, "padding": 25}
        tooltip = [{"field": "name", "title": words("column.run")}]
        tooltip += [{"field": "cost", "title": words(x_title), "format": form}]
        tooltip += [{"field": "score", "title": words("column.mean"), "format": ".1f"}]
        point = {**_point(), "size": 110}
        return {
            "height": 210,
            "encoding": {"x": x, "y": y},
            "layer": [
                {
                    "data": {"values": [{"cost": c, "score": s} for c, s in front]},
                    "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [4, 3], "color": "gray"},
                },
                {"data": {"values": values}, "mark": point, "encoding": {**by_run, "tooltip": tooltip}},
                *([{"data": {"values": hollow}, "mark": RING}] if hollow else []),
                {
                    "data": {"values": values},
                    "mark": {"type": "text", "dy": -14, "fontWeight": "bold"},
                    "encoding": {"text": {"field": "run"}},
                },
            ],
        }

    return drawn(title, say("chart.pareto.words", values=spoken), build)


def pareto_front(points_of: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, score) pairs that no other one beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points_of, key=lambda pair: (pair[0], -pair[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def bar_chart(title: Said, found: Sequence[tuple[Said, float, bool, str]], unit: str) -> Chart:
    """Return one bar for each (label, value, whether it is modelled, value in words); modelled ones are hollow."""
    spoken = joined([label + plain(f" {text}") for label, _, _, text in found], "; ")
    modelled = any(one for _, _, one, _ in found)

    def build(words: Callable[[str], str]) -> Spec:
        language: Language = "ko" if words("language") == "ko" else "en"
        values = [
            {
                "label": _short(visible(label.in_(language))),
                "value": value,
                "text": text,
                "kind": words("figure.modelled" if one else "figure.measured"),
            }
            for label, value, one, text in found
        ]
        kinds = [words("figure.measured"), words("figure.modelled")]
        y = {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 150}}
        x = {"field": "value", "type": "quantitative", "title": unit, "axis": {"format": "~s", "tickCount": 4}}
        x["scale"] = {"domain": [0, ROOM * max(value for _, value, _, _ in found)], "nice": False}
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

    return drawn(title, say("chart.bars.words", values=spoken), build)


def weight_chart(title: Said, found: Sequence[tuple[NamedRun, Mapping[str, int]]]) -> Chart:
    """Return the bytes of stored weights of each run, stacked by kind."""
    sums = [plain(f"{run.key} {sum(kinds.values()) / 2**20:.1f} MiB") for run, kinds in found]

    def build(words: Callable[[str], str]) -> Spec:
        names = list(dict.fromkeys(kind for _, kinds in found for kind in kinds))
        values = [
            {
                "run": _short(visible(f"{run.key} · {run.name}")),
                "kind": words(f"weights.{k}") if k in KINDS else k,
                "size": b / 2**20,
            }
            for run, kinds in found
            for k, b in kinds.items()
        ]
        domain = [words(f"weights.{kind}") if kind in KINDS else kind for kind in names]
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

    return drawn(title, say("chart.bars.words", values=joined(sums, "; ")), build)


KINDS = ("ternary", "embedding", "head", "linear", "norm")


def curve_chart(title: Said, y_title: str, curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> Chart:
    """Return lines over training steps, for (letter, name, points), with the ends in words."""
    ends = [plain(f"{key} {number(line[0][1])} → {number(line[-1][1])}") for key, _, line in curves if line]

    def build(words: Callable[[str], str]) -> Spec:
        values = [
            {"run": key, "name": visible(name), "step": step, "value": value}
            for key, name, line in curves
            for step, value in thinned(line)
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

    return drawn(title, say("chart.curve.words", values=joined(ends, "; ")), build)


def thinned(line: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most MOST_STEPS points of a curve, its ends among them."""
    if len(line) <= MOST_STEPS:
        return line
    return [line[round(i * (len(line) - 1) / (MOST_STEPS - 1))] for i in range(MOST_STEPS)]


def layer_chart(title: Said, layers: Sequence[tuple[str, int, float]]) -> Chart:
    """Return the share of zeros of every layer, for (kind such as q_proj, block, share)."""
    shares = [share for _, _, share in layers]
    spoken = plain(f"{min(shares):.1%} ~ {max(shares):.1%}")

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

    return drawn(title, say("chart.layers.words", span=spoken), build)


def _by_run(runs: Sequence[NamedRun], legend: bool = False) -> Spec:
    """Return colour and shape of each run, with a legend where letters alone would not say enough."""
    field = {"field": "name", "type": "nominal", "legend": {"title": None, "columns": 2} if legend else None}
    each = {run.key: run for run in runs}.values()
    names = [_name(run) for run in each]
    colours = [COLOURS[run.colour] for run in each]
    shapes = [SHAPES[run.colour] for run in each]
    return {
        "color": {**field, "scale": {"domain": names, "range": colours}},
        "shape": {**field, "scale": {"domain": names, "range": shapes}},
    }


def _name(run: NamedRun) -> str:
    return _short(f"{run.key} · {run.name}")


def _span(words: Callable[[str], str], title: str, by_run: Spec | None = None) -> Spec:
    return {
        "x": {"field": "low", "type": "quantitative", "title": words(f"axis.{title}")},
        "x2": {"field": "high"},
        **({"yOffset": {"field": "run"}, "color": by_run["color"]} if by_run else {}),
    }


def _point() -> Spec:
    return {"type": "point", "filled": True, "size": 55, "opacity": 1}


def _task_axis(tasks: Sequence[str]) -> Spec:
    return {
        "field": "task",
        "type": "nominal",
        "sort": list(dict.fromkeys(tasks)),
        "title": None,
        "axis": {"labelLimit": 170, "grid": True, "tickBand": "extent"},
    }


def _short(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}…"
