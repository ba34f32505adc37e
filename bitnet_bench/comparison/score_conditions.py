"""Tell which scores of a task were made under the same conditions, without reading their examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import RunRecord, Score
from bitnet_bench.wording import Text, get_text, load_catalogue, plain_text

NEVER_SHOWN = frozenset(
    (
        *("tasks", "data_dir", "rows", "stage", "cache"),
        *("base_url", "api_key_variable", "request_timeout", "concurrency"),  # how a server is reached
    )
)
"""Settings that say where rows or answers came from; what was read is told by the digest of the rows."""
NO_CONDITIONS = NEVER_SHOWN | {"limit", "seed", "activations", "kv_cache", "allow_mismatch"}
"""Settings in which comparable runs may differ: of rows their digest tells, and others are how a model ran."""
SHOWN_FIRST = ("answer", "shots", "prompts", "chat_template", "limit")
SHOWN_DIGEST_CHARS = 8
MAX_VALUE_CHARS = 60
Unequal = tuple[Text, Text, Text]
"""What differs, and both values."""


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
    if settings.get("shots") or settings.get("temperature"):
        found["seed"] = settings.get("seed")
    return {name: found[name] for name in sorted(found) if found[name] != find_default(name)}


def find_default(name: str) -> Any:
    """Return the default of a setting of an evaluation; None if it is none, or has none."""
    field = EvaluateJob.model_fields.get(name)
    default = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    return default if isinstance(default, bool | int | float | str | None) else None


def explain_difference(
    ours: tuple[RunRecord, Score], theirs: tuple[RunRecord, Score], against: Literal["ranked", "twin"] = "ranked"
) -> tuple[Text, ...]:
    """Return what differs between a score and one that is ranked, or that of its twin; () if nothing does."""
    (record, score), (other, reference) = ours, theirs
    a, b = read_conditions(record, score), read_conditions(other, reference)
    found = [
        *_compare_settings(record.settings, other.settings),
        *_compare_versions(a, b, score.task),
        *_compare_rows((a, record.settings.get("limit")), (b, other.settings.get("limit"))),
    ]
    if a.metric != b.metric:
        found.append((get_text("board.metric"), plain_text(a.metric), plain_text(b.metric)))
    elif a.signature != b.signature:
        found.append((get_text("board.signature"), plain_text(a.signature), plain_text(b.signature)))
    who = get_text(f"board.against.{against}")
    said = tuple(get_text("board.differs", name=name, a=x, b=y, against=who) for name, x, y in found)
    return said if a.is_known and b.is_known else (*said, get_text("board.no-digest"))


def _compare_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterable[Unequal]:
    mine, others = list_conditions(ours), list_conditions(theirs)
    for name in dict.fromkeys((*mine, *others)):
        a, b = (one.get(name, find_default(name)) for one in (mine, others))
        if a != b:
            yield name_setting(name), format_value(a), format_value(b)


def _compare_versions(a: ScoreConditions, b: ScoreConditions, task: str) -> Iterable[Unequal]:
    if a.suite_version != b.suite_version:
        name = get_text("board.suite-version", suite=task.partition(":")[0])
        yield name, format_value(a.suite_version), format_value(b.suite_version)
    if a.version != b.version:
        yield plain_text("bitnet-bench"), format_value(a.version), format_value(b.version)


def _compare_rows(ours: tuple[ScoreConditions, Any], theirs: tuple[ScoreConditions, Any]) -> Iterable[Unequal]:
    """Yield how the rows differ: by their limit, else by their number, else by their digest."""
    (a, limit), (b, other_limit) = ours, theirs
    if not a.data or not b.data or (a.data == b.data and a.n == b.n):
        return
    if limit != other_limit:
        yield name_setting("limit"), format_value(limit), format_value(other_limit)
    elif a.n != b.n:
        yield get_text("board.n"), plain_text(f"{a.n:,}"), plain_text(f"{b.n:,}")
    else:
        mine, others = (plain_text(f"sha256 {one[:SHOWN_DIGEST_CHARS]}…") for one in (a.data, b.data))
        yield get_text("board.rows"), mine, others


def format_settings(settings: Mapping[str, Any]) -> list[Text]:
    """Return the settings of a run that a reader needs: the usual ones always, others where they are not default."""
    draws = settings.get("shots") or settings.get("temperature")
    hidden = NEVER_SHOWN if draws else NEVER_SHOWN | {"seed"}
    usual = [name for name in SHOWN_FIRST if name in settings]
    others = [
        name
        for name in sorted(settings)
        if name not in usual and name not in hidden and settings[name] not in (None, find_default(name))
    ]
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
