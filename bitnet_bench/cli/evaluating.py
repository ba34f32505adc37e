"""The commands that score models and list suites."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.completion import complete_suites, complete_tasks
from bitnet_bench.cli.help_panels import PanelCommand
from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.loading import TO_SCORE, load_libraries
from bitnet_bench.cli.option_names import OptionName, name_options
from bitnet_bench.cli.options import DataDir, Json
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.cli.sentences import print_error, print_next, print_text
from bitnet_bench.cli.tables import DASH, make_table, progress_bar, show
from bitnet_bench.errors import UsageError
from bitnet_bench.runs.choices import DEFAULT_MODEL

OPEN = "by people or a judge"
"""Stands where an open task has no metric."""
EVALUATE_OPTIONS = {"rows": OptionName("--rows"), "data_dir": OptionName("--data-dir")}

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.evaluation.showing import ShownTask
    from bitnet_bench.evaluation.suites import Suite, Task
    from bitnet_bench.runs.jobs import EvaluateJob
    from bitnet_bench.runs.records import RunRecord


ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Answer part I of N only, such as 3/16, in a job of its own; `bitnet-bench merge OUT` scores all N.",
    ),
]


@with_fields
def evaluate(
    *,
    suite: Annotated[
        list[str],
        typer.Option(
            help="A suite (`bitnet-bench suites`) or a folder with suite.yaml; several with commas.",
            autocompletion=complete_suites,
        ),
    ],
    model: Annotated[
        list[str], typer.Option(help="A checkpoint folder, a GGUF file, a hub id, or `demo` / `demo-fp16`. Repeatable.")
    ] = [DEFAULT_MODEL],  # noqa: B006
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only this task of the suite. Repeatable.", autocompletion=complete_tasks),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; with several models, the folder of theirs [default: runs/MODEL-SUITE].",
            show_default=False,
        ),
    ] = None,
    shard: ShardOption = None,
    job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:EvaluateJob")],
    trust: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:SuiteTrust", ("trust_suite",))],
    as_json: Json = False,
) -> None:
    """Score models on suites of Korean tasks.

    Writes OUT/record.json and every example in OUT/samples/. Stopped at any moment, the same command goes on from the
    last batch. A task that cannot be scored does not lose the others; the exit status is 1 then. Several models take
    turns, task by task. Processes that `torchrun` or `accelerate launch` started share the work; jobs that know nothing
    of one another do with --shard.
    """
    from bitnet_bench.runs import jobs

    named = [name for value in suite for name in value.split(",")]
    folders = _run_folders(model, out, "-".join(Path(name).name for name in named))
    models = list(zip(model, folders, strict=True))
    wanted = jobs.EvaluateJob(**job)
    chosen = _choose_tasks(named, task or [], wanted, trust["trust_suite"])
    load_libraries(TO_SCORE)
    from bitnet_bench.evaluation.evaluate import evaluate_several

    if shard is not None:
        _evaluate_shard(shard, models, chosen, wanted, as_json)
        return
    _show_records(evaluate_several(models, chosen, wanted, progress_bar), folders, as_json)


def _choose_tasks(
    suites: Sequence[str], tasks: Sequence[str], job: EvaluateJob, trusts: bool
) -> list[tuple[Suite, Task]]:
    """Return the tasks of the suites that have rows here, or those named; *trusts*: their code may run from now on."""
    from bitnet_bench.evaluation.select import find_data_directory, select_tasks, trust_suite_names

    if trusts:
        trust_suite_names(suites)
    return select_tasks(suites, tasks, find_data_directory(Path(job.data_dir) if job.data_dir else None))


def _evaluate_shard(
    text: str, models: Sequence[tuple[str, Path]], chosen: Sequence[tuple[Suite, Task]], job: EvaluateJob, as_json: bool
) -> None:
    """Answer the share *text* of each model's requests; raise an exit with status 1 if a task failed."""
    from bitnet_bench.evaluation.shards import SHARDS_FOLDER, Shard, evaluate_shard

    shard = Shard.parse(text)
    records = [evaluate_shard(model, chosen, out, shard, job, progress_bar) for model, out in models]
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    for record, (_, out) in zip(records, models, strict=True):
        if not as_json:
            folder = out / SHARDS_FOLDER / shard.folder
            done = f"{len(record.finished_tasks)} of {len(chosen)} tasks are answered in {folder}."
            print_text(f"Shard {shard}: {done} When all {shard.count} are: bitnet-bench merge {out}")
        for name, said in record.errors.items():
            print_error(f"Shard {shard} did not answer {name}. {name_options(said)}")
    if any(record.errors for record in records):
        raise typer.Exit(1)


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The run folder that all shards were given as --out.")],
    as_json: Json = False,
) -> None:
    """Score what `evaluate --shard 1/N`, ..., `N/N` answered.

    OUT/record.json and OUT/samples/ are those of one process. The weights are not loaded: it runs on any machine that
    sees the checkpoint and the rows. A shard that has not finished is named, and the same command goes on with it.
    """
    from bitnet_bench.evaluation.shards import merge_shards

    load_libraries(TO_SCORE)
    _show_records([merge_shards(out, progress_bar)], [out], as_json)


