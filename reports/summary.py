"""Summarize on the first screen how good the runs are, how certain that is, and how much cheaper one of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bitnet_bench.comparison.results import Comparison
from bitnet_bench.comparison.words import format_headline, format_verdict_counts
from bitnet_bench.reports.cost_section import (
    CostScenario,
    find_main_cost,
    find_main_machine,
    format_scenario,
    get_scenario,
    has_several_machines,
    make_machine_warning,
    make_precision_note,
)
from bitnet_bench.reports.figures import (
    format_bytes,
    format_factor,
    format_points,
    make_figure_cell,
    make_missing_cell,
)
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.pairs import Pair
from bitnet_bench.reports.quality import compute_kept_quality
from bitnet_bench.reports.scores import compute_primary_mean
from bitnet_bench.reports.sections import NOTHING, Cell, Row, Table
from bitnet_bench.runs.choices import TERNARY_PRECISIONS
from bitnet_bench.runs.records import Cost, Measured
from bitnet_bench.statistics.planning import count_examples_to_decide
from bitnet_bench.wording import Count, Text, get_text, join_texts, plain_text
from bitnet_bench.wording.estimates import format_estimate, format_limits
from bitnet_bench.wording.names import format_checkpoint_format, format_precision

GENERATION_COUNTS = ("cut", "unfinished", "shortened")
SPEED_METRICS = ("prefill_tokens_per_s", "decode_tokens_per_s")


@dataclass(frozen=True)
class Summary:
    """The first screen: what is kept at what cost, the verdict, the costs, their limitations, and a small table."""

    headline: Text
    verdict: Text
    cost: Text
    notes: tuple[Text, ...]
    table: Table
    warning: Text = NOTHING
    """What makes the first sentence mean little, if anything does."""


ComparedPair = tuple[Pair, Comparison]


def choose_main_pair(compared: Sequence[ComparedPair]) -> ComparedPair | None:
    """Return the pair for the first screen: one that can be compared, and was fine-tuned, if there is one."""
    return max(compared, key=lambda one: (bool(one[1].differences), one[0][0].stage == "after"), default=None)


def make_summary(runs: Sequence[NamedRun], shown: ComparedPair | None, pairs: int = 1) -> Summary:
    """Return the first screen, on the pair *shown* out of *pairs* pairs, or on a run alone."""
    machine = find_main_machine(shown[0] if shown and _find_shared_costs(*shown[0])[0] else runs)
    table = Table(_headings(), tuple(_row(run, runs, machine) for run in runs), keys=(1, 5))
    if shown is None:
        notes = (*_list_chance_notes(runs), *_list_generation_notes(runs))
        return Summary(_describe_alone(runs[0]), get_text("summary.alone"), NOTHING, notes, table)
    pair, comparison = shown
    missing = _count_missing_examples(comparison)
    kept = _describe_kept(pair, comparison, missing)
    notes = (
        *([get_text("summary.verdicts", counts=format_verdict_counts(comparison))] if comparison.has_tasks else []),
        *_list_cost_notes(pair),
        *_list_chance_notes(runs),
        *_list_generation_notes(runs),
        *([get_text("kept.decide.how")] if kept and missing else []),
        *([get_text("summary.one-of", count=pairs)] if pairs > 1 else []),
    )
    verdict = format_headline(comparison)
    guesses = kept and _is_guessing(pair[1])
    warning = get_text("kept.chance", b=pair[1].name) if guesses else NOTHING
    return Summary(kept or verdict, verdict if kept else NOTHING, _describe_savings(pair), notes, table, warning)


def _is_guessing(run: NamedRun) -> bool:
    """Return whether the run is better than chance on none of the tasks that have a chance."""
    above = _count_above_chance(run)
    return above is not None and above[0] == 0


def _describe_kept(pair: Pair, comparison: Comparison, missing: Count | None) -> Text | None:
    """Return the share of quality that is kept, with costs and *missing* examples; None if it cannot be told."""
    kept = compute_kept_quality(*pair, comparison)
    if kept is None:
        return None
    parts = join_texts([NOTHING, *_list_main_savings(pair)])
    said = {"a": pair[0].name, "b": pair[1].name, "share": f"{kept.share:.1%}", "parts": parts}
    if kept.interval is None:
        return get_text("kept.sentence.no-interval", **said)
    limits = (100 * kept.interval[0], 100 * kept.interval[1])
    sentence = get_text("kept.sentence", **said, interval=format_limits(limits) + plain_text("%"))
    return sentence + plain_text(" ") + get_text("kept.decide", n=missing) if missing else sentence


def _count_missing_examples(comparison: Comparison) -> Count | None:
    """Return how many more examples would decide an undecided mean, to two digits; None if it is decided."""
    mean = comparison.mean
    if mean is None or mean.verdict != "undecided":
        return None
    found = count_examples_to_decide(mean.difference, mean.stderr, mean.n, comparison.margin)
    return None if found is None else Count(float(f"{found:.2g}"))


def _list_main_savings(pair: Pair) -> list[Text]:
    """Return the changes of memory and of decoding speed, if the pair was measured in one scenario."""
    ours, theirs = _find_shared_costs(*pair)
    if not ours:
        return []
    peak = _find_best_reading(ours, "peak_bytes", min), _find_best_reading(theirs, "peak_bytes", min)
    found = []
    if peak[0] and peak[1]:
        change = _format_size_change(int(peak[0].median), int(peak[1].median))
        found.append(get_text("cheaper.peak_bytes", change=change))
    change = _format_speed_change(ours, theirs, "decode_tokens_per_s")
    return [*found, get_text("cheaper.decode_tokens_per_s", change=change)]


def _headings() -> tuple[Text, ...]:
    keys = ("run", "mean", "stored", "peak", "prefill", "decode", "energy")
    return tuple(get_text(f"column.{key}") for key in keys)


def _row(run: NamedRun, runs: Sequence[NamedRun], machine: str | None) -> Row:
    """Return the row of *run*, with its costs on *machine*: those of another one would not compare."""
    record, cost = run.record, find_main_cost(run, machine=machine)
    missing = "costs.other-machine" if run.costs and not cost else "costs.not-measured"
    stored = sum(record.checkpoint.weight_bytes.values())
    about = join_texts([format_precision(record.precision), format_checkpoint_format(record.checkpoint.format)])
    return Row(
        (
            Cell(run.label, (*run.stage_words, about), "strong"),
            _mean(run, runs),
            Cell(plain_text(format_bytes(stored))) if stored else make_missing_cell(get_text("figure.not-recorded")),
            *(_metric(cost, name, missing) for name in ("peak_bytes", *SPEED_METRICS, "energy_j")),
        )
    )


def _metric(cost: Cost | None, name: str, missing: str) -> Cell:
    return make_figure_cell(cost.metrics.get(name)) if cost else make_missing_cell(get_text(missing))


def _mean(run: NamedRun, runs: Sequence[NamedRun]) -> Cell:
    mean = compute_primary_mean(run)
    if mean is None:
        return make_missing_cell(get_text("summary.no-score"))
    small = [get_text("tasks", count=Count(mean.tasks))]
    if len({frozenset(other.primary) for other in runs if other.primary}) > 1:
        small.append(get_text("summary.other-tasks"))
    if mean.stderr is None:
        return Cell(plain_text(format_points(mean.value)), (*small, get_text("scores.no-error")), "strong")
    return Cell(format_estimate(mean.value, mean.stderr, None), tuple(small), "strong")


def _describe_alone(run: NamedRun) -> Text:
    mean = compute_primary_mean(run)
    if mean is None:
        return get_text("headline.none", run=run.name)
    about = {"run": run.name, "tasks": get_text("tasks", count=Count(mean.tasks)), "mean": format_points(mean.value)}
    if mean.interval is None:
        return get_text("headline.alone.no-error", **about)
    return get_text("headline.alone", **about, interval=format_limits(mean.interval))


def _describe_savings(pair: Pair) -> Text:
    a, b = pair
    stored = [sum(run.record.checkpoint.weight_bytes.values()) for run in pair]
    parts = [get_text("cheaper.stored", change=_format_size_change(*stored))] if all(stored) else []
    ours, theirs = _find_shared_costs(a, b)
    if not ours:
        names = {"a": f"‘{a.name}’", "b": f"‘{b.name}’"}
        return get_text("cheaper", **names, parts=join_texts(parts)) if parts else get_text("cheaper.unknown")
    resident = _format_size_change(*(min(cost.resident_weight_bytes for cost in costs) for costs in (ours, theirs)))
    parts.append(get_text("cheaper.resident", change=resident))
    peak = (_find_best_reading(ours, "peak_bytes", min), _find_best_reading(theirs, "peak_bytes", min))
    if peak[0] and peak[1]:
        parts.append(
            get_text("cheaper.peak_bytes", change=_format_size_change(int(peak[0].median), int(peak[1].median)))
        )
    parts += [get_text(f"cheaper.{name}", change=_format_speed_change(ours, theirs, name)) for name in SPEED_METRICS]
    parts.append(get_text("cheaper.energy", change=_format_energy_change(ours, theirs)))
    return get_text("cheaper", a=_name_with_backend(a, ours), b=_name_with_backend(b, theirs), parts=join_texts(parts))


def _name_with_backend(run: NamedRun, costs: Sequence[Cost]) -> Text:
    """Return the name of a run with its backends; with several precisions each figure is that of the best one."""
    backends = ", ".join(dict.fromkeys(cost.backend for cost in costs))
    if costs[0].precision in TERNARY_PRECISIONS:
        return get_text("cheaper.run", run=run.name, backend=backends)
    precisions = list(dict.fromkeys(cost.precision.upper() for cost in costs))
    words = plain_text(precisions[0])
    if len(precisions) > 1:
        words = get_text("cheaper.better-of", precisions=Text("·".join(precisions), " and ".join(precisions)))
    return get_text("cheaper.run.floats", run=run.name, backend=backends, precisions=words)


def _find_best_reading(costs: Sequence[Cost], name: str, best: Callable[..., Measured]) -> Measured | None:
    """Return the lowest (*best* is min) or highest (max) measurement of a metric; None if there is none."""
    measured = [found for cost in costs if isinstance(found := cost.metrics.get(name), Measured) and found.median]
    return best(measured, key=lambda one: one.median) if measured else None


def _format_size_change(ours: int, theirs: int) -> Text:
    if not ours or not theirs:
        return get_text("change.unknown")
    if ours == theirs:
        return get_text("change.same")
    return _format_ratio(ours / theirs)


def _format_ratio(ratio: float) -> Text:
    """Return a change of size: a factor in English, per cent in Korean, as each language says it."""
    if ratio <= 1:
        return get_text("change.smaller", factor=Text(f"{1 - ratio:.0%}", format_factor(1 / ratio).en))
    return get_text("change.larger", factor=Text(f"{ratio - 1:.0%}", format_factor(ratio).en))


def _format_speed_change(ours: Sequence[Cost], theirs: Sequence[Cost], name: str) -> Text:
    mine, other = _find_best_reading(ours, name, max), _find_best_reading(theirs, name, max)
    if mine is None or other is None:
        return get_text("change.unknown")
    ratio = mine.median / other.median
    said = get_text("change.faster" if ratio >= 1 else "change.slower", factor=format_factor(max(ratio, 1 / ratio)))
    if len(mine.readings) == 1 or len(other.readings) == 1:
        return said + get_text("change.one-reading")  # one reading has no spread to compare with
    apart = min(mine.readings) > max(other.readings) or max(mine.readings) < min(other.readings)
    return said if apart else said + get_text("change.within-spread")


def _format_energy_change(ours: Sequence[Cost], theirs: Sequence[Cost]) -> Text:
    mine, other = _find_best_reading(ours, "energy_j", min), _find_best_reading(theirs, "energy_j", min)
    if mine is None or other is None:
        return get_text("change.not-measured")
    return _format_ratio(mine.median / other.median)


def _find_shared_costs(a: NamedRun, b: NamedRun) -> tuple[list[Cost], list[Cost]]:
    """Return the costs of each in the first scenario that both were measured in; two empty lists if there is none.

    A ternary run has one cost; a float run has those of every float precision, and the best of them counts: against
    FP16 alone, ternary would look better than it is if a processor is faster in BF16.
    """
    for wanted in dict.fromkeys(map(get_scenario, a.costs)):
        ours, theirs = _list_costs(a, wanted), _list_costs(b, wanted)
        if ours and theirs:
            return ours, theirs
    return [], []


def _list_costs(run: NamedRun, wanted: CostScenario) -> list[Cost]:
    main = find_main_cost(run, wanted)
    if main is None or main.precision in TERNARY_PRECISIONS:
        return [main] if main else []
    return [c for c in run.costs if get_scenario(c) == wanted and c.precision not in TERNARY_PRECISIONS]


def _list_cost_notes(pair: Pair) -> Iterable[Text]:
    a, b = pair
    for run in pair:
        checkpoint = run.record.checkpoint
        if run.record.precision == "ternary" and not checkpoint.has_codes_only:
            yield get_text("note.unpacked", run=run.key)
        if "32" in checkpoint.dtype and run.record.precision != "fp32":
            yield get_text("note.wide", run=run.key, dtype=checkpoint.dtype)
    ours, theirs = _find_shared_costs(a, b)
    if has_several_machines(pair):
        yield make_machine_warning(pair).text
    if not ours:
        yield get_text("note.no-shared-cost")
        return
    yield format_scenario(ours[0])
    for run, costs in ((a, ours), (b, theirs)):
        if len(costs) == 1 and (note := make_precision_note(run, costs[0])):
            yield note
    if any(cost.is_disturbed for cost in (*ours, *theirs)):
        yield get_text("note.disturbed")


def _list_chance_notes(runs: Sequence[NamedRun]) -> Iterable[Text]:
    """Return on how many tasks each run is better than chance: two runs that guess do not differ either."""
    counts = [(run.key, counted) for run in runs if (counted := _count_above_chance(run))]
    if counts:
        yield get_text("note.chance", counts=", ".join(f"{key} {above}/{all_}" for key, (above, all_) in counts))


def _list_generation_notes(runs: Sequence[NamedRun]) -> Iterable[Text]:
    """Return how many generated answers of each run did not come to their end."""
    for run in runs:
        counts = [(name, run.record.counts.get(name)) for name in GENERATION_COUNTS]
        named = [get_text(f"count.{name}") + plain_text(f" {count:,}") for name, count in counts if count]
        if named:
            yield get_text("note.generation", run=run.key, counts=join_texts(named))


def _count_above_chance(run: NamedRun) -> tuple[int, int] | None:
    """Return on how many tasks the interval lies above chance, and how many have a chance; None if there is none."""
    guessed = [s for s in run.primary.values() if s.chance and s.stderr is not None and not s.lower_is_better]
    above = [s for s in guessed if (i := s.interval) and s.chance is not None and i[0] > s.chance]
    return (len(above), len(guessed)) if guessed else None
