"""The command that trains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bitnet_bench.cli.options import (
    TEMPLATES,
    Backend,
    Compute,
    DataDir,
    Json,
    Limit,
    Method,
    Model,
    Part,
    Reduction,
    Schedule,
    Seed,
    Tracker,
    TrainingPrecision,
    build_job,
)
from bitnet_bench.cli.output import print_json


def finetune(
    data: Annotated[
        list[str], typer.Option(help="A JSONL file, or SUITE:TASK for a task's training rows. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; the same command goes on after a kill.")],
    model: Model = "demo",
    backend: Backend = "hf",
    precision: Annotated[TrainingPrecision, typer.Option(help="Ternary QAT, or FP16.")] = TrainingPrecision.ternary,
    twin: Annotated[bool, typer.Option(help="Then fine-tune the FP16 twin into OUT-fp16, on the same data.")] = False,
    twin_model: Annotated[
        str | None, typer.Option(help="Where the twin starts: by default demo-fp16 for demo, else --model itself.")
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            help="sft: loss on responses. pretrain: on all tokens. dpo: on preference pairs. "
            "distill: sft taught by --teacher (BitDistill)."
        ),
    ] = Method.sft,
    teacher: Annotated[
        str | None, typer.Option(help="distill: a float checkpoint with the same tokenizer.", show_default=False)
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(help="A JSONL file to validate on. Repeatable.", show_default=False)
    ] = None,
    hold_out: Annotated[
        float, typer.Option(help="Share of the rows that is validated on and not trained on; the same for every seed.")
    ] = 0.0,
    template: Annotated[str, typer.Option(help=TEMPLATES)] = "auto",
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3.0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop earlier, after this many optimizer steps.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate [default: 1e-3; dpo: 1e-4].", show_default=False)
    ] = None,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate falls after warm-up.")] = Schedule.cosine,
    warmup_ratio: Annotated[float, typer.Option(help="Share of the steps that warm up.")] = 0.05,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = 0.0,
    float_lr: Annotated[
        float | None, typer.Option(help="Of embeddings, head and norms [default: --lr].", show_default=False)
    ] = None,
    loss: Annotated[Reduction, typer.Option(help="Mean or sum over the tokens of a step.")] = Reduction.mean,
    ternary_warmup: Annotated[
        int, typer.Option(min=0, help="Steps in which layers become ternary by and by (lambda warm-up).")
    ] = 0,
    freeze: Annotated[
        list[Part] | None, typer.Option(help="Leave this part as it is. Repeatable.", show_default=False)
    ] = None,
    neftune_alpha: Annotated[
        float | None, typer.Option(help="Noise on embeddings (NEFTune), such as 5.", show_default=False)
    ] = None,
    lora_rank: Annotated[
        int | None,
        typer.Option(min=1, help="Train adapters inside the quantizer, merged at the end.", show_default=False),
    ] = None,
    lora_alpha: Annotated[float, typer.Option(help="Adapters count alpha / rank.")] = 16.0,
    subln: Annotated[
        bool, typer.Option(help="Add BitNet's two norms to a Llama, Mistral or Qwen2 model before training.")
    ] = False,
    beta: Annotated[float, typer.Option(help="dpo: how strongly the model is held to where it began.")] = 0.1,
    distill_weight: Annotated[float, typer.Option(help="distill: weight of the teacher's probabilities.")] = 10.0,
    temperature: Annotated[float, typer.Option(help="distill: of those probabilities.")] = 5.0,
    relation_weight: Annotated[
        float, typer.Option(help="distill: weight of the relations of queries, keys and values; 0 for none.")
    ] = 1.0,
    relation_layer: Annotated[int, typer.Option(help="distill: the layer of the relations, from either end.")] = -1,
    relation_heads: Annotated[int, typer.Option(min=1, help="distill: heads of the relations.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences, or pairs, a forward pass.")] = 16,
    gradient_accumulation: Annotated[int, typer.Option(min=1, help="Forward passes an optimizer step.")] = 1,
    max_length: Annotated[int, typer.Option(min=2, help="Longest sequence in tokens.")] = 256,
    packing: Annotated[
        bool, typer.Option(help="Several short rows in one sequence, where none sees another: less padding.")
    ] = False,
    compute: Annotated[
        Compute,
        typer.Option(help="Dtype of products; auto: bf16 where the processor has it. Masters are float32 always."),
    ] = Compute.auto,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Less memory: activations are computed again in the backward pass.")
    ] = False,
    shard: Annotated[
        bool, typer.Option(help="Under torchrun: split the model over the processes (FSDP2), no copy in each.")
    ] = False,
    limit: Limit = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Try these values and choose on validation rows, for both arms alike. Repeatable.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="With --search: runs of the chosen settings, a seed each.")] = 1,
    seed: Seed = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between the states that a kill falls back to.")] = 200,
    keep_masters: Annotated[bool, typer.Option(help="Keep the float32 masters too, in OUT/masters.")] = False,
    track: Annotated[
        list[Tracker], typer.Option(help="Where figures go while it runs; OUT/tensorboard. Repeatable.")
    ] = [Tracker.tensorboard],  # noqa: B006
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Fine-tune with ternary QAT, or in FP16.

    The result is a checkpoint folder (packed 2-bit codes for ternary) that transformers opens as well. Killed at any
    moment, the same command goes on from the last saved step.
    """
    from bitnet_bench import api, console
    from bitnet_bench.evaluation.parallel import is_first
    from bitnet_bench.records import FinetuneJob

    job = build_job(
        FinetuneJob,
        model=model, data=tuple(data), data_dir=str(data_dir) if data_dir else None, out=str(out),
        validation=tuple(validation or ()), hold_out=hold_out, teacher=teacher,
        method=method.value, precision=precision.value, template=template, epochs=epochs, max_steps=max_steps,
        learning_rate=lr or (1e-4 if method is Method.dpo else 1e-3), schedule=schedule.value,
        warmup_ratio=warmup_ratio, weight_decay=weight_decay, float_learning_rate=float_lr, loss_reduction=loss.value,
        ternary_warmup=ternary_warmup, freeze=tuple(part.value for part in freeze or ()), neftune_alpha=neftune_alpha,
        lora_rank=lora_rank, lora_alpha=lora_alpha, subln=subln, beta=beta, distill_weight=distill_weight,
        temperature=temperature, relation_weight=relation_weight, relation_layer=relation_layer,
        relation_heads=relation_heads, gradient_checkpointing=gradient_checkpointing, shard=shard,
        batch_size=batch_size, gradient_accumulation=gradient_accumulation, max_length=max_length,
        packing=packing, compute=compute.value, limit=limit, seed=seed, save_every=save_every,
        keep_masters=keep_masters, track=tuple(tracker.value for tracker in track),
    )  # fmt: skip
    jobs = [job, api.twin_of(job, twin_model)] if twin else [job]
    if search:
        _search({one.precision: one for one in jobs}, search, seeds, out, backend, as_json)
        return
    records = [api.finetune(one, backend, console.progress_bar) for one in jobs]
    if not is_first():
        return
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    console.show(console.finetune_table(records))
    for warning in [warning for record in records for warning in record.warnings]:
        print(f"Warning: {warning}", file=sys.stderr)


def _search(arms: dict[str, Any], options: list[str], seeds: int, out: Path, backend: str, as_json: bool) -> None:
    from bitnet_bench import console
    from bitnet_bench.evaluation.parallel import is_first
    from bitnet_bench.search import RECORD, parse_grid
    from bitnet_bench.search import search as run

    found = run(arms, parse_grid(options), seeds, out, backend, console.progress_bar)
    if not is_first():
        return
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    console.show(console.search_table(found))
    print(f"Search: {out / RECORD}")
