"""Check that a GGUF file of any origin holds exactly the weights of a checkpoint."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bitnet_bench.checkpoints.config import find_activation
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile, count_types
from bitnet_bench.checkpoints.gguf.naming import ACTIVATION_KEY, GgufLayout, make_layout
from bitnet_bench.checkpoints.gguf.types import (
    BF16,
    F16,
    F32,
    GROUP_TYPES,
    UNREADABLE_TYPES,
    Array,
    TensorType,
)
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError, shorten_text
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.runs.value import Value
from bitnet_bench.ternary.groups import scale_groups

SCALE_TOLERANCES = {
    "I2_S": 1e-6,
    "F32": 1e-6,
    "F16": 1e-6,
    "BF16": 1e-6,
    "TQ1_0": 1e-3,
    "TQ2_0": 1e-3,
    "Q8_0": 1e-3,
    "Q4_0": 0.2,
}
"""Relative tolerances. Other writers keep scales in float16 blocks; Q4_0 holds only one of -1 and +1 exactly."""
LARGEST_SCALE_ERROR = 0.2
"""Relative tolerance for the types that are not in the table."""
FLOAT_TOLERANCES = {
    F32.name: 0.0,
    F16.name: 2.0**-10,
    BF16.name: 2.0**-7,
    "Q8_0": 0.02,
    "Q6_K": 0.04,
    "Q5_0": 0.1,
    "Q5_1": 0.1,
    "Q5_K": 0.1,
    "Q4_0": 0.2,
    "Q4_1": 0.2,
    "Q4_K": 0.2,
    "IQ4_NL": 0.2,
    "IQ4_XS": 0.2,
    "Q3_K": 0.4,
    "Q2_K": 0.6,
}
"""Tolerances of a tensor that is not ternary: largest |difference|, relative to its largest value."""
BITNET_CPP_ONLY = ("bitnet-b1.58",)


class FileParity(Value):
    """Differences of the weights of a GGUF file from a checkpoint's."""

    architecture: str
    types: dict[str, int]
    """Bytes by tensor type."""
    ternary_layers: int
    """Number of layers whose codes could be read; all of these codes are equal."""
    largest_scale_error: float
    """Largest relative error of a scale, over ternary layers."""
    largest_float_error: float
    """Largest error over all other tensors, relative to the largest value of each."""


def compare_weights(checkpoint: Checkpoint, file: GgufFile) -> FileParity:
    """Return the differences of *file* from *checkpoint*; BenchError names the first tensor of another model."""
    weights = Weights(checkpoint)
    found = find_layout(checkpoint, weights, file)
    scales = [
        _compute_scale_error(weights, found, file, module)
        for module in weights.ternary
        if _is_readable(file, found, module)
    ]
    floats = [_compute_float_error(weights, found, file, name) for name in weights.floats]
    said = file.fields.get(ACTIVATION_KEY)
    said = said if isinstance(said, str | None) else type(said).__name__
    if said not in (None, find_activation(weights.config)):
        raise mismatch_error(file, f"it says that its activation is {shorten_text(str(said), 60)}")
    return FileParity(
        architecture=file.architecture,
        types=count_types(file.tensors.values()),
        ternary_layers=len(scales),
        largest_scale_error=max(scales, default=0.0),
        largest_float_error=max(floats, default=0.0),
    )


def find_layout(checkpoint: Checkpoint, weights: Weights, file: GgufFile) -> GgufLayout:
    """Return the layout of *file*; BenchError if its architecture does not fit *checkpoint*."""
    found = make_layout(
        checkpoint, weights.config, "bitnet.cpp" if file.architecture in BITNET_CPP_ONLY else "llama.cpp"
    )
    if found.architecture != file.architecture:
        raise mismatch_error(
            file, f"it is of the architecture {file.architecture}, the checkpoint is {found.architecture}"
        )
    return found


def mismatch_error(file: GgufFile, what: str) -> BenchError:
    """Return the error for a file that does not match the checkpoint."""
    return BenchError(
        f"{file.path} is another model than the checkpoint: {what}.",
        "Export the checkpoint itself with `bitnet-bench convert --to gguf-...`.",
    )


def _is_readable(file: GgufFile, found: GgufLayout, module: str) -> bool:
    """Return whether the codes of *module* can be read; TL1 and TL2 are only checked by comparing outputs."""
    entry = file.tensors.get(f"{found.name(module)}.weight")
    return entry is None or entry.kind not in UNREADABLE_TYPES


def _compute_scale_error(weights: Weights, found: GgufLayout, file: GgufFile, module: str) -> float:
    name = f"{found.name(module)}.weight"
    codes, gamma = weights.codes(module)
    if weights.group_size:
        return _compute_group_error(found, file, module, codes, gamma)
    entry = _check_same_shape(file, name, tuple(codes.shape))
    stored, kind = file.values(name), entry.name
    largest = float(np.abs(stored).max())
    theirs = np.rint(stored / largest) if largest else stored
    differing = int((theirs != found.rows(module, codes).numpy()).sum())
    if differing:
        raise mismatch_error(file, f"{differing:,} of {codes.numel():,} codes of {name} are others")
    if not largest:
        return 0.0
    error = abs(float(np.abs(stored[stored != 0]).mean(dtype=np.float64)) * file.scale(name) / float(gamma) - 1)
    if not error <= SCALE_TOLERANCES.get(kind, LARGEST_SCALE_ERROR):
        raise mismatch_error(file, f"the scale of {name} is off by {error:.2%}")
    return error


def _compute_group_error(found: GgufLayout, file: GgufFile, module: str, codes: Tensor, scales: Tensor) -> float:
    """Return the largest difference of the weights t * s from the file's, relative to their largest value."""
    name = f"{found.name(module)}.weight"
    kind = _check_same_shape(file, name, tuple(codes.shape))
    ours, theirs = found.rows(module, scale_groups(codes, scales)).numpy(), file.values(name)
    differing = int((np.sign(ours) != np.sign(theirs)).sum()) if kind in GROUP_TYPES else 0
    if differing:
        raise mismatch_error(file, f"{differing:,} of {codes.numel():,} codes of {name} are others")
    error = _largest_difference(ours, theirs)
    if not error <= FLOAT_TOLERANCES.get(kind.name, 0.0):
        raise mismatch_error(file, f"{name} differs by {error:.2g} of its largest value")
    return error


def _compute_float_error(weights: Weights, found: GgufLayout, file: GgufFile, name: str) -> float:
    target = found.name(name)
    if target == "output.weight" and target not in file.tensors:
        return 0.0  # tied, and stored once
    ours = found.rows(name.rpartition(".")[0], weights.tensor(name)).float().numpy()
    kind = _check_same_shape(file, target, tuple(ours.shape))
    error = _largest_difference(ours + float(found.is_offset_norm(name)), file.values(target))
    if not error <= FLOAT_TOLERANCES.get(kind.name, 0.0):
        raise mismatch_error(file, f"{target} differs by {error:.2g} of its largest value")
    return error


def _largest_difference(ours: Array, theirs: Array) -> float:
    largest = float(np.abs(ours).max()) if ours.size else 0.0
    difference = float(np.abs(ours - theirs).max()) if ours.size else 0.0
    return difference / largest if largest else difference


def _check_same_shape(file: GgufFile, name: str, shape: tuple[int, ...]) -> TensorType:
    if name not in file.tensors:
        raise mismatch_error(file, f"it has no {name}")
    entry = file.tensors[name]
    if entry.shape != shape:
        raise mismatch_error(file, f"{name} is {entry.shape} and must be {shape}")
    return entry.kind
