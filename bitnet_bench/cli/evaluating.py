"""The commands that score."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitnet_bench.cli.options import (
    Backend,
    BitnetCpp,
    DataDir,
    DespiteParity,
    Gguf,
    Json,
    Limit,
    Precision,
    build_job,
)
from bitnet_bench.cli.output import print_json, show_runs
from bitnet_bench.cli.tables import progress_bar, show, table
from bitnet_bench.errors import UsageError


def evaluate(
    suite: Annotated[
        list[str],
        typer.Option(help="A suite (`bitnet-bench suites`) or a folder with suite.yaml; several with commas."),
    ],
    model: Annotated[
        list[str], typer.Option(help="A checkpoint folder, a hub id, or `demo` / `demo-fp16`. Repeatable.")
    ] = ["demo"],  # noqa: B006
    task: Annotated[list[str] | None, typer.Option(help="Only this task of the suite. Repeatable.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; with several models, the folder of theirs [default: runs/MODEL-SUITE].",
            show_default=False,
        ),
    ] = None,
    backend: Backend = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="[default: ternary for ternary checkpoints, else the fastest float dtype here]", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    rows: Annotated[
        list[str] | None, typer.Option(metavar="SUITE:TASK=FILE", help="Score your own rows. Repeatable.")
    ] = None,
    prompts: Annotated[str, typer.Option(help="The suite's prompts: `default`, or `lm-eval` for kobest.")] = "default",
    shots: Annotated[int, typer.Option(min=0, help="Training examples before every question.")] = 0,
    seed: Annotated[int, typer.Option(help="Chooses the training examples of --shots.")] = 0,
    chat_template: Annotated[bool, typer.Option(help="Ask through the checkpoint's chat template.")] = False,
    limit: Limit = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep answers and use those that are kept: `bitnet-bench cache`.")
    ] = True,
    gguf: Gguf = None,
    bitnetcpp_dir: BitnetCpp = None,
    despite_parity: DespiteParity = False,
    as_json: Json = False,
) -> None:
    """Score models on suites of Korean tasks.

    Writes OUT/record.json and every example in OUT/samples/. Stopped at any moment, the same command goes on from the
    last batch. A task that cannot be scored does not lose the others; the exit status is 1 then. Several models take
    turns, task by task. Processes that `torchrun` or `accelerate launch` started share the work.
    """
    from bitnet_bench.evaluation.evaluate import evaluate_several
    from bitnet_bench.evaluation.select import data_directory, select_tasks
    from bitnet_bench.processes import is_first
    from bitnet_bench.runs.jobs import EvaluateJob

    suites_named = [name for value in suite for name in value.split(",")]
    folders = _run_folders(model, out, "-".join(Path(name).name for name in suites_named))
    job = build_job(
        EvaluateJob,
        backend=backend, precision=precision.value if precision else None,
        data_dir=str(data_dir) if data_dir else None, rows=_own_rows(rows or []), prompts=prompts, shots=shots,
        seed=seed, chat_template=chat_template, limit=limit, cache=cache, gguf=str(gguf) if gguf else None,
        bitnetcpp_dir=str(bitnetcpp_dir) if bitnetcpp_dir else None, despite_parity=despite_parity,
    )  # fmt: skip
    chosen = select_tasks(suites_named, task or [], data_directory(data_dir))
    records = evaluate_several(list(zip(model, folders, strict=True)), chosen, job, progress_bar)
    if is_first():
        if as_json:
            print_json([record.model_dump(mode="json") for record in records])
        else:
            show_runs(records)
            print("\n".join(f"Run: {folder}" for folder in folders))
        for record in records:
            for name, said in record.errors.items():
                print(f"Error: {record.name} was not scored on {name}. {said}", file=sys.stderr)
    if any(record.errors for record in records):
        raise typer.Exit(1)


def _run_folders(models: list[str], out: Path | None, suites_named: str) -> list[Path]:
    """Return a run folder for each model; UsageError where two would share one."""
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


def _own_rows(given: list[str]) -> dict[str, str]:
    """Return the files of --rows by task; UsageError says what the form is."""
    rows = {}
    for value in given:
        name, _, file = value.partition("=")
        if name.count(":") != 1 or not file:
            raise UsageError(f"--rows {value} is not SUITE:TASK=FILE.", "Such as translation:own_en_ko=pairs.jsonl.")
        rows[name] = file
    return rows


def suites(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the suites and their tasks.

    Rows are counted where a data directory is given; --limit and wos, whose dialogues hold several questions, apart.
    """
    from bitnet_bench.evaluation.select import list_tasks

    found = list_tasks(data_dir)
    if as_json:
        print_json(found)
        return
    rows = [
        [t["suite"], t["task"], t["rows"] or "-", t["metrics"][0], f"{t['chance']:.1f}", t["licence"], t["from"]]
        for t in found
    ]
    columns = ["suite", "task", "rows", "primary metric", "chance", "licence", "rows from"]
    show(table("Suites", columns, [[str(cell) for cell in row] for row in rows], numbers_from=99))


def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's own command line with our backends.

    Such as: bitnet-bench lm-eval run --model bitnet-bench --model_args pretrained=demo,backend=ternary --tasks kobest
    """
    from bitnet_bench.lm_eval_model import run

    run(context.args)
