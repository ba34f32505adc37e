"""Choose what runs the trials of a search that `finetune` is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.errors import UsageError

if TYPE_CHECKING:
    from bitnet_bench.runs.jobs import Arms, TrialPlacement
    from bitnet_bench.training.search import RunAhead


def make_trial_runner(placement: TrialPlacement, arms: Arms, out: Path) -> RunAhead | None:
    """Return what runs the trials of a search side by side; None if they run one after the other."""
    if placement.on is None and placement.jobs is None:
        return None
    if not arms.searches:
        raise UsageError("--on and --jobs are for the trials of a search.", "Add --search or --find-lr.")
    if placement.on is None and placement.jobs == 1:
        return None
    from bitnet_bench.cli.sweep_screen import show_sweep
    from bitnet_bench.pipeline.parallel_trials import make_trial_runner
    from bitnet_bench.processes import count_processes
    from bitnet_bench.sweeps.executors import ExecutorOptions
    from bitnet_bench.sweeps.local import look_at_machine

    if count_processes() > 1:
        raise UsageError(
            "Trials run side by side in one process each, and this run has several.",
            "Leave --on and --jobs out, or start it without torchrun.",
        )
    gpus = min(1, len(look_at_machine().gpus))
    options = ExecutorOptions(placement.jobs)
    return make_trial_runner(out, arms.backend, placement.on or "local", options, gpus, show_sweep)
