"""Join the ternary runs of a leaderboard to their float twins, and compare each pair."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bitnet_bench.comparison.board_values import BoardTwins
from bitnet_bench.comparison.comparing import compare, judge_mean
from bitnet_bench.comparison.results import MeanDifference, Sentence
from bitnet_bench.comparison.score_conditions import explain_difference, read_conditions
from bitnet_bench.protocols import Progress, no_progress
from bitnet_bench.runs.records import RunRecord, Score
from bitnet_bench.runs.run import LoadedRun
from bitnet_bench.runs.twins import list_twins_among
from bitnet_bench.statistics.several import combine_stderrs

ScorePair = tuple[Score, Score]


def join_twins(folders: Mapping[str, Path], records: Mapping[str, RunRecord]) -> dict[str, str]:
    """Return the key of the float twin of each ternary run that has one.

    Of several, it is the one with the most tasks that were scored under the same conditions; with none of these, it is
    a twin by the name of its folder only.
    """
    keys = {folder: key for key, folder in folders.items()}
    joined = {}
    for folder, (named, others) in list_twins_among({folder: records[key] for folder, key in keys.items()}).items():
        own = records[keys[folder]]
        shared = {one: sum(1 for _ in pair_scores(own, records[keys[one]])) for one in (*named, *others)}
        candidates = [one for one in shared if shared[one] or one in named]
        if candidates:
            joined[keys[folder]] = keys[max(candidates, key=shared.__getitem__)]
    return joined


def pair_scores(a: RunRecord, b: RunRecord) -> Iterator[ScorePair]:
    """Yield the primary scores of tasks that both runs scored under the same conditions."""
    others = {score.task: score for score in b.scores if score.primary}
    for score in a.scores:
        if score.primary and score.task in others:
            ours, theirs = read_conditions(a, score), read_conditions(b, others[score.task])
            if ours == theirs and ours.is_known:
                yield score, others[score.task]


def compare_twins(
    runs: Mapping[str, LoadedRun],
    twins: Mapping[str, str],
    margin: float,
    *,
    paired: bool = True,
    progress: Progress = no_progress,
) -> list[BoardTwins]:
    """Return each ternary run of *twins* held against its twin; only this reads examples, and only if *paired*."""
    found = []
    for done, (ternary, twin) in enumerate(twins.items()):
        progress(done, len(twins), runs[ternary].record.name)
        found.append(_compare_pair(ternary, twin, runs, margin, paired))
    if twins:
        progress(len(twins), len(twins))
    return found


def _compare_pair(ternary: str, twin: str, runs: Mapping[str, LoadedRun], margin: float, paired: bool) -> BoardTwins:
    a, b = runs[ternary], runs[twin]
    comparison = compare(a, b, margin) if paired else None
    if comparison and comparison.differences:
        return BoardTwins(ternary=ternary, twin=twin, test="paired", mean=comparison.mean, comparison=comparison)
    pairs = list(pair_scores(a.record, b.record))
    mean = compute_unpaired_mean(pairs, margin)
    if pairs:
        return BoardTwins(ternary=ternary, twin=twin, test="unpaired", mean=mean)
    return BoardTwins(ternary=ternary, twin=twin, test="none", differs=_explain(a.record, b.record))


def select_points(pairs: Iterable[ScorePair]) -> list[ScorePair]:
    """Return the pairs of scores in points, of which there can be a mean."""
    return [(a, b) for a, b in pairs if a.limits[1] == 100.0 and not a.lower_is_better]


def compute_unpaired_mean(pairs: list[ScorePair], margin: float) -> MeanDifference | None:
    """Return the mean difference of scores in points from their standard errors, as if their rows were different ones.

    None if there are none, or if one has no standard error. The rows are the same, so the interval is too wide.
    """
    chosen = select_points(pairs)
    errors = [
        None
        if a.stderr_for_means is None or b.stderr_for_means is None
        else math.hypot(a.stderr_for_means, b.stderr_for_means)
        for a, b in chosen
    ]
    error = combine_stderrs(errors)
    if not error:
        return None
    value = math.fsum(a.value - b.value for a, b in chosen) / len(chosen)
    return judge_mean(value, error, tasks=len(chosen), n=sum(a.n for a, _ in chosen), margin=margin)


def _explain(a: RunRecord, b: RunRecord) -> tuple[Sentence, ...]:
    """Return what differs between the conditions of the two; () if they have no task in common."""
    others = {score.task: score for score in b.scores if score.primary}
    said = [
        Sentence(ko=one.ko, en=one.en)
        for score in a.scores
        if score.primary and score.task in others
        for one in explain_difference((a, score), (b, others[score.task]), "twin")
    ]
    return tuple(dict.fromkeys(said))
