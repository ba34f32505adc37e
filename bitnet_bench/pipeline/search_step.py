"""The step of a recipe that chooses settings on validation rows before the runs that count."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import ProgressDisplay
from bitnet_bench.runs.jobs import Arms, FinetuneJob
from bitnet_bench.training.search import (
    apply_point,
    count_search_runs,
    load_search,
    name_settings,
    parse_grid,
    run_search,
    search_rates,
)
from bitnet_bench.training.study import require_optuna

SEARCH_FOLDER = "search"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchStep:
    """Step that chooses the settings of each arm with the first seed, for all runs of a fine-tuning."""

    arms: Mapping[str, FinetuneJob]
    wanted: Arms
    out: Path

    title = "search settings"

    @property
    def is_done(self) -> bool:
        """True if the settings of every arm are chosen; `run` then only compares the inputs of the trials."""
        found = load_search(self.out)
        return found is not None and self.arms.keys() <= found.choice.keys()

    def run(self, steps: ProgressDisplay) -> None:
        """Try the settings that were not tried yet; log what was chosen and what makes that doubtful."""
        grid, rates = parse_grid(self.wanted.search), search_rates(self.arms, self.wanted)
        found = run_search(self.arms, grid, 1, self.out, self.wanted.backend, steps, only_chooses=True, **rates)
        for arm, settings in found.choice.items():
            _log.info("%s: %s for %s, %s", self.title, name_settings(settings), arm, found.reasons[arm])
        for warning in found.warnings:
            _log.warning("%s: %s", self.title, warning)

    def count_whole_runs(self) -> float:
        """Return how long all runs of an arm are together, a whole run being 1."""
        return count_search_runs(self.wanted)

    def apply_choice(self, job: FinetuneJob) -> FinetuneJob:
        """Return *job* with the settings that were chosen for its arm."""
        found = load_search(self.out)
        if found is None or job.precision not in found.choice:
            raise BenchError(f"{self.out} does not say which settings are the best.", "Run the recipe again.")
        return apply_point(job, found.choice[job.precision])


def make_search_step(arms: Mapping[str, FinetuneJob], wanted: Arms, out: Path, label: str = "") -> SearchStep:
    """Return the step that searches *arms* in a folder in *out*; UsageError for settings that cannot be searched."""
    parse_grid(wanted.search)
    require_optuna()  # before hours of other steps
    return SearchStep(arms, wanted, out / f"{SEARCH_FOLDER}{label}")
