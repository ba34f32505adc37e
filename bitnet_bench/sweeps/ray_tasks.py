"""Run one attempt at a step on a node of a Ray cluster: the functions that Ray calls there, and what they are told."""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from bitnet_bench.errors import UsageError
from bitnet_bench.files import find_user_cache
from bitnet_bench.sweeps.artefacts import ArtefactStore, describe_fault
from bitnet_bench.sweeps.attempts import Attempt
from bitnet_bench.sweeps.graph import Graph, Step, StepOutcome
from bitnet_bench.sweeps.step_process import StepCall

INSTALL_HINT = "pip install 'bitnet-bench[ray]', here and on every node, in the same version."


def import_ray() -> Any:
    """Return the module `ray`; UsageError, which says how to install it, if it is not there."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("`--on ray` needs Ray, which is not installed.", INSTALL_HINT) from error


@dataclass(frozen=True)
class TaskOrder:
    """What a Ray task is told, as JSON."""

    call: Mapping[str, Any]
    """Fields of the `StepCall`, the step as JSON."""
    version: str
    outcome: str = ""
    shared: str = ""
    artefacts: str = ""
    root: str = ""
    graph: str = ""
    """The graph as JSON, if there is a URL: its steps say where files come from."""


def read_version() -> str:
    """Return the version of this package here; "" if it is not installed, but found by a path."""
    try:
        return metadata.version("bitnet-bench")
    except metadata.PackageNotFoundError:
        return ""


def run_order(order: str) -> str:
    """Run one attempt at a step on the node of this Ray task; return its outcome as JSON."""
    told = TaskOrder(**json.loads(order))
    call = StepCall(**{**told.call, "step": Step.model_validate(told.call["step"])})
    if told.version != read_version():
        problem = f"Its node has bitnet-bench {read_version()}, and the sweep was started with {told.version}."
        failed = StepOutcome(id=call.step.id, is_done=False, problem=problem)
        return failed.model_dump_json()
    if not told.artefacts:
        return Attempt(call, told.outcome, told.shared).run().model_dump_json()
    return _run_with_copies(told, call).model_dump_json()


def _run_with_copies(told: TaskOrder, call: StepCall) -> StepOutcome:
    """Fetch what the step reads, run it, and send what it wrote; an outcome that is in the store is not run again."""
    root = Path(told.root).expanduser() if told.root else find_user_cache() / "sweeps" / _name_folder(told.artefacts)
    graph = Graph.model_validate_json(told.graph)
    try:
        root.mkdir(parents=True, exist_ok=True)
        store = ArtefactStore(told.artefacts, root)
        inputs = store.digest_inputs(graph, call.step)
        former = store.find_outcome(call.step, inputs)
        if former is not None:
            return former
        store.fetch_inputs(graph, call.step)
        here = replace(call, folder=str(root), log=str(root / call.log))
        outcome = Attempt(here).run()
        if outcome.is_done:
            store.send_outputs(call.step, inputs, outcome)
    except Exception as error:
        return StepOutcome(id=call.step.id, host=platform.node() or None, **describe_fault(error))
    return outcome


def _name_folder(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def find_place() -> tuple[str, int]:
    """Return the address of the node of this Ray task, and a port that is free on it."""
    ray = import_ray()
    with socket.socket() as taken:
        taken.bind(("", 0))
        return str(ray.util.get_node_ip_address()), int(taken.getsockname()[1])


def list_missing(paths: Sequence[str], folder: str) -> list[str]:
    """Return those of *paths* that are not on the node of this Ray task."""
    return [path for path in (folder, *paths) if not Path(folder, path).exists()]
