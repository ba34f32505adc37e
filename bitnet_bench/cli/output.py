"""Print the results of commands: tables for a person, JSON for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitnet_bench.cli.option_names import name_options
from bitnet_bench.cli.sentences import print_text
from bitnet_bench.cli.tables import DASH, format_mebibytes, format_milliseconds, make_table, show
from bitnet_bench.cli.terminal import escape_controls, escape_json_controls, unprotect
from bitnet_bench.wording.estimates import format_estimate

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.runs.records import Cost, Measurement, RunRecord, Score


OPTIONAL_COSTS = ("of floor", "p95 / p99 a token", "KV", "batch", "energy", "first token", "weights")
"""Columns of the table of costs that a narrow terminal can do without, the first named first."""
COUNT_NOTES = {
    "malformed": "{name}: malformed outputs, scored as wrong: {n}.",
    "unfinished": "{name}: thoughts without an end, scored as wrong: {n}.",
    "cut": "{name}: answers that the limit of new tokens cut: {n}.",
    "shortened": "{name}: answers that had less room than the limit, because prompts fill the context: {n}.",
    "truncated": "{name}: prompts that lost their beginning, because they exceed the context: {n}.",
}
"""Notes on what went wrong in asking and answering, by the name in `RunRecord.counts`."""


def show_runs(records: list[Any]) -> None:
    """Print the scores and costs of runs, what judges said, and notes about them."""
    from bitnet_bench.cli.judging import show_judged

    if any(record.scores for record in records):
        show(scores_table(records))
    show_judged(records)
    if any(record.costs or record.cost_errors or record.cost_left_out for record in records):
        show(costs_table(records))
    for note in list_notes(records):
        print_text(name_options(note))


def print_json(value: Any) -> None:
    """Print *value* on standard output."""
    print_json_text(json.dumps(value, ensure_ascii=False, indent=1))


def print_json_text(text: str) -> None:
    """Print a JSON document so that it is the same document whatever the terminal can show."""
    # past the filter, which translates sentences
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(escape_json_controls(text, encoding), file=unprotect(sys.stdout))


def print_document(text: str) -> None:
    """Print Markdown, CSV or LaTeX in the language in which it was written, whatever that of the command line is."""
    print(escape_controls(text), file=unprotect(sys.stdout))


def scores_table(runs: Sequence[RunRecord]) -> Table:
    """Return every score with its uncertainty, one row per task and metric, one column per run.

    Further columns have the score of chance and of always answering the most frequent target.
    """
    keys = list(dict.fromkeys((s.task, s.metric) for run in runs for s in run.scores))
    found = [{(s.task, s.metric): s for s in run.scores} for run in runs]
    rows = []
    for key in keys:
        one = next(scores[key] for scores in found if key in scores)
        chance, majority = (DASH if v is None else f"{v:.1f}" for v in (one.chance, one.majority))
        name = f"{key[1]} ↓" if one.lower_is_better else key[1]
        rows.append([key[0], name, *(_format_score(scores.get(key)) for scores in found), chance, majority, str(one.n)])
    smaller = "; ↓: not 0-100, less is better" if any(s.lower_is_better for run in runs for s in run.scores) else ""
    title = f"Scores, 0-100, ± 95 % interval{smaller}"
    columns = ["task", "metric", *(run.name for run in runs), "chance", "majority", "n"]
    return make_table(title, columns, rows, numbers_from=2, keys=2, optional=("n", "majority", "chance"))


def _format_score(score: Score | None) -> str:
    if score is None:
        return DASH
    digits = 3 if score.lower_is_better else 1
    return format_estimate(score.value, score.stderr, score.interval, digits).en


def costs_table(runs: Sequence[RunRecord]) -> Table:
    """Return the costs of measured runs, one row per run, backend, precision and batch.

    Runs that failed or that the budget left out have a row as well.
    """
    columns = ["run", "backend", "batch", "weights", "KV", "peak", "first token", "prefill tok/s", "decode tok/s"]
    columns += ["of floor", "p95 / p99 a token", "energy"]
    rows = [_cost_row(run.name, cost) for run in runs for cost in run.costs]
    rows += [
        [run.name, who, *[DASH] * (len(columns) - 2)]  # `list_notes` says why
        for run in runs
        for who in dict.fromkeys((*run.cost_errors, *run.cost_left_out))
    ]
    return make_table("Cost", columns, rows, numbers_from=2, keys=2, optional=OPTIONAL_COSTS)


def _cost_row(name: str, cost: Cost) -> list[str]:
    get = cost.metrics.get
    return [
        name,
        f"{cost.backend} {cost.precision}" + (" (another model)" if cost.parity and cost.parity.fault else ""),
        str(cost.batch),
        format_mebibytes(cost.resident_weight_bytes),
        format_mebibytes(cost.kv_bytes),
        _format_median(get("peak_bytes"), format_mebibytes),
        _format_median(get("prefill_s"), "{:.3g} s".format),
        _format_spread(get("prefill_tokens_per_s")),
        _format_spread(get("decode_tokens_per_s")),
        _format_floor_share(cost),
        " / ".join(_format_median(get(name), format_milliseconds) for name in ("token_p95_s", "token_p99_s")),
        _format_median(get("energy_j"), "{:.3g} J".format),
    ]


def _format_spread(measurement: Measurement | None) -> str:
    """Return the median, and half of the range in per cent of it; one round has no range."""
    if measurement is None or measurement.kind != "measured":
        return DASH
    if len(measurement.readings) == 1:
        return f"{measurement.median:,.4g} (1 round)"
    low, high = min(measurement.readings), max(measurement.readings)
    return f"{measurement.median:,.4g} ±{50 * (high - low) / measurement.median:.0f} %"


def _format_floor_share(cost: Cost) -> str:
    """Return how close prefill and decoding came to their floor."""
    shares = []
    for phase in ("prefill", "decode"):
        floor, taken = cost.metrics.get(f"{phase}_floor_s"), cost.metrics.get(f"{phase}_s")
        known = floor is not None and taken is not None and floor.kind == "modelled" and taken.kind == "measured"
        shares.append(f"{floor.value / taken.median:.0%}" if known else DASH)  # type: ignore[union-attr]
    return " / ".join(shares)


def _format_median(measurement: Measurement | None, form: Any) -> str:
    if measurement is None:
        return DASH
    if measurement.kind == "measured":
        return str(form(measurement.median))
    return f"{form(measurement.value)} (modelled)" if measurement.kind == "modelled" else DASH


def _say_answered(count: int) -> str:
    """Return that *count* questions of an open task are answered, and who judges the answers."""
    said = (
        "1 question is answered, and no metric scores it."
        if count == 1
        else (f"{count} questions are answered, and no metric scores them.")
    )
    return f"{said} Let a model judge the answers (`bitnet-bench judge`), or people (`bitnet-bench rate sheet`)."


def list_notes(runs: Sequence[RunRecord]) -> list[str]:
    """Return notes on missing numbers, disturbed ones, and those that are not the checkpoint's."""
    reasons = {m.reason for run in runs for cost in run.costs for m in cost.metrics.values() if m.kind == "unavailable"}
    found = [f"{DASH} {reason}" for reason in sorted(reasons)]
    for run in runs:
        counts = [(note, run.counts.get(name)) for name, note in COUNT_NOTES.items()]
        found += [note.format(name=run.name, n=f"{count:,}") for note, count in counts if count]
        open_tasks = {
            task: count for task, count in run.answered.items() if task not in {one.task for one in run.judged}
        }
        found += [f"{run.name} {task}: {_say_answered(count)}" for task, count in open_tasks.items()]
        found += [
            f"{run.name} {who} was not measured. {' '.join(said.split())}" for who, said in run.cost_errors.items()
        ]
        found += [f"{run.name} {who} was left out by the budget. {why}" for who, why in run.cost_left_out.items()]
    costs = [(run.name, cost) for run in runs for cost in run.costs]
    for name, cost in costs:
        if cost.once_because:
            found.append(f"{name} {cost.backend} {cost.precision} ran once, without an interval. {cost.once_because}")
        if cost.parity and cost.parity.fault:
            found.append(f"{name} {cost.backend} {cost.precision} is another model: {cost.parity.fault}.")
        if cost.parity and cost.parity.remark:
            found.append(f"{name} {cost.backend} {cost.precision} reads text in another way: {cost.parity.remark}.")
        if cost.left_out:
            left = "; ".join(cost.disturbances)
            found.append(
                f"{name} {cost.backend} {cost.precision} without {len(cost.left_out)} disturbed rounds ({left})."
            )
        elif cost.disturbances:
            found.append(f"{name} {cost.backend} {cost.precision}, disturbed: {'; '.join(cost.disturbances)}.")
        elif cost.is_disturbed:
            found.append(f"Other processes used {cost.foreign_load:.0%} of this machine beside {name} {cost.backend}.")
    return [*found, *_list_neighbours(runs)]


def _list_neighbours(runs: Sequence[RunRecord]) -> list[str]:
    """Return which processes of others computed beside a measurement that they disturbed, and which were on a GPU."""
    costs = [cost for run in runs for cost in run.costs if cost.neighbours]
    busy = [one for cost in costs if cost.is_disturbed and cost.neighbours for one in cost.neighbours.busy]
    on_gpu = [
        one for cost in costs if "card_bytes" in cost.conditions and cost.neighbours for one in cost.neighbours.on_gpu
    ]
    named = dict.fromkeys(f"{one.name} ({one.pid}, {one.cores:.2f} cores)" for one in busy)
    cards = dict.fromkeys(f"{one.name} ({one.pid})" for one in on_gpu)
    return [
        *([f"Beside a disturbed measurement ran: {', '.join(named)}."] if named else []),
        *([f"Other processes had work on a GPU meanwhile: {', '.join(cards)}."] if cards else []),
    ]
