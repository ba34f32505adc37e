"""Build lm-eval tasks from a suite's YAMLs, on local rows, the user's own rows, or those of the hub."""

from __future__ import annotations

import importlib.util
import logging
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from bitnet_bench.checkpoints.hub_errors import list_hub_errors
from bitnet_bench.data.hub_rows import open_source
from bitnet_bench.data.jsonl import shorten_name
from bitnet_bench.errors import BenchError, UsageError, did_you_mean
from bitnet_bench.evaluation.definitions import CORRECT_HINT, read_definition
from bitnet_bench.evaluation.function_guard import guard_functions
from bitnet_bench.evaluation.harness_tasks import HARNESS_METRIC, find_harness_yaml
from bitnet_bench.evaluation.local_rows import CONFIG_FIELD, read_rows_files
from bitnet_bench.evaluation.needed_fields import find_needed_fields
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.evaluation.task_hooks import TaskHooks, find_hooks
from bitnet_bench.evaluation.trust import leave_no_bytecode, refuse_code, require_trust
from bitnet_bench.files import is_file
from bitnet_bench.runs.choices import DEFAULT_PROMPTS, Answer
from bitnet_bench.runs.jobs import EvaluateJob

TEST_SPLIT, TRAIN_SPLIT = "test_split", "training_split"


@dataclass(frozen=True)
class TaskSettings:
    """Settings of how tasks are asked and where their rows are."""

    data_dir: Path | None = None
    rows: Mapping[str, Path] = field(default_factory=dict)
    """The user's own rows by SUITE:TASK; they replace the test split."""
    prompts: str = EvaluateJob.default("prompts")
    shots: int = EvaluateJob.default("shots")
    seed: int = EvaluateJob.default("seed")
    """Seed of the few-shot examples, which are the same for every document."""
    chat_template: bool = False
    answer: Answer | None = None
    """How questions with choices are answered; None for the way of each set."""
    without_code: str = ""
    """What builds the tasks only to look at them, such as "a dry run": the code of a suite in a folder is not run then,
    trusted or not."""


@dataclass(frozen=True)
class BuiltTask:
    """A task with its rows loaded, ready for lm-eval."""

    suite: Suite
    task: Task
    lm_task: Any
    """The ConfigurableTask of lm-eval."""
    source: str
    """Source of the rows: a file, or the hub id with its revision."""
    lines: Sequence[int] | None = None
    """Line of each test row in that file; None for rows of the hub, or if a row is made of several."""
    has_own_rows: bool = False
    """True if the test rows are a file of the user's, in place of the task's own."""

    @property
    def name(self) -> str:
        """Name of the task, SUITE:TASK."""
        return f"{self.suite.name}:{self.task.name}"

    @cached_property
    def module(self) -> Any:
        """The Python file that defines gold answers and reads outputs; None if the YAML is enough."""
        return load_module(self.suite.folder / self.task.module) if self.task.module else None

    @cached_property
    def hooks(self) -> TaskHooks:
        """The hooks in that file, with defaults; BenchError if one seems to be misspelt."""
        return find_hooks(self.module)

    def describe_row(self, doc_id: int) -> str:
        """Return the location of a row, for messages."""
        if self.lines is None:
            return f"Row {doc_id} of {self.name} ({self.source})"
        return f"Line {self.lines[doc_id]} of {self.source}"

    def list_training_documents(self) -> tuple[list[dict[str, Any]], int]:
        """Return the training rows that are not test rows, and how many were: equal by the normalised prompt."""
        if not self.lm_task.has_training_docs():
            raise BenchError(f"{self.name} has no training rows.", "Use another task or a JSONL file.")
        asked = {normalise_text(self.lm_task.doc_to_text(doc)) for doc in self.lm_task.test_docs()}
        rows = list(self.lm_task.training_docs())
        kept = [doc for doc in rows if normalise_text(self.lm_task.doc_to_text(doc)) not in asked]
        return kept, len(rows) - len(kept)


