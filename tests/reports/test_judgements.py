"""What people said stands in the report of the two runs that they rated, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from bitnet_bench.reports.judgements import judgement_section
from bitnet_bench.reports.named_runs import name_runs
from bitnet_bench.reports.sections import Section, Table
from bitnet_bench.runs.records import Estimated, HumanJudgement, Unavailable
from bitnet_bench.runs.run import LoadedRun


@pytest.fixture
def rated(make_results: Any) -> list[LoadedRun]:
    """Give two runs that were rated, and a third that was not."""
    runs = [make_results(name, {"s:t": [1.0, 0.0]}) for name in ("a", "b", "c")]
    scales = ("fluency", "accuracy", "relevance")
    means = {
        "a": Estimated(value=4.25, interval=(4.0, 4.5)),
        "b": Estimated(value=2.0),
        "difference": Estimated(value=2.25),
    }
    said = HumanJudgement(
        sheet="5" * 64, a="a", b="b", tasks=("s:t",), items=4, raters=("가", "나"), wins_a=5, ties=2, wins_b=1,
        a_sha256=runs[0].record.checkpoint.sha256, b_sha256=runs[1].record.checkpoint.sha256,
        win_rate=Estimated(value=75.0, interval=(30.0, 95.5)),
        scales=dict.fromkeys(scales, means),
        alpha={"preference": Estimated(value=-0.25), **dict.fromkeys(scales, Unavailable(reason="two"))},
    )  # fmt: skip
    records = [run.record.model_copy(update={"judgements": (said,)}) for run in runs[:2]]
    return [*(LoadedRun(record, run.examples) for record, run in zip(records, runs, strict=False)), runs[2]]


def cells(section: Section) -> list[list[str]]:
    """Return the English text of a section's table."""
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    return [[cell.text.en for cell in row.cells] for row in table.rows]


def test_a_rated_pair_has_a_section(rated: list[LoadedRun]) -> None:
    """Win rates of both add up, means keep their order, and a missing alpha is a dash with its reason."""
    section = judgement_section(name_runs(rated))
    assert section is not None
    rows = cells(section)
    assert rows[0] == ["Win rate (%), a tie is half", "75.0", "25.0", "50.0", "−0.25"]
    assert rows[1] == ["Fluency (1 to 5)", "4.25", "2.00", "2.25", "—"]
    assert len(rows) == 4


def test_runs_that_nobody_rated_have_none(rated: list[LoadedRun]) -> None:
    """Nor has one of a pair without the other."""
    assert judgement_section(name_runs(rated[1:])) is None
    assert judgement_section(name_runs(rated[2:])) is None
