"""The command that trains."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.options import (
    MODELS,
    TEMPLATES,
    Compile,
    Compute,
    Method,
    Part,
    Reduction,
    Schedule,
    Tracker,
    TrainingPrecision,
    build_job,
)
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.tables import DASH, mebibytes, or_dash, progress_bar, show, table

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.runs.records import FinetuneRecord, SearchRecord


_data = partial(typer.Option, rich_help_panel="Data")
_method = partial(typer.Option, rich_help_panel="Method")
_optimization = partial(typer.Option, rich_help_panel="Optimization")
_ternary = partial(typer.Option, rich_help_panel="Ternary")
_distillation = partial(typer.Option, rich_help_panel="Distillation")
_output = partial(typer.Option, rich_help_panel="Output")


def finetune(
    *,
    data: Annotated[list[str], _data(help="A JSONL file, or SUITE:TASK for a task's training rows. Repeatable.")],
    limit: Annotated[int | None, _data(min=1, help="Only the first N rows of each task or file.")] = None,
    hold_out: Annotated[
        float, _data(help="Share of the rows that is validated on and not trained on; the same for every seed.")
    ] = 0.0,
    validation: Annotated[
        list[str] | None, _data(help="A JSONL file to validate on. Repeatable.", show_default=False)
    ] = None,
    max_length: Annotated[int, _data(min=2, help="Longest sequence in tokens.")] = 256,
    data_dir: Annotated[
        Path | None, _data(help="Folder of local rows; else $BITNET_BENCH_DATA, else the hub.", show_default=False)
    ] = None,
    template: Annotated[str, _data(help=TEMPLATES)] = "auto",
    packing: Annotated[
        bool, _data(help="Several short rows in one sequence, where none sees another: less padding.")
    ] = False,
    model: Annotated[str, _method(help=MODELS)] = "demo",
    precision: Annotated[TrainingPrecision, _method(help="Ternary QAT, or FP16.")] = TrainingPrecision.ternary,
    twin: Annotated[bool, _method(help="Then fine-tune the FP16 twin into OUT-fp16, on the same data.")] = False,
    method: Annotated[
        Method,
        _method(
            help="sft: loss on responses. pretrain: on all tokens. dpo: on preference pairs. "
            "distill: sft taught by --teacher (BitDistill)."
        ),
    ] = Method.sft,
    backend: Annotated[str, _method(help="The library that trains; `bitnet-bench backends` lists them.")] = "hf",
    search: Annotated[
        list[str] | None,
        _method(
            metavar="NAME=VALUE,...",
            help="Try these values and choose on validation rows, for both arms alike. Repeatable.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, _method(min=1, help="With --search: runs of the chosen settings, a seed each.")] = 1,
    beta: Annotated[float, _method(help="dpo: how strongly the model is held to where it began.")] = 0.1,
    twin_model: Annotated[
        str | None, _method(help="Where the twin starts: by default demo-fp16 for demo, else --model itself.")
    ] = None,
    epochs: Annotated[float, _optimization(help="Passes over the data.")] = 3.0,
    lr: Annotated[
        float | None,
        _optimization(
            help="Peak learning rate [default: from a table of published rates by method, precision, base and size; "
            "the record names the source, docs/finetuning.md lists them].",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        str,
        _optimization(
            metavar="N|auto",
            help="Sequences, or pairs, a forward pass; auto: as many as fit the free memory, up to 16, with "
            "--gradient-accumulation raised so that a step keeps its size.",
        ),
    ] = "16",
    gradient_accumulation: Annotated[int, _optimization(min=1, help="Forward passes an optimizer step.")] = 1,
    max_steps: Annotated[
        int | None, _optimization(min=1, help="Stop earlier, after this many optimizer steps.")
    ] = None,
    seed: Annotated[int, _optimization(help="Seed of everything random.")] = 0,
    schedule: Annotated[Schedule, _optimization(help="How the learning rate falls after warm-up.")] = Schedule.cosine,
    warmup_ratio: Annotated[float, _optimization(help="Share of the steps that warm up.")] = 0.05,
    compute: Annotated[
        Compute,
        _optimization(help="Dtype of products; auto: bf16 where the processor has it. Masters are float32 always."),
    ] = Compute.auto,
    compile_layers: Annotated[
        Compile,
        _optimization(
            "--compile", help="torch.compile the layers; auto: on a GPU, in runs so long that it pays after a minute."
        ),
    ] = Compile.auto,
    gradient_checkpointing: Annotated[
        bool, _optimization(help="Less memory: activations are computed again in the backward pass.")
    ] = False,
    weight_decay: Annotated[float, _optimization(help="AdamW's weight decay.")] = 0.0,
    loss: Annotated[Reduction, _optimization(help="Mean or sum over the tokens of a step.")] = Reduction.mean,
    freeze: Annotated[
        list[Part] | None, _optimization(help="Leave this part as it is. Repeatable.", show_default=False)
    ] = None,
    neftune_alpha: Annotated[
        float | None, _optimization(help="Noise on embeddings (NEFTune), such as 5.", show_default=False)
    ] = None,
    shard: Annotated[
        bool, _optimization(help="Under torchrun: split the model over the processes (FSDP2), no copy in each.")
    ] = False,
    ternary_warmup: Annotated[
        int, _ternary(min=0, help="Steps in which layers become ternary gradually (lambda warm-up).")
    ] = 0,
    float_lr: Annotated[
        float | None, _ternary(help="Of embeddings, head and norms [default: --lr].", show_default=False)
    ] = None,
    subln: Annotated[
        bool, _ternary(help="Add BitNet's two norms to a Llama, Mistral or Qwen2 model before training.")
    ] = False,
    lora_rank: Annotated[
        int | None,
        _ternary(min=1, help="Train adapters inside the quantizer, merged at the end.", show_default=False),
    ] = None,
    lora_alpha: Annotated[float, _ternary(help="Adapters count alpha / rank.")] = 16.0,
    teacher: Annotated[
        str | None, _distillation(help="distill: a float checkpoint with the same tokenizer.", show_default=False)
    ] = None,
    distill_weight: Annotated[float, _distillation(help="distill: weight of the teacher's probabilities.")] = 10.0,
    temperature: Annotated[float, _distillation(help="distill: of those probabilities.")] = 5.0,
    relation_weight: Annotated[
        float, _distillation(help="distill: weight of the relations of queries, keys and values; 0 for none.")
    ] = 1.0,
    relation_layer: Annotated[int, _distillation(help="distill: the layer of the relations, from either end.")] = -1,
    relation_heads: Annotated[int, _distillation(min=1, help="distill: heads of the relations.")] = 8,
    out: Annotated[Path, _output(help="Folder for the checkpoint; the same command resumes after a kill.")],
    as_json: Annotated[bool, _output("--json", help="Print JSON on standard output instead of tables.")] = False,
    keep_masters: Annotated[bool, _output(help="Keep the float32 masters too, in OUT/masters.")] = False,
    save_minutes: Annotated[
        float, _output(min=0, help="Minutes between the states that a kill falls back to; 0: by steps only.")
    ] = 5.0,
    save_every: Annotated[int, _output(min=1, help="Steps between those states, and between validations.")] = 200,
    track: Annotated[
        list[Tracker], _output(help="Where figures go while it runs, such as OUT/tensorboard. Repeatable.")
    ] = [Tracker.tensorboard],  # noqa: B006
) -> None:
    """Fine-tune with ternary QAT, or in FP16.

    The result is a checkpoint folder (packed 2-bit codes for ternary) that transformers opens as well. Killed at any
    moment, the same command resumes from the last saved step.
    """
    from bitnet_bench.processes import is_first
    from bitnet_bench.runs.jobs import FinetuneJob
    from bitnet_bench.training.finetune import finetune as run_finetune
    from bitnet_bench.training.finetune import twin_of

    job = build_job(
        FinetuneJob,
        model=model, data=tuple(data), data_dir=str(data_dir) if data_dir else None, out=str(out),
        validation=tuple(validation or ()), hold_out=hold_out, teacher=teacher,
        method=method.value, precision=precision.value, template=template, epochs=epochs, max_steps=max_steps,
        learning_rate=lr, schedule=schedule.value,
        warmup_ratio=warmup_ratio, weight_decay=weight_decay, float_learning_rate=float_lr, loss_reduction=loss.value,
        ternary_warmup=ternary_warmup, freeze=tuple(part.value for part in freeze or ()), neftune_alpha=neftune_alpha,
        lora_rank=lora_rank, lora_alpha=lora_alpha, subln=subln, beta=beta, distill_weight=distill_weight,
        temperature=temperature, relation_weight=relation_weight, relation_layer=relation_layer,
        relation_heads=relation_heads, gradient_checkpointing=gradient_checkpointing, shard=shard,
        batch_size=batch_size, gradient_accumulation=gradient_accumulation, max_length=max_length,
        packing=packing, compute=compute.value, compile=compile_layers.value, limit=limit, seed=seed,
        save_every=save_every, save_minutes=save_minutes, keep_masters=keep_masters,
        track=tuple(tracker.value for tracker in track),
    )  # fmt: skip
    jobs = [job, twin_of(job, twin_model)] if twin else [job]
    if search:
        _search({one.precision: one for one in jobs}, search, seeds, out, backend, as_json)
        return
    records = [run_finetune(one, backend, progress_bar) for one in jobs]
    if not is_first():
        return
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        show(finetune_table(records))
    sys.stdout.flush()  # so that the warnings come last where both streams go to one file
    for line in finetune_warnings(records):
        print(f"Warning: {line}", file=sys.stderr)


def _search(arms: dict[str, Any], options: list[str], seeds: int, out: Path, backend: str, as_json: bool) -> None:
    from bitnet_bench.processes import is_first
    from bitnet_bench.training.search import RECORD, parse_grid
    from bitnet_bench.training.search import search as run

    found = run(arms, parse_grid(options), seeds, out, backend, progress_bar)
    if not is_first():
        return
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show(search_table(found))
    print(f"Search: {out / RECORD}")


def finetune_table(records: Sequence[FinetuneRecord]) -> Table:
    """Return what each training run did, a row a run: its loss at both ends, and what guessing would have."""
    from rich.markup import escape

    from bitnet_bench.training.ending import warn_about_ending

    rows = [
        [
            record.job.out,
            record.job.precision,
            str(record.steps),
            or_dash(record.job.learning_rate, "{:.3g}"),
            or_dash(record.first_loss, "{:.3f}"),
            or_dash(record.last_loss, "{:.3f}"),
            or_dash(record.guessing_loss, "{:.3f}"),
            " to ".join(f"{point['loss']:.3f}" for point in record.validation[:: len(record.validation) - 1 or 1])
            or DASH,
            f"{record.train_seconds:.0f} s",
            f"{record.rows} ({record.dropped_rows} dropped, {record.truncated_rows} cut)",
            mebibytes(sum(record.result.weight_bytes.values())),
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
    failed = any(warn_about_ending(record) for record in records)
    made = table("Trained, see the last line" if failed else "Fine-tuned", columns, rows, numbers_from=2)
    sources = dict.fromkeys(
        f"{record.job.precision}, rate {record.job.learning_rate:.3g}: {record.job.learning_rate_source}"
        for record in records
        if record.job.learning_rate_source
    )
    made.caption = "\n".join(map(escape, sources)) or None
    return made


def finetune_warnings(records: Sequence[FinetuneRecord]) -> list[str]:
    """Return the warnings of runs, those last that say that one failed to learn."""
    from bitnet_bench.training.ending import warn_about_ending

    early = [(r, warning) for r in records for warning in r.warnings if warning not in warn_about_ending(r)]
    late = [(r, warning) for r in records for warning in warn_about_ending(r)]
    return [f"{record.job.out}: {warning}" for record, warning in (*early, *late)]


def search_table(search: SearchRecord) -> Table:
    """Return what a search tried, a row a run, with a mark at the settings that it chose."""
    rows = [
        [
            trial.arm,
            ", ".join(f"{name} {value}" for name, value in trial.settings.items()),
            str(trial.seed),
            DASH if trial.validation_loss is None else f"{trial.validation_loss:.4f}",
            "chosen" if trial.out in search.chosen.get(trial.arm, ()) else "",
            trial.error or trial.out,
        ]
        for trial in search.trials
    ]
    columns = ["precision", "settings", "seed", "validation loss", "", "checkpoint"]
    return table("Search", columns, rows, numbers_from=99)
