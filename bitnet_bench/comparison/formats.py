"""Write a comparison as Markdown, CSV, JSON or LaTeX, for papers and for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from bitnet_bench.comparison.results import Comparison
from bitnet_bench.comparison.words import (
    DASH,
    format_difference,
    format_effect,
    format_effect_size,
    format_headline,
    format_interval,
    format_p,
    format_test_name,
    format_verdict,
    format_verdict_counts,
)
from bitnet_bench.escaping import escape_markdown, guard_csv_cell

COLUMNS = ("task", "metric", "n", "A", "B", "A − B", "95 % interval", "p (Holm)", "effect", "test", "verdict")
LATEX_ESCAPES = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **dict.fromkeys("\n\r\v\f", " "),  # an empty line would end the table
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "−": "$-$",
        "<": "$<$",
        "—": "---",
    }
)


def make_rows(comparison: Comparison) -> list[list[str]]:
    """Return the cells of a table in English: tasks, refused tasks, and the mean."""
    found = [
        [
            d.task,
            d.metric + (" (less is better)" if d.lower_is_better else ""),
            f"{d.n:,}",
            _format_score(d.a, d.equivalence_p is not None),
            _format_score(d.b, d.equivalence_p is not None),
            format_difference(d),
            format_interval(d).en,
            format_p(d.p_holm),
            format_effect(d.effect).en + (f" {format_effect_size(d.effect).en}" if d.effect else ""),
            format_test_name(d.test).en,
            format_verdict(d.verdict, comparison.margin).en,
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
                format_difference(mean),
                format_interval(mean).en,
                format_p(mean.p),
                "",
                "",
                format_verdict(mean.verdict, comparison.margin).en,
            ]
        )
    return found


def format_markdown(comparison: Comparison) -> str:
    """Return the verdict and a Markdown table."""
    cells = [list(map(escape_markdown, row)) for row in make_rows(comparison)]
    table = [_format_line(COLUMNS), _format_line(["---"] * len(COLUMNS)), *map(_format_line, cells)]
    about = f"A: {comparison.a}, B: {comparison.b}. {format_verdict_counts(comparison).en}"
    headline = escape_markdown(format_headline(comparison).en, starts_line=True)
    return "\n".join([headline, "", *table, "", escape_markdown(about), ""])


def format_csv(comparison: Comparison) -> str:
    """Return one row per task with numbers that are not rounded; missing ones are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = (
        *("task", "metric", "n", "a", "b", "difference", "stderr", "low", "high", "test", "p", "p_holm"),
        *("equivalence_p", "flipped_wrong", "flipped_right", "verdict"),
    )
    writer.writerow([*fields, "effect", "effect_value", "effect_low", "effect_high", "differs"])
    for d in comparison.differences:
        effect = [d.effect.kind, d.effect.value, d.effect.low, d.effect.high] if d.effect else ["", "", "", ""]
        cells = ("" if (v := getattr(d, f)) is None else v for f in fields)
        writer.writerow(map(guard_csv_cell, [*cells, *effect, ""]))
    for refused in comparison.refused:
        why = "; ".join(words.en for words in refused.differs)
        row = [refused.task, *[""] * (len(fields) - 2), "refused", "", "", "", "", why]
        writer.writerow(map(guard_csv_cell, row))
    return stream.getvalue()


def format_json(comparison: Comparison) -> str:
    """Return the whole comparison with its headline."""
    import json

    return json.dumps(
        {"headline": format_headline(comparison).en, **comparison.model_dump(mode="json")}, ensure_ascii=False, indent=1
    )


def format_latex(comparison: Comparison) -> str:
    """Return a LaTeX table for the package booktabs, with the verdict as its caption."""
    body = [" & ".join(cell.translate(LATEX_ESCAPES) for cell in row) + r" \\" for row in make_rows(comparison)]
    head = " & ".join(column.translate(LATEX_ESCAPES) for column in COLUMNS) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{format_headline(comparison).en.translate(LATEX_ESCAPES)}}}",
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
    "md": format_markdown,
    "csv": format_csv,
    "json": format_json,
    "latex": format_latex,
}


def _format_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _format_score(value: float, points: bool) -> str:
    return f"{value:.1f}" if points else f"{value:.3f}"
