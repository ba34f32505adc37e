"""The functions of `import bitnet_bench as bb`: open, fine-tune, evaluate, judge, measure, compare, report and rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bitnet_bench.checkpoints import locate
from bitnet_bench.comparison.board_values import Board
from bitnet_bench.comparison.compare_runs import compare_runs
from bitnet_bench.comparison.results import MARGIN, Comparison
from bitnet_bench.evaluation.evaluate import evaluate as run_evaluate
from bitnet_bench.evaluation.select import find_data_directory, select_tasks, trust_suite_names
from bitnet_bench.judging.judge import judge_runs
from bitnet_bench.measurement import candidates
from bitnet_bench.measurement.measure import measure as run_measure
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.reports import write, write_board
from bitnet_bench.reports.sections import ReportOptions
from bitnet_bench.runs.choices import AUTO, TRAINING_BACKEND, Precision, ReadAs
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.jobs import BoardOptions, EvaluateJob, FinetuneJob, JudgeJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord, RunRecord
from bitnet_bench.training.finetune import finetune as run_finetune
from bitnet_bench.training.finetune import make_twin_job as run_twin_of
from bitnet_bench.wording import Language

Location = str | Path


def open_checkpoint(model: Location, *, read_as: ReadAs | None = None) -> Checkpoint:
    """Return the checkpoint *model*: a folder, a GGUF file, a hub id (downloaded), or `demo` / `demo-fp16`.

    A file of the hub is `hub:ORG/NAME/FILE.gguf`; NAME may be followed by `@REVISION`. With *read_as* "masters", plain
    float weights are taken for the masters of a ternary model.

    Nothing is run. BenchError if it is not a checkpoint or is damaged.

    Examples:
        >>> import bitnet_bench as bb
        >>> bb.open("demo").format
        'autobitlinear'
    """
    return locate.open_checkpoint(str(model), read_as=read_as)


def finetune(job: FinetuneJob, *, backend: str = TRAINING_BACKEND) -> FinetuneRecord:
    """Train as *job* says and return the training record; the checkpoint is in `job.out`.

    A finished run of the same settings is skipped, and a killed one resumes from its last saved step. BenchError names
    the file and the line of a bad row.

    Examples:
        >>> job = bb.FinetuneJob(model="demo", data=("train.jsonl",), out="runs/mine", epochs=3)
        >>> ternary = bb.finetune(job)
        >>> fp16 = bb.finetune(bb.twin_of(job))  # the same rows, order and settings, into runs/mine-fp16
    """
    return run_finetune(job, backend)


def evaluate(
    model: Location,
    suites: str | Sequence[str],
    out: Location,
    job: EvaluateJob | None = None,
    *,
    tasks: Sequence[str] = (),
) -> RunRecord:
    """Score *model* on *suites*, or on those of their tasks that are named in *tasks*, and return the record.

    A suite is a name (`bitnet-bench suites`), `lm-eval:NAME`, or a folder with a suite.yaml. The record and every
    sample are in the folder *out*; tasks that are scored there already are skipped. A task that could not be scored is
    listed in the record's `errors`, and does not stop the others.

    Examples:
        >>> run = bb.evaluate("runs/mine", "sample", "runs/scored/mine", bb.EvaluateJob(limit=100))
        >>> {score.task: score.value for score in run.scores if score.primary}
    """
    job = job or EvaluateJob()
    named = [suites] if isinstance(suites, str) else list(suites)
    directory = find_data_directory(Path(job.data_dir) if job.data_dir else None)
    return run_evaluate(str(model), select_tasks(named, tasks, directory), Path(out), job)


def judge(
    runs: Location | Sequence[Location],
    model: Location,
    job: JudgeJob | None = None,
    runtime: EvaluateJob | None = None,
) -> list[RunRecord]:
    """Let *model* judge the open answers of a run, or compare those of two, and return their records.

    *runtime* says how the judge is run: backend, precision and the like. What it said is in each record's `judged`, a
    type of its own beside `scores`; the verdicts with their reasons are in the folder `judged` of the run. After a kill
    only what is missing is asked.

    Examples:
        >>> (run,) = bb.judge("runs/scored/mine", "runs/judge", bb.JudgeJob(limit=10))
        >>> [(score.task, score.score, score.unparsable) for score in run.judged]
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    return judge_runs([Path(folder) for folder in folders], str(model), job or JudgeJob(), runtime or EvaluateJob())


