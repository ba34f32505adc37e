"""Tell which scores of a task were made under the same conditions, without reading their examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import RunRecord, Score
from bitnet_bench.wording import Text, get_text, load_catalogue, plain_text

NO_CONDITIONS = frozenset(
    ("tasks", "data_dir", "rows", "limit", "seed", "stage", "cache", "base_url", "concurrency", "timeout", "retries")
)
"""Settings in which comparable runs may differ: what they read is told by the digest of the rows."""
SHOWN_FIRST = ("answer", "shots", "prompts", "chat_template", "limit")
NEVER_SHOWN = frozenset(
    ("tasks", "data_dir", "rows", "stage", "cache", "base_url", "concurrency", "timeout", "retries")
)
SHOWN_DIGEST_CHARS = 8
MAX_VALUE_CHARS = 60


@dataclass(frozen=True)
class ScoreConditions:
    """What two scores of a task have to share to be ranked with each other."""

    metric: str
    signature: str
    data: str | None
    n: int
    settings: tuple[tuple[str, str], ...]
    suite_version: str | None
    version: str | None

    @property
    def is_known(self) -> bool:
        """Return whether the rows are known: two scores without a digest may be of other rows."""
        return bool(self.data)


def read_conditions(record: RunRecord, score: Score) -> ScoreConditions:
    """Return the conditions of a score."""
    suite = score.task.partition(":")[0]
    return ScoreConditions(
        score.metric,
        score.signature,
        record.data.get(score.task),
        score.n,
        tuple((name, json.dumps(value, sort_keys=True)) for name, value in list_conditions(record.settings).items()),
        record.suites.get(suite),
        record.environment.packages.get("bitnet-bench"),
    )


def list_conditions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide a score, by name; one that a record lacks has its default."""
    found = {name: value for name, value in settings.items() if name not in NO_CONDITIONS}
    if settings.get("shots"):
        found["seed"] = settings.get("seed")
    return {name: found[name] for name in sorted(found) if found[name] != find_default(name)}


def find_default(name: str) -> Any:
    """Return the default of a setting of an evaluation; None if it is none, or has none."""
    field = EvaluateJob.model_fields.get(name)
    default = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    return default if isinstance(default, bool | int | float | str | None) else None


def explain_difference(ours: tuple[RunRecord, Score], ranked: tuple[RunRecord, Score]) -> tuple[Text, ...]:
    """Return what differs between a score and those that are ranked; () if nothing does."""
    (record, score), (other, reference) = ours, ranked
    mine, theirs = read_conditions(record, score), read_conditions(other, reference)
    found = [
        *_explain_settings(record.settings, other.settings),
        *_explain_versions(mine, theirs, score.task),
        *_explain_rows(mine, theirs, record, other),
    ]
    if mine.metric != theirs.metric:
        found.append(get_text("board.differs.metric", a=mine.metric, b=theirs.metric))
    elif mine.signature != theirs.signature:
        found.append(get_text("board.differs.signature", a=mine.signature, b=theirs.signature))
    return tuple(found)


def _explain_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterable[Text]:
    mine, others = list_conditions(ours), list_conditions(theirs)
    for name in dict.fromkeys((*mine, *others)):
        a, b = (one.get(name, find_default(name)) for one in (mine, others))
        if a != b:
            yield _explain_setting(name, a, b)


def _explain_setting(name: str, a: Any, b: Any) -> Text:
    return get_text("board.differs.setting", name=name_setting(name), a=format_value(a), b=format_value(b))


def _explain_versions(mine: ScoreConditions, theirs: ScoreConditions, task: str) -> Iterable[Text]:
    if mine.suite_version != theirs.suite_version:
        suite = task.partition(":")[0]
        yield get_text(
            "board.differs.suite", suite=suite, a=format_value(mine.suite_version), b=format_value(theirs.suite_version)
        )
    if mine.version != theirs.version:
        yield get_text("board.differs.version", a=format_value(mine.version), b=format_value(theirs.version))


def _explain_rows(
    mine: ScoreConditions, theirs: ScoreConditions, record: RunRecord, other: RunRecord
) -> Iterable[Text]:
    a, b = mine.data, theirs.data
    if not a or not b:
        yield get_text("board.differs.no-digest")
        return
    if a == b and mine.n == theirs.n:
        return
    limits = (record.settings.get("limit"), other.settings.get("limit"))
    if limits[0] != limits[1]:
        yield _explain_setting("limit", *limits)
    elif mine.n != theirs.n:
        yield get_text("board.differs.n", a=f"{mine.n:,}", b=f"{theirs.n:,}")
    else:
        yield get_text("board.differs.data", a=a[:SHOWN_DIGEST_CHARS], b=b[:SHOWN_DIGEST_CHARS])


def format_settings(settings: Mapping[str, Any]) -> list[Text]:
    """Return the settings of a run that a reader needs: the usual ones always, others where they are not default."""
    usual = [name for name in SHOWN_FIRST if name in settings]
    others = [name for name in list_conditions(settings) if name not in usual and name not in NEVER_SHOWN]
    return [
        name_setting(name) + plain_text(" ") + format_value(settings[name])
        for name in (*usual, *others)
        if not (name == "limit" and settings[name] is None)
    ]


def name_setting(name: str) -> Text:
    """Return the name of a setting; one that is not in the catalogue keeps its own."""
    return get_text(f"setting.{name}") if f"setting.{name}" in load_catalogue() else plain_text(name)


def format_value(value: Any) -> Text:
    """Return a setting's value in a few words."""
    if value is None:
        return get_text("setting.none")
    if isinstance(value, bool):
        return get_text("setting.on" if value else "setting.off")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return plain_text(text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 1]}…")
