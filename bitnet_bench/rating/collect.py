"""Summarize the files of several raters; a file that does not belong to them is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from bitnet_bench.errors import BenchError, format_validation_error
from bitnet_bench.files import is_file
from bitnet_bench.json_files import read_json
from bitnet_bench.rating.ratings import (
    KEY_KIND,
    MAX_POINT,
    MIN_POINT,
    RATING_KIND,
    RATING_SCALES,
    ItemJudgement,
    Rating,
    SheetKey,
)
from bitnet_bench.runs.folder import RECORD_FILE, load_record_to_extend, lock_folder, save_record
from bitnet_bench.runs.records import Estimated, HumanJudgement, RatedItem, Unavailable
from bitnet_bench.statistics import interval, mean_stderr, wilson

SAVED_AGAIN_HINT = "Ask for the file as the page saved it."
PREFERENCE_SCALE = "preference"
PREFERENCE_WEIGHTS = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""Weight of a preference in run A's favour: a tie is half a win."""


def collect_ratings(files: Sequence[Path]) -> tuple[SheetKey, HumanJudgement]:
    """Return the key among *files*, and the summary of the ratings among them.

    BenchError names a file that is of another sheet, incomplete, changed by hand, or a rater's second one.
    """
    read = [(file, _read_rating_file(file)) for file in files]
    keys = [(file, found) for file, found in read if isinstance(found, SheetKey)]
    ratings = [(file, found) for file, found in read if isinstance(found, Rating)]
    if not ratings:
        raise BenchError("None of the files is a rating.", "A rater's page saves one: rating-SHEET-NAME.json.")
    if len(keys) != 1:
        there = "None of the files is a key" if not keys else f"{keys[0][0]} and {keys[1][0]} are both keys"
        raise BenchError(f"{there}.", "Name the one file that `rate sheet` wrote beside the page: SHEET.key.json.")
    key = keys[0][1]
    _check_ratings(key, ratings)
    return key, summarize_ratings(key, [rating for _, rating in ratings])


def _read_rating_file(file: Path) -> SheetKey | Rating:
    if not is_file(file):
        raise BenchError(f"There is no file {file}.", "Name a key, and the files that raters saved.")
    fields = read_json(file, SAVED_AGAIN_HINT)
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if kind not in (KEY_KIND, RATING_KIND):
        raise BenchError(f"{file} is neither a rating nor a key.", "Leave it out.")
    try:
        return SheetKey.model_validate(fields) if kind == KEY_KIND else Rating.model_validate(fields)
    except ValidationError as error:
        raise BenchError(
            f"{file} is not complete, or was changed: {format_validation_error(error)}.",
            SAVED_AGAIN_HINT,
        ) from error


def _check_ratings(key: SheetKey, ratings: Sequence[tuple[Path, Rating]]) -> None:
    """Check that ratings are of this sheet, cover all items, and come from different raters."""
    seen: dict[str, Path] = {}
    for file, rating in ratings:
        if rating.sheet != key.sheet:
            raise BenchError(
                f"{file} rates another sheet ({rating.sheet[:8]}, and the key is of {key.sheet[:8]}).", "Leave it out."
            )
        items = [judgement.item for judgement in rating.judgements]
        if sorted(items) != list(range(len(key.left_is_a))):
            missing = len(set(range(len(key.left_is_a))) - set(items))
            what = f"{missing} of {len(key.left_is_a)} items are missing" if missing else "an item stands twice"
            raise BenchError(f"{file} is incomplete: {what}.", "Ask the rater to finish the page and save again.")
        rater = " ".join(rating.rater.split()).casefold()
        if rater in seen:
            raise BenchError(
                f"{seen[rater]} and {file} are both by {rating.rater}.",
                "Keep the one that counts; one rater, one file.",
            )
        seen[rater] = file


