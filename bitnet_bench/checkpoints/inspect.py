"""Describe a checkpoint folder from its contents; nothing is guessed from its name, and damage is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bitnet_bench.checkpoints.building import name_config
from bitnet_bench.checkpoints.config import PRECISION_KEY, get_quantization, read_config
from bitnet_bench.checkpoints.detect import DetectedFormat, detect_format
from bitnet_bench.checkpoints.shards import FLOAT_DTYPES, Shards, TensorHeader, open_shards
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.records import Checkpoint

FileStates = tuple[tuple[str, int, int, int], ...]
"""Name, size, modification time (ns) and inode of each file of a folder."""
MIN_UNCHANGED_NS = 1_000_000_000
"""Minimum age of a file for its result to be cached: a younger one may change again within one timestamp."""
_inspection_cache: dict[Path, tuple[FileStates, Checkpoint]] = {}
"""Results of this process by folder, each with the states of the files that it was read from."""


def inspect_folder(path: Path, source: str | None = None, revision: str | None = None) -> Checkpoint:
    """Return what the checkpoint folder *path* holds; BenchError if it is damaged or of an unknown format.

    Every byte is read once for the digest, and every float once for NaN: seconds per gigabyte, little memory. A second
    call in the same process reads nothing if the files have not changed since.
    """
    place, began_ns, states = path.absolute(), time.time_ns(), _list_states(path)
    before, found = _inspection_cache.get(place, ((), None))
    if found is None or before != states:
        with name_config(path):
            found = _read_checkpoint(path)
        if all(changed_ns < began_ns - MIN_UNCHANGED_NS for _, _, changed_ns, _ in states) and states == _list_states(
            path
        ):
            _inspection_cache[place] = (states, found)
    return found.model_copy(update={"source": source or str(path), "path": str(path), "revision": revision})


def read_as_masters(checkpoint: Checkpoint) -> Checkpoint:
    """Return the float *checkpoint* as masters of a ternary model, which nothing in its files says that it is.

    Every linear layer but the head becomes ternary, as in transformers' `bitnet`. BenchError for one that holds no
    masters or whose files say that it is a float model; marked masters are returned as they are.
    """
    if checkpoint.format in ("masters", "tinyllama"):
        return checkpoint
    if checkpoint.format != "float":
        raise BenchError(
            f"{checkpoint.source} is {checkpoint.format}, which holds no masters.", "Leave `read_as` out for it."
        )
    if read_config(Path(checkpoint.path)).get(PRECISION_KEY) == "fp16":
        raise BenchError(
            f"{checkpoint.source} says in its config.json that it is a float model ({PRECISION_KEY}: fp16).",
            "Leave `read_as` out for it.",
        )
    if checkpoint.dtype not in FLOAT_DTYPES.values():
        raise BenchError(
            f"{checkpoint.source} holds values that were rounded to {checkpoint.dtype}, which are no masters.",
            "Use the float weights that it was made from.",
        )
    found = checkpoint.model_copy(update={"format": "masters", "read_as": "masters"})
    weights = Weights(found)
    if not weights.ternary:
        raise BenchError(
            f"{checkpoint.architecture} has no linear layer that could be ternary.",
            "Masters are of architectures of nn.Linear layers, such as BitNet, Llama and Qwen.",
        )
    return found.model_copy(update=_count_weights(weights))


def _list_states(path: Path) -> FileStates:
    if not path.is_dir():
        return ()
    found = [(file.name, file.stat()) for file in path.iterdir() if file.is_file()]
    return tuple(sorted((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in found))


def _read_checkpoint(path: Path) -> Checkpoint:
    config = read_config(path)
    shards = open_shards(path)
    evidence = detect_format(path, config, shards)
    digest = shards.compute_digest(get_quantization(config).get("sha256") or {})
    if odd := shards.find_non_finite():
        raise BenchError(
            f"{shards.locate_tensor(odd)} holds NaN or infinity.",
            "The file is damaged, or the training run that wrote it diverged; use another checkpoint.",
        )
    found = Checkpoint(
        source=str(path),
        path=str(path),
        architecture=(config.get("architectures") or ["unknown"])[0],
        format=evidence.format,
        scale_direction=evidence.scale_direction,
        inner_norm=evidence.inner_norm,
        inner_norm_eps=evidence.inner_norm_eps,
        group_size=evidence.group_size,
        ternary_tables=evidence.ternary_tables,
        quantizes_activations=evidence.quantizes_activations,
        dtype=_find_dtype(shards, evidence),
        sha256=digest,
        weight_bytes={},
        parameters=0,
        ternary_parameters=0,
        gguf_types=shards.count_types(),
    )
    weights = Weights(found)
    _check_scales_and_norms(weights)
    return found.model_copy(update=_count_weights(weights))


def _find_dtype(shards: Shards, evidence: DetectedFormat) -> str:
    """Return the dtype of the embedding; of a float GGUF file, the type that holds most bytes of its layers."""
    ternary = {f"{name}.weight" for name in evidence.ternary_tables}
    matrices = {name: h for name, h in shards.headers.items() if h.float_dtype and name not in ternary}
    if evidence.format == "float" and shards.count_types():
        sizes: dict[str, int] = {}
        for name, header in matrices.items():
            if len(header.shape) == 2 and ".layers." in name:
                sizes[header.dtype] = sizes.get(header.dtype, 0) + header.bytes
        found = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    else:
        found = next((header.dtype for name, header in matrices.items() if "embed_tokens" in name), None)
    found = found or min((header.dtype for header in matrices.values()), default="unknown")
    return FLOAT_DTYPES.get(found, found)


def _check_scales_and_norms(weights: Weights) -> None:
    """Raise BenchError for a missing or impossible scale or a missing norm now, not at the first forward pass."""
    for module in weights.ternary:
        if weights.checkpoint.has_codes_only:
            weights.gamma(module)
        weights.inner_norm(module)


def _count_weights(weights: Weights) -> dict[str, Any]:
    """Return sizes, counts and the zero density of a checkpoint; BenchError for an impossible scale or code."""
    headers = weights.shards.headers
    ternary = sum(rows * columns for rows, columns in weights.ternary.values())
    matrices = {f"{module}.weight" for module in weights.ternary}
    sizes = dict.fromkeys(("ternary", "linear", "embedding", "head", "norm"), 0)
    parameters = ternary
    for name, header in headers.items():
        sizes[_classify_tensor(name, header)] += header.bytes
        if name not in matrices and not name.endswith(".weight_scale"):
            parameters += header.elements
    return {
        "weight_bytes": {kind: size for kind, size in sizes.items() if size},
        "parameters": parameters,
        "ternary_parameters": ternary,
        "zero_density": _compute_zero_density(weights, ternary),
    }


def _classify_tensor(name: str, header: TensorHeader) -> str:
    """Return the kind of a tensor, one of the keys of `Checkpoint.weight_bytes`."""
    if name.endswith(".weight_scale") or header.dtype == "U8":
        return "ternary"
    if "embed" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    return "linear" if len(header.shape) == 2 or name.endswith(".bias") else "norm"


def _compute_zero_density(weights: Weights, ternary: int) -> float | None:
    checkpoint = weights.checkpoint
    if not ternary or not (checkpoint.has_codes_only or checkpoint.format in ("baked", "grouped")):
        return None
    return sum(weights.count_zeros(module) for module in weights.ternary) / ternary
