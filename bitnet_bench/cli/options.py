"""The options that several commands share, their choices, and the job that they make."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.errors import UsageError

if TYPE_CHECKING:
    from bitnet_bench.checkpoints.gguf.types import Form

TEMPLATES = (
    "Text around prompt and response: auto (the checkpoint's chat template if there is one, else dialogue), chat, "
    "dialogue, instruction, inst, plain, or a file that holds a Jinja chat template."
)


class Precision(StrEnum):
    """How a checkpoint is run."""

    ternary = "ternary"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    q8_0 = "q8_0"
    q4_0 = "q4_0"
    tq1_0 = "tq1_0"
    tq2_0 = "tq2_0"
    i2_s = "i2_s"
    tl1 = "tl1"
    tl2 = "tl2"


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

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Compile(StrEnum):
    """Whether layers are compiled before they train."""

    auto = "auto"
    on = "on"
    off = "off"


class Format(StrEnum):
    """How ternary weights are stored."""

    packed = "packed"
    autobitlinear = "autobitlinear"
    bitlinear = "bitlinear"
    masters = "masters"
    baked = "baked"
    tinyllama = "tinyllama"


class Target(StrEnum):
    """What a checkpoint can be converted to: a format of ternary weights, or a GGUF file."""

    packed = "packed"
    autobitlinear = "autobitlinear"
    bitlinear = "bitlinear"
    masters = "masters"
    baked = "baked"
    tinyllama = "tinyllama"
    gguf_f16 = "gguf-f16"
    gguf_bf16 = "gguf-bf16"
    gguf_q8_0 = "gguf-q8_0"
    gguf_q4_0 = "gguf-q4_0"
    gguf_tq2_0 = "gguf-tq2_0"
    gguf_tq1_0 = "gguf-tq1_0"
    gguf_i2_s = "gguf-i2_s"


GGUF_FORMS: dict[Target, Form] = {
    Target.gguf_f16: "f16",
    Target.gguf_bf16: "bf16",
    Target.gguf_q8_0: "q8_0",
    Target.gguf_q4_0: "q4_0",
    Target.gguf_tq2_0: "tq2_0",
    Target.gguf_tq1_0: "tq1_0",
    Target.gguf_i2_s: "i2_s",
}


class Use(StrEnum):
    """Scenarios with a name."""

    chat = "chat"
    summarize = "summarize"
    classify = "classify"


MODELS = "A checkpoint folder, a hub id, or the embedded `demo` / `demo-fp16`."
Model = Annotated[str, typer.Option(help=MODELS)]
Backend = Annotated[
    str, typer.Option(help="The runtime (`bitnet-bench backends`); auto: ternary where its engine fits, else hf.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of local rows; else $BITNET_BENCH_DATA, else the hub.", show_default=False)
]
Gguf = Annotated[
    Path | None,
    typer.Option(help="A GGUF file of your own to run in llamacpp or bitnetcpp; its weights must be the model's."),
]
BitnetCpp = Annotated[
    Path | None, typer.Option(help="Your build of microsoft/BitNet; else $BITNETCPP_DIR.", show_default=False)
]
DespiteParity = Annotated[
    bool, typer.Option("--despite-parity", help="Run a runtime that computes another model, and mark what it gives.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")]
ShardSize = Annotated[float, typer.Option(min=0.001, help="Largest weight file, in GB (10^9 bytes).")]
Margin = Annotated[float, typer.Option(min=0.0, help="Points of a score that are too few to matter.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N rows of each task or file.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Files = Annotated[list[Path], typer.Argument(help="JSONL files of training rows.")]
Tokens = Annotated[int, typer.Option(min=2, help="Longest sequence in tokens, as in `finetune`.")]
FormOf = Annotated[str, typer.Option(help=TEMPLATES)]


OPTION_NAMES = {"learning_rate": "lr", "float_learning_rate": "float_lr", "loss_reduction": "loss"}
"""What the command line calls a field of a job that it does not call by its name."""


def build_job(kind: Any, **settings: Any) -> Any:
    """Build a job; a value out of range is wrong use of the command line."""
    from pydantic import ValidationError

    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # what several options say together
            raise UsageError(first["msg"].removeprefix("Value error, ") + ".", "See --help.") from error
        field = str(first["loc"][0])
        option = OPTION_NAMES.get(field, field).replace("_", "-")
        wanted = "Give a number above 0, or auto" if field == "batch_size" else first["msg"]
        raise UsageError(f"--{option}: {wanted}.", "See --help.") from error
