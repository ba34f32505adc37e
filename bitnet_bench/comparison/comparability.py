"""Find what prevents two runs from being compared: other data, other prompts, other metrics, other versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitnet_bench.runs.choices import Answer
from bitnet_bench.runs.example_table import find_longest, have_equal_fields, list_values
from bitnet_bench.runs.jobs import GENERATION_FIELDS, EvaluateJob
from bitnet_bench.runs.records import Example, RunRecord
from bitnet_bench.runs.run import LoadedRun
from bitnet_bench.wording import Count, Text, get_text, plain_text

PROMPT_SETTINGS = ("prompts", "shots", "chat_template", *GENERATION_FIELDS, "seed")
"""Settings of a run that change how every task is asked; how choices are answered is told by each task's examples."""
MAX_SETTING_CHARS = 60
SHOWN_DIGEST_CHARS = 8
RIGHT_ANSWER = ("target", "target_choice", "target_labels", "target_value", "references", "choices")
"""Fields of an example against which an answer is scored."""


def find_run_mismatches(a: RunRecord, b: RunRecord) -> list[Text]:
    """Return the differences of the two runs as a whole that make every comparison invalid."""
    return [*_compare_settings(a, b), *_compare_versions(a, b)]


def _compare_settings(a: RunRecord, b: RunRecord) -> Iterable[Text]:
    random = any(run.settings.get(name) for run in (a, b) for name in ("shots", "temperature"))
    for name in PROMPT_SETTINGS:
        ours, theirs = (run.settings.get(name, _get_default(name)) for run in (a, b))
        if ours != theirs and (name != "seed" or random):
            yield get_text("differs.setting", name=name, a=_show_setting(ours), b=_show_setting(theirs))


def _get_default(name: str) -> object:
    """Return what a record without a setting was made with, for the settings that records leave out by default."""
    return EvaluateJob.default(name) if name in GENERATION_FIELDS else None


def _show_setting(value: object) -> Text:
    if value is None:
        return get_text("setting.unset")
    text = str(value)
    return plain_text(text if len(text) <= MAX_SETTING_CHARS else f"{text[:MAX_SETTING_CHARS]}…")


def _compare_versions(a: RunRecord, b: RunRecord) -> Iterable[Text]:
    for suite in sorted(a.suites.keys() & b.suites.keys()):
        if a.suites[suite] != b.suites[suite]:
            yield get_text("differs.suite", suite=suite, a=a.suites[suite], b=b.suites[suite])
    ours, theirs = (run.environment.packages.get("bitnet-bench") for run in (a, b))
    if ours != theirs:
        yield get_text("differs.version", a=ours, b=theirs)


def find_task_mismatches(
    a: LoadedRun, b: LoadedRun, task: str, metric: str, examples: tuple[Sequence[Example], Sequence[Example]]
) -> list[Text]:
    """Return how the two runs differ on *task*, or what they lack; nothing if their examples are pairs."""
    missing = [*_find_missing(a, b, task, metric, examples)]
    if missing:
        return missing
    found = [*_compare_data(a.record, b.record, task), *_compare_signatures(a.record, b.record, task, metric)]
    return found or [*_compare_documents(*examples)]


def _find_missing(
    a: LoadedRun, b: LoadedRun, task: str, metric: str, examples: tuple[Sequence[Example], Sequence[Example]]
) -> Iterable[Text]:
    for run, rows in zip((a, b), examples, strict=True):
        scores = [s for s in run.record.scores if (s.task, s.metric) == (task, metric)]
        if not scores:
            yield get_text("differs.no-score", run=run.record.name, metric=metric)
        elif task in run.not_finite:
            yield get_text("differs.not-finite", run=run.record.name)
        elif not rows:
            yield get_text("differs.no-examples", run=run.record.name)
        elif len(rows) != scores[0].n:
            yield get_text("differs.incomplete", run=run.record.name, n=f"{len(rows):,}", total=Count(scores[0].n))


def _compare_data(a: RunRecord, b: RunRecord, task: str) -> Iterable[Text]:
    ours, theirs = a.data.get(task), b.data.get(task)
    if not ours or not theirs:
        yield get_text("differs.no-digest", run=b.name if ours else a.name)
    elif ours != theirs:
        yield get_text("differs.data", a=ours[:SHOWN_DIGEST_CHARS], b=theirs[:SHOWN_DIGEST_CHARS])


def _compare_signatures(a: RunRecord, b: RunRecord, task: str, metric: str) -> Iterable[Text]:
    ours, theirs = (next(s.signature for s in r.scores if (s.task, s.metric) == (task, metric)) for r in (a, b))
    if ours != theirs:
        yield get_text("differs.signature", metric=metric, a=ours, b=theirs)


def _compare_documents(ours: Sequence[Example], theirs: Sequence[Example]) -> Iterable[Text]:
    ways = [_find_way(rows) for rows in (ours, theirs)]
    if ways[0] != ways[1]:
        yield get_text("differs.setting", name="answer", a=plain_text(ways[0]), b=plain_text(ways[1]))
        return
    mine, others = ({doc: at for at, doc in enumerate(list_values(rows, "doc_id"))} for rows in (ours, theirs))
    if len(mine) < len(ours) or len(others) < len(theirs):
        yield get_text("differs.twice")
    elif mine.keys() != others.keys():
        yield get_text("differs.documents", a=f"{len(mine):,}", b=f"{len(others):,}")
    else:
        for key, names in (("differs.prompt", ("prompt",)), ("differs.answer", RIGHT_ANSWER)):
            if have_equal_fields(ours, theirs, ("doc_id", *names)):
                continue
            own, beside = (list(zip(*(list_values(e, name) for name in names), strict=True)) for e in (ours, theirs))
            other = next((doc for doc, at in mine.items() if own[at] != beside[others[doc]]), None)
            if other is not None:
                yield get_text(key, doc=other)
                return


def _find_way(examples: Sequence[Example]) -> Answer:
    """Return how the rows of a task were answered."""
    return "likelihood" if find_longest(examples, "loglikelihoods") else "generate"
