"""The commands that inspect, convert, create, upload and download checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from bitnet_bench.cli.completion import complete_presets
from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.loading import TO_READ, TO_RUN, load_libraries
from bitnet_bench.cli.option_names import name_options
from bitnet_bench.cli.options import Json, Seed, ShardSize
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_evaluation, print_next, print_text, print_warning
from bitnet_bench.cli.tables import format_mebibytes, format_or_dash, make_table, progress_bar, show, show_phase
from bitnet_bench.errors import UsageError
from bitnet_bench.runs.choices import EmbeddingType, Format, GgufType, ReadAs, TernaryFormat

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.checkpoints.gguf.file_parity import FileParity
    from bitnet_bench.checkpoints.layers import Inspection
    from bitnet_bench.checkpoints.parity import CheckpointParity
    from bitnet_bench.runs.records import Checkpoint

GGUF = "gguf-"
TARGETS = (*get_args(TernaryFormat), "float", *(f"{GGUF}{kind}" for kind in get_args(GgufType)))
"""Formats that a checkpoint can be converted to: ternary formats, or types of GGUF files."""
MODEL_HELP = "A folder, a GGUF file, ORG/NAME[@REVISION] or hub:ORG/NAME[@REVISION]/FILE.gguf, `demo` or `demo-fp16`"
Masters = Annotated[
    ReadAs | None,
    typer.Option(
        "--as",
        help="Read plain float weights as the masters of a ternary model, where nothing in their files says it.",
        show_default=False,
    ),
]
Target: Any = Literal[TARGETS]


def inspect(
    ckpt: Annotated[str, typer.Argument(help=f"{MODEL_HELP}.")],
    read_as: Masters = None,
    as_json: Json = False,
) -> None:
    """Say what a checkpoint is.

    Its format and scale direction, which layers are ternary, the density of zeros, bytes by kind, bits per weight, and
    whether it can be trained: by what its files hold, never by its name.
    """
    load_libraries(TO_READ)
    from bitnet_bench.checkpoints.layers import inspect_layers

    found = inspect_layers(ckpt, progress_bar, read_as)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show(inspection_table(found))
    if found.layers:
        show(layers_table(found))


def convert(
    ckpt: Annotated[str, typer.Argument(help=f"{MODEL_HELP}.")],
    out: Annotated[Path, typer.Argument(help="The folder (of gguf: the file) to write; it must not exist yet.")],
    to: Annotated[
        Target,
        typer.Option(
            help="packed: for `ternary`. gguf-...: for llama.cpp, i2_s for bitnet.cpp. float: a GGUF file's values. "
            f"Else: transformers. One of {', '.join(TARGETS)}.",
            metavar="FORMAT",
        ),
    ],
    embeddings: Annotated[
        EmbeddingType | None,
        typer.Option(help="Of gguf-...: the type of embedding and head [default: by the type]", show_default=False),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A folder or hub id whose tokenizer a GGUF file is read with, where its own cannot be read."),
    ] = None,
    read_as: Masters = None,
    shard_size: ShardSize = 2.0,
    as_json: Json = False,
) -> None:
    """Write a ternary checkpoint in another format, any as GGUF, or a float GGUF file as a folder.

    The result is read again and compared with its source: equal codes, equal scales, and logits within a bound on a few
    Korean prompts. Without parity there is no OUT. What a runtime makes of a GGUF is compared when it is measured.
    """
    load_libraries(TO_RUN)
    given: dict[str, Any] = {"tokenizer": tokenizer, "read_as": read_as}
    if to.startswith(GGUF):
        _export(ckpt, cast("GgufType", to.removeprefix(GGUF)), out, embeddings, given, as_json)
        return
    from bitnet_bench.pipeline import conversion

    if embeddings:
        raise UsageError("--embeddings is of GGUF files.", f"Leave it out, or give one of {GGUF}... as --to.")
    checkpoint, parity = conversion.convert_checkpoint(
        ckpt, cast("Format", to), out, shard_gigabytes=shard_size, steps=progress_bar, **given
    )
    if as_json:
        print_json({"checkpoint": checkpoint.model_dump(mode="json"), "parity": parity.model_dump(mode="json")})
        return
    print_text(parity_sentence(parity))
    show_checkpoint(out, checkpoint)


def _export(
    ckpt: str, kind: GgufType, out: Path, embeddings: EmbeddingType | None, given: dict[str, Any], as_json: bool
) -> None:
    from bitnet_bench.checkpoints.gguf.exports import export_gguf
    from bitnet_bench.checkpoints.gguf.float_share import warn_float_share

    found = export_gguf(ckpt, kind, out, steps=progress_bar, embeddings=embeddings, **given)
    print_json(found.model_dump(mode="json")) if as_json else print_text(gguf_sentence(out, found))
    if warning := warn_float_share(out, kind, embeddings):
        print_warning(warning)
    if not as_json:
        runtime = "bitnetcpp" if kind == "i2_s" else "llamacpp"
        print_evaluation([out], "--backend", runtime)


def init(
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")],
    preset: Annotated[
        str, typer.Option(help="The shape of a published model, such as bitnet-2b-4t.", autocompletion=complete_presets)
    ],
    seed: Seed = 0,
    to: Annotated[
        TernaryFormat | None, typer.Option("--format", help="[default: as published]", show_default=False)
    ] = None,
    shard_size: ShardSize = 2.0,
    as_json: Json = False,
) -> None:
    """Write a random checkpoint in the shape of a published model.

    It computes as fast and is as large as the model, whose shape can so be measured without a download. Its text is
    noise. Its tokenizer is that of the embedded pair.
    """
    load_libraries(TO_READ)
    from bitnet_bench.checkpoints import random_weights

    checkpoint = random_weights.create_from_preset(
        preset,
        out,
        seed=seed,
        form=to,
        shard_gigabytes=shard_size,
        steps=progress_bar,
    )
    if as_json:
        print_json(checkpoint.model_dump(mode="json"))
        return
    show_created(out, checkpoint)


@with_fields
def push(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder, such as --out of finetune.")],
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the hub; `hf auth login` first.")],
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A run folder whose scores the card gives. Repeatable.", show_default=False),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; else it is private.")] = False,
    *,
    sharing: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:Sharing")],
) -> None:
    """Upload a checkpoint to the hub, with a model card made from its records.

    Only weights, configuration, tokenizer, chat template, card and the record of the training are uploaded; what else
    is in the folder is named and left out.
    """
    from bitnet_bench.checkpoints.hub import list_left_out
    from bitnet_bench.checkpoints.hub import push_checkpoint as upload

    with show_phase(f"upload {folder}"):
        upload(folder, repo, private=not public, runs=run or [], **sharing)
    show_pushed(folder, repo, public, list_left_out(folder))


def pull(
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the hub, or ORG/NAME@REVISION.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet, or be empty.")],
) -> None:
    """Download a checkpoint from the hub, safetensors only."""
    from bitnet_bench.checkpoints.hub import pull_checkpoint as download

    with show_phase(f"download {repo}"):
        found = download(repo, out)
    show_checkpoint(out, found)


def show_checkpoint(out: Path, checkpoint: Checkpoint) -> None:
    """Print what a folder holds that was converted or downloaded, and what usually follows."""
    size = format_mebibytes(sum(checkpoint.weight_bytes.values()))
    print_text(f"Checkpoint: {out} ({checkpoint.format}, {checkpoint.parameters:,} parameters, {size})")
    print_evaluation([out])


def show_created(out: Path, checkpoint: Checkpoint) -> None:
    """Print what a folder of random weights holds, and what usually follows."""
    size = format_mebibytes(sum(checkpoint.weight_bytes.values()))
    print_text(f"Checkpoint: {out} ({checkpoint.format}, {checkpoint.parameters:,} random parameters, {size})")
    print_text("Its tokenizer is the embedded one of 6144 tokens, not the published one.")
    print_next("measure", out)


def show_pushed(folder: Path, repo: str, public: bool, left_out: Sequence[str]) -> None:
    """Print what was uploaded, and what usually follows."""
    if left_out:
        print_text(f"Left out: {', '.join(left_out)}")
    print_text(f"Pushed {folder} to {repo} ({'public' if public else 'private'})")
    print_next("pull", repo, f"runs/{Path(repo).name}")


def gguf_sentence(out: Path, found: FileParity) -> str:
    """Return a sentence on the parity of an exported GGUF file with its source, and on what runtimes make of it."""
    sizes = ", ".join(f"{name} {format_mebibytes(size)}" for name, size in found.types.items())
    return (
        f"Parity: the codes of {found.ternary_layers} layers are equal, scales within {found.largest_scale_error:.1e}, "
        f"other tensors within {found.largest_float_error:.1e} of their largest value.\n"
        f"GGUF: {out} (architecture {found.architecture}; {sizes}). What a runtime computes with it is compared "
        "when it is measured or evaluated."
    )


def inspection_table(found: Inspection) -> Table:
    """Return the facts about a checkpoint, one per row."""
    checkpoint = found.checkpoint
    norm = f"{checkpoint.inner_norm}, eps {checkpoint.inner_norm_eps:g}" if checkpoint.inner_norm else None
    sizes = [f"{kind} {format_mebibytes(size)}" for kind, size in checkpoint.weight_bytes.items()]
    trainable = "yes" if found.trainable else f"no: {found.untrainable_because}"
    facts = {
        "format": f"{checkpoint.format}{', as was said' if checkpoint.read_as else ''}"
        f"{', in a GGUF file' if checkpoint.is_gguf else ''}",
        "architecture": checkpoint.architecture,
        "groups": _describe_groups(checkpoint),
        "scales": {"multiply": "multiply", "divide": "divide (stored inverse)", None: None}[checkpoint.scale_direction],
        "norm inside ternary layers": norm,
        "parameters": f"{checkpoint.parameters:,}, of which ternary {checkpoint.ternary_parameters:,}",
        "zeros": format_or_dash(found.zero_density, "{:.2%} of the codes"),
        "bytes": ", ".join(sizes),
        "types": ", ".join(f"{kind} {format_mebibytes(size)}" for kind, size in checkpoint.gguf_types.items()) or None,
        "bits per ternary weight": format_or_dash(found.ternary_bits_per_weight, "{:.3f}"),
        "bits per weight": f"{found.bits_per_weight:.3f}",
        "other weights": checkpoint.dtype,
        "trainable": trainable,
        "tokenizer": name_options(found.tokenizer_problem) if found.tokenizer_problem else None,
        "sha256": checkpoint.sha256,
    }
    rows = [[name, fact] for name, fact in facts.items() if fact is not None]
    return make_table(checkpoint.source, ["", ""], rows, numbers_from=99)


def _describe_groups(checkpoint: Checkpoint) -> str | None:
    """Return the group size and what follows from it; None for one scale per layer."""
    if not checkpoint.group_size:
        return None
    kind = "binary (no code is 0)" if checkpoint.zero_density == 0 else "ternary"
    tables = ", ".join(name.rpartition(".")[2] for name in checkpoint.ternary_tables)
    rounds = "int8 activations by group" if checkpoint.quantizes_activations else "float activations"
    return (
        f"{kind}, a scale for every {checkpoint.group_size} inputs of a row, {rounds}, "
        f"{f'{tables} ternary too' if tables else 'embedding and head float'}"
    )


def layers_table(found: Inspection) -> Table:
    """Return the ternary layers, one row per kind and shape, such as all 30 q_proj."""
    kinds: dict[tuple[str, int, int], list[float]] = {}
    for layer in found.layers:
        kinds.setdefault((layer.name.rpartition(".")[2], layer.rows, layer.columns), []).append(layer.zero_density)
    rows = [
        [
            kind,
            str(len(zeros)),
            f"{n} x {k}",
            f"{sum(zeros) / len(zeros):.2%}",
            f"{min(zeros):.2%}",
            f"{max(zeros):.2%}",
        ]
        for (kind, n, k), zeros in kinds.items()
    ]
    return make_table(
        "Ternary layers", ["kind", "count", "shape", "zeros, mean", "least", "most"], rows, optional=("most", "least")
    )


def parity_sentence(parity: CheckpointParity) -> str:
    """Return a sentence on the parity of a converted checkpoint with its source."""
    if not parity.layers:
        return _float_sentence(parity)
    codes = f"Parity: the codes of {parity.layers} layers are equal, scales within {parity.largest_scale_error:.1e}"
    if parity.mean_logit_error is None or parity.largest_logit_error is None:
        return f"{codes}. Logits were not compared: this machine has too little memory to run the model."
    return (
        f"{codes}, logits of {parity.prompt_tokens} Korean tokens within {parity.mean_logit_error:.1e} standard "
        f"deviations in the mean and {parity.largest_logit_error:.1e} at most."
    )


def _float_sentence(parity: CheckpointParity) -> str:
    if parity.mean_logit_error is None:
        return "Parity: all values are equal. Logits were not compared: this machine has too little memory for it."
    return (
        f"Parity: all values are equal, logits of {parity.prompt_tokens} tokens within {parity.mean_logit_error:.1e}."
    )
