"""The command that fine-tunes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.loading import TO_RUN, load_libraries
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_evaluation, print_text, print_warning
from bitnet_bench.cli.tables import DASH, escape_cell, format_mebibytes, format_or_dash, make_table, progress_bar, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.runs.jobs import Arms, FinetuneJob
    from bitnet_bench.runs.records import FinetuneRecord
    from bitnet_bench.training.search import RunAhead

OPTIONAL = ("of guessing", "weights on disk", "rate", "rows", "validation loss", "time", "steps")
"""Columns of the table of trainings that a narrow terminal can do without, the first named first."""


@with_fields
def finetune(
    *,
    job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:FinetuneJob")],
    arms: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:Arms")],
    trust: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:SuiteTrust")],
    placement: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:TrialPlacement")],
    as_json: Annotated[
        bool,
        typer.Option("--json", rich_help_panel="Output", help="Print JSON on standard output instead of tables."),
    ] = False,
) -> None:
    """Fine-tune with ternary QAT, or in FP16.

    The result is a checkpoint folder (packed 2-bit codes for ternary) that transformers opens as well. Killed at any
    moment, the same command resumes from the last saved step.
    """
    from bitnet_bench.cli.trial_placement import make_trial_runner
    from bitnet_bench.errors import UsageError
    from bitnet_bench.evaluation.select import trust_suite_names
    from bitnet_bench.runs.jobs import Arms, FinetuneJob, TrialPlacement
    from bitnet_bench.training.finetune import finetune as run_finetune
    from bitnet_bench.training.finetune import make_twin_job
    from bitnet_bench.training.inputs import list_training_suites
    from bitnet_bench.training.stage_checks import check_text_exists
    from bitnet_bench.training.stages import explain_stage_errors, plan_stages

    first, wanted = FinetuneJob(**job), Arms(**arms)
    if wanted.seeds > 1 and not wanted.searches:
        raise UsageError(
            "`seeds` makes runs of the settings that a search has chosen, and there is none.",
            "Give `find_learning_rate` or `search`, or run the command once for each `seed`.",
        )
    ahead = make_trial_runner(TrialPlacement(**placement), wanted, Path(first.out))
    if trust["trust_suite"]:
        trust_suite_names(list_training_suites(first.data))
    load_libraries(TO_RUN)
    if wanted.preset:
        check_text_exists(wanted)
        stages = plan_stages(first, wanted)
        records = []
        for stage in stages:
            with explain_stage_errors(stage.name == "text"):
                records.append(run_finetune(stage.job, wanted.backend, progress_bar))
        _show_records(records, as_json)
        return
    jobs = [first, make_twin_job(first, wanted.twin_model)] if wanted.twin else [first]
    if wanted.searches:
        _search_and_print({one.precision: one for one in jobs}, wanted, Path(first.out), as_json, ahead)
        return
    _show_records([run_finetune(one, wanted.backend, progress_bar) for one in jobs], as_json)


def _show_records(records: Sequence[FinetuneRecord], as_json: bool) -> None:
    from bitnet_bench.processes import is_first_process
    from bitnet_bench.training.ending import warn_failed_run

    if not is_first_process():
        return
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        show(finetune_table(records))
    sys.stdout.flush()  # so that warnings come last if both streams go to one file
    for line in finetune_warnings(records):
        print_warning(line)
    if not as_json and not any(map(warn_failed_run, records)):
        print_evaluation(record.job.out for record in records)


def _search_and_print(
    jobs: Mapping[str, FinetuneJob], arms: Arms, out: Path, as_json: bool, run_ahead: RunAhead | None
) -> None:
    from bitnet_bench.cli.search_tables import show_search
    from bitnet_bench.processes import is_first_process
    from bitnet_bench.training.search import SEARCH_RECORD_FILE, parse_grid, search_rates
    from bitnet_bench.training.search import run_search as run

    grid = parse_grid(arms.search)
    found = run(
        jobs, grid, arms.seeds, out, arms.backend, progress_bar, run_ahead=run_ahead, **search_rates(jobs, arms)
    )
    if not is_first_process():
        return
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        show_search(found)
        print_text(f"Search: {out / SEARCH_RECORD_FILE}")
    sys.stdout.flush()
    for line in found.warnings:
        print_warning(line)
    if not as_json:
        print_evaluation(folder for folders in found.chosen.values() for folder in folders)


def finetune_table(records: Sequence[FinetuneRecord]) -> Table:
    """Return the training runs, one per row, with the loss at both ends and that of guessing."""
    from bitnet_bench.training.ending import warn_failed_run

    rows = [
        [
            record.job.out,
            record.job.precision,
            str(record.steps),
            format_or_dash(record.job.learning_rate, "{:.3g}"),
            format_or_dash(record.first_loss, "{:.3f}"),
            format_or_dash(record.last_loss, "{:.3f}"),
            format_or_dash(record.guessing_loss, "{:.3f}"),
            " to ".join(f"{point['loss']:.3f}" for point in record.validation[:: len(record.validation) - 1 or 1])
            or DASH,
            f"{record.train_seconds:.0f} s",
            f"{record.rows} ({record.dropped_rows} dropped, {record.truncated_rows} cut)",
            format_mebibytes(sum(record.result.weight_bytes.values())),
        ]
        for record in records
    ]
    columns = [
        "checkpoint",
        "precision",
        "steps",
        "rate",
        "loss of the first step",
        "at the end",
        "of guessing",
        "validation loss",
        "time",
        "rows",
        "weights on disk",
    ]
    failed = any(warn_failed_run(record) for record in records)
    made = make_table(
        "Trained, see the last line" if failed else "Fine-tuned", columns, rows, numbers_from=2, optional=OPTIONAL
    )
    sources = dict.fromkeys(
        f"{record.job.precision}, rate {record.job.learning_rate:.3g}: {record.job.learning_rate_source}"
        for record in records
        if record.job.learning_rate_source
    )
    made.caption = "\n".join(map(escape_cell, sources)) or None
    return made


def finetune_warnings(records: Sequence[FinetuneRecord]) -> list[str]:
    """Return the warnings of runs, those about runs that failed to learn last."""
    from bitnet_bench.training.ending import warn_failed_run

    early = [(r, warning) for r in records for warning in r.warnings if warning not in warn_failed_run(r)]
    late = [(r, warning) for r in records for warning in warn_failed_run(r)]
    return [f"{record.job.out}: {warning}" for record, warning in (*early, *late)]
