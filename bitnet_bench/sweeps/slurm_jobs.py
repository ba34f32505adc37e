"""The job of one step in a SLURM queue, as submitit runs it: it saves and is queued again before its time is up."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bitnet_bench.errors import UsageError
from bitnet_bench.sweeps.attempts import TAKEN_OVER, Attempt
from bitnet_bench.sweeps.graph import Step
from bitnet_bench.sweeps.step_process import StepCall

INSTALL_HINT = "pip install 'bitnet-bench[slurm]', in the environment that the jobs use too."
LINGER_S = 900.0
"""Time that a job waits for its end whose step was told to end."""
STOP_SHARE = 0.8
"""Share of the time between the signal and the limit that a step has to save."""


def import_submitit() -> Any:
    """Return the module `submitit`; UsageError, which says how to install it, if it is not there."""
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise UsageError("`--on slurm` needs submitit, which is not installed.", INSTALL_HINT) from error


@dataclass(frozen=True)
class JobOrder:
    """What the job of a step is told."""

    call: Mapping[str, Any]
    """Fields of the `StepCall`, the step as JSON."""
    outcome: str
    shared: str
    signal_s: int
    """Seconds between the signal and the time limit."""


class StepFailedError(Exception):
    """A step failed, for a reason that its outcome says."""


class StepJob:
    """What submitit keeps in the folder of the sweep, and calls on a node; it holds nothing but text."""

    def __init__(self, order: JobOrder) -> None:
        self._order = json.dumps(asdict(order))
        self._attempt: Attempt | None = None

    def __call__(self) -> str:
        """Run one attempt at the step; return its outcome as JSON, which is in a file of the sweep as well."""
        order = JobOrder(**json.loads(self._order))
        call = StepCall(**{**order.call, "step": Step.model_validate(order.call["step"])})
        self._attempt = Attempt(call, order.outcome, order.shared)
        outcome = self._attempt.run()
        if outcome.is_lost and outcome.problem != TAKEN_OVER:
            time.sleep(LINGER_S)  # SLURM ends a job that it preempts or cancels, and only then knows it as such
        if not outcome.is_done:
            raise StepFailedError(outcome.problem)  # so that the job fails, and those that wait for it do not start
        return outcome.model_dump_json()

    def checkpoint(self) -> Any:
        """Let the step save, and return what is queued again; submitit calls this at the signal before the limit."""
        order = JobOrder(**json.loads(self._order))
        if self._attempt is not None:
            self._attempt.stop(STOP_SHARE * order.signal_s)
            self._attempt = None
        return import_submitit().helpers.DelayedSubmission(StepJob(order))

    def __getstate__(self) -> dict[str, Any]:
        """Return the order alone: what runs is not queued again."""
        return {"_order": self._order, "_attempt": None}
