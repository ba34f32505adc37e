"""What is timed: prompts and new tokens, by how many at once, and when enough rounds were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from bitnet_bench.errors import UsageError
from bitnet_bench.measurement.budget import DEFAULT_BUDGET, parse_budget
from bitnet_bench.runs.choices import ScenarioName
from bitnet_bench.runs.jobs import MAX_BATCH, MAX_COUNT
from bitnet_bench.runs.settings import Option, Settings

MAX_THREADS = 4096
MAX_ROUNDS = 10_000
SCENARIO_PRESETS: Mapping[ScenarioName, tuple[int, int]] = {
    "chat": (256, 128),
    "summarize": (1024, 128),
    "classify": (256, 2),
}
"""(prompt tokens, new tokens): a turn of a conversation, an article and its summary, a text and its label."""


def read_budget(budget: Any) -> Any:
    """Return the seconds of a budget that is text, such as `3m`; ValueError if it has another form."""
    try:
        return parse_budget(budget) if isinstance(budget, str) else budget
    except UsageError as error:
        raise ValueError(f"{error.problem.removesuffix('.')}: {error.hint.removesuffix('.')}") from error


class Workload(Settings):
    """*batch* prompts of *prompt_tokens* at once, then *new_tokens* greedy tokens each: what a recipe names, too."""

    prompt_tokens: Annotated[int, Option()] = Field(default=128, gt=0, le=MAX_COUNT)
    """Prompt length; of a suite the most."""
    new_tokens: Annotated[int, Option()] = Field(default=32, gt=1, le=MAX_COUNT)
    """Tokens to decode.

    The first is prefill's, so that decoding needs another.
    """
    batch: Annotated[int, Option(is_repeatable=True)] = Field(default=1, gt=0, le=MAX_BATCH)
    """Prompts at once; repeatable."""
    threads: Annotated[int, Option()] = Field(default=0, ge=0, le=MAX_THREADS)
    """CPU threads; 0 takes every core."""
    rounds: Annotated[int, Option()] = Field(default=10, gt=0, le=MAX_ROUNDS)
    """The most rounds; models alternate within each.

    Fewer where the budget is used up, or the intervals are narrow when most of them are made.
    """


class Scenario(Workload):
    """A workload, and how long and how exactly it is measured."""

    least_rounds: int = Field(default=3, gt=0, le=MAX_ROUNDS)
    """With fewer a candidate has no interval worth the name: one that cannot make so many in its share makes one."""
    budget_s: Annotated[float, BeforeValidator(read_budget), Option(name="budget", written=DEFAULT_BUDGET)] = Field(
        default=parse_budget(DEFAULT_BUDGET), gt=0
    )
    """For everything, loading included: 90s, 3m, 1h. Who does not fit is left out.

    In seconds: loading, warm-ups, idle power, parity, rounds and ceilings.
    """
    tolerance: float = Field(default=0.03, ge=0)
    """An interval of the median is narrow when it is no wider than this share of it."""
    timeout_s: Annotated[float, Option(name="timeout")] = Field(default=600.0, ge=1)
    """Seconds after which one that does not answer hangs.

    For loading, and for each round.
    """
    batches: tuple[Annotated[int, Field(gt=0, le=MAX_BATCH)], ...] = ()
    """Several batches, one after the other, instead of `batch`."""
    texts: tuple[str, ...] = ()
    """Prompts to read instead of random ids, all cut to the shortest; `prompt_tokens` is then the most of each."""

    @property
    def fewest_rounds(self) -> int:
        """Rounds that make an interval, or all that may be made."""
        return min(self.least_rounds, self.rounds)

    @property
    def each_batch(self) -> tuple[int, ...]:
        """The batches to measure."""
        return self.batches or (self.batch,)


def find_preset(name: str) -> tuple[int, int]:
    """Return (prompt tokens, new tokens) of a preset; UsageError lists those there are."""
    found = {str(known): tokens for known, tokens in SCENARIO_PRESETS.items()}
    if name not in found:
        raise UsageError(f"There is no scenario {name!r}.", f"There are {', '.join(found)}.")
    return found[name]
