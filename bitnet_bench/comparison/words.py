"""Say what a comparison found: the one wording that the terminal, the exports and the report share."""

from __future__ import annotations

from bitnet_bench.comparison.results import Comparison, Difference, EffectSize, MeanDifference, Verdict
from bitnet_bench.wording import Said, plain, say

DASH = "—"
LEAST_P = 0.001
SIZES = {"g": (0.05, 0.15, 0.25), "dz": (0.2, 0.5, 0.8)}
"""From where on an effect is small, medium and large (Cohen 1988, chapters 2 and 5)."""


def headline(comparison: Comparison) -> Said:
    """Return the verdict in a sentence."""
    if comparison.mean is not None:
        return _mean_sentence(comparison, comparison.mean)
    if not comparison.differences:
        return say("headline.refused", a=comparison.a, b=comparison.b)
    found = comparison.differences[0]
    return say(
        f"headline.single.{found.verdict}",
        a=comparison.a,
        b=comparison.b,
        task=found.task,
        size=f"{abs(found.difference):.3g}",
        interval=interval_words(found),
    )


def _mean_sentence(comparison: Comparison, mean: MeanDifference) -> Said:
    return say(
        f"headline.{mean.verdict}",
        a=comparison.a,
        b=comparison.b,
        tasks=_tasks(mean.tasks),
        size=f"{abs(mean.difference):.1f}",
        signed=signed(mean.difference),
        interval=interval_words(mean),
        p=p_words(mean.p),
        margin=f"{comparison.margin:g}",
    )


def _tasks(count: int) -> Said:
    return say("tasks.one" if count == 1 else "tasks", count=count)


def verdict_words(verdict: Verdict, margin: float) -> Said:
    """Return the verdict on a task in a few words."""
    return say(f"verdict.{verdict}", margin=f"{margin:g}")


def counts_words(comparison: Comparison) -> Said:
    """Say on how many tasks each verdict fell."""
    given = [difference.verdict for difference in comparison.differences]
    counted = [(kind, given.count(kind)) for kind in dict.fromkeys(given)]
    said = [verdict_words(kind, comparison.margin) + plain(f": {count}") for kind, count in counted]
    if comparison.refused:
        said.append(say("verdict.refused") + plain(f": {len(comparison.refused)}"))
    return Said(" · ".join(s.ko for s in said), " · ".join(s.en for s in said))


def effect_words(effect: EffectSize | None) -> Said:
    """Return an effect with its interval; a dash where no pair differs."""
    if effect is None:
        return plain(DASH)
    limits = span_words(signed(effect.low, 2), signed(effect.high, 2))
    return plain(f"{effect.kind} {signed(effect.value, 2)} (") + limits + plain(")")


def effect_size(effect: EffectSize) -> Said:
    """Return the size of an effect in a word."""
    reached = sum(abs(effect.value) >= least for least in SIZES[effect.kind])
    return say(("effect.none", "effect.small", "effect.medium", "effect.large")[reached])


def test_words(name: str) -> Said:
    """Return the name of a test."""
    return say(f"test.{name}")


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign; what rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else _minus(text)


def interval_words(found: Difference | MeanDifference) -> Said:
    """Return the 95 % interval; in three decimals where the unit is not points."""
    return span_words(signed(found.low, _digits(found)), signed(found.high, _digits(found)))


def span_words(low: str, high: str) -> Said:
    """Return two limits as a span."""
    return Said(f"{low} ~ {high}", f"{low} to {high}")


def difference_words(found: Difference | MeanDifference) -> str:
    """Return the difference; in three decimals where the unit is not points."""
    return signed(found.difference, _digits(found))


def _digits(found: Difference | MeanDifference) -> int:
    return 1 if isinstance(found, MeanDifference) or found.equivalence_p is not None else 3


def p_words(p: float) -> str:
    """Return a p-value."""
    return f"< {LEAST_P}" if p < LEAST_P else f"{p:.3f}"


def _minus(text: str) -> str:
    return text.replace("-", "−")