def summarize_ratings(key: SheetKey, ratings: Sequence[Rating]) -> HumanJudgement:
    """Return win rate, means of the scales and agreement; items are the sample, and each rater sees all of them."""
    ordered = [sorted(rating.judgements, key=lambda one: one.item) for rating in ratings]
    preferred = [[_find_preferred_run(one, key) for one in judged] for judged in ordered]
    worth = np.array([[PREFERENCE_WEIGHTS[whose] for whose in row] for row in preferred]).mean(axis=0)
    counts = [whose for row in preferred for whose in row]
    low, high = wilson(float(worth.sum()), len(worth))
    points = {scale: _gather_points(ordered, key, scale) for scale in RATING_SCALES}
    return HumanJudgement(
        sheet=key.sheet,
        a=key.a.name,
        b=key.b.name,
        a_sha256=key.a.checkpoint_sha256,
        b_sha256=key.b.checkpoint_sha256,
        tasks=key.tasks,
        items=len(key.left_is_a),
        raters=tuple(rating.rater for rating in ratings),
        wins_a=counts.count("a"),
        ties=counts.count("tie"),
        wins_b=counts.count("b"),
        win_rate=Estimated(value=100 * float(worth.mean()), interval=(100 * low, 100 * high)),
        scales={scale: _estimate_means(*both) for scale, both in points.items()},
        alpha={
            PREFERENCE_SCALE: compute_alpha(
                [[list(PREFERENCE_WEIGHTS).index(whose) for whose in row] for row in preferred], "nominal"
            ),
            **{
                scale: compute_alpha(np.concatenate(both, axis=1).tolist(), "ordinal") for scale, both in points.items()
            },
        },
        rated=_list_rated_items(key, preferred, points),
    )


def _list_rated_items(
    key: SheetKey, preferred: Sequence[Sequence[str]], points: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[RatedItem, ...]:
    """Return what all raters said about each question; () for a key of an older version, which names none."""
    a, b = (np.mean([both[side] for both in points.values()], axis=(0, 1)) for side in (0, 1))
    votes = list(zip(*preferred, strict=True))
    if len(key.items) != len(votes):
        return ()
    return tuple(
        RatedItem(
            task=item.task,
            doc_id=item.doc_id,
            wins_a=votes[at].count("a"),
            ties=votes[at].count("tie"),
            wins_b=votes[at].count("b"),
            points_a=float(a[at]),
            points_b=float(b[at]),
        )
        for at, item in enumerate(key.items)
    )


def _find_preferred_run(one: ItemJudgement, key: SheetKey) -> str:
    if one.preferred == "tie":
        return "tie"
    return "a" if (one.preferred == "left") == key.left_is_a[one.item] else "b"


def _gather_points(
    ordered: Iterable[Sequence[ItemJudgement]], key: SheetKey, scale: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of run A and of run B, each [raters, items]."""
    rows = [[(getattr(one.left, scale), getattr(one.right, scale)) for one in judged] for judged in ordered]
    both = np.array(rows, dtype=float)
    left, right = both[..., 0], both[..., 1]
    is_a = np.array(key.left_is_a)
    return np.where(is_a, left, right), np.where(is_a, right, left)


def _estimate_means(a: np.ndarray, b: np.ndarray) -> dict[Literal["a", "b", "difference"], Estimated]:
    """Return the mean of each run and of their difference, with 95 % intervals over items."""
    span = MAX_POINT - MIN_POINT
    return {
        "a": _estimate_mean(a, MIN_POINT, MAX_POINT),
        "b": _estimate_mean(b, MIN_POINT, MAX_POINT),
        "difference": _estimate_mean(a - b, -span, span),
    }


def _estimate_mean(values: np.ndarray, least: float, greatest: float) -> Estimated:
    items = values.mean(axis=0).tolist()
    mean = float(np.mean(items))
    return Estimated(value=mean, interval=interval(mean, mean_stderr(items), least, greatest))


def compute_alpha(rows: list[list[Any]], level: str) -> Estimated | Unavailable:
    """Return Krippendorff's alpha of raters x units, or why it is undefined."""
    if len(rows) < 2:
        return Unavailable(reason="agreement needs two raters or more")
    if len({value for row in rows for value in row}) < 2:
        return Unavailable(reason="every rater gave everything the same value, and agreement by chance is certain")
    import krippendorff

    compute: Callable[..., float] = krippendorff.alpha
    return Estimated(value=float(compute(reliability_data=rows, level_of_measurement=level)))


def save_judgement(key: SheetKey, judgement: HumanJudgement) -> list[Path]:
    """Add *judgement* to the records of both runs if they still exist, for their report; return their folders."""
    kept = []
    with ExitStack() as held:  # lock both before one is written
        records = {}
        for run in (key.a, key.b):
            folder = Path(run.folder)
            if not is_file(folder / RECORD_FILE):
                continue
            if folder not in records:
                held.enter_context(lock_folder(folder))
            record = load_record_to_extend(folder)
            if record.checkpoint.sha256 == run.checkpoint_sha256:  # else the folder was reused
                records[folder] = record
        for folder, record in records.items():
            others = tuple(one for one in record.judgements if one.sheet != judgement.sheet)
            save_record(folder, record.model_copy(update={"judgements": (*others, judgement)}))
            kept.append(folder)
    return kept