def normalise_text(text: str) -> str:
    """Return the letters and digits of *text* in NFKC and lower case; rows with the same result count as equal."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())


def load_module(file: Path) -> Any:
    """Load the Python file next to a task's YAML by path, as lm-eval's `!function` does, and return it."""
    spec = importlib.util.spec_from_file_location(f"bitnet_bench_task_{file.parent.name}_{file.stem}", file)
    if spec is None or spec.loader is None or not is_file(file):
        raise BenchError(f"There is no {file}.", "Correct `module` in suite.yaml.")
    module = importlib.util.module_from_spec(spec)
    with leave_no_bytecode():
        spec.loader.exec_module(module)
    return module


def build_task(suite: Suite, task: Task, setting: TaskSettings) -> BuiltTask:
    """Return the task with its rows: the user's own, else the suite's, else the data directory's, else the hub's.

    It is asked as `setting.answer` says.
    BenchError if the suite brings code that is not trusted (`bitnet_bench.evaluation.trust`).
    """
    task = task.answered_by(setting.answer)
    read_definition(find_definition(suite, task, setting.prompts))  # the line of a fault; lm-eval has a traceback
    if setting.without_code:
        refuse_code(suite, setting.without_code)
    else:
        require_trust(suite)
    if task.kind == "open":
        return _build_open_task(suite, task, setting)
    from lm_eval.api.task import ConfigurableTask

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _sandbox_prompts()
    config = _read_task_config(suite, task, setting.prompts, not setting.without_code)
    check_answer(suite, task, str(config.get("output_type")), setting.answer)
    files = _find_local_files(suite, task, setting)
    lines, has_own_rows = None, f"{suite.name}:{task.name}" in setting.rows
    if files:
        hint = "Correct the path in `rows`." if has_own_rows else _hint_missing_rows(suite, task)
        splits = {name: read_rows_files(task.list_files(file), hint) for name, file in files.items()}
        source = setting.rows[f"{suite.name}:{task.name}"].as_posix() if has_own_rows else str(files[TEST_SPLIT])
        if has_own_rows:
            _check_fields(suite, task, config, splits[TEST_SPLIT][0], source)
        lines = None if "process_docs" in config else splits[TEST_SPLIT][1] or None
        try:
            _use_local_rows(config, {name: rows for name, (rows, _lines) in splits.items()})
        except (ArithmeticError, TypeError, ValueError) as error:  # pyarrow's errors are of these kinds
            raise BenchError(f"The rows of {source} are no table: {error}.", "Give each field one type.") from error
    else:
        source = _use_hub_rows(suite, task, config)
    task_class = _make_tolerant_class(ConfigurableTask) if has_own_rows else ConfigurableTask
    built = BuiltTask(suite, task, _construct(task_class, config, suite, task, source), source, lines, has_own_rows)
    if setting.shots:
        _add_shots(built, setting)
    return built


def _construct(task_class: Any, config: Mapping[str, Any], suite: Suite, task: Task, source: str) -> Any:
    """Return lm-eval's task of *config*; BenchError if its rows cannot be had or do not fit it."""
    try:
        return task_class(config=config)
    except (OSError, RuntimeError) as error:
        raise BenchError(
            f"{suite.name}:{task.name} has no local rows, and {source} cannot be had from the hub.",
            f"{_name_local_rows(suite, task)}, or go online.",
        ) from error
    except Exception as error:  # a task's prompts are programs, and lm-eval does not check its fields
        raise BenchError(
            f"The first row of {suite.name}:{task.name} ({source}) does not fit the task: {_name_fault(error)}.",
            "Its label must be one of the choices, and it needs every field that the prompt uses.",
        ) from error


def _build_open_task(suite: Suite, task: Task, setting: TaskSettings) -> BuiltTask:
    """Return a task that lm-eval does not ask, and so does not build."""
    from bitnet_bench.evaluation.open_tasks import build_open_task

    file = _find_local_files(suite, task, setting).get(TEST_SPLIT)
    return build_open_task(suite, task, setting, file, _hint_missing_rows(suite, task))


def _check_fields(
    suite: Suite, task: Task, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], source: str
) -> None:
    """Raise BenchError that names every field that the task reads and the rows of the user do not have."""
    hooks = find_hooks(load_module(suite.folder / task.module) if task.module else None)
    needed = find_needed_fields(config, hooks, rows[0])
    missing = [name for name in needed if name not in rows[0]]
    if missing:
        raise BenchError(
            f"{source} has no {_join_names(missing)}, which {suite.name}:{task.name} reads; "
            f"its rows have {_join_names(rows[0])}.",
            f"`bitnet-bench suites show {suite.name}:{task.name}` shows a row.",
        )


def _join_names(names: Iterable[str]) -> str:
    *most, last = [f'"{shorten_name(name)}"' for name in names] or ["no fields"]
    return f"{', '.join(most)} and {last}" if most else last


