"""Say how much of a GGUF file of a ternary type is not ternary: embedding, head, and layers it has no blocks for."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.types import TENSOR_TYPE_BY_NAME
from bitnet_bench.runs.choices import TERNARY_PRECISIONS, EmbeddingType, GgufType

FLOATS = ("F16", "BF16", "F32")
MAX_FLOAT_SHARE = 0.5
"""Share of the bytes from which on a file is mostly not what its type promises."""


def warn_float_share(path: Path, form: GgufType, embeddings: EmbeddingType | None = None) -> str | None:
    """Return a warning about a file of the ternary type *form* that is mostly floats, with the shares; else None.

    *embeddings* is the type that was asked for embedding and head.
    """
    if form not in TERNARY_PRECISIONS:
        return None
    tensors = GgufFile(path).tensors
    floats = {name: entry.bytes for name, entry in tensors.items() if entry.kind.name in FLOATS}
    whole, size = sum(entry.bytes for entry in tensors.values()), sum(floats.values())
    if size <= MAX_FLOAT_SHARE * whole:
        return None
    tables = sum(size for name, size in floats.items() if name.startswith(("token_embd.", "output.")))
    layers = [size for name, size in floats.items() if name.startswith("blk.") and len(tensors[name].shape) > 1]
    kinds = "/".join(dict.fromkeys(tensors[name].kind.name for name in floats if len(tensors[name].shape) > 1))
    parts = [f"embedding and head are {tables / whole:.0%}"] if tables else []
    if layers:
        block = TENSOR_TYPE_BY_NAME[form].block
        parts.append(
            f"{len(layers)} layers whose rows are not whole blocks of {block} values are {sum(layers) / whole:.0%}"
        )
    hint = " `embeddings=q8_0` halves the embedding." if tables and embeddings is None else ""
    return f"{size / whole:.0%} of {path} stays {kinds}, and is not ternary: {', '.join(parts)} of its bytes.{hint}"