def trust_suite(folder: Location) -> None:
    """Let the code of the suite in *folder* run, in this process and later ones, until one of its files changes.

    A suite in a folder may bring Python files and `!function` in its YAML; without trust, what would run them raises
    BenchError. Suites of installed packages, and those of YAML and templates alone, need none.
    """
    trust_suite_names([str(folder)])


def measure(
    models: Location | Sequence[Location] | Mapping[Location, Location],
    scenario: Scenario | None = None,
    *,
    precisions: Sequence[Precision] = (),
    backend: str = AUTO,
) -> list[RunRecord]:
    """Measure memory, speed and energy of *models*, each in a process of its own, in rounds that alternate.

    *models* may map models to run folders or list run folders; the record in each folder then gains the costs. By
    default a ternary checkpoint runs as ternary, and a float one both as FP16 and as BF16. All of it ends within
    `Scenario.budget_s`; what does not fit into that time is listed in the record's `cost_left_out`.

    Examples:
        >>> runs = bb.measure({"runs/mine": "runs/scored/mine", "runs/mine-fp16": "runs/scored/mine-fp16"})
        >>> runs[0].costs[0].metrics["decode_tokens_per_s"].median
    """
    folders: Mapping[Location, Location | None]
    if isinstance(models, Mapping):
        folders = dict(models)
    else:
        folders = dict.fromkeys([models] if isinstance(models, str | Path) else models)
    contenders = [
        contender
        for model, out in folders.items()
        for contender in candidates.make_candidates([str(model)], precisions, None if out is None else Path(out))
    ]
    return run_measure(contenders, scenario or Scenario(), backend=backend)


def compare(a: Location, b: Location, margin: float = MARGIN) -> Comparison:
    """Return whether run folder *a* differs from run folder *b*, on which tasks, and how certain that is.

    Every example of one run is paired with the same example of the other. *margin*, in points, is a difference that is
    too small to matter. BenchError says what differs if the runs cannot be compared.

    Examples:
        >>> found = bb.compare("runs/scored/mine", "runs/scored/mine-fp16", margin=1.0)
        >>> for task in found.differences:
        ...     print(task.task, task.difference, (task.low, task.high), task.p_holm, task.verdict)
    """
    return compare_runs(Path(a), Path(b), margin).comparison


def report(
    runs: Sequence[Location],
    out: Location = "report.html",
    *,
    keep_paths: bool = False,
    across_machines: bool = False,
) -> Path:
    """Write one self-contained HTML file about run folders, in the order of its columns, and return its path.

    Paths of this machine are shortened in it, unless *keep_paths*. Costs of different machines are not compared, unless
    *across_machines*, which the report says.

    Examples:
        >>> bb.report(["runs/scored/mine", "runs/scored/mine-fp16"], "report.html")
    """
    options = ReportOptions(keep_paths=keep_paths, across_machines=across_machines)
    path, _notices = write.write_report([Path(run) for run in runs], Path(out), options=options)
    return path


def leaderboard(
    runs: Sequence[Location],
    out: Location | None = "board.html",
    *,
    suites: Sequence[str] = (),
    tasks: Sequence[str] = (),
    categories: Sequence[str] = (),
    language: Language = "ko",
    margin: float = MARGIN,
    paired: bool = True,
    keep_paths: bool = False,
    across_machines: bool = False,
) -> Board:
    """Rank any number of runs, write the leaderboard to *out* (.html or .md; None for no file), and return it.

    *runs* are run folders, folders that hold some, or patterns such as `runs/*`. Runs that cannot be read are left out.
    Scores that were not made under the same conditions are not ranked with each other, and say why. Ternary runs are
    compared with their float twins row by row, or by standard errors without *paired*, which reads no examples. Costs
    of different machines are not compared, unless *across_machines*.

    Examples:
        >>> board = bb.leaderboard(["runs/scored"], "board.html", suites=["kobest"])
        >>> [(score.run, score.value, score.rank) for score in board.means[0].scores]
    """
    options = BoardOptions(
        suites=tuple(suites),
        tasks=tuple(tasks),
        categories=tuple(categories),
        margin=margin,
        paired=paired,
        across_machines=across_machines,
    )
    view = write_board.make_leaderboard([str(run) for run in runs], options)
    if out is not None:
        write_board.write_leaderboard(view, Path(out), language, keep_paths)
    return view.board


def twin_of(job: FinetuneJob) -> FinetuneJob:
    """Return the FP16 twin of a ternary job: the same rows, order and settings, written to `<out>-fp16`."""
    return run_twin_of(job, None)


def load_run(folder: Location) -> RunRecord:
    """Return the record of a run folder."""
    return load_record(Path(folder))
