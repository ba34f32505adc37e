"""The command line: read arguments, call one function, print."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bitnet_bench import __version__
from bitnet_bench.errors import BenchError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fine-tune, evaluate, measure and compare Korean BitNet b1.58 models. Start with `bitnet-bench quickstart`.",
)

cache_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The answers that evaluations keep, by model and request."
)
app.add_typer(cache_app, name="cache")
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at training rows before training on them."
)
app.add_typer(data_app, name="data")


TEMPLATES = (
    "Text around prompt and response: auto (the checkpoint's chat template if there is one, else dialogue), chat, "
    "dialogue, instruction, inst, plain, or a file that holds a Jinja chat template."
)
INTERRUPTED = 130
"""The exit status that typer gives Ctrl-C: 128 + SIGINT."""


class Precision(StrEnum):
    """How a checkpoint is run."""

    ternary = "ternary"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class TrainingPrecision(StrEnum):
    """What is trained."""

    ternary = "ternary"
    fp16 = "fp16"


class Method(StrEnum):
    """How it is trained."""

    sft = "sft"
    pretrain = "pretrain"
    dpo = "dpo"
    distill = "distill"


class Schedule(StrEnum):
    """How the learning rate falls after warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    two_stage = "two-stage"


class Reduction(StrEnum):
    """What the losses of a step's tokens become."""

    mean = "mean"
    sum = "sum"


class Part(StrEnum):
    """What can be left as it is."""

    embeddings = "embeddings"
    head = "head"
    norms = "norms"


class Tracker(StrEnum):
    """Who is told how a run goes."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    trackio = "trackio"


class Compute(StrEnum):
    """The dtype of matrix products in training."""

    bf16 = "bf16"
    fp32 = "fp32"


class Format(StrEnum):
    """How ternary weights are stored."""

    packed = "packed"
    autobitlinear = "autobitlinear"
    bitlinear = "bitlinear"
    masters = "masters"
    baked = "baked"
    tinyllama = "tinyllama"


Model = Annotated[str, typer.Option(help="A checkpoint folder, a hub id, or the embedded `demo` / `demo-fp16`.")]
Backend = Annotated[str, typer.Option(help="The runtime; `bitnet-bench backends` lists them.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of local rows; else $BITNET_BENCH_DATA, else the hub.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")]
ShardSize = Annotated[float, typer.Option(min=0.001, help="Largest weight file, in GB (10^9 bytes).")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N rows of each task or file.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


def main() -> None:
    """Run the command line; a BenchError becomes a sentence and exit status 1, wrong use status 2."""
    # our own bars replace those of libraries; tokenizers warns about forks that never happen
    for name, value in {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except BenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("Stopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        raise


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything it writes.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the main job on embedded tiny models.

    Evaluates the embedded pair on the `sample` suite, fine-tunes both with ternary QAT and in FP16, evaluates again,
    measures both and writes a report. No network; a few minutes on two cores.
    """
    from bitnet_bench import console
    from bitnet_bench.quickstart import quickstart as run

    records, report_path = run(out, seed, console.progress_bar)
    if as_json:
        _print_json({"runs": [r.model_dump(mode="json") for r in records], "report": str(report_path)})
        return
    _show_runs(records)
    print(f"Report: {report_path}")


