"""Tables and JSON of a sweep: its plan, and its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bitnet_bench.cli.sentences import print_text
from bitnet_bench.cli.tables import DASH, format_duration, format_gigabytes, make_table, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.pipeline.planned_cost import PlannedCost
    from bitnet_bench.pipeline.planning import SweepPlan
    from bitnet_bench.pipeline.step_estimate import Estimate
    from bitnet_bench.sweeps.graph import Step
    from bitnet_bench.sweeps.scheduler import SweepState

MAX_STEPS_SHOWN = 60
"""Number of steps up to which a plan has a row for each; a larger one has a row for each kind."""
MAX_RUNS_SHOWN = 100
MAX_TASKS_CONTINUED = 12
"""Tasks of whose scores the table is continued below itself where the terminal is too narrow; others are left out."""
MAX_FAILURES_SHOWN = 20
OPTIONAL = ("needs", "disk", "after", "memory at most")


def show_plan(plan: SweepPlan, cost: PlannedCost) -> None:
    """Print the steps of a plan in the order in which they can run, or how many there are of each kind."""
    if len(plan.steps) > MAX_STEPS_SHOWN:
        show(kinds_table(plan, cost))
    else:
        show(steps_table(plan.graph.steps, cost.estimates, cost.states))
    unknown = [one for name, one in cost.estimates.items() if one.seconds is None and cost.states[name] != "done"]
    for note, count in Counter(one.note for one in unknown if one.note).items():
        print_text(f"{count:,} step{'s' * (count > 1)} without an estimate: {note}")


def steps_table(
    steps: Sequence[Step], estimates: Mapping[str, Estimate], states: Mapping[str, str] | None = None
) -> Table:
    """Return the steps of a plan, one per row, with the sum of those that are left."""
    numbers = {step.id: number for number, step in enumerate(steps, 1)}
    rows = []
    for step in steps:
        one, state = estimates[step.id], (states or {}).get(step.id, "done" if estimates[step.id].done else "to do")
        after = _shorten_numbers([numbers[name] for name in step.after])
        rows.append(
            [str(numbers[step.id]), step.title, state, *_format_cost(one, state), after, _say_needs(step), one.note]
        )
    left = [one for step in steps if not (one := estimates[step.id]).done]
    rows.append(["", "what is left", "", *_sum_costs(left), "", "", _count_unknown(left)])
    columns = ["", "step", "state", "time", "memory at most", "disk", "after", "needs", "from"]
    made = make_table(
        "Plan (estimates)",
        columns,
        rows,
        numbers_from=99,
        keys=2,
        unbroken=("", "state", "time"),
        optional=("from", *OPTIONAL),
    )
    made.caption = "; ".join(dict.fromkeys(one.speed for one in estimates.values() if one.speed))
    return made


def kinds_table(plan: SweepPlan, cost: PlannedCost) -> Table:
    """Return how many steps of each kind are done and left, and what these take."""
    rows = []
    for kind in dict.fromkeys(step.kind for step in plan.graph.steps):
        names = [step.id for step in plan.graph.steps if step.kind == kind]
        counted = Counter(cost.states[name] for name in names)
        left = [cost.estimates[name] for name in names if cost.states[name] != "done"]
        states = [f"{counted[state]:,}" for state in ("done", "to check", "to do")]
        rows.append([kind, f"{len(names):,}", *states, *_sum_costs(left), _count_unknown(left)])
    names = list(plan.steps)
    left = [cost.estimates[name] for name in names if cost.states[name] != "done"]
    counted = Counter(cost.states.values())
    states = [f"{counted[state]:,}" for state in ("done", "to check", "to do")]
    rows.append(["together", f"{len(names):,}", *states, *_sum_costs(left), _count_unknown(left)])
    columns = ["kind", "steps", "done", "to check", "to do", "time", "memory at most", "disk", "from"]
    made = make_table("Plan (estimates)", columns, rows, optional=("from", "disk", "memory at most"))
    made.caption = "; ".join(dict.fromkeys(one.speed for one in cost.estimates.values() if one.speed))
    return made


def _format_cost(one: Estimate, state: str) -> list[str]:
    if state == "done":
        return [DASH] * 3
    return [
        DASH if one.seconds is None else f"~{format_duration(one.seconds)}",
        DASH if one.memory_bytes is None else f"~{format_gigabytes(one.memory_bytes)}",
        DASH if one.disk_bytes is None else f"~{format_gigabytes(one.disk_bytes)}",
    ]


def _sum_costs(left: Sequence[Estimate]) -> list[str]:
    """Return the time and the disk of *left* together, and the memory of the largest."""
    known = [one for one in left if one.seconds is not None]
    memory = max((one.memory_bytes or 0 for one in known), default=0)
    disk = sum(one.disk_bytes or 0 for one in known)
    seconds = sum(one.seconds or 0.0 for one in known)
    return [f"~{format_duration(seconds)}", f"~{format_gigabytes(memory)}", f"~{format_gigabytes(disk)}"]


def _count_unknown(left: Sequence[Estimate]) -> str:
    unknown = sum(one.seconds is None for one in left)
    return f"without {unknown} unknown step{'s' * (unknown > 1)}" if unknown else ""


def _shorten_numbers(numbers: Sequence[int]) -> str:
    """Return numbers with ranges: 1-4, 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _say_needs(step: Step) -> str:
    needs = step.needs
    said = [f"{needs.cpus} CPU"]
    said += [f"{needs.gpus} GPU"] if needs.gpus else []
    said += [f"{needs.processes} processes"] if needs.processes > 1 else []
    return " + ".join([*said, *(["alone"] if needs.exclusive else [])])


