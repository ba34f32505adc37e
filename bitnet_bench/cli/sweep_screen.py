"""Show how far a sweep is: one screen that changes, or a line for each step where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bitnet_bench.cli.sentences import print_text
from bitnet_bench.cli.tables import escape_cell, format_duration
from bitnet_bench.cli.terminal import SHOWN_BARS, escape_controls, protect_streams, unprotect

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.sweeps.graph import Graph
    from bitnet_bench.sweeps.scheduler import SweepState

SHOWN_RUNNING = 8
SHOWN_FAILED = 5
STATES = ("done", "running", "waiting", "failed", "blocked")
Show = Callable[["SweepState"], None]


@contextmanager
def show_sweep(graph: Graph) -> Iterator[Show]:
    """Show the state of a sweep on standard error until the context ends; yield the function that it is told to."""
    if not sys.stderr.isatty():
        yield SweepLines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=unprotect(sys.stderr))
    screen = SweepScreen()
    with Live(console=console, refresh_per_second=4, transient=True) as live, protect_streams():
        SHOWN_BARS.append(live)

        def show(state: SweepState) -> None:
            live.update(screen.render(state))

        try:
            yield show
        finally:
            SHOWN_BARS.remove(live)


class SweepLines:
    """Prints a line for each step that ends."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, state: SweepState) -> None:
        """Print what has ended since the last call."""
        total = len(state.graph.steps)
        if not self._said and state.skipped:
            print_text(f"Done before: {len(state.skipped)} of {total} steps.", sys.stderr)
        self._said |= state.skipped
        for name, outcome in state.outcomes.items():
            if name in self._said:
                continue
            self._said.add(name)
            how = "done" if outcome.is_done else "FAILED"
            line = f"[{len(self._said)}/{total}] {name}: {how}, {format_duration(outcome.seconds)}"
            print(escape_controls(line), file=sys.stderr, flush=True)
        for name, cause in state.blocked_by.items():
            if name not in self._said:
                self._said.add(name)
                print(escape_controls(f"[{len(self._said)}/{total}] {name}: blocked by {cause}"), file=sys.stderr)


class SweepScreen:
    """Draws a sweep as one table: the steps of each kind by state, what runs, what failed, and the time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began_s = clock, clock()

    def render(self, state: SweepState) -> Any:
        """Return what rich draws."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [self._make_counts(state)]
        for step in state.list_in("running")[:SHOWN_RUNNING]:
            progress = state.progress.get(step.id)
            share = f" {progress.done}/{progress.total}" if progress and progress.total > 1 else ""
            about = f"  {progress.title}{share} {progress.note}".rstrip() if progress else ""
            parts.append(Text(escape_controls(f"> {step.id}{about}"), no_wrap=True, overflow="ellipsis"))
        if (more := len(state.list_in("running")) - SHOWN_RUNNING) > 0:
            parts.append(Text(f"  and {more} more"))
        for step in state.list_in("failed")[:SHOWN_FAILED]:
            problem = state.outcomes[step.id].problem.partition("\n")[0]
            parts.append(Text(escape_controls(f"x {step.id}: {problem}"), "red", no_wrap=True, overflow="ellipsis"))
        parts.append(Text(self._say_time(state)))
        return Group(*parts)

    def _make_counts(self, state: SweepState) -> Table:
        from rich.table import Table

        table = Table(title=escape_cell(state.graph.title), title_justify="left")
        table.add_column("steps")
        counted: Counter[tuple[str, str]] = Counter((step.kind, state.states[step.id]) for step in state.graph.steps)
        shown = [name for name in STATES if any(one == name for _, one in counted) or name in STATES[:3]]
        for name in shown:
            table.add_column(name, justify="right")
        for kind in dict.fromkeys(step.kind for step in state.graph.steps):
            table.add_row(kind, *(f"{counted[kind, name] or ''}" for name in shown))
        return table

    def _say_time(self, state: SweepState) -> str:
        """Return the time that has passed, and that is left at the pace so far."""
        passed = self._clock() - self._began_s
        ended, left = len(state.outcomes), len(state.list_in("waiting", "running"))
        more = f", about {format_duration(passed / ended * left)} left" if ended and left else ""
        return f"{format_duration(passed)} passed{more}; Ctrl-C stops, and the same command resumes"
