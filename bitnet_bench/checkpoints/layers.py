"""Describe a checkpoint without running it: layer by layer, and per weight."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench.checkpoints.gguf.gguf_shards import read_index
from bitnet_bench.checkpoints.loading import why_untrainable
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.weights import LAYER_SUFFIXES, Weights
from bitnet_bench.protocols import Progress, ProgressDisplay, no_display
from bitnet_bench.runs.choices import ReadAs
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.runs.value import Value
from bitnet_bench.ternary.packing import CODES_PER_BYTE


class Layer(Value):
    """One ternary layer."""

    name: str
    rows: int
    columns: int
    zero_density: float
    """Share of the layer's codes that are 0."""


class Inspection(Value):
    """The result of `bitnet-bench inspect`."""

    checkpoint: Checkpoint
    layers: tuple[Layer, ...]
    zero_density: float | None
    """Share of zeros over all ternary layers, including those of masters; None without ternary layers."""
    ternary_bits_per_weight: float | None
    """Bits on disk per ternary weight, including scales, biases and padding; None without ternary layers."""
    bits_per_weight: float
    """Bits on disk per parameter, over all parameters."""
    trainable: bool
    untrainable_because: str | None = None
    tokenizer_problem: str | None = None
    """Why the tokenizer of a GGUF file cannot be built, if it cannot."""


def inspect_checkpoint(checkpoint: Checkpoint, progress: Progress) -> Inspection:
    """Count the zeros of every ternary layer of *checkpoint* (masters are quantized for it) and return the findings."""
    weights = Weights(checkpoint)
    layers = []
    for name, (rows, columns) in weights.ternary.items():
        density = weights.count_zeros(name) / (rows * columns)
        layers.append(Layer(name=name, rows=rows, columns=columns, zero_density=density))
        progress(len(layers), len(weights.ternary))
    zeros = sum(layer.zero_density * layer.rows * layer.columns for layer in layers)
    reason = _why_layers_untrainable(checkpoint, layers)
    return Inspection(
        checkpoint=checkpoint,
        layers=tuple(layers),
        zero_density=zeros / checkpoint.ternary_parameters if layers else None,
        ternary_bits_per_weight=_count_ternary_bits(weights) / checkpoint.ternary_parameters if layers else None,
        bits_per_weight=8 * sum(checkpoint.weight_bytes.values()) / checkpoint.parameters,
        trainable=reason is None,
        untrainable_because=reason,
        tokenizer_problem=_find_tokenizer_problem(checkpoint),
    )


def _find_tokenizer_problem(checkpoint: Checkpoint) -> str | None:
    index = read_index(Path(checkpoint.path))
    return " ".join(index.tokenizer_problem) if index and index.tokenizer_problem else None


def _count_ternary_bits(weights: Weights) -> int:
    headers = weights.shards.headers
    names = (f"{module}{part}" for module in weights.ternary for part in LAYER_SUFFIXES)
    return 8 * sum(headers[name].bytes for name in names if name in headers)


def _why_layers_untrainable(checkpoint: Checkpoint, layers: list[Layer]) -> str | None:
    """Return why `finetune` would refuse *checkpoint*, as far as its weights show, or None."""
    odd = next((layer for layer in layers if layer.rows % CODES_PER_BYTE), None)
    if odd is not None and not checkpoint.group_size:
        return f"{odd.name} has {odd.rows} rows, no multiple of {CODES_PER_BYTE}, and the result could not be written"
    return why_untrainable(checkpoint)


def inspect_layers(model: str, steps: ProgressDisplay = no_display, read_as: ReadAs | None = None) -> Inspection:
    """Return the description of the checkpoint *model*, read as `open_checkpoint` does, made without running it."""
    checkpoint = open_checkpoint(model, read_as=read_as)
    with steps("inspect") as progress:
        return inspect_checkpoint(checkpoint, progress)
