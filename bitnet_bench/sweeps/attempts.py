"""Run one attempt at a step on a machine of a cluster, of which there may be several: at most one of them counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole
from bitnet_bench.sweeps.claims import Claim
from bitnet_bench.sweeps.graph import StepOutcome
from bitnet_bench.sweeps.step_process import END_S, POLL_S, StepCall, StepProcess, load_outcome

TAKEN_OVER = "A later attempt has taken it over."


class Attempt:
    """One attempt at a step, in the process of a cluster that watches it.

    *outcome* is the file in which the outcome of all attempts is kept; "" for none. *shared* is a folder that all
    machines see, in which the step is claimed; "" for none.
    """

    def __init__(self, call: StepCall, outcome: str = "", shared: str = "") -> None:
        self._call, self._file = call, Path(outcome) if outcome else None
        self._claim = Claim(Path(shared), call.step.id) if shared else None
        self._process: StepProcess | None = None

    def run(self, start: Callable[[StepCall], StepProcess] = StepProcess) -> StepOutcome:
        """Run the step to its end and return how it ended; an earlier attempt's outcome, if there is one already.

        *start* starts the process.
        """
        if self._claim is not None:
            self._claim.take()
        try:
            former = load_outcome(self._file) if self._file else None
            return former or self._run_process(start)
        finally:
            if self._claim is not None:
                self._claim.release()

    def _run_process(self, start: Callable[[StepCall], StepProcess]) -> StepOutcome:
        self._process = start(self._call)
        try:
            while not self._process.wait(POLL_S):
                if self._claim is not None and not self._claim.keep():
                    self._process.kill()
                    return StepOutcome(id=self._call.step.id, is_done=False, problem=TAKEN_OVER, is_lost=True)
            outcome = self._process.read_outcome()
        except BaseException:
            self._process.kill()
            raise
        if self._file is not None and not outcome.is_lost:
            write_whole(self._file, outcome.model_dump_json())
        return outcome

    def stop(self, timeout_s: float = END_S) -> None:
        """Let the step save and end, within *timeout_s*; for a handler of the signal before a time limit."""
        if self._process is None or self._process.has_ended:
            return
        began = time.monotonic()
        self._process.ask_to_stop()
        while not self._process.wait(POLL_S) and time.monotonic() - began < timeout_s:
            if self._claim is not None:
                self._claim.keep()
        self._process.kill()
        with suppress(BenchError, OSError):
            if self._claim is not None:
                self._claim.release()
