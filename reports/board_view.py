"""Hold a leaderboard with the runs that it is about, and name what its tables and pictures name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bitnet_bench.comparison.board_values import Board, BoardColumn, BoardMean, BoardRun, BoardScore, BoardTwins
from bitnet_bench.comparison.results import Sentence
from bitnet_bench.comparison.score_conditions import format_settings
from bitnet_bench.reports.cost_section import find_main_machine, has_several_machines
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.runs.run import Notice
from bitnet_bench.wording import Text, get_text, join_texts, plain_text
from bitnet_bench.wording.estimates import format_estimate
from bitnet_bench.wording.names import format_precision, format_suite, format_task_name

SEPARATOR = " · "
MAX_MACHINE_CHARS = 28


@dataclass(frozen=True)
class BoardView:
    """A leaderboard, its runs by key, and what is wrong with runs that were named."""

    board: Board
    runs: Mapping[str, NamedRun]
    notices: Sequence[Notice] = ()

    @cached_property
    def described(self) -> dict[str, BoardRun]:
        """Return the runs of the board by key."""
        return {run.key: run for run in self.board.runs}

    @cached_property
    def partners(self) -> dict[str, list[str]]:
        """Return the twins of each run by key: one of a ternary run, any number of a float one."""
        found: dict[str, list[str]] = {}
        for pair in self.board.twins:
            found.setdefault(pair.ternary, []).append(pair.twin)
            found.setdefault(pair.twin, []).append(pair.ternary)
        return found

    @cached_property
    def main_mean(self) -> BoardMean | None:
        """Return the mean over all tasks, or that of a suite if more than twice as many runs have it; None if none."""
        most = max((len(mean.scores) for mean in self.board.means), default=0)
        return next((mean for mean in self.board.means if mean.scores and 2 * len(mean.scores) >= most), None)

    @cached_property
    def has_several_machines(self) -> bool:
        """Return whether costs were measured on different machines, so that they have to be told apart."""
        return has_several_machines(self.runs.values())

    @cached_property
    def main_machine(self) -> str | None:
        """Return the machine whose costs stand in one table; None for all machines."""
        return find_main_machine(self.runs.values())

    @property
    def suites(self) -> list[str]:
        """Return the suites of the columns, in order."""
        return list(dict.fromkeys(column.task.partition(":")[0] for column in self.board.columns))

    def columns_of(self, suite: str) -> list[BoardColumn]:
        """Return the columns of a suite."""
        return [column for column in self.board.columns if column.task.partition(":")[0] == suite]

    def mean_of(self, suite: str | None) -> BoardMean | None:
        """Return the mean of a suite, or of all of several suites (None)."""
        return next((mean for mean in self.board.means if mean.suite == suite), None)

    def label(self, key: str) -> Text:
        """Return letter and name of a run."""
        return self.runs[key].label

    def describe(self, key: str) -> tuple[Text, ...]:
        """Return small print on a run: what it is, its twins, its settings."""
        run = self.described[key]
        kind = [format_precision(run.precision), plain_text(run.backend), *self.runs[key].stage_words]
        if self.partners.get(key):
            kind.append(get_text("board.twin-of", runs=", ".join(self.partners[key])))
        settings = format_settings(run.settings)
        return tuple(join_texts(parts, SEPARATOR) for parts in (kind, settings) if parts)


def shorten_machine(run: NamedRun) -> str:
    """Return the first machine of a run in a few words: its GPU, else its processor without its instruction sets."""
    here = next(iter(run.machines.values()), run.record.environment.machine)
    name = (here.gpus[0] if here.gpus else here.cpu).partition(" (")[0].partition(",")[0].strip()
    return name if len(name) <= MAX_MACHINE_CHARS else f"{name[: MAX_MACHINE_CHARS - 1]}…"


def format_rank(rank: tuple[int, int] | None) -> str:
    """Return a rank, or the best and the worst that it may be; a dash for none."""
    if rank is None:
        return "—"
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"


def format_score(score: BoardScore, digits: int = 1) -> Text:
    """Return a score with its 95 % interval, as other tables have it: as limits if it lies at one of them."""
    limits = None if score.low is None or score.high is None else (score.low, score.high)
    is_at_limit = limits is not None and score.value in limits
    return format_estimate(score.value, 0.0 if is_at_limit else score.stderr, limits, digits)


def name_column(column: BoardColumn) -> Text:
    """Return the name of a column: its task, and its category if it is one."""
    name = format_task_name(column.task)
    return name if column.category is None else name + plain_text(f"{SEPARATOR}{column.category}")


def name_mean(mean: BoardMean) -> Text:
    """Return the name of a mean: that of its suite, or of all tasks."""
    return get_text("board.all-tasks") if mean.suite is None else format_suite(mean.suite)


def text_of(sentence: Sentence) -> Text:
    """Return a sentence of a value as text."""
    return Text(sentence.ko, sentence.en)


def describe_test(pair: BoardTwins) -> Text:
    """Return how the difference of twins was tested."""
    return get_text(f"board.test.{pair.test}")
