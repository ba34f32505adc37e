"""List the files that a step of a recipe reads and writes, and find those that are missing before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bitnet_bench.checkpoints.gguf.parts import list_part_names
from bitnet_bench.checkpoints.locate import HUB_PREFIX, find_local_folder, parse_hub_id
from bitnet_bench.data.hub_rows import is_on_hub, parse_hub_rows
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.harness_tasks import HARNESS_PREFIX
from bitnet_bench.evaluation.suites import Suite, Task
from bitnet_bench.files import exists, is_file
from bitnet_bench.pipeline.known import Known
from bitnet_bench.pipeline.steps import EvaluateStep, FinetuneStep, SearchStep
from bitnet_bench.runs.choices import DEFAULT_PROMPTS
from bitnet_bench.runs.jobs import EvaluateJob, FinetuneJob
from bitnet_bench.training.inputs import is_task

COMMIT_DIGITS = 40
IsMade = Callable[[str], bool]
"""Function that says whether a step of the sweep makes the checkpoint of that path."""


@dataclass(frozen=True)
class StepFiles:
    """What a step reads: paths, and whether something decides its result that no path shows."""

    paths: tuple[str, ...]
    has_unseen: bool = False


class FileFinder:
    """Finds what steps read, and raises BenchError for what is not there; what steps share is looked up once."""

    def __init__(self, known: Known, is_made: IsMade) -> None:
        self._known, self._is_made = known, is_made
        self._models: dict[str, StepFiles] = {}
        self._tasks: dict[tuple[str, ...], StepFiles] = {}

    def find_evaluation_files(self, step: EvaluateStep) -> StepFiles:
        """Return what an evaluation reads."""
        job = step.job
        served = job.base_url is not None
        model = StepFiles((), has_unseen=True) if served else self.find_model(step.model)
        tokenizer = self.find_model(job.tokenizer) if job.tokenizer else StepFiles(())
        runtime = tuple(path for path in (job.gguf, job.libllama, job.bitnetcpp_dir) if path)
        unseen_prompts = job.prompts != DEFAULT_PROMPTS
        tasks = self.find_task_files(step.tasks, job)
        return _join([model, tokenizer, StepFiles(runtime, unseen_prompts), tasks])

    def find_training_files(self, job: FinetuneJob) -> StepFiles:
        """Return what a fine-tuning reads."""
        models = [self.find_model(name) for name in (job.model, job.teacher, job.tokenizer) if name]
        rows = [self._find_training_rows(source) for source in (*job.data, *job.validation)]
        template = StepFiles((job.template,) if is_file(Path(job.template)) else ())
        return _join([*models, *rows, template])

    def find_search_files(self, step: SearchStep) -> StepFiles:
        """Return what a search of settings reads."""
        return _join([self.find_training_files(job) for job in step.arms.values()])

    def find_inputs(self, step: EvaluateStep | FinetuneStep | SearchStep) -> StepFiles:
        """Return what *step* reads."""
        if isinstance(step, EvaluateStep):
            return self.find_evaluation_files(step)
        if isinstance(step, SearchStep):
            return self.find_search_files(step)
        found = self.find_training_files(step.job)
        return _join([found, StepFiles((str(step.search.out),))]) if step.search else found

    def find_model(self, name: str) -> StepFiles:
        """Return the files of the checkpoint *name*; UsageError if there is none."""
        if name not in self._models:
            self._models[name] = self._find_model(name)
        return self._models[name]

    def _find_model(self, name: str) -> StepFiles:
        if self._is_made(name):
            return StepFiles((name,))
        folder = find_local_folder(name)
        if folder is not None:
            return StepFiles((str(folder),))
        if exists(Path(name)):
            return StepFiles(tuple(str(Path(name).parent / part) for part in list_part_names(Path(name).name)))
        place = parse_hub_id(name)
        if name.startswith(HUB_PREFIX):
            return StepFiles((), has_unseen=True)
        # runs/mine is a folder that is not there, and models/mine.gguf a file; neither is a hub id
        is_file = name.endswith(".gguf") and name.count("/") < 2
        if place is None or is_file or Path(name).parent.is_dir():
            raise UsageError(
                f"There is no checkpoint {name}.",
                "Give a folder, a GGUF file, a hub id such as ORG/NAME or ORG/NAME@REVISION, or `demo` / `demo-fp16`.",
            )
        return StepFiles((), has_unseen=len(place.revision or "") != COMMIT_DIGITS)

    def find_task_files(self, tasks: Sequence[tuple[Suite, Task]], job: EvaluateJob) -> StepFiles:
        """Return the definitions and the rows of *tasks*; BenchError if there are no rows."""
        asked = (*(f"{suite.folder}:{task.name}" for suite, task in tasks), "rows", *map(str, job.rows.items()))
        if asked not in self._tasks:
            self._tasks[asked] = _join(
                [self._find_one_task(suite, task, job.rows.get(f"{suite.name}:{task.name}")) for suite, task in tasks]
            )
        return self._tasks[asked]

    def _find_one_task(self, suite: Suite, task: Task, own_rows: str | None) -> StepFiles:
        if suite.name == HARNESS_PREFIX:
            return StepFiles(_list_package_files("lm_eval"), has_unseen=True)
        definition = StepFiles((str(suite.folder),))
        if own_rows is not None:
            return _join([definition, self._find_rows(own_rows)])
        if task.own_rows:
            raise UsageError(
                f"{suite.name}:{task.name} has no rows of its own.",
                f"Give `rows` in the recipe's `evaluate`: {{{suite.name}:{task.name}: FILE}}.",
            )
        rows = [self._find_split(suite, task, split, must_exist=split == "test") for split in ("test", "train")]
        return _join([definition, *rows])

    def _find_split(self, suite: Suite, task: Task, split: str, must_exist: bool) -> StepFiles:
        file = suite.find_rows_file(task, split, self._known.data_dir)
        if file is None:
            if must_exist and not suite.find_hub_id(task):
                raise BenchError(
                    f"There are no rows of {suite.name}:{task.name} here.", "Give `data_dir`, a folder of local rows."
                )
            return StepFiles((), has_unseen=split == "test")
        files = list(task.list_files(file).values())
        missing = [one for one in files if not is_file(one)]
        if missing and must_exist:
            raise BenchError(
                f"There is no {missing[0]}, which has rows of {suite.name}:{task.name}.",
                "Check `data_dir`, leave the task out, or bring the data: `bitnet-bench data` says how.",
            )
        return StepFiles(tuple(map(str, files)))

    def _find_training_rows(self, source: str) -> StepFiles:
        if not is_task(source):
            return self._find_rows(source)
        suite, _, task = source.partition(":")
        found = []
        for owner, one in self._known.select_tasks((suite,), (task,)):
            found.append(StepFiles((str(owner.folder),)))
            found += [self._find_split(owner, one, split, must_exist=True) for split in ("test", "train")]
        return _join(found)

    def _find_rows(self, source: str) -> StepFiles:
        if is_on_hub(source):
            revision = parse_hub_rows(source).revision
            return StepFiles((), has_unseen=len(revision or "") != COMMIT_DIGITS)
        if not is_file(Path(source)):
            raise BenchError(f"There is no file {source}.", "Check the name; files stand beside the recipe.")
        return StepFiles((source,))


def _list_package_files(package: str) -> tuple[str, ...]:
    """Return a file that changes when *package* is installed anew."""
    record = next((file for file in metadata.files(package) or () if file.name == "RECORD"), None)
    return (str(record.locate()),) if record else ()


def _join(found: Iterable[StepFiles]) -> StepFiles:
    listed = list(found)
    paths = dict.fromkeys(path for one in listed for path in one.paths)
    return StepFiles(tuple(paths), any(one.has_unseen for one in listed))
