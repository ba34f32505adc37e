"""List the sources of each run's numbers, and the commands that repeat them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bitnet_bench.reports.figures import DASH, format_bytes, format_number
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Facts, Group, Paragraph, Section
from bitnet_bench.runs.records import Checkpoint, Environment, RunRecord
from bitnet_bench.wording import Count, Text, get_text, join_texts, plain_text
from bitnet_bench.wording.names import format_checkpoint_format, format_precision
from bitnet_bench.wording.sentences import translate_sentence

KNOWN_COUNTS = (
    "requests",
    "cached",
    "truncated",
    "shortened",
    "cut",
    "unfinished",
    "malformed",
    "without_chat_template",
)
Fact = tuple[Text, Cell]


def environment_section(runs: Sequence[NamedRun]) -> Section:
    """Return the section that says how to repeat the report."""
    groups: list[Block] = [
        Group(
            run.label,
            (
                Facts(
                    (
                        *_list_run_facts(run),
                        *_list_checkpoint_facts(run.record.checkpoint),
                        *_list_machine_facts(run.record.environment),
                    )
                ),
            ),
        )
        for run in runs
    ]
    return Section(
        "environment", get_text("environment.title"), (Paragraph(get_text("environment.hint"), "hint"), *groups)
    )


def _list_run_facts(run: NamedRun) -> list[Fact]:
    record, training = run.record, run.results.training
    learned = [_fact("training-command", training.environment.command, code=True)] if training else []
    return [
        _fact("command", record.environment.command, code=True),
        *learned,
        _fact("time", record.environment.time),
        _fact("seconds", f"{format_number(record.seconds)} s" if record.seconds else DASH),
        (
            get_text("fact.backend"),
            Cell(plain_text(f"{record.backend}, ") + format_precision(record.precision)),
        ),
        *([(get_text("fact.runtime"), Cell(translate_sentence(record.runtime)))] if record.runtime else []),
        _fact("suites", _format_items(record.suites), code=True),
        _fact("settings", json.dumps(record.settings, ensure_ascii=False, sort_keys=True, default=str), code=True),
        (get_text("fact.counts"), Cell(_format_counts(record))),
        _fact("data", "\n".join(f"{task} {digest}" for task, digest in record.data.items()) or DASH, code=True),
        _fact("sources", "\n".join(f"{task} {source}" for task, source in record.sources.items()) or DASH, code=True),
    ]


def _format_counts(record: RunRecord) -> Text:
    named = [
        (get_text(f"count.{key}") if key in KNOWN_COUNTS else plain_text(key)) + plain_text(f" {count:,}")
        for key, count in record.counts.items()
    ]
    return join_texts(named) if named else plain_text(DASH)


def _list_served_facts(checkpoint: Checkpoint) -> list[Fact]:
    """Return what is known of a model whose weights a server holds."""
    digest = get_text("fact.weights.served", digest=checkpoint.sha256)
    return [
        _fact("checkpoint", checkpoint.source, code=True),
        _fact("endpoint", checkpoint.endpoint or DASH, code=True),
        _fact("served_as", json.dumps(checkpoint.served_as, ensure_ascii=False, sort_keys=True), code=True),
        (get_text("fact.weights"), Cell(digest)),
    ]


def _list_checkpoint_facts(checkpoint: Checkpoint) -> list[Fact]:
    if checkpoint.is_served:
        return _list_served_facts(checkpoint)
    density = checkpoint.zero_density
    counts = {"all": f"{checkpoint.parameters:,}", "some": f"{checkpoint.ternary_parameters:,}"}
    zeros = get_text("fact.zeros.none") if density is None else plain_text(f"{density:.1%}")
    return [
        _fact("checkpoint", checkpoint.source, code=True),
        _fact("revision", checkpoint.revision or DASH, code=True),
        _fact("weights", checkpoint.sha256, code=True),
        (get_text("fact.architecture"), Cell(join_texts(_list_properties(checkpoint)))),
        *(
            [(get_text("fact.scale"), Cell(get_text(f"scale.{checkpoint.scale_direction}")))]
            if checkpoint.scale_direction
            else []
        ),
        (get_text("fact.parameters"), Cell(get_text("fact.parameters.words", **counts))),
        (get_text("fact.zeros"), Cell(zeros)),
    ]


def _list_properties(checkpoint: Checkpoint) -> list[Text]:
    said = plain_text(f" (--as {checkpoint.read_as})" if checkpoint.read_as else "")
    stored = format_checkpoint_format(checkpoint.format) + said
    return [plain_text(checkpoint.architecture), stored, plain_text(checkpoint.dtype)]


def _list_machine_facts(environment: Environment) -> list[Fact]:
    counts = get_text("fact.cpu.counts", cores=Count(environment.cores), threads=Count(environment.threads))
    return [
        _fact("platform", environment.platform, code=True),
        (get_text("fact.cpu"), Cell(plain_text(environment.cpu), (counts,), "code")),
        *([_fact("gpu", environment.gpu, code=True)] if environment.gpu else []),
        _fact("memory", format_bytes(environment.memory_bytes)),
        _fact("packages", _format_items({"python": environment.python, **environment.packages}), code=True),
    ]


def _fact(key: str, value: str, code: bool = False) -> Fact:
    return get_text(f"fact.{key}"), Cell(plain_text(value), (), "code" if code else "plain")


def _format_items(items: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in items.items()) or DASH
