"""Convert a checkpoint, and run the source and the result to check that they are the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_bench.backends.reference import find_logits
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.streaming import GIGABYTE, SHARD_GIGABYTES
from bitnet_bench.protocols import ProgressDisplay, no_display
from bitnet_bench.runs.choices import Format, ReadAs
from bitnet_bench.runs.records import Checkpoint

if TYPE_CHECKING:
    from bitnet_bench.checkpoints.parity import CheckpointParity


def convert_checkpoint(
    model: str,
    form: Format,
    out: Path,
    *,
    tokenizer: str | None = None,
    read_as: ReadAs | None = None,
    shard_gigabytes: float = SHARD_GIGABYTES,
    steps: ProgressDisplay = no_display,
) -> tuple[Checkpoint, CheckpointParity]:
    """Write the checkpoint *model* in format *form* to *out*; return the result and its parity with *model*.

    *tokenizer* is that of a GGUF file whose own cannot be read; *read_as* says what float weights are. Raise BenchError
    if the two are not the same model; *out* does not exist then.
    """
    from bitnet_bench.checkpoints.converting import convert_checkpoint as write

    source = open_checkpoint(model, tokenizer, read_as)
    with steps(f"convert to {form}") as progress:
        size = int(shard_gigabytes * GIGABYTE)
        parity = write(source, form, out, progress, logits=find_logits(source), shard_bytes=size)
    return open_checkpoint(str(out)), parity