def describe_plan(plan: SweepPlan, cost: PlannedCost) -> list[dict[str, Any]]:
    """Return the steps of a plan as JSON takes them."""
    return [
        {
            "id": step.id,
            "kind": step.kind,
            "title": step.title,
            "state": cost.states[step.id],
            "after": list(step.after),
            "folder": step.folder,
            "needs": step.needs.model_dump(mode="json"),
            "line": step.line,
            **{name: value for name, value in vars(cost.estimates[step.id]).items() if name != "title"},
        }
        for step in plan.graph.steps
    ]


def describe_state(state: SweepState) -> dict[str, Any]:
    """Return how the steps of a sweep ended as JSON takes it, with the results of the runs."""
    from pathlib import Path

    from bitnet_bench.pipeline.board_step import RESULTS_FILE, read_results

    file = Path(state.graph.folder) / RESULTS_FILE
    steps = []
    for step in state.graph.steps:
        outcome = state.outcomes.get(step.id)
        steps.append(
            {
                "id": step.id,
                "kind": step.kind,
                "state": state.states[step.id],
                "was_done": step.id in state.skipped,
                "seconds": outcome.seconds if outcome else None,
                "host": outcome.host if outcome else None,
                "problem": outcome.problem if outcome else "",
                "blocked_by": state.blocked_by.get(step.id),
                "folder": step.folder,
                "log": str(state.graph.find_log(step)) if outcome else None,
            }
        )
    return {"steps": steps, "runs": read_results(file) if file.is_file() else []}


def list_failures(state: SweepState) -> list[str]:
    """Return a sentence for each failed step, with what it blocks and where its log is."""
    failed = state.list_in("failed")
    said = []
    for step in failed[:MAX_FAILURES_SHOWN]:
        blocked = [one.id for one in state.list_in("blocked") if state.blocked_by.get(one.id) == step.id]
        text = f"{step.id} failed. {state.outcomes[step.id].problem}"
        if blocked:
            names = ", ".join(blocked[:5]) + (f" and {len(blocked) - 5} more" if len(blocked) > 5 else "")
            text += f"\n  Blocked by it: {names}."
        said.append(f"{text}\n  Log: {state.graph.find_log(step)}")
    if len(failed) > MAX_FAILURES_SHOWN:
        said.append(f"{len(failed) - MAX_FAILURES_SHOWN} more steps failed; --json names them.")
    return said


def show_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one table of all runs of a sweep."""
    show(results_table(rows))


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the primary scores of all runs, one row per run and one column per task."""
    tasks = list(dict.fromkeys(score["task"] for row in rows for score in row["scores"]))
    cells = []
    for row in rows[:MAX_RUNS_SHOWN]:
        scores = {score["task"]: score for score in row["scores"]}
        cells.append([row["run"], *(_format_score(scores.get(task)) for task in tasks), _format_cost_of(row)])
    columns = ["run", *tasks, "decode tok/s"]
    if not any(row["costs"] for row in rows):
        columns, cells = columns[:-1], [cell[:-1] for cell in cells]
    hidden = len(rows) - MAX_RUNS_SHOWN
    made = make_table(
        "Results, 0-100, ± 95 % interval",
        columns,
        cells,
        optional=tuple(reversed(tasks[MAX_TASKS_CONTINUED:])),
        elsewhere="--json",
    )
    if hidden > 0:
        made.caption = f"Runs that are in the page and in --json alone: {hidden}."
    return made


def _format_score(score: Mapping[str, Any] | None) -> str:
    from bitnet_bench.statistics import interval
    from bitnet_bench.wording.estimates import format_estimate

    if score is None:
        return DASH
    value, stderr = score["value"], score["stderr"]
    digits = 3 if score["lower_is_better"] else 1
    return format_estimate(value, stderr, interval(value, stderr), digits).en


def _format_cost_of(row: Mapping[str, Any]) -> str:
    speeds = [cost["decode_tokens_per_s"] for cost in row["costs"] if cost["decode_tokens_per_s"]]
    return f"{max(speeds):,.4g}" if speeds else DASH
