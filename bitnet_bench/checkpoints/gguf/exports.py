"""Open the GGUF file of a checkpoint, exported once and cached, or the user's own, and check it before use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.checkpoints.gguf.cache import find_cache_folder
from bitnet_bench.checkpoints.gguf.file_parity import compare_weights
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.types import TENSOR_TYPE_BY_NAME, ExternalGgufType, Form
from bitnet_bench.checkpoints.gguf.writing import write_gguf
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import ProgressDisplay, no_display, no_progress
from bitnet_bench.runs.choices import Precision
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
}
"""GGUF type that each precision is exported as; TL1 and TL2 need kernels of the user's own build."""


def open_or_export_gguf(checkpoint: Checkpoint, form: Form | ExternalGgufType, own: str | None) -> GgufFile:
    """Return the user's *own* file, or the checkpoint exported as *form*; an earlier export is reused.

    BenchError if *own* does not exist or has no tensor of that form. `find_or_compare` compares its weights.
    """
    path = Path(own) if own else find_cache_folder() / f"{checkpoint.sha256[:32]}-{form}.gguf"
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


def export_gguf(model: str, form: Form, out: Path, steps: ProgressDisplay = no_display) -> FileParity:
    """Write the checkpoint *model* to the GGUF file *out*, and return the parity of their weights.

    BenchError if the weights differ; *out* does not exist then.
    """
    checkpoint = open_checkpoint(model)
    with steps(f"convert to gguf-{form}") as progress:
        write_gguf(checkpoint, form, out, progress)
    try:
        return compare_weights(checkpoint, GgufFile(out))
    except BenchError:
        out.unlink()
        raise
