"""Open the GGUF file of a checkpoint, exported once and cached, or the user's own, and check it before use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.checkpoints.gguf.cache import find_cache_folder
from bitnet_bench.checkpoints.gguf.file_parity import compare_weights
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.types import (
    FOREIGN_TYPES,
    TENSOR_TYPE_BY_NAME,
    TERNARY_TENSOR_TYPES,
    ExternalGgufType,
    Form,
)
from bitnet_bench.checkpoints.gguf.writing import write_gguf
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.runtime_choice import find_stored_precision
from bitnet_bench.protocols import ProgressDisplay, no_display, no_progress
from bitnet_bench.runs.choices import EmbeddingType, Precision, ReadAs
from bitnet_bench.runs.records import Checkpoint

if TYPE_CHECKING:
    from bitnet_bench.checkpoints.gguf.file_parity import FileParity
    from bitnet_bench.checkpoints.gguf.types import Form


PRECISION_GGUF_TYPES: dict[Precision, Form] = {
    "fp16": "f16",
    "bf16": "bf16",
    "q8_0": "q8_0",
    "q4_0": "q4_0",
    "tq1_0": "tq1_0",
    "tq2_0": "tq2_0",
    "ternary": "tq2_0",
    "i2_s": "i2_s",
    "q2_0": "q2_0",
}
"""GGUF type that each precision is exported as; TL1 and TL2 need kernels of the user's own build."""


def open_or_export_gguf(checkpoint: Checkpoint, form: Form | ExternalGgufType, own: str | None) -> GgufFile:
    """Return the user's *own* file, or the checkpoint exported as *form*; an earlier export is reused.

    BenchError if *own* does not exist or has no tensor of that form. `find_or_compare` compares its weights.
    """
    if form == "tq2_0" and checkpoint.group_size:
        form = "q2_0"  # the ternary type of models with a scale per group
    kind = f"-{checkpoint.read_as}" if checkpoint.read_as else ""
    path = Path(own) if own else find_cache_folder() / f"{checkpoint.sha256[:32]}{kind}-{form}.gguf"
    if own and not path.is_file():
        raise BenchError(f"There is no file {own}.", "Check `gguf`.")
    if not path.is_file() and form != "tl1" and form != "tl2":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(checkpoint, form, path, no_progress)
    file = GgufFile(path)
    if own and TENSOR_TYPE_BY_NAME[form] not in {entry.kind for entry in file.tensors.values()}:
        raise BenchError(
            f"{own} holds no tensor of {TENSOR_TYPE_BY_NAME[form].name}.", "Give its own type as `precision`."
        )
    return file


def open_for_precision(checkpoint: Checkpoint, precision: Precision, own: str | None) -> GgufFile:
    """Return the file that a runtime is to run *checkpoint* from at *precision*.

    That is the user's *own*; or the checkpoint itself, if it is a GGUF file of that precision; or else an export.
    """
    if not own and is_own_precision(checkpoint, precision):
        return GgufFile(find_gguf_file(checkpoint))
    if precision not in PRECISION_GGUF_TYPES:
        raise BenchError(
            f"{checkpoint.source} has no {precision} weights, and none can be written.",
            f"Give one of {', '.join(PRECISION_GGUF_TYPES)} as `precision`, or a GGUF file that holds them.",
        )
    return open_or_export_gguf(checkpoint, PRECISION_GGUF_TYPES[precision], own)


def is_own_precision(checkpoint: Checkpoint, precision: Precision) -> bool:
    """Return whether *checkpoint* is a GGUF file whose layers are stored at *precision*, in types of llama.cpp."""
    if checkpoint.is_gguf and checkpoint.is_ternary:
        if {kind.name for kind in FOREIGN_TYPES} & checkpoint.gguf_types.keys():
            return False
        stored = {kind.name for kind in TERNARY_TENSOR_TYPES} & checkpoint.gguf_types.keys()
        return precision in {name.lower() for name in stored} or (precision == "ternary" and bool(stored - {"I2_S"}))
    return checkpoint.is_gguf and find_stored_precision(checkpoint) == precision


def find_gguf_file(checkpoint: Checkpoint) -> Path:
    """Return the GGUF file that *checkpoint* is; of a split one, the first part."""
    from bitnet_bench.checkpoints.gguf.view import find_source

    found = find_source(Path(checkpoint.path))
    assert found is not None, f"{checkpoint.source} is a GGUF file"
    return found


def is_itself(checkpoint: Checkpoint, file: GgufFile) -> bool:
    """Return whether *file* is what *checkpoint* was opened from, so that their weights need not be compared."""
    return checkpoint.is_gguf and find_gguf_file(checkpoint).resolve() == file.path.resolve()


def export_gguf(
    model: str,
    form: Form,
    out: Path,
    steps: ProgressDisplay = no_display,
    *,
    embeddings: EmbeddingType | None = None,
    tokenizer: str | None = None,
    read_as: ReadAs | None = None,
) -> FileParity:
    """Write the checkpoint *model* to the GGUF file *out*, and return the parity of their weights.

    *embeddings* is the type of embedding and head, by default that of the form. BenchError if the weights differ; *out*
    does not exist then.
    """
    checkpoint = open_checkpoint(model, tokenizer, read_as)
    with steps(f"convert to gguf-{form}") as progress:
        write_gguf(checkpoint, form, out, progress, embeddings)
    try:
        return compare_weights(checkpoint, GgufFile(out))
    except BenchError:
        out.unlink()
        raise
