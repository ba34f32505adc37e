"""Run steps as tasks of a Ray cluster.

A task starts a process for its step and watches it. A step of several processes has a placement group with a place for
each, and one task in each place. When a node is lost, Ray starts the task elsewhere, and the step goes on from what it
had saved.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.answer_cache import CACHE_FILE_VARIABLE
from bitnet_bench.sweeps.artefacts import ArtefactStore, describe_fault
from bitnet_bench.sweeps.cluster_settings import RaySettings
from bitnet_bench.sweeps.executors import ExecutorOptions, RunStep, StepProgress
from bitnet_bench.sweeps.graph import Graph, Needs, Step, StepOutcome
from bitnet_bench.sweeps.ray_tasks import (
    INSTALL_HINT,
    TaskOrder,
    find_place,
    import_ray,
    list_missing,
    read_version,
    run_order,
)
from bitnet_bench.sweeps.step_process import RANK_VARIABLE, StepCall, load_progress, name_function, share_threads

RUNS_FOLDER, ANSWERS_FOLDER = "ray", "answers"
STOP_S = 10.0
"""Time that tasks have to end their steps, before their workers are killed."""
CONNECT_S = 10.0
"""Time that the head of a cluster has to take a connection."""
PROBE_S = 120.0
"""Time that a node has to say what it has: a worker must start, and import this package."""


@dataclass
class _Task:
    """A step on the cluster: one task, or one for each process in a placement group."""

    step: Step
    refs: list[Any]
    group: Any = None
    waiting_for: Any = None
    """What becomes ready when the group has its places; then the tasks are started."""
    place: Any = None
    """What becomes the address at which the processes of the group meet."""
    retries: int = 0
    began_s: float = field(default_factory=time.monotonic)

    @property
    def awaited(self) -> list[Any]:
        """The references of which one must become ready before anything changes."""
        return [one for one in (self.waiting_for, self.place) if one is not None] or self.refs


class RayExecutor:
    """Runs steps as tasks of a Ray cluster that is connected."""

    def __init__(self, graph: Graph, run_step: RunStep, settings: RaySettings, ray: Any) -> None:
        self._graph, self._settings, self._ray = graph, settings, ray
        self._function = name_function(run_step)
        self._run = Path(graph.folder).absolute() / RUNS_FOLDER / secrets.token_hex(8)
        self._tasks: dict[str, _Task] = {}
        self._store = ArtefactStore(settings.artefacts, Path.cwd()) if settings.artefacts else None
        self._remote = ray.remote(run_order)

    def check(self, graph: Graph) -> None:
        """Raise UsageError for a step that no node has room for, or a node that lacks what steps read."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        for step in graph.steps:
            _check_room(step, nodes, self._settings)
        if self._store is not None:
            self._store.send_given(graph)
        else:
            self._check_data(graph, [node for node in nodes if node["Resources"].get("CPU")])

    def _check_data(self, graph: Graph, nodes: Sequence[Mapping[str, Any]]) -> None:
        written = {path for step in graph.steps for path in step.outputs}
        paths = {path: step for step in graph.steps for path in step.inputs if Path(path).exists()}
        paths = {path: step for path, step in paths.items() if path not in written}
        probe = self._ray.remote(num_cpus=0, max_retries=0)(list_missing)
        affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        asked = {
            str(node["NodeManagerHostname"]): probe.options(scheduling_strategy=affinity(node["NodeID"], False)).remote(
                sorted(paths), os.getcwd()
            )
            for node in nodes
        }
        for host, answer in asked.items():
            try:
                missing = self._ray.get(answer, timeout=PROBE_S)
            except Exception as error:
                said = str(error).strip().splitlines()[-1]
                raise BenchError(f"The node {host} cannot run steps: {said}.", INSTALL_HINT) from error
            if missing:
                line = paths[missing[0]].line if missing[0] in paths else None
                raise UsageError(
                    f"{f'Line {line}: ' if line else ''}the node {host} does not have {missing[0]}.",
                    "Put the sweep and what it reads into a folder that all nodes see, or give a URL for artefacts.",
                )

    def choose(self, ready: Sequence[Step]) -> Sequence[Step]:
        """Return all of *ready*: Ray queues what it has no room for."""
        return ready

    def submit(self, steps: Sequence[Step]) -> None:
        """Queue *steps* on the cluster."""
        for step in steps:
            self._tasks[step.id] = self._start(step, 0)

    def _start(self, step: Step, retries: int) -> _Task:
        if step.needs.processes > 1:
            return self._start_group(step, retries)
        resources = find_resources(step, self._ray.nodes())
        task = self._remote.options(name=step.id, max_retries=self._settings.retries, **resources)
        return _Task(step, [task.remote(self._order(step))], retries=retries)

    def _start_group(self, step: Step, retries: int) -> _Task:
        """Ask for a place for each process of *step*, on few nodes; on one if they would not see each other's files."""
        processes = step.needs.processes
        place = {"CPU": max(1, step.needs.cpus // processes), "GPU": step.needs.gpus / processes}
        place["memory"] = step.needs.memory_bytes // processes
        wanted = {name: amount for name, amount in place.items() if amount}
        strategy = "STRICT_PACK" if self._store is not None else "PACK"
        group = self._ray.util.placement_group([wanted] * processes, strategy=strategy)
        return _Task(step, [], group, waiting_for=group.ready(), retries=retries)

    def _advance_group(self, task: _Task) -> None:
        """Take the next step with a group that has its places, or knows where its processes meet."""
        count = task.step.needs.processes
        if task.waiting_for is not None:
            find = self._ray.remote(find_place).options(**self._place(task, 0) | {"num_cpus": 0, "num_gpus": 0})
            task.waiting_for, task.place = None, find.remote()
            return
        address, port = self._ray.get(task.place)
        task.place = None
        met = {"WORLD_SIZE": str(count), "MASTER_ADDR": address, "MASTER_PORT": str(port), RANK_VARIABLE: "1"}
        for rank in range(count):
            own = met | {"RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            started = self._remote.options(name=f"{task.step.id}[{rank}]", max_retries=0, **self._place(task, rank))
            task.refs.append(started.remote(self._order(task.step, own)))

    def _place(self, task: _Task, rank: int) -> dict[str, Any]:
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        chosen = strategies.PlacementGroupSchedulingStrategy(task.group, placement_group_bundle_index=rank)
        needs = task.step.needs
        return {
            "num_cpus": max(1, needs.cpus // needs.processes),
            "num_gpus": needs.gpus / needs.processes,
            "scheduling_strategy": chosen,
        }

    def _order(self, step: Step, environment: Mapping[str, str] | None = None) -> str:
        """Return what the task of *step* is told."""
        rank = (environment or {}).get("RANK", "0")
        log = self._graph.find_log(step)
        call = StepCall(
            step,
            self._function,
            str(log.with_suffix(f".rank{rank}.log") if rank != "0" else log),
            "" if self._store else str(self._find_progress(step)),
            "" if self._store else os.getcwd(),
            share_threads(step.needs) | self._choose_environment(environment or {}),
            tuple(sys.argv),
        )
        fields = {name: getattr(call, name) for name in StepCall.__dataclass_fields__}
        told = TaskOrder(
            call=fields | {"step": step.model_dump(mode="json")},
            version=read_version(),
            outcome="" if self._store or rank != "0" else str(self._run / f"{step.id}.json"),
            shared="" if self._store or rank != "0" else str(Path(self._graph.folder).absolute()),
            artefacts=self._settings.artefacts or "",
            root=self._settings.node_folder or "",
            graph=self._graph.model_dump_json(exclude_defaults=True) if self._store else "",
        )
        return json.dumps(asdict(told))

    def _choose_environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of a step: answers are kept where a later attempt on another node finds them."""
        place = os.environ.get(CACHE_FILE_VARIABLE)
        if place is None and self._store is None:
            folder = Path(self._graph.folder).absolute() / ANSWERS_FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            place = str(folder)
        return {**({CACHE_FILE_VARIABLE: place} if place else {}), **given}

    def _find_progress(self, step: Step) -> Path:
        return self._run / f"{step.id}.progress"

    def wait(self, timeout_s: float) -> Sequence[StepOutcome]:
        """Return the outcomes of the steps that have ended; wait at most *timeout_s* for something to happen."""
        awaited = {ref: task for task in self._tasks.values() for ref in task.awaited}
        if not awaited:
            return []
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        found = [self._look_at(task) for task in {awaited[ref].step.id: awaited[ref] for ref in ready}.values()]
        return [outcome for outcome in found if outcome is not None]

    def _look_at(self, task: _Task) -> StepOutcome | None:
        """Return the outcome of a task of which something is ready; None if the step goes on."""
        try:
            if task.waiting_for is not None or task.place is not None:
                self._advance_group(task)
                return None
            ready, running = self._ray.wait(task.refs, num_returns=len(task.refs), timeout=0)
            outcomes = [StepOutcome.model_validate_json(self._ray.get(ref)) for ref in ready]
        except self._ray.exceptions.RayError as error:
            return self._lose(task, error)
        failed = next((one for one in outcomes if not one.is_done), None)
        if running and failed is None:
            return None
        if task.refs[0] in ready and not running:
            failed = failed or StepOutcome.model_validate_json(self._ray.get(task.refs[0]))
        return self._end(task, failed or outcomes[0])

    def _lose(self, task: _Task, error: Exception) -> StepOutcome | None:
        """Start a step again whose group has lost a process; return its outcome if that has been tried enough."""
        if task.group is not None and task.retries < self._settings.retries:
            self._stop([task])
            self._tasks[task.step.id] = self._start(task.step, task.retries + 1)
            return None
        said = str(error).strip().splitlines()[0]
        problem = f"Its node or its worker was lost {self._settings.retries + 1} times: {said}"
        return self._end(task, StepOutcome(id=task.step.id, is_done=False, problem=problem, is_lost=True))

    def _end(self, task: _Task, outcome: StepOutcome) -> StepOutcome:
        self._stop([task])
        del self._tasks[task.step.id]
        if self._store is not None and outcome.is_done:
            try:
                self._store.fetch_outputs(task.step)
            except Exception as error:
                return outcome.model_copy(update=describe_fault(error))
        return outcome

    def read_progress(self) -> Mapping[str, StepProgress]:
        """Return how far the steps are that have begun, as they wrote it into the folder of the sweep."""
        said = {name: load_progress(self._find_progress(task.step)) for name, task in self._tasks.items()}
        return {name: progress for name, progress in said.items() if progress is not None}

    def cancel(self) -> None:
        """Interrupt all steps, then kill the workers of those that do not end."""
        self._stop(list(self._tasks.values()))
        self._tasks.clear()
        shutil.rmtree(self._run, ignore_errors=True)

    def _stop(self, tasks: Sequence[_Task]) -> None:
        refs = [ref for task in tasks for ref in task.refs]
        _, running = self._ray.wait(refs, num_returns=len(refs), timeout=0) if refs else ([], [])
        for ref in running:
            self._ray.cancel(ref)
        if running:
            _, running = self._ray.wait(running, num_returns=len(running), timeout=STOP_S)
        for ref in running:
            self._ray.cancel(ref, force=True)
        for group in (task.group for task in tasks if task.group is not None):
            self._ray.util.remove_placement_group(group)


def find_resources(step: Step, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a task of *step* holds; all cores of a node if nothing else may run there."""
    needs = step.needs
    cpus = needs.cpus
    if needs.exclusive:
        fitting = [node["Resources"] for node in nodes if node["Alive"] and _has_room(needs, node["Resources"])]
        cpus = max((int(found.get("CPU", 0)) for found in fitting), default=cpus)
    return {"num_cpus": cpus, "num_gpus": needs.gpus, **({"memory": needs.memory_bytes} if needs.memory_bytes else {})}


def _has_room(needs: Needs, there: Mapping[str, float]) -> bool:
    wanted = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_bytes}
    return all(there.get(name, 0) >= amount for name, amount in wanted.items())


def _check_room(step: Step, nodes: Sequence[Mapping[str, Any]], settings: RaySettings) -> None:
    """Raise UsageError if the cluster, as it is now, can never have room for *step*."""
    needs = step.needs
    if needs.processes > 1 and not settings.artefacts:
        total = {name: sum(node["Resources"].get(name, 0) for node in nodes) for name in ("CPU", "GPU", "memory")}
        fits = _has_room(needs, total)
    else:
        fits = any(_has_room(needs, node["Resources"]) for node in nodes)
    if fits:
        return
    memory = f", {needs.memory_bytes / 1e9:,.1f} GB" if needs.memory_bytes else ""
    raise UsageError(
        f"{f'Line {step.line}: ' if step.line else ''}{step.id} needs {needs.cpus:,} cores, {needs.gpus:,} GPUs"
        f"{memory}, and none of the {len(nodes):,} nodes of the Ray cluster has them.",
        "Lower `needs`, or start a node that has them: `ray start --address HOST:PORT`.",
    )


def count_gpus(settings: Mapping[str, Any]) -> int:
    """Return how many GPUs the best node of the cluster has, which stays connected."""
    ray = import_ray()
    if not ray.is_initialized():
        _connect(ray, settings.get("address") or "auto")
    return max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)


@contextmanager
def open_executor(graph: Graph, run_step: RunStep, options: ExecutorOptions) -> Iterator[RayExecutor]:
    """Yield an executor on a Ray cluster: the one that the settings name, else one of this machine alone."""
    settings = RaySettings(**options.settings)
    ray = import_ray()
    was_connected = ray.is_initialized()
    if not was_connected:
        _connect(ray, settings.address or "auto")
    executor = RayExecutor(graph, run_step, settings, ray)
    try:
        yield executor
    finally:
        with suppress(Exception):  # the cluster may be what was lost
            executor.cancel()
        if not was_connected:
            ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT, for which Ray would wait without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def _connect(ray: Any, address: str) -> None:
    """Connect to the cluster at *address*, without its dashboard and its statistics of use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _reach(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise UsageError(
            f"There is no Ray cluster at {address}: {said}",
            "Start one with `ray start --head --include-dashboard=false`, or give its address, HOST:PORT.",
        ) from error