def _make_tolerant_class(base: Any) -> Any:
    """Return lm-eval's class of tasks, with choices that are texts: it indexes those of the first row as it is built.

    Number and empty choices are refused by line later, in `check_rows`.
    """

    class TolerantTask(base):  # type: ignore[misc]
        def doc_to_choice(self, *given: Any, **named: Any) -> list[str]:
            return [str(choice) or " " for choice in super().doc_to_choice(*given, **named)]

    return TolerantTask


@cache
def _sandbox_prompts() -> None:
    """Run the templates of prompts in a sandbox, because a suite may be untrusted.

    They are compiled once: lm-eval compiles a template anew for every row, which takes 7 ms per row.
    """
    from lm_eval import utils

    if isinstance(utils.env, SandboxedEnvironment):
        return
    sandbox = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters |= utils.env.filters
    sandbox.from_string = cache(sandbox.from_string)  # type: ignore[assignment, method-assign]
    utils.env = sandbox


def _name_fault(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def check_answer(suite: Suite, task: Task, output_type: str, way: Answer | None) -> None:
    """Raise UsageError if a task cannot be answered by *way*."""
    only: Answer = "generate" if output_type == "generate_until" else "likelihood"
    if way not in (None, only):
        raise UsageError(
            f"{suite.name}:{task.name} is only answered by {only}, and `answer` is {way}.",
            "Leave `answer` out, or leave the task out with `task`.",
        )


def find_definition(suite: Suite, task: Task, prompts: str) -> Path:
    """Return the YAML that defines a task: the suite's own, or lm-eval's for a task or prompts of lm-eval."""
    if HARNESS_METRIC in task.metrics:
        return find_harness_yaml(task.name)
    if prompts == DEFAULT_PROMPTS:
        return suite.folder / task.definitions[task.answer]
    if prompts not in suite.prompts:
        there = [DEFAULT_PROMPTS, *suite.prompts]
        raise UsageError(
            f"Suite {suite.name} has no prompts called {prompts!r}.",
            f"{did_you_mean(prompts, there)} There are: {', '.join(there)}.".lstrip(),
        )
    return find_harness_yaml(suite.prompts[prompts].format(task=task.name))


def _read_task_config(suite: Suite, task: Task, prompts: str, may_run: bool = True) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    definition = find_definition(suite, task, prompts)
    try:
        with leave_no_bytecode(), guard_functions(suite, may_run):
            config: dict[str, Any] = load_yaml(definition, resolve_func=True)
    except BenchError:
        raise
    except Exception as error:  # the modules that it names are programs
        raise BenchError(
            f"{definition} does not define a task: {type(error).__name__}: {error}.", CORRECT_HINT
        ) from error
    if HARNESS_METRIC in task.metrics:
        for entry in config.get("metric_list", []):
            entry.pop("hf_evaluate", None)  # would download a metric that is then not used
    elif prompts != DEFAULT_PROMPTS:
        config["task"] = f"bb_{suite.name}_{task.name}"
        # this project scores the samples itself
        config["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    else:
        _check_metrics(config, suite, task)
    return config


def _check_metrics(config: Mapping[str, Any], suite: Suite, task: Task) -> None:
    """Raise BenchError for a metric that lm-eval would download, or load as a program from a folder."""
    import lm_eval.api.metrics  # noqa: F401 - registers them
    from lm_eval.api.registry import METRIC_REGISTRY

    for entry in config.get("metric_list") or []:
        name = entry.get("metric") if isinstance(entry, dict) else entry
        if isinstance(name, str) and name not in METRIC_REGISTRY:
            raise BenchError(
                f"{suite.name}:{task.name} names the metric {name!r}, which lm-eval does not have.",
                "Name the metric in suite.yaml: `metric_list` needs one of lm-eval's, such as acc.",
            )


def list_needed_fields(suite: Suite, task: Task) -> list[str]:
    """Return the fields that a task reads of every row, as far as its YAML says them, without any rows.

    BenchError if the suite brings code that is not trusted.
    """
    require_trust(suite)
    if task.kind == "open":
        from bitnet_bench.evaluation.open_tasks import read_open_definition

        return read_open_definition(suite, task).list_fields()
    return find_needed_fields(_read_task_config(suite, task, DEFAULT_PROMPTS))


def has_local_rows(suite: Suite, task: Task, setting: TaskSettings) -> bool:
    """Return whether the test rows of a task are in a local file that exists."""
    file = _find_local_files(suite, task, setting).get(TEST_SPLIT)
    return file is not None and all(map(is_file, task.list_files(file).values()))


def _find_local_files(suite: Suite, task: Task, setting: TaskSettings) -> dict[str, Path]:
    """Return the files of a task by lm-eval's name of the split, the test split first; {} if rows come from the hub."""
    own = setting.rows.get(f"{suite.name}:{task.name}")
    test = open_source(own) if own else suite.find_rows_file(task, "test", setting.data_dir)
    train = suite.find_rows_file(task, "train", setting.data_dir)
    if test is None:
        return {}
    has_train = train is not None and all(map(is_file, task.list_files(train).values()))
    return {TEST_SPLIT: test} | ({TRAIN_SPLIT: train} if train is not None and has_train else {})


def _use_local_rows(config: dict[str, Any], splits: Mapping[str, list[dict[str, Any]]]) -> None:
    from datasets import Dataset, DatasetDict

    rows = DatasetDict({name.removesuffix("_split"): Dataset.from_list(of_split) for name, of_split in splits.items()})
    for name in (TEST_SPLIT, TRAIN_SPLIT, "validation_split", "fewshot_split"):
        config.pop(name, None)
    config |= {name: name.removesuffix("_split") for name in splits}
    config["dataset_kwargs"] = {}
    config["custom_dataset"] = lambda **_: rows


def _use_hub_rows(suite: Suite, task: Task, config: dict[str, Any]) -> str:
    """Pin the revision of the hub's rows and return `id@revision`; an unpinned data set uses its newest revision."""
    hub = suite.find_hub_id(task)
    if hub is None or task.own_rows:
        option = f"Give `rows={suite.name}:{task.name}=FILE`." if task.own_rows else _hint_missing_rows(suite, task)
        raise BenchError(f"{suite.name}:{task.name} has no rows here.", option)
    arguments = dict(config.get("dataset_kwargs") or {})
    if "revision" not in arguments:
        arguments["revision"] = _find_newest_revision(hub)
    config["dataset_kwargs"] = {name: value for name, value in arguments.items() if value is not None}
    if task.configs:
        splits = [config[name] for name in (TEST_SPLIT, TRAIN_SPLIT) if name in config]
        config["custom_dataset"] = partial(_load_hub_configs, hub, task.configs, splits, config["dataset_kwargs"])
    return f"{hub}@{arguments['revision'] or 'unknown'}"


def _load_hub_configs(
    hub: str, configs: Sequence[str], splits: Sequence[str], arguments: Mapping[str, Any], **_: Any
) -> Any:
    """Return the rows of several configurations of a data set as one, each with its own in the field `config`."""
    from datasets import DatasetDict, concatenate_datasets, load_dataset

    found: dict[str, list[Any]] = {split: [] for split in splits}
    for config in configs:
        for split in splits:
            rows = load_dataset(hub, config, split=split, **arguments)
            found[split].append(rows.add_column(CONFIG_FIELD, [config] * len(rows)))
    return DatasetDict({split: concatenate_datasets(parts) for split, parts in found.items()})


def _find_newest_revision(hub: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub, timeout=10).sha
    except list_hub_errors():
        return None  # loading reports the error, or finds the rows in the cache


def _name_local_rows(suite: Suite, task: Task) -> str:
    """Return the way to score a task without the hub."""
    if task.local:
        return f"Give `data_dir` (or BITNET_BENCH_DATA) with {_describe_rows_file(task)}"
    return f"Give its rows as a file, `rows={suite.name}:{task.name}=FILE`"


def _describe_rows_file(task: Task) -> str:
    return f"{task.local}/{task.files['test']}" if task.local else "rows (this task has none in that layout)"


def _hint_missing_rows(suite: Suite, task: Task) -> str:
    hub = suite.find_hub_id(task)
    where = f" It would come from {hub} on the hub without `data_dir`." if hub else ""
    if not task.local:
        return f"{_name_local_rows(suite, task)}.{where}"
    return f"Give `data_dir` (or BITNET_BENCH_DATA) a folder with {_describe_rows_file(task)}.{where}"


def _add_shots(built: BuiltTask, setting: TaskSettings) -> None:
    """Put the same seeded training examples, none of them a test row, before every document."""
    from lm_eval.api.samplers import FirstNSampler

    rows, _overlap = built.list_training_documents()
    if len(rows) < setting.shots:
        raise BenchError(f"{built.name} has {len(rows)} training rows for {setting.shots} shots.", "Use fewer.")
    chosen = random.Random(setting.seed).sample(rows, setting.shots)
    built.lm_task.sampler = FirstNSampler(chosen)
    built.lm_task.set_config("num_fewshot", setting.shots)
