"""List where each run's numbers come from, and what to type to have them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bitnet_bench.reports.figures import DASH, number, size
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Facts, Group, Paragraph, Section
from bitnet_bench.runs.records import Checkpoint, Environment, RunRecord
from bitnet_bench.wording import Said, joined, plain, say

COUNTS = ("requests", "cached", "truncated", "malformed")
Fact = tuple[Said, Cell]


def environment_section(runs: Sequence[NamedRun]) -> Section:
    """Return the section that says how to repeat the report."""
    groups: list[Block] = [
        Group(run.label, (Facts((*_run(run), *_checkpoint(run.record.checkpoint), *_machine(run.record.environment))),))
        for run in runs
    ]
    return Section("environment", say("environment.title"), (Paragraph(say("environment.hint"), "hint"), *groups))


def _run(run: NamedRun) -> list[Fact]:
    record, training = run.record, run.results.training
    learned = [_fact("training-command", training.environment.command, code=True)] if training else []
    return [
        _fact("command", record.environment.command, code=True),
        *learned,
        _fact("time", record.environment.time),
        _fact("seconds", f"{number(record.seconds)} s" if record.seconds else DASH),
        _fact("backend", f"{record.backend}, {record.precision}"),
        *([_fact("runtime", record.runtime)] if record.runtime else []),
        _fact("suites", _list(record.suites)),
        _fact("settings", json.dumps(record.settings, ensure_ascii=False, sort_keys=True, default=str), code=True),
        (say("fact.counts"), Cell(_counts(record))),
        _fact("data", "\n".join(f"{task} {digest}" for task, digest in record.data.items()) or DASH, code=True),
        _fact("sources", "\n".join(f"{task} {source}" for task, source in record.sources.items()) or DASH, code=True),
    ]


def _counts(record: RunRecord) -> Said:
    named = [
        (say(f"count.{key}") if key in COUNTS else plain(key)) + plain(f" {count:,}")
        for key, count in record.counts.items()
    ]
    return joined(named) if named else plain(DASH)


def _checkpoint(checkpoint: Checkpoint) -> list[Fact]:
    density = checkpoint.zero_density
    counts = {"all": f"{checkpoint.parameters:,}", "some": f"{checkpoint.ternary_parameters:,}"}
    zeros = say("fact.zeros.none") if density is None else plain(f"{density:.1%}")
    return [
        _fact("checkpoint", checkpoint.source, code=True),
        _fact("revision", checkpoint.revision or DASH, code=True),
        _fact("weights", checkpoint.sha256, code=True),
        _fact("architecture", f"{checkpoint.architecture}, {checkpoint.format}, {checkpoint.dtype}"),
        _fact("scale", checkpoint.scale_direction or DASH),
        (say("fact.parameters"), Cell(say("fact.parameters.words", **counts))),
        (say("fact.zeros"), Cell(zeros)),
    ]


def _machine(environment: Environment) -> list[Fact]:
    cpu = say("fact.cpu.words", cpu=environment.cpu, cores=environment.cores, threads=environment.threads)
    return [
        _fact("platform", environment.platform),
        (say("fact.cpu"), Cell(cpu)),
        *([_fact("gpu", environment.gpu)] if environment.gpu else []),
        _fact("memory", size(environment.memory_bytes)),
        _fact("packages", _list({"python": environment.python, **environment.packages})),
    ]


def _fact(key: str, value: str, code: bool = False) -> Fact:
    return say(f"fact.{key}"), Cell(plain(value), (), "code" if code else "plain")


def _list(items: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in items.items()) or DASH
