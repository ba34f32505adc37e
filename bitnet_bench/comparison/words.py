"""Format the result of a comparison with the wording that the terminal, the exports and the report share."""

from __future__ import annotations

from bitnet_bench.comparison.results import Comparison, Difference, EffectSize, MeanDifference, Verdict
from bitnet_bench.wording import Count, Text, get_text, plain_text
from bitnet_bench.wording.names import format_task_name

DASH = "—"
MIN_SHOWN_P = 0.001
EFFECT_SIZE_LIMITS = {"g": (0.05, 0.15, 0.25), "dz": (0.2, 0.5, 0.8)}
"""Effect sizes from which on an effect is small, medium and large (Cohen 1988, chapters 2 and 5)."""


def format_headline(comparison: Comparison) -> Text:
    """Return the verdict as a sentence."""
    if comparison.mean is not None:
        return _format_mean(comparison, comparison.mean)
    if not comparison.differences:
        return get_text("headline.refused", a=comparison.a, b=comparison.b)
    found = comparison.differences[0]
    return get_text(
        f"headline.single.{found.verdict}",
        a=comparison.a,
        b=comparison.b,
        task=format_task_name(found.task),
        size=f"{abs(found.difference):.3g}",
        interval=format_interval(found),
    )


def _format_mean(comparison: Comparison, mean: MeanDifference) -> Text:
    return get_text(
        f"headline.{mean.verdict}",
        a=comparison.a,
        b=comparison.b,
        tasks=get_text("tasks", count=Count(mean.tasks)),
        size=f"{abs(mean.difference):.1f}",
        signed=format_signed(mean.difference),
        interval=format_interval(mean),
        p=format_p(mean.p),
        margin=f"{comparison.margin:g}",
    )


def format_verdict(verdict: Verdict, margin: float) -> Text:
    """Return the verdict on a task in a few words."""
    return get_text(f"verdict.{verdict}", margin=f"{margin:g}")


def format_verdict_counts(comparison: Comparison) -> Text:
    """Return on how many tasks each verdict was given."""
    given = [difference.verdict for difference in comparison.differences]
    counted = [(kind, given.count(kind)) for kind in dict.fromkeys(given)]
    said = [format_verdict(kind, comparison.margin) + plain_text(f": {count}") for kind, count in counted]
    if comparison.refused:
        said.append(get_text("verdict.refused") + plain_text(f": {len(comparison.refused)}"))
    return Text(" · ".join(s.ko for s in said), " · ".join(s.en for s in said))


def format_effect(effect: EffectSize | None) -> Text:
    """Return an effect with its interval; a dash if no pair differs."""
    if effect is None:
        return plain_text(DASH)
    limits = format_span(format_signed(effect.low, 2), format_signed(effect.high, 2))
    return plain_text(f"{effect.kind} {format_signed(effect.value, 2)} (") + limits + plain_text(")")


def format_effect_size(effect: EffectSize) -> Text:
    """Return the size of an effect as a word."""
    reached = sum(abs(effect.value) >= least for least in EFFECT_SIZE_LIMITS[effect.kind])
    return get_text(("effect.none", "effect.small", "effect.medium", "effect.large")[reached])


def format_test_name(name: str) -> Text:
    """Return the name of a test."""
    return get_text(f"test.{name}")


def format_signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign; a value that rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else _replace_minus(text)


def format_interval(found: Difference | MeanDifference) -> Text:
    """Return the 95 % interval; with three decimals if the unit is not points."""
    return format_span(
        format_signed(found.low, _choose_digits(found)), format_signed(found.high, _choose_digits(found))
    )


def format_span(low: str, high: str) -> Text:
    """Return two limits as a range."""
    return Text(f"{low} ~ {high}", f"{low} to {high}")


def format_difference(found: Difference | MeanDifference) -> str:
    """Return the difference; with three decimals if the unit is not points."""
    return format_signed(found.difference, _choose_digits(found))


def _choose_digits(found: Difference | MeanDifference) -> int:
    return 1 if isinstance(found, MeanDifference) or found.equivalence_p is not None else 3


def format_p(p: float) -> str:
    """Return a p-value as text."""
    return f"< {MIN_SHOWN_P}" if p < MIN_SHOWN_P else f"{p:.3f}"


def _replace_minus(text: str) -> str:
    return text.replace("-", "−")