def _show_records(records: list[RunRecord], folders: Sequence[Path], as_json: bool) -> None:
    """Print runs and the tasks that could not be scored; raise an exit with status 1 if there are any."""
    from bitnet_bench.processes import is_first_process

    if is_first_process():
        if as_json:
            print_json([record.model_dump(mode="json") for record in records])
        else:
            show_runs(records)
            print_text("\n".join(f"Run: {folder}" for folder in folders))
        for record in records:
            for name, said in record.errors.items():
                print_error(f"{record.name} was not scored on {name}. {name_options(said)}")
    if any(record.errors for record in records):
        raise typer.Exit(1)
    if is_first_process() and not as_json and any(record.answered for record in records):
        print_next("judge", *folders[:2], "--model", "JUDGE")
    elif is_first_process() and not as_json:
        alone = "report" if any(record.checkpoint.is_served for record in records) else "measure"
        print_next("compare" if len(folders) == 2 else "report" if folders[1:] else alone, *folders)


def _run_folders(models: list[str], out: Path | None, suites_named: str) -> list[Path]:
    """Return a run folder for each model; raise UsageError if two models would share one."""
    if out is not None and len(models) == 1:
        return [out]
    names = [Path(model).name for model in models]
    folders = [out / name if out else Path("runs") / f"{name}-{suites_named}" for name in names]
    if len(set(folders)) < len(folders):
        raise UsageError(
            f"Two of {', '.join(models)} end in the same name, and would share a run folder.",
            "Evaluate them one at a time, each with an --out of its own.",
        )
    return folders


suites_app = typer.Typer(rich_markup_mode=None)


@suites_app.callback(invoke_without_command=True)
def suites(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the suites and their tasks; `suites show SUITE:TASK` shows one.

    Rows are counted where a data directory is given; --limit and wos, whose dialogues hold several questions, apart.
    """
    from bitnet_bench.evaluation.select import list_tasks

    if context.invoked_subcommand is not None:
        return
    found = list_tasks(data_dir)
    if as_json:
        print_json(found)
        return
    show(suites_table(found))


def suites_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return the tasks of the suites, one per row."""
    rows = [
        [
            t["suite"],
            t["task"],
            t["rows"] or "-",
            t["metrics"][0] if t["metrics"] else OPEN,
            f"{t['chance']:.1f}",
            t["licence"],
            name_options(t["from"], EVALUATE_OPTIONS),
        ]
        for t in found
    ]
    columns = ["suite", "task", "rows", "primary metric", "chance", "licence", "rows from"]
    cells = [[str(cell) for cell in row] for row in rows]
    return make_table(
        "Suites", columns, cells, numbers_from=99, keys=2, optional=("rows from", "licence", "chance", "rows")
    )


@suites_app.command("show", cls=PanelCommand)
def suites_show(
    task: Annotated[str, typer.Argument(metavar="SUITE:TASK", help="A task, lm-eval:NAME, or a suite for all of its.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what a task asks: its fields, a row, the prompt and the answer, metrics, licence and source."""
    from bitnet_bench.evaluation.showing import list_shown_tasks

    shown = list_shown_tasks(task, data_dir)
    if as_json:
        print_json([one.model_dump(mode="json") for one in shown])
    else:
        print("\n\n".join(map(describe_task, shown)))


def describe_task(shown: ShownTask) -> str:
    """Return a task as text: what is known of it, a row, and how that row is asked."""
    counts = [f"{count:,} {what}" for count, what in ((shown.rows, "test"), (shown.training_rows, "training")) if count]
    first, *others = shown.metrics or (OPEN,)
    fields = [f"{name} ({shown.fields[name] or 'not seen'})" for name in shown.needed]
    unread = [name for name in shown.fields if name not in shown.needed]
    chance = f"; chance {shown.chance:.1f}" if shown.chance else ""
    about = {
        "suite": f"{shown.title}, version {shown.version}",
        "metrics": f"{', '.join([f'{first} (primary)', *others])}{chance}" if shown.metrics else OPEN,
        "licence": shown.licence,
        "citation": shown.citation,
        "source": shown.source,
        "rows": ", ".join(counts) or DASH,
        "fields": "; ".join([", ".join(fields) or DASH, *([f"not read: {', '.join(unread)}"] if unread else [])]),
    }
    if shown.answers:
        about["answers"] = f"{shown.answers[0]}; --answer {shown.answers[1]}"
    lines = [shown.task, *(f"  {name:<9} {value}" for name, value in about.items())]
    if shown.example is None or shown.prompt is None:
        return "\n".join([*lines, "", name_options(f"No row to show: {shown.unavailable}", EVALUATE_OPTIONS)])
    lines += ["", "A row:", json.dumps(shown.example, ensure_ascii=False), "", "The prompt of it:", shown.prompt, ""]
    if shown.choices:
        lines.append(f"Choices: {', '.join(repr(shown.delimiter + choice) for choice in shown.choices)}")
    answers = [shown.answer or "", *(one for one in shown.references if one != shown.answer)]
    if shown.metrics or shown.answer:
        lines.append(f"Answer: {' or '.join(repr(shown.delimiter + one) for one in answers)}")
    suite, _, name = shown.task.partition(":")
    asked = f"--suite {shown.task}" if suite == "lm-eval" else f"--suite {suite} --task {name}"
    return "\n".join([*lines, "", f"Your own rows: bitnet-bench evaluate {asked} --rows {shown.task}=FILE"])


def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's own command line with our backends.

    Such as: bitnet-bench lm-eval run --model bitnet-bench --model_args pretrained=demo,backend=ternary --tasks kobest
    """
    from bitnet_bench.lm_eval_model import run_lm_eval

    run_lm_eval(context.args)
