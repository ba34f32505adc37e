"""Check that finished scores would be the same now: the same rows, prompts, tokenizer and machine."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.definitions import examine_definition
from bitnet_bench.evaluation.harness_tasks import HARNESS_METRIC
from bitnet_bench.evaluation.local_rows import compute_rows_digest
from bitnet_bench.runs.records import Environment, RunRecord

if TYPE_CHECKING:
    from bitnet_bench.evaluation.suites import Suite, Task
    from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings

ROWS = "rows of {}"
DEFINITION = "task definition of {}"
EXAMPLES = "few-shot examples of {}"
SOFTWARE = ("bitnet-bench", "torch", "transformers", "lm-eval")
"""Packages whose versions decide the scores of a run."""
NAMED = 6
"""Number of items that could not be compared to name in a message."""
_log = logging.getLogger(__name__)


def digest_task(built: BuiltTask, setting: TaskSettings, limit: int | None) -> dict[str, str]:
    """Return the digests of a task's rows, its definition and its few-shot examples, by the name of each."""
    task = built.lm_task
    found = {ROWS.format(built.name): compute_rows_digest(islice(task.eval_docs, limit))}
    sampler = getattr(task, "sampler", None)  # a task without rows for examples has no sampler
    if task.config.num_fewshot and sampler and len(sampler.df):
        found[EXAMPLES.format(built.name)] = compute_rows_digest(sampler.df)
    return found | digest_definition(built.suite, built.task, setting)


def digest_definition(suite: Suite, task: Task, setting: TaskSettings) -> dict[str, str]:
    """Return the digest of what defines how a task asks and scores, by its name.

    That is its YAML with what it includes, the Python files that these name, and its metrics in suite.yaml; comments
    are ignored.
    """
    from bitnet_bench.evaluation.tasks import find_definition

    task = task.answered_by(setting.answer)
    definition = examine_definition(find_definition(suite, task, setting.prompts))
    modules = definition.list_modules()
    if task.module:
        modules.add(suite.folder / task.module)
    entry = task.model_dump(mode="json", include={"metrics", "chance", "module"})
    added = task.model_dump(mode="json", include={"answer", "extracts", "mixed_choices"}, exclude_defaults=True)
    entry |= added  # a task without them has the digest that it had before there were any
    text = json.dumps([entry, list(definition.parts.values())], sort_keys=True, ensure_ascii=False, default=str)
    found = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for module in sorted(modules):
        try:
            found.update(hashlib.sha256(module.read_bytes()).digest())
        except OSError as error:
            raise BenchError(
                f"{module} cannot be read: {error.strerror}.", "Correct `module` in suite.yaml."
            ) from error
    return {DEFINITION.format(f"{suite.name}:{task.name}"): found.hexdigest()}


def check_same_inputs(out: Path, record: RunRecord, now: Mapping[str, str], tasks: Iterable[str]) -> None:
    """Raise BenchError if scores in *record* come from other inputs than those of *now* (digests by name).

    *tasks* are those that it has scored. An input without a digest, then or now, cannot be compared, which is logged.
    """
    then = {ROWS.format(task): rows for task, rows in record.data.items() if not task.startswith(f"{HARNESS_METRIC}:")}
    then |= record.inputs
    scored = [template.format(task) for task in tasks for template in (ROWS, DEFINITION)]
    checked = [*now, *(name for name in scored if name not in now)]
    differing = [name for name in checked if name in now and name in then and now[name] != then[name]]
    if differing:
        raise BenchError(
            f"{out} holds scores that were made with different {', '.join(differing)}.",
            "Give another `out`, or delete the folder.",
        )
    unknown = [name for name in checked if name not in now or name not in then]
    if unknown:
        more = f", and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        _log.warning(
            "%s: what is scored already is kept. It could not be compared by: %s%s.",
            out,
            ", ".join(unknown[:NAMED]),
            more,
        )


def check_same_machine(
    out: Path, record: RunRecord, runtime: str | None, here: Environment, software: Iterable[str] = SOFTWARE
) -> None:
    """Raise BenchError if the scores in *record* come from another runtime, processor or software than this one."""
    then, there = record.runtime, record.environment
    pairs = {"runtime": (then, runtime), "processor": (there.cpu, here.cpu)}
    pairs |= {name: (there.packages.get(name), here.packages.get(name)) for name in software}
    differing = [f"{name} ({a}, not {b})" for name, (a, b) in pairs.items() if a and b and a != b]
    if differing:
        raise BenchError(
            f"{out} was begun with another {', '.join(differing)}.",
            "Continue it there, give another `out`, or delete the folder.",
        )