@app.command()
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
    compute: Annotated[Compute, typer.Option(help="Dtype of products; masters are float32 always.")] = Compute.bf16,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Less memory: activations are computed again in the backward pass.")
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

    job = _job(
        FinetuneJob,
        model=model, data=tuple(data), data_dir=str(data_dir) if data_dir else None, out=str(out),
        validation=tuple(validation or ()), hold_out=hold_out, teacher=teacher,
        method=method.value, precision=precision.value, template=template, epochs=epochs, max_steps=max_steps,
        learning_rate=lr or (1e-4 if method is Method.dpo else 1e-3), schedule=schedule.value,
        warmup_ratio=warmup_ratio, weight_decay=weight_decay, float_learning_rate=float_lr, loss_reduction=loss.value,
        ternary_warmup=ternary_warmup, freeze=tuple(part.value for part in freeze or ()), neftune_alpha=neftune_alpha,
        lora_rank=lora_rank, lora_alpha=lora_alpha, subln=subln, beta=beta, distill_weight=distill_weight,
        temperature=temperature, relation_weight=relation_weight, relation_layer=relation_layer,
        relation_heads=relation_heads, gradient_checkpointing=gradient_checkpointing,
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
        _print_json([record.model_dump(mode="json") for record in records])
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
        _print_json(found.model_dump(mode="json"))
        return
    console.show(console.search_table(found))
    print(f"Search: {out / RECORD}")


@app.command()
def evaluate(
    suite: Annotated[
        list[str], typer.Option(help="A suite, or several with commas; `bitnet-bench suites` lists them.")
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
    backend: Backend = "hf",
    precision: Annotated[
        Precision | None, typer.Option(help="[default: ternary for ternary checkpoints, else fp32]", show_default=False)
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
    as_json: Json = False,
) -> None:
    """Score models on suites of Korean tasks.

    Writes OUT/record.json and every example in OUT/samples/. Stopped at any moment, the same command goes on from the
    last batch. A task that cannot be scored does not lose the others; the exit status is 1 then. Several models take
    turns, task by task. Processes that `torchrun` or `accelerate launch` started share the work.
    """
    from bitnet_bench import api, console
    from bitnet_bench.evaluation.parallel import is_first
    from bitnet_bench.records import EvaluateJob

    suites_named = [name for value in suite for name in value.split(",")]
    folders = _run_folders(model, out, "-".join(suites_named))
    job = _job(
        EvaluateJob,
        backend=backend, precision=precision.value if precision else None,
        data_dir=str(data_dir) if data_dir else None, rows=_own_rows(rows or []), prompts=prompts, shots=shots,
        seed=seed, chat_template=chat_template, limit=limit, cache=cache,
    )  # fmt: skip
    chosen = api.select_tasks(suites_named, task or [], api.data_directory(data_dir))
    records = api.evaluate_several(list(zip(model, folders, strict=True)), chosen, job, console.progress_bar)
    if is_first():
        if as_json:
            _print_json([record.model_dump(mode="json") for record in records])
        else:
            _show_runs(records)
            print("\n".join(f"Run: {folder}" for folder in folders))
        for record in records:
            for name, said in record.errors.items():
                print(f"Error: {record.name} was not scored on {name}. {said}", file=sys.stderr)
    if any(record.errors for record in records):
        raise typer.Exit(1)


@app.command()
def measure(
    model: Annotated[list[str], typer.Option(help="A checkpoint; repeat to alternate between several.")] = ["demo"],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Run folder whose record gains the costs (with one --model).")
    ] = None,
    backend: Backend = "hf",
    precision: Annotated[
        list[Precision] | None,
        typer.Option(help="[default: ternary for ternary checkpoints, else fp16 and bf16]", show_default=False),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Prompt length.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to decode.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; models alternate within each.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure memory, speed and energy.

    Each model runs in a process of its own, in rounds that alternate. With --out the costs join that run's record.
    """
    from bitnet_bench import api, console
    from bitnet_bench.measure.run import Scenario

    if out is not None and len(model) > 1:
        raise UsageError("--out takes the costs of one --model.", "Measure without --out, or one model at a time.")
    records = api.measure(
        api.contenders(model, [p.value for p in precision or []], out),
        Scenario(prompt_tokens, new_tokens, batch, threads, rounds),
        backend=backend,
        steps=console.progress_bar,
    )
    if as_json:
        _print_json([record.model_dump(mode="json") for record in records])
        return
    _show_runs(records)


@app.command()
def inspect(
    ckpt: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, or `demo` / `demo-fp16`.")],
    as_json: Json = False,
) -> None:
    """Say what a checkpoint is.

    Its format and scale direction, which layers are ternary, the density of zeros, bytes by kind, bits per weight, and
    whether it can be trained: by what its files hold, never by its name.
    """
    from bitnet_bench import api, console

    found = api.look_into(ckpt, console.progress_bar)
    if as_json:
        _print_json(found.model_dump(mode="json"))
        return
    console.show(console.inspection_table(found))
    if found.layers:
        console.show(console.layers_table(found))


@app.command()
def convert(
    ckpt: Annotated[str, typer.Argument(help="A ternary checkpoint: a folder, a hub id, or `demo`.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")],
    to: Annotated[Format, typer.Option(help="packed: for the `ternary` backend. The others: for transformers.")],
    shard_size: ShardSize = 2.0,
    as_json: Json = False,
) -> None:
    """Write a ternary checkpoint in another format.

    The result is read again and compared with its source: equal codes, equal scales, and logits within a bound on a few
    Korean prompts. Without parity there is no OUT.
    """
    from bitnet_bench import api, console

    checkpoint, parity = api.convert(ckpt, to.value, out, shard_gigabytes=shard_size, steps=console.progress_bar)
    if as_json:
        _print_json({"checkpoint": checkpoint.model_dump(mode="json"), "parity": parity.model_dump(mode="json")})
        return
    print(console.parity_sentence(parity))
    print(f"Checkpoint: {out} ({checkpoint.format}, {console.mebibytes(sum(checkpoint.weight_bytes.values()))})")


@app.command()
def init(
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")],
    preset: Annotated[str, typer.Option(help="The shape of a published model, such as bitnet-2b-4t.")],
    seed: Seed = 0,
    to: Annotated[Format | None, typer.Option("--format", help="[default: as published]", show_default=False)] = None,
    shard_size: ShardSize = 2.0,
    as_json: Json = False,
) -> None:
    """Write a random checkpoint in the shape of a published model.

    It computes as fast and is as large as the model, whose shape can so be measured without a download. Its text is
    noise. Its tokenizer is that of the embedded pair.
    """
    from bitnet_bench import api, console

    checkpoint = api.init(
        preset,
        out,
        seed=seed,
        form=to.value if to else None,
        shard_gigabytes=shard_size,
        steps=console.progress_bar,
    )
    if as_json:
        _print_json(checkpoint.model_dump(mode="json"))
        return
    size = console.mebibytes(sum(checkpoint.weight_bytes.values()))
    print(f"Checkpoint: {out} ({checkpoint.format}, {checkpoint.parameters:,} random parameters, {size})")
    print("Its tokenizer is the embedded one of 6144 tokens, not the published one.")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder, such as --out of finetune.")],
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the hub; `hf auth login` first.")],
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A run folder whose scores the card gives. Repeatable.", show_default=False),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; else it is private.")] = False,
) -> None:
    """Upload a checkpoint to the hub, with a model card made from its records."""
    from bitnet_bench.hub import push as upload

    upload(folder, repo, private=not public, runs=run or [])
    print(f"Pushed {folder} to {repo} ({'public' if public else 'private'})")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the hub.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet, or be empty.")],
) -> None:
    """Download a checkpoint from the hub, safetensors only."""
    from bitnet_bench.hub import pull as download

    found = download(repo, out)
    print(f"Checkpoint: {out} ({found.format}, {found.parameters:,} parameters)")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, in the order of the columns.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
) -> None:
    """Write one HTML file that compares runs.

    It needs no network and no other file.
    """
    from bitnet_bench import api

    print(f"Report: {api.report(runs, out)}")


@app.command()
def suites(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the suites and their tasks.

    Rows are counted where a data directory is given; --limit and wos, whose dialogues hold several questions, apart.
    """
    from bitnet_bench import api, console

    found = api.list_tasks(data_dir)
    if as_json:
        _print_json(found)
        return
    rows = [
        [t["suite"], t["task"], t["rows"] or "-", t["metrics"][0], f"{t['chance']:.1f}", t["licence"], t["from"]]
        for t in found
    ]
    columns = ["suite", "task", "rows", "primary metric", "chance", "licence", "rows from"]
    console.show(console.table("Suites", columns, [[str(cell) for cell in row] for row in rows], numbers_from=99))


@app.command()
def backends(as_json: Json = False) -> None:
    """List the runtimes that are installed."""
    from bitnet_bench import api, console

    found = api.backends()
    if as_json:
        _print_json(found)
        return
    rows = [
        [str(b["name"]), "yes" if b["runs"] else "no", "yes" if b["trains"] else "no", str(b["summary"])] for b in found
    ]
    console.show(console.table("Backends", ["backend", "runs", "trains", "what it is"], rows, numbers_from=99))


Files = Annotated[list[Path], typer.Argument(help="JSONL files of training rows.")]
Tokens = Annotated[int, typer.Option(min=2, help="Longest sequence in tokens, as in `finetune`.")]
FormOf = Annotated[str, typer.Option(help=TEMPLATES)]


@data_app.command("check")
def data_check(
    files: Files,
    model: Model = "demo",
    template: FormOf = "auto",
    max_length: Tokens = 256,
    suite: Annotated[
        list[str] | None, typer.Option(help="Find rows that hold a text of this suite's test rows. Repeatable.")
    ] = None,
    data_dir: DataDir = None,
    show: Annotated[int, typer.Option(min=0, help="Findings to print of each file; --json prints all.")] = 40,
    as_json: Json = False,
) -> None:
    """Say what is wrong with training rows.

    Rows that cannot be read, duplicates, decomposed (NFD) text, answers that seem to be cut off, rows that are too
    long, and rows that hold what an evaluation asks. The exit status is 1 if a row cannot be read or overlaps.
    """
    from bitnet_bench import api, console

    checked = api.check_data(
        files,
        model,
        template=template,
        max_length=max_length,
        suites_named=[name for value in suite or [] for name in value.split(",")],
        data_dir=data_dir,
        steps=console.progress_bar,
    )
    if as_json:
        _print_json(
            [
                {"file": c.file, "rows": c.lines, "counts": c.counts, "findings": [vars(f) for f in c.findings]}
                for c in checked
            ]
        )
    else:
        for one in checked:
            if one.findings:
                console.show(console.findings_table(one, show))
            else:
                print(f"{one.file}: {one.lines:,} rows; nothing found")
    if any({"bad", "overlap"} & one.counts.keys() for one in checked):
        raise typer.Exit(1)


@data_app.command("stats")
def data_stats(files: Files, model: Model = "demo", template: FormOf = "auto", as_json: Json = False) -> None:
    """Say how long training rows are, in tokens of a model, with a histogram."""
    from bitnet_bench import api, console
    from bitnet_bench.data.checking import quantiles

    checked = api.check_data(files, model, template=template, steps=console.progress_bar)
    if as_json:
        lengths = [
            {"file": c.file, "tokens": quantiles(c.tokens), "with_loss": quantiles(c.response_tokens)} for c in checked
        ]
        _print_json(lengths)
        return
    for one in checked:
        console.show(console.lengths_table(one))
        console.show(console.histogram_table(one))


@data_app.command("convert")
def data_convert(
    file: Annotated[Path, typer.Argument(help="A JSONL file of any shape that `finetune` reads.")],
    out: Annotated[Path, typer.Argument(help="The file to write; it must not exist yet.")],
) -> None:
    """Write training rows as {"messages": [...]}, in NFC; pairs as {"prompt", "chosen", "rejected"}."""
    from bitnet_bench import api

    print(f"Wrote {api.convert_data(file, out):,} rows to {out}")


@cache_app.command("ls")
def cache_list(as_json: Json = False) -> None:
    """List the models whose answers are kept."""
    from bitnet_bench import api, console

    file, models = api.kept_answers()
    if as_json:
        _print_json({"file": str(file), "models": [_kept(model) for model in models]})
        return
    console.show(console.kept_table(models))
    print(f"Cache: {file}")


@cache_app.command("prune")
def cache_prune(
    days: Annotated[float, typer.Option(min=0, help="Forget models that were not used for so many days.")] = 30.0,
    everything: Annotated[bool, typer.Option("--all", help="Forget every model.")] = False,
    as_json: Json = False,
) -> None:
    """Forget answers of models that were not used lately."""
    from bitnet_bench import api, console

    forgotten, freed = api.prune_answers(0.0 if everything else days)
    if as_json:
        _print_json({"forgotten": [_kept(model) for model in forgotten], "freed_bytes": freed})
        return
    answers = sum(model.answers for model in forgotten)
    print(f"Forgot {answers:,} answers of {len(forgotten)} models; {console.mebibytes(freed)} are free again.")


def _kept(model: Any) -> dict[str, Any]:
    return {**model.about, "answers": model.answers, "bytes": model.size, "used": model.used}


@app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's own command line with our backends.

    Such as: bitnet-bench lm-eval run --model bitnet-bench --model_args pretrained=demo,backend=ternary --tasks kobest
    """
    from bitnet_bench.lm_eval_model import run

    run(context.args)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can run and measure."""
    from bitnet_bench import api, console
    from bitnet_bench.doctor import diagnose

    findings = diagnose(api.DATA_VARIABLE)
    if as_json:
        _print_json([finding.model_dump() for finding in findings])
        return
    rows = [["ok" if f.ok else "--", f.what, f.found, f.remedy] for f in findings]
    console.show(console.table("This machine", ["", "what", "found", "what to do"], rows, numbers_from=99))


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


def _job(kind: Any, **settings: Any) -> Any:
    """Build a job; a value out of range is wrong use of the command line."""
    from pydantic import ValidationError

    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # what several options say together
            raise UsageError(first["msg"].removeprefix("Value error, ") + ".", "See --help.") from error
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}.", "See --help.") from error


def _show_runs(records: list[Any]) -> None:
    from bitnet_bench import console

    if any(record.scores for record in records):
        console.show(console.scores_table(records))
    if any(record.costs for record in records):
        console.show(console.costs_table(records))
    for note in console.notes(records):
        print(note)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
