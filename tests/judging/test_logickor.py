"""LogicKor's own verdicts give the means that were published, through our arithmetic and without a judge."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.judging.asking import Verdict
from bitnet_bench.judging.scoring import count_verdicts, summarize_questions, value_single
from bitnet_bench.runs.records import AnsweredTurn, Estimated, Example, JudgedPart

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("BITNET_BENCH_DATA", ROOT.parent / "shared" / "data")) / "logickor"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="LogicKor's judged answers are not here")
SCALE = (0.0, 10.0)
PUBLISHED = {
    "추론(Reasoning)": 5.71,
    "수학(Math)": 6.43,
    "글쓰기(Writing)": 8.07,
    "코딩(Coding)": 9.14,
    "이해(Understanding)": 7.29,
    "문법(Grammar)": 3.57,
}
"""Scores of Gukbap-Qwen2-7B, whose model card says 6.70 over all."""


def read_judged(name: str) -> list[dict[str, Any]]:
    """Return the judged answers of a model."""
    return [json.loads(line) for line in (DATA / f"judged_{name}.jsonl").read_text().splitlines()]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return our summary of LogicKor's verdicts."""
    examples = [
        Example(
            task="open:logickor", doc_id=row["id"], prompt="", target="", output="", correct=0.0,
            groups={"category": row["category"]},
            turns=tuple(AnsweredTurn(question=question, answer="") for question in row["questions"][:2]),
        )
        for row in rows
    ]  # fmt: skip
    verdicts = [
        Verdict(
            doc_id=row["id"], turn=turn, order="single", request="", reply=row[said]["judge_message"],
            score=row[said]["judge_score"],
        )
        for row in rows
        for turn, said in enumerate(("query_single", "query_multi"))
    ]  # fmt: skip
    assert count_verdicts(verdicts)["unparsable"] == 0
    return summarize_questions(value_single(examples, verdicts), SCALE)


def rounded(part: JudgedPart) -> float:
    """Return the mean of a category with two digits."""
    assert isinstance(part.score, Estimated)
    return round(part.score.value, 2)


def test_our_means_are_those_that_were_published() -> None:
    found = summarize(read_judged("gukbap-qwen2-7b"))
    assert {name: rounded(part) for name, part in found["categories"].items()} == PUBLISHED
    assert round(found["score"].value, 2) == 6.70
    assert (found["questions"], found["complete"]) == (42, 42)


@pytest.mark.parametrize("name", ["gukbap-qwen2-7b", "qwen1.5-14b-chat"])
def test_our_means_are_those_of_the_official_script(name: str) -> None:
    """`score.py` of the repository: means of single and multi by category, and half of the sum of both over all."""
    rows = read_judged(name)
    found = summarize(rows)
    for turn, said in enumerate(("query_single", "query_multi")):
        scores = [row[said]["judge_score"] for row in rows]
        assert found["turns"][turn].value == pytest.approx(sum(scores) / len(scores))
        for category, part in found["categories"].items():
            here = [row[said]["judge_score"] for row in rows if row["category"] == category]
            assert part.turns[turn].value == pytest.approx(sum(here) / len(here))
    overall = sum(turn.value for turn in found["turns"]) / 2
    assert found["score"].value == pytest.approx(overall)
