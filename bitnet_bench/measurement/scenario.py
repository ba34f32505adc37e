"""What is timed: prompts and new tokens, by how many at once, and when enough rounds were made."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_bench.errors import UsageError

PRESETS = {"chat": (256, 128), "summarize": (1024, 128), "classify": (256, 2)}
"""(prompt tokens, new tokens): a turn of a conversation, an article and its summary, a text and its label."""


@dataclass(frozen=True)
class Scenario:
    """*batch* prompts of *prompt_tokens* at once, then *new_tokens* greedy tokens each."""

    prompt_tokens: int = 128
    new_tokens: int = 32
    batch: int = 1
    threads: int = 0
    """0: as many as there are cores to run on."""
    rounds: int = 10
    """The most; fewer where the budget is used up, or the intervals are narrow when most of them are made."""
    least_rounds: int = 3
    """With fewer a contestant has no interval worth the name: one that cannot make so many in its share makes one."""
    budget_s: float = 180.0
    """For everything: loading, warm-ups, idle power, parity, rounds and ceilings."""
    tolerance: float = 0.03
    """An interval of the median is narrow when it is no wider than this share of it."""
    timeout_s: float = 600.0
    """For loading, and for each round; one that takes longer hangs."""
    batches: tuple[int, ...] = ()
    """Several batches, one after the other, instead of *batch*."""
    texts: tuple[str, ...] = ()
    """Prompts to read instead of random ids, all cut to the shortest; *prompt_tokens* is then the most of each."""

    @property
    def fewest_rounds(self) -> int:
        """Rounds that make an interval, or all that may be made."""
        return min(self.least_rounds, self.rounds)

    @property
    def each_batch(self) -> tuple[int, ...]:
        """The batches to measure."""
        return self.batches or (self.batch,)


def preset(name: str) -> tuple[int, int]:
    """Return (prompt tokens, new tokens) of a preset; UsageError lists those there are."""
    if name not in PRESETS:
        raise UsageError(f"There is no scenario {name!r}.", f"There are {', '.join(PRESETS)}.")
    return PRESETS[name]
