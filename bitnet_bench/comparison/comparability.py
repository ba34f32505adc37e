"""What keeps two runs from being compared: other data, other prompts, other metrics, other versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitnet_bench.runs.records import Example, RunRecord
from bitnet_bench.runs.run import Results
from bitnet_bench.wording import Said, say

PROMPT_SETTINGS = ("prompts", "shots", "chat_template", "seed")
DIGITS = 8


def run_obstacles(a: RunRecord, b: RunRecord) -> list[Said]:
    """Return what the two runs as a whole differ in that no comparison survives."""
    return [*_settings(a, b), *_versions(a, b)]


def _settings(a: RunRecord, b: RunRecord) -> Iterable[Said]:
    few_shot = a.settings.get("shots") or b.settings.get("shots")
    for name in PROMPT_SETTINGS:
        ours, theirs = a.settings.get(name), b.settings.get(name)
        if ours != theirs and (name != "seed" or few_shot):
            yield say("differs.setting", name=name, a=ours, b=theirs)


def _versions(a: RunRecord, b: RunRecord) -> Iterable[Said]:
    for suite in sorted(a.suites.keys() & b.suites.keys()):
        if a.suites[suite] != b.suites[suite]:
            yield say("differs.suite", suite=suite, a=a.suites[suite], b=b.suites[suite])
    ours, theirs = (run.environment.packages.get("bitnet-bench") for run in (a, b))
    if ours != theirs:
        yield say("differs.version", a=ours, b=theirs)


def task_obstacles(
    a: Results, b: Results, task: str, metric: str, examples: tuple[Sequence[Example], Sequence[Example]]
) -> list[Said]:
    """Return what the two runs differ in on *task*, or lack; nothing if their examples are pairs."""
    missing = [*_missing(a, b, task, metric, examples)]
    if missing:
        return missing
    found = [*_data(a.record, b.record, task), *_signatures(a.record, b.record, task, metric)]
    return found or [*_documents(*examples)]


def _missing(
    a: Results, b: Results, task: str, metric: str, examples: tuple[Sequence[Example], Sequence[Example]]
) -> Iterable[Said]:
    for run, rows in zip((a, b), examples, strict=True):
        scores = [s for s in run.record.scores if (s.task, s.metric) == (task, metric)]
        if not scores:
            yield say("differs.no-score", run=run.record.name, metric=metric)
        elif not rows:
            yield say("differs.no-examples", run=run.record.name)
        elif len(rows) != scores[0].n:
            yield say("differs.incomplete", run=run.record.name, n=f"{len(rows):,}", total=f"{scores[0].n:,}")


def _data(a: RunRecord, b: RunRecord, task: str) -> Iterable[Said]:
    ours, theirs = a.data.get(task), b.data.get(task)
    if not ours or not theirs:
        yield say("differs.no-digest", run=b.name if ours else a.name)
    elif ours != theirs:
        yield say("differs.data", a=ours[:DIGITS], b=theirs[:DIGITS])


def _signatures(a: RunRecord, b: RunRecord, task: str, metric: str) -> Iterable[Said]:
    ours, theirs = (next(s.signature for s in r.scores if (s.task, s.metric) == (task, metric)) for r in (a, b))
    if ours != theirs:
        yield say("differs.signature", metric=metric, a=ours, b=theirs)


def _documents(ours: Sequence[Example], theirs: Sequence[Example]) -> Iterable[Said]:
    mine, others = ({e.doc_id: e for e in rows} for rows in (ours, theirs))
    if len(mine) < len(ours) or len(others) < len(theirs):
        yield say("differs.twice")
    elif mine.keys() != others.keys():
        yield say("differs.documents", a=f"{len(mine):,}", b=f"{len(others):,}")
    else:
        other = next((doc for doc, e in mine.items() if e.prompt != others[doc].prompt), None)
        if other is not None:
            yield say("differs.prompt", doc=other)
