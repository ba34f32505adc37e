"""Write a comparison as Markdown, CSV, JSON or LaTeX, for papers and for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from bitnet_bench.comparison.results import Comparison
from bitnet_bench.comparison.words import (
    DASH,
    counts_words,
    difference_words,
    effect_size,
    effect_words,
    headline,
    interval_words,
    p_words,
    test_words,
    verdict_words,
)

COLUMNS = ("task", "metric", "n", "A", "B", "A − B", "95 % interval", "p (Holm)", "effect", "test", "verdict")
LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "−": "$-$",
        "<": "$<$",
        "—": "---",
    }
)


def rows(comparison: Comparison) -> list[list[str]]:
    """Return the cells of a table in English: tasks, refused tasks, and the mean."""
    found = [
        [
            d.task,
            d.metric + (" (less is better)" if d.lower_is_better else ""),
            f"{d.n:,}",
            _score(d.a, d.equivalence_p is not None),
            _score(d.b, d.equivalence_p is not None),
            difference_words(d),
            interval_words(d).en,
            p_words(d.p_holm),
            effect_words(d.effect).en + (f" {effect_size(d.effect).en}" if d.effect else ""),
            test_words(d.test).en,
            verdict_words(d.verdict, comparison.margin).en,
        ]
        for d in comparison.differences
    ]
    for refused in comparison.refused:
        why = "not compared: " + "; ".join(words.en for words in refused.differs)
        found.append([refused.task, *[DASH] * (len(COLUMNS) - 2), why])
    if comparison.mean and comparison.mean.tasks > 1:
        mean = comparison.mean
        found.append(
            [
                f"mean of {mean.tasks} tasks",
                "",
                f"{mean.n:,}",
                "",
                "",
                difference_words(mean),
                interval_words(mean).en,
                p_words(mean.p),
                "",
                "",
                verdict_words(mean.verdict, comparison.margin).en,
            ]
        )
    return found


def as_markdown(comparison: Comparison) -> str:
    """Return the verdict and a Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows(comparison)]
    table = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, cells)]
    about = f"A: {comparison.a}, B: {comparison.b}. {counts_words(comparison).en}"
    return "\n".join([headline(comparison).en, "", *table, "", about, ""])


def as_csv(comparison: Comparison) -> str:
    """Return one row a task with numbers as they are, not rounded; empty where there is none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = (
        *("task", "metric", "n", "a", "b", "difference", "stderr", "low", "high", "test", "p", "p_holm"),
        *("equivalence_p", "flipped_wrong", "flipped_right", "verdict"),
    )
    writer.writerow([*fields, "effect", "effect_value", "effect_low", "effect_high", "differs"])
    for d in comparison.differences:
        effect = [d.effect.kind, d.effect.value, d.effect.low, d.effect.high] if d.effect else ["", "", "", ""]
        writer.writerow([*("" if (v := getattr(d, f)) is None else v for f in fields), *effect, ""])
    for refused in comparison.refused:
        why = "; ".join(words.en for words in refused.differs)
        writer.writerow([refused.task, *[""] * (len(fields) - 2), "refused", "", "", "", "", why])
    return stream.getvalue()


def as_json(comparison: Comparison) -> str:
    """Return the whole comparison with its sentence."""
    import json

    return json.dumps(
        {"headline": headline(comparison).en, **comparison.model_dump(mode="json")}, ensure_ascii=False, indent=1
    )


def as_latex(comparison: Comparison) -> str:
    """Return a table of the package booktabs, with the verdict for its caption."""
    body = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in rows(comparison)]
    head = " & ".join(column.translate(LATEX) for column in COLUMNS) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{headline(comparison).en.translate(LATEX)}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(COLUMNS) - 4)}ll}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
    "latex": as_latex,
}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _score(value: float, points: bool) -> str:
    return f"{value:.1f}" if points else f"{value:.3f}"
