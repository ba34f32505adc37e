"""Say on the first screen how good the runs are, how certain that is, and how much cheaper one of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bitnet_bench.comparison.results import Comparison
from bitnet_bench.comparison.words import counts_words, headline
from bitnet_bench.reports.cost_section import Scenario, machine, main_cost, precision_note, scenario, scenario_words
from bitnet_bench.reports.figures import factor, figure, missing, points, size, span
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.pairs import Pair
from bitnet_bench.reports.scores import primary_mean, score_interval
from bitnet_bench.reports.sections import Cell, Row, Table
from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.records import Cost, Measured
from bitnet_bench.statistics import NORMAL_95
from bitnet_bench.wording import Said, joined, plain, say

SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s")


@dataclass(frozen=True)
class Summary:
    """The first screen: a sentence on quality, one on cost, what they leave out, and a small table."""

    headline: Said
    cost: Said
    notes: tuple[Said, ...]
    table: Table


Compared = tuple[Pair, Comparison]


def main_pair(compared: Sequence[Compared]) -> Compared | None:
    """Return the pair that the first screen speaks of: one that can be compared, and was fine-tuned, if any."""
    return max(compared, key=lambda one: (bool(one[1].differences), one[0][0].stage == "after"), default=None)


def summary(runs: Sequence[NamedRun], shown: Compared | None, pairs: int = 1) -> Summary:
    """Return the first screen, about the pair that is *shown* out of so many *pairs*, or about a run alone."""
    table = Table(_headings(), tuple(_row(run, runs) for run in runs))
    if shown is None:
        return Summary(_alone(runs[0]), say("summary.alone"), tuple(_chance_notes(runs)), table)
    pair, comparison = shown
    notes = [counts_words(comparison), *_cost_notes(pair), *_chance_notes(runs)]
    if pairs > 1:
        notes.append(say("summary.one-of", count=pairs))
    return Summary(headline(comparison), _cheaper(pair), tuple(notes), table)


def _headings() -> tuple[Said, ...]:
    keys = ("run", "mean", "stored", "peak", "prefill", "decode", "energy")
    return tuple(say(f"column.{key}") for key in keys)


def _row(run: NamedRun, runs: Sequence[NamedRun]) -> Row:
    record, cost = run.record, main_cost(run)
    stored = sum(record.checkpoint.weight_bytes.values())
    about = plain(f"{record.precision}, {record.checkpoint.format}")
    return Row(
        (
            Cell(run.label, (*run.stage_words, about), "strong"),
            _mean(run, runs),
            Cell(plain(size(stored))) if stored else missing(say("figure.not-recorded")),
            *(_metric(cost, name) for name in ("peak_bytes", *SPEEDS, "energy_j")),
        )
    )


def _metric(cost: Cost | None, name: str) -> Cell:
    return figure(cost.metrics.get(name)) if cost else missing(say("costs.not-measured"))


def _mean(run: NamedRun, runs: Sequence[NamedRun]) -> Cell:
    mean = primary_mean(run)
    if mean is None:
        return missing(say("summary.no-score"))
    small = [say("summary.tasks", count=mean.tasks)]
    if len({frozenset(other.primary) for other in runs if other.primary}) > 1:
        small.append(say("summary.other-tasks"))
    if mean.stderr is None:
        return Cell(plain(points(mean.value)), (*small, say("scores.no-error")), "strong")
    return Cell(plain(f"{points(mean.value)} ± {points(NORMAL_95 * mean.stderr)}"), tuple(small), "strong")


def _alone(run: NamedRun) -> Said:
    mean = primary_mean(run)
    if mean is None:
        return say("headline.none", run=run.name)
    if mean.stderr is None:
        return say("headline.alone.no-error", run=run.name, tasks=mean.tasks, mean=points(mean.value))
    half = NORMAL_95 * mean.stderr
    limits = span(points(max(0.0, mean.value - half)), points(min(100.0, mean.value + half)))
    return say("headline.alone", run=run.name, tasks=mean.tasks, mean=points(mean.value), interval=limits)


def _cheaper(pair: Pair) -> Said:
    a, b = pair
    stored = [sum(run.record.checkpoint.weight_bytes.values()) for run in pair]
    parts = [say("cheaper.stored", change=_smaller(*stored))] if all(stored) else []
    ours, theirs = _shared_costs(a, b)
    if not ours:
        names = {"a": f"‘{a.name}’", "b": f"‘{b.name}’"}
        return say("cheaper", **names, parts=joined(parts)) if parts else say("cheaper.unknown")
    resident = _smaller(*(min(cost.resident_weight_bytes for cost in costs) for costs in (ours, theirs)))
    parts.append(say("cheaper.resident", change=resident))
    peak = (_best_reading(ours, "peak_bytes", min), _best_reading(theirs, "peak_bytes", min))
    if peak[0] and peak[1]:
        parts.append(say("cheaper.peak_bytes", change=_smaller(int(peak[0].median), int(peak[1].median))))
    if machine(a) == machine(b):
        parts += [say(f"cheaper.{name}", change=_faster(ours, theirs, name)) for name in SPEEDS]
    parts.append(say("cheaper.energy", change=_energy(ours, theirs)))
    return say("cheaper", a=_named(a, ours), b=_named(b, theirs), parts=joined(parts))


def _named(run: NamedRun, costs: Sequence[Cost]) -> Said:
    """Name a run with what computed it; of several precisions every figure is the best one's."""
    backends = ", ".join(dict.fromkeys(cost.backend for cost in costs))
    if costs[0].precision in TERNARY_PRECISIONS:
        return say("cheaper.run", run=run.name, backend=backends)
    precisions = list(dict.fromkeys(cost.precision.upper() for cost in costs))
    words = plain(precisions[0])
    if len(precisions) > 1:
        words = say("cheaper.better-of", precisions=Said("·".join(precisions), " and ".join(precisions)))
    return say("cheaper.run.floats", run=run.name, backend=backends, precisions=words)


