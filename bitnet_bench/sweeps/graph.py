"""Describe the steps of a sweep as values: what each runs, waits for, reads, writes and needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bitnet_bench.errors import BenchError, UsageError, did_you_mean, format_validation_error
from bitnet_bench.files import read_text, write_whole
from bitnet_bench.runs.value import Value

GRAPH_FILE = "sweep.json"
LOGS_FOLDER = "logs"
OUTCOMES_FOLDER = "outcomes"
SHOWN_CYCLE = 8
"""Number of steps of a cycle that an error names."""
StepKind = Literal["search", "finetune", "evaluate", "measure", "report", "board"]


class Needs(Value):
    """What a step occupies on the machine that runs it."""

    cpus: int = Field(default=1, ge=1)
    """Cores; `local` gives a step more if nothing else could use them."""
    gpus: int = Field(default=0, ge=0)
    memory_bytes: int = Field(default=0, ge=0)
    """Main memory at most, by estimate; 0 if it is not known."""
    processes: int = Field(default=1, ge=1)
    """Processes of the step, each with its own `gpus / processes` devices: above 1 it is started by torchrun."""
    exclusive: bool = False
    """True if nothing else may run on the same machine, as in measuring."""


class Step(Value):
    """One step: the same as a plain command, of which another process or machine needs nothing but this value."""

    id: str = Field(pattern=r"^\w[\w.+=@-]*$", max_length=240)
    """Name in the graph, which is also a file name; the same in every plan of the same sweep."""
    kind: StepKind
    title: str
    """Name of the step for displays."""
    job: Mapping[str, Any]
    """What is run, as JSON; the function that runs steps knows what it says."""
    key: str
    """Digest of everything in `job` that decides the result; steps with the same key are one step."""
    after: tuple[str, ...] = ()
    """Ids of the steps that must be done before."""
    tolerates_failures: bool = False
    """True if it is enough that the steps before have ended and one of them is done, as for a report."""
    inputs: tuple[str, ...] = ()
    """Files and folders whose contents decide the result, those that other steps write included."""
    has_unseen_inputs: bool = False
    """True if something outside the file system decides as well, such as a branch of the hub: the step then compares
    its inputs itself whenever the sweep is run."""
    outputs: tuple[str, ...] = ()
    """Files and folders that stand complete when the step is done."""
    folder: str | None = None
    """The folder that the step owns: no other step may write it."""
    extends: tuple[str, ...] = ()
    """Ids of the steps to whose outputs this one adds something, such as costs to a record."""
    needs: Needs = Needs()
    estimated_s: float | None = None
    line: int | None = None
    """Line of the YAML file that the step comes from."""


class StepOutcome(Value):
    """How a step ended."""

    id: str
    is_done: bool
    problem: str = ""
    """Why it failed, with what to do about it."""
    seconds: float = 0.0
    host: str | None = None
    is_lost: bool = False
    """True if its process or node was lost, and not the step's own fault: it may be run again."""


class Graph(Value):
    """All steps of a sweep, each after those that it waits for."""

    steps: tuple[Step, ...]
    title: str = ""
    folder: str
    """The folder of the sweep; paths of steps are absolute, or relative to where the command was started."""

    @cached_property
    def by_id(self) -> Mapping[str, Step]:
        """The steps by id."""
        return {step.id: step for step in self.steps}

    @cached_property
    def dependents(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the steps that wait for each step."""
        found: dict[str, list[str]] = {step.id: [] for step in self.steps}
        for step in self.steps:
            for before in step.after:
                found[before].append(step.id)
        return {name: tuple(ids) for name, ids in found.items()}

    @property
    def logs(self) -> Path:
        """The folder of the steps' output."""
        return Path(self.folder) / LOGS_FOLDER

    def find_log(self, step: Step | str) -> Path:
        """Return the file in which the output of a step is kept."""
        return self.logs / f"{step if isinstance(step, str) else step.id}.log"

    def find_outcome(self, step: Step | str) -> Path:
        """Return the file to which a step that runs as a command of its own writes its `StepOutcome`."""
        return Path(self.folder) / OUTCOMES_FOLDER / f"{step if isinstance(step, str) else step.id}.json"

    def save(self) -> Path:
        """Write the graph to the folder of the sweep, where other machines read it; return the file."""
        file = Path(self.folder) / GRAPH_FILE
        write_whole(file, self.model_dump_json(exclude_defaults=True) + "\n")
        return file


def load_graph(file: Path) -> Graph:
    """Return the graph in *file*, or in the folder *file*; BenchError if it cannot be read."""
    place = file / GRAPH_FILE if file.is_dir() else file
    hint = "Run `bitnet-bench sweep` again: it writes the file anew."
    try:
        graph = Graph.model_validate_json(read_text(place, hint))
        check_folders(graph.steps)
        sort_steps(graph.steps)
    except (ValidationError, UsageError) as error:
        why = error.problem.rstrip(".") if isinstance(error, UsageError) else format_validation_error(error)
        raise BenchError(f"{place} cannot be read: {why}.", hint) from error
    return graph


def find_step(graph: Graph, name: str) -> Step:
    """Return the step called *name*; UsageError with the nearest name if there is none."""
    if name not in graph.by_id:
        raise UsageError(f"The sweep has no step {name!r}.", did_you_mean(name, sorted(graph.by_id)))
    return graph.by_id[name]


def make_graph(folder: Path, steps: Iterable[Step], title: str = "") -> Graph:
    """Return the graph of *steps* in an order in which each can be run; equal steps become one.

    UsageError for two steps that would write one folder, an unknown step before another, or a cycle.
    """
    merged = merge_equal_steps(steps)
    check_folders(merged)
    return Graph(folder=str(folder), title=title, steps=tuple(sort_steps(merged)))


def merge_equal_steps(steps: Iterable[Step]) -> list[Step]:
    """Return *steps* without those whose key an earlier one has; whoever waits for one of them waits for the first."""
    first: dict[str, Step] = {}
    names: dict[str, str] = {}
    for step in steps:
        names[step.id] = first.setdefault(step.key, step).id

    def rename(ids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names.get(one, one) for one in ids))

    return [
        step.model_copy(update={"after": rename(step.after), "extends": rename(step.extends)})
        for step in first.values()
    ]


