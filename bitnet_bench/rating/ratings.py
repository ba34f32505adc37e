"""Define the files of a rating: the key, which stays with its author, and what a rater's page saves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bitnet_bench.runs.value import Value

KEY_KIND: Literal["bitnet-bench rating key"] = "bitnet-bench rating key"
RATING_KIND: Literal["bitnet-bench rating"] = "bitnet-bench rating"
RATING_SCALES = ("fluency", "accuracy", "relevance")
MIN_POINT, MAX_POINT = 1, 5

Point = Annotated[int, Field(ge=MIN_POINT, le=MAX_POINT, strict=True)]


class RatedRun(Value):
    """One of the two runs of a sheet."""

    name: str
    folder: str
    checkpoint_sha256: str


class RatedQuestion(Value):
    """The question of an item: its task, and its number in it."""

    task: str
    doc_id: int


class SheetKey(Value):
    """The key that tells which answer of a sheet is from which run; a rater must not see it."""

    kind: Literal["bitnet-bench rating key"] = KEY_KIND
    schema_version: Literal[1] = 1
    sheet: str
    """Digest of what the page shows."""
    a: RatedRun
    b: RatedRun
    seed: int
    tasks: tuple[str, ...]
    left_is_a: tuple[bool, ...]
    """For each item, true if the left answer is run A's."""
    items: tuple[RatedQuestion, ...] = ()
    """The question of each item; () in keys of older versions."""


class Points(Value):
    """The points that a rater gives one answer."""

    fluency: Point
    accuracy: Point
    relevance: Point


class ItemJudgement(Value):
    """A rater's judgement of one item."""

    item: int = Field(ge=0)
    left: Points
    right: Points
    preferred: Literal["left", "right", "tie"]


class Rating(Value):
    """All judgements of one rater on one sheet."""

    kind: Literal["bitnet-bench rating"] = RATING_KIND
    schema_version: Literal[1] = 1
    sheet: str
    rater: str = Field(min_length=1, max_length=200)
    finished: str
    judgements: tuple[ItemJudgement, ...]