def _best_reading(costs: Sequence[Cost], name: str, best: Callable[..., Measured]) -> Measured | None:
    """Return the lowest (*best* is min) or highest (max) measurement of a metric; None where there is none."""
    measured = [found for cost in costs if isinstance(found := cost.metrics.get(name), Measured) and found.median]
    return best(measured, key=lambda one: one.median) if measured else None


def _smaller(ours: int, theirs: int) -> Said:
    if not ours or not theirs:
        return say("change.unknown")
    if ours == theirs:
        return say("change.same")
    key = "change.smaller" if ours < theirs else "change.larger"
    return say(key, factor=factor(max(ours, theirs) / min(ours, theirs)))


def _faster(ours: Sequence[Cost], theirs: Sequence[Cost], name: str) -> Said:
    mine, other = _best_reading(ours, name, max), _best_reading(theirs, name, max)
    if mine is None or other is None:
        return say("change.unknown")
    ratio = mine.median / other.median
    said = say("change.faster" if ratio >= 1 else "change.slower", factor=factor(max(ratio, 1 / ratio)))
    if len(mine.readings) == 1 or len(other.readings) == 1:
        return said + say("change.one-reading")  # one reading has no spread to be apart from
    apart = min(mine.readings) > max(other.readings) or max(mine.readings) < min(other.readings)
    return said if apart else said + say("change.within-spread")


def _energy(ours: Sequence[Cost], theirs: Sequence[Cost]) -> Said:
    mine, other = _best_reading(ours, "energy_j", min), _best_reading(theirs, "energy_j", min)
    if mine is None or other is None:
        return say("change.not-measured")
    ratio = mine.median / other.median
    return say("change.smaller" if ratio <= 1 else "change.larger", factor=factor(max(ratio, 1 / ratio)))


def _shared_costs(a: NamedRun, b: NamedRun) -> tuple[list[Cost], list[Cost]]:
    """Return the costs of each in the first scenario that both were measured in; two empty lists if there is none.

    A ternary run has one; of a float run there are those of every float precision, and the best of them counts: against
    FP16 alone ternary would look better than it is where a processor is faster in BF16.
    """
    for wanted in dict.fromkeys(map(scenario, a.record.costs)):
        ours, theirs = _costs_at(a, wanted), _costs_at(b, wanted)
        if ours and theirs:
            return ours, theirs
    return [], []


def _costs_at(run: NamedRun, wanted: Scenario) -> list[Cost]:
    main = main_cost(run, wanted)
    if main is None or main.precision in TERNARY_PRECISIONS:
        return [main] if main else []
    return [c for c in run.record.costs if scenario(c) == wanted and c.precision not in TERNARY_PRECISIONS]


def _cost_notes(pair: Pair) -> Iterable[Said]:
    a, b = pair
    for run in pair:
        checkpoint = run.record.checkpoint
        if run.record.precision == "ternary" and not checkpoint.has_codes_only:
            yield say("note.unpacked", run=run.key)
        if "32" in checkpoint.dtype and run.record.precision != "fp32":
            yield say("note.wide", run=run.key, dtype=checkpoint.dtype)
    ours, theirs = _shared_costs(a, b)
    if not ours:
        yield say("note.no-shared-cost")
        return
    yield scenario_words(ours[0])
    if machine(a) != machine(b):
        yield say("costs.machines")
    for run, costs in ((a, ours), (b, theirs)):
        if len(costs) == 1 and (note := precision_note(run, costs[0])):
            yield note
    if any(cost.disturbed for cost in (*ours, *theirs)):
        yield say("note.disturbed")


def _chance_notes(runs: Sequence[NamedRun]) -> Iterable[Said]:
    """Say how many tasks each run does better than chance: two runs that guess do not differ either."""
    counts = []
    for run in runs:
        guessed = [s for s in run.primary.values() if s.chance and s.stderr is not None and not s.lower_is_better]
        above = [s for s in guessed if (i := score_interval(s)) and s.chance is not None and i[0] > s.chance]
        if guessed:
            counts.append(f"{run.key} {len(above)}/{len(guessed)}")
    if counts:
        yield say("note.chance", counts=", ".join(counts))