def check_folders(steps: Iterable[Step]) -> None:
    """Raise UsageError if two steps have one id, or write one folder or one within the other's."""
    owners: dict[Path, Step] = {}
    ids: dict[str, Step] = {}
    for step in steps:
        place = Path(step.folder).absolute() if step.folder else None
        if place and (other := owners.setdefault(place, step)) is not step:
            raise UsageError(
                f"{_locate(step, other)}{other.id} and {step.id} would both write {step.folder}.",
                "Give one of them another name or another folder.",
            )
        if (twice := ids.setdefault(step.id, step)) is not step:
            raise UsageError(f"{_locate(step, twice)}two steps are called {step.id}.", "Give one another name.")
    for place, step in owners.items():
        around = next((owners[above] for above in place.parents if above in owners), None)
        if around:
            raise UsageError(
                f"{_locate(step, around)}{step.id} would write {step.folder}, inside the folder of {around.id}.",
                "Give one of them another name or another folder.",
            )


def _locate(*steps: Step) -> str:
    lines = sorted({step.line for step in steps if step.line})
    if not lines:
        return ""
    return f"Line {lines[0]}: " if len(lines) == 1 else f"Lines {' and '.join(map(str, lines))}: "


def sort_steps(steps: Iterable[Step]) -> list[Step]:
    """Return *steps* so that each stands after those that it waits for, otherwise in their order; refuse a cycle."""
    waiting = {step.id: step for step in steps}
    for step in waiting.values():
        unknown = next((one for one in (*step.after, *step.extends) if one not in waiting), None)
        if unknown:
            hint = did_you_mean(unknown, sorted(waiting))
            raise UsageError(f"{_locate(step)}{step.id} waits for {unknown}, which is not a step.", hint)
    missing = Counter({name: len(set(step.after)) for name, step in waiting.items()})
    after: dict[str, list[str]] = {name: [] for name in waiting}
    for step in waiting.values():
        for before in dict.fromkeys(step.after):
            after[before].append(step.id)
    found = [step for step in waiting.values() if not missing[step.id]]
    for step in found:  # grows meanwhile
        for name in after[step.id]:
            missing[name] -= 1
            if not missing[name]:
                found.append(waiting[name])
    if len(found) < len(waiting):
        cycle = list(_find_cycle({name: step for name, step in waiting.items() if missing[name]}))
        shown = " -> ".join(cycle[:SHOWN_CYCLE]) + (" -> ..." if len(cycle) > SHOWN_CYCLE else f" -> {cycle[0]}")
        raise UsageError(
            f"{_locate(*(waiting[name] for name in cycle))}steps wait for one another: {shown}.",
            "Let one of them start from something else.",
        )
    return found


def _find_cycle(waiting: Mapping[str, Step]) -> Iterator[str]:
    """Yield the ids of a cycle among *waiting*, of which each waits for another one."""
    seen: list[str] = []
    name = next(iter(waiting))
    while name not in seen:
        seen.append(name)
        name = next(one for one in waiting[name].after if one in waiting)
    yield from reversed(seen[seen.index(name) :])
