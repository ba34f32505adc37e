"""What a judge said stands in a section of its own, with all that puts it in doubt."""

from __future__ import annotations

from typing import Any

from bitnet_bench.comparison.comparing import compare
from bitnet_bench.reports.judged import judged_section
from bitnet_bench.reports.named_runs import name_runs
from bitnet_bench.reports.pairs import pair_section
from bitnet_bench.reports.sections import Paragraph, Section, Table
from bitnet_bench.reports.summary import make_summary
from bitnet_bench.runs.records import (
    Estimated,
    JudgeAgreement,
    JudgedPart,
    JudgedScore,
    PositionBias,
    RunRecord,
    Unavailable,
)
from bitnet_bench.runs.run import LoadedRun

TASK = "open:sample"
NONE = Unavailable(reason="no verdict could be read")


def make_points(value: float, **fields: Any) -> JudgedScore:
    """Return points of a judge."""
    mean = Estimated(value=value, interval=(value - 1, value + 1))
    known: dict[str, Any] = {
        "task": TASK, "mode": "single", "judge": "심사원", "signature": "judge:심사원", "prompt": "single-ko 1",
        "prompt_sha256": "0" * 64, "scale": (1.0, 10.0), "score": mean, "turns": (mean, NONE), "questions": 14,
        "complete": 14, "categories": {"수학": JudgedPart(score=mean, turns=(mean,), questions=2, complete=2)},
        "verdicts": 28, "unparsable": 0,
    }  # fmt: skip
    return JudgedScore(**{**known, **fields})


def make_pair(opponent: RunRecord, value: float, wins: int, losses: int, **fields: Any) -> JudgedScore:
    """Return a comparison by a judge."""
    people = JudgeAgreement(
        sheet="5" * 64, raters=3, questions=12, kind="preference", share=Estimated(value=75.0),
        alpha=Estimated(value=0.4),
    )  # fmt: skip
    position = PositionBias(pairs=28, flips=7, first=Estimated(value=62.5, interval=(50.0, 74.0)))
    mean = Estimated(value=value, interval=(40.0, 70.0))
    return make_points(
        0.0, mode="pairwise", score=mean, turns=(mean,), categories={}, scale=(0.0, 100.0), opponent=opponent.name,
        opponent_sha256=opponent.checkpoint.sha256, wins=wins, ties=4, losses=losses, position=position,
        verdicts_sha256="1" * 64, people=(people,), **fields,
    )  # fmt: skip


def with_judged(run: LoadedRun, *judged: JudgedScore, answered: int = 14) -> LoadedRun:
    """Return a run with open answers and what judges said of them."""
    fields = {"judged": judged, "answered": {TASK: answered}}
    return LoadedRun(run.record.model_copy(update=fields), run.examples)


def rows(section: Section | None) -> list[list[str]]:
    """Return the English text of a section's first table."""
    assert section is not None
    table = next(block for block in section.blocks if isinstance(block, Table))
    return [[cell.text.en for cell in row.cells] for row in table.rows]


def paragraphs(section: Section | None) -> str:
    """Return the English text of a section's paragraphs."""
    assert section is not None
    return "\n".join(block.text.en for block in section.blocks if isinstance(block, Paragraph))


def test_points_have_a_table_with_turns_categories_and_what_could_not_be_read(make_results: Any) -> None:
    runs = [make_results(name, {}) for name in ("a", "b")]
    doubt = {"unparsable": 3, "reasons": {"no verdict": 3}, "complete": 12, "cut": 2, "is_own": True}
    section = judged_section(
        name_runs([with_judged(runs[0], make_points(7)), with_judged(runs[1], make_points(5, **doubt))])
    )
    assert rows(section) == [
        ["Mean", "7.00", "5.00"],
        ["Turn 1", "7.00", "5.00"],
        ["Turn 2", "—", "—"],
        ["수학", "7.00", "5.00"],
        ["Verdicts that could not be read", "0 of 28", "3 of 28"],
    ]
    said = paragraphs(section)
    assert "in no mean with them" in said
    assert "all verdicts could be read for 12 of 14 questions" in said
    assert "the prompts of 2 of 28 verdicts lost their beginning" in said
    assert "judges itself" in said


def test_a_comparison_is_shown_once_with_its_position_bias_and_people(make_results: Any) -> None:
    a, b = (make_results(name, {}) for name in ("a", "b"))
    ours, theirs = make_pair(b.record, 62.5, 14, 10), make_pair(a.record, 37.5, 10, 14)
    section = judged_section(name_runs([with_judged(a, ours), with_judged(b, theirs)]))
    assert section is not None
    assert len([block for block in section.blocks if isinstance(block, Table)]) == 1
    assert rows(section) == [
        ["Win rate of the first (%), a tie is half", "62.50"],
        ["Turn 1", "62.50"],
        ["Verdicts of both orders together", "First better 14, tie 4, second better 10"],
        ["Verdicts that flip with the order", "7 of 28 pairs (25%)"],
        ["Preference for the answer shown first (%), 50 without bias", "62.50"],
        ["Verdicts that could not be read", "0 of 28"],
        ["Agreement with people (α)", "0.40"],
    ]


def test_answers_that_nobody_judged_are_named_with_what_to_do(make_results: Any) -> None:
    section = judged_section(name_runs([with_judged(make_results("a", {}), answered=14)]))
    assert "has answers to 14 questions and no score yet" in paragraphs(section)
    assert judged_section(name_runs([make_results("a", {})])) is None


def test_a_judged_score_is_in_no_mean_of_measured_ones(make_results: Any) -> None:
    """The first screen of a run with one task right and a judge's points shows the task alone."""
    run = make_results("a", {"s:t": [1.0, 1.0, 0.0, 0.0]})
    plain = make_summary(name_runs([run]), None)
    judged = make_summary(name_runs([with_judged(run, make_points(9.0))]), None)
    assert (judged.headline, judged.table) == (plain.headline, plain.table)


def test_runs_without_a_measured_score_get_no_empty_table(make_results: Any) -> None:
    """Open answers alone cannot be compared: that is said once, without a table of nothing."""
    a, b = name_runs([with_judged(make_results(name, {})) for name in ("a", "b")])
    compared = ((a, b), compare(a.results, b.results))
    assert not [block for block in pair_section([compared]).blocks if isinstance(block, Table)]
    assert not [note.en for note in make_summary([a, b], compared).notes if "Verdicts by task" in note.en]
