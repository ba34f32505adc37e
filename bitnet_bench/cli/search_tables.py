"""Print what a search tried: a row for each setting, with a column for each length of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from bitnet_bench.cli.sentences import print_text
from bitnet_bench.cli.tables import DASH, make_table, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.runs.records import SearchRecord, Trial

DIVERGED = "diverged"


def show_search(search: SearchRecord) -> None:
    """Print the table of a search, and for each arm what was chosen, why, and after how many steps."""
    from bitnet_bench.training.search import name_settings

    show(search_table(search))
    for arm, settings in search.choice.items():
        named = name_settings(settings) or "the settings as given"
        why = f", {search.reasons[arm]}" if arm in search.reasons else ""
        print_text(f"Chosen for {arm}: {named}{why}. Steps of this arm: {search.count_steps(arm):,}.")
        for out in search.chosen.get(arm, ()):
            print_text(f"Checkpoint: {out}")
    for trial in search.trials:
        if trial.error:
            print_text(f"Pruned for {trial.arm}: {name_settings(trial.settings)}. {trial.error}")


def search_table(search: SearchRecord) -> Table:
    """Return the settings that were tried, one per row and seed, with the validation loss at each length."""
    from bitnet_bench.training.search import name_settings

    shares = sorted({trial.share for trial in search.trials} | {1.0})
    rows: dict[tuple[str, str, int], list[Trial]] = {}
    for trial in search.trials:
        rows.setdefault((trial.arm, name_settings(trial.settings), trial.seed), []).append(trial)
    cells = [
        [
            arm,
            settings,
            str(seed),
            *(_show_loss([trial for trial in trials if trial.share == share]) for share in shares),
            "chosen" if any(trial.out in search.chosen.get(arm, ()) for trial in trials) else "",
        ]
        for (arm, settings, seed), trials in rows.items()
    ]
    lengths = ["whole" if share == 1 else str(Fraction(share)) for share in shares]
    columns = ["precision", "settings", "seed", *(f"loss, {length}" for length in lengths), ""]
    made = make_table("Search", columns, cells, numbers_from=2, keys=2, optional=("seed",))
    made.caption = f"Validation loss by the length of the runs. {DASH}: not run, others of this arm were better."
    return made


def _show_loss(trials: Sequence[Trial]) -> str:
    """Return the loss of the only trial of a length, that it diverged, or a dash if there is none."""
    if not trials:
        return DASH
    loss = trials[0].validation_loss
    return DIVERGED if loss is None else f"{loss:.4f}"
