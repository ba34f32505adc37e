"""Find the order of the codes of I2_S tensors, which depends on the build that wrote a file and is not noted in it.

All orders hold the same codes, so only what belongs to the columns can tell: training gives the columns of a layer more
or fewer zeros as the norm before it is larger or smaller there, and those of `down_proj` as the rows of `gate_proj` and
`up_proj` have. On the embedded pair these correlate by 0.7 in the right order and by 0.25 in another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np

from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile, read_bytes
from bitnet_bench.checkpoints.gguf.index import IndexedTensor
from bitnet_bench.checkpoints.gguf.naming import I2S_ORDER_KEY
from bitnet_bench.checkpoints.gguf.types import I2_S, Array, I2sOrder, unpack_codes, unpack_tensor

DEFAULT_ORDER: I2sOrder = "x86"
"""Order of the published files, and of those that are written here."""
LAYERS_READ = 3
LEAST_CORRELATION = 0.2
"""Mean correlation below which nothing is taken for evidence: columns of random weights are below 0.1."""
LEAST_RATIO = 1.5
"""How much larger the correlation must be than in the default order."""
NORMS = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.o_proj": "self_attn.attn_sub_norm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.down_proj": "mlp.ffn_sub_norm",
}
"""Norm before each layer."""
_log = logging.getLogger(__name__)


def find_i2s_order(files: list[GgufFile], tensors: Mapping[str, IndexedTensor], layers: int) -> I2sOrder:
    """Return the order that the file names, or that its weights show; the default one if they show none."""
    if not any(one.entry.kind == I2_S for one in tensors.values()):
        return DEFAULT_ORDER
    orders: tuple[I2sOrder, ...] = get_args(I2sOrder)
    noted = files[0].fields.get(I2S_ORDER_KEY)
    if noted in orders:
        return orders[orders.index(noted)]
    found = {order: _correlate(files, tensors, layers, order) for order in orders}
    best = max(orders, key=lambda order: found[order])
    if found[best] < LEAST_CORRELATION or found[best] < LEAST_RATIO * found[DEFAULT_ORDER]:
        best = DEFAULT_ORDER
    said = ", ".join(f"{order} {value:.2f}" for order, value in found.items())
    _log.info("%s: its I2_S codes are read in the order %s (correlations: %s).", files[0].path, best, said)
    return best


def _correlate(files: list[GgufFile], tensors: Mapping[str, IndexedTensor], layers: int, order: I2sOrder) -> float:
    """Return the mean correlation of the columns of some layers with what they belong to."""
    chosen = sorted({i * (layers - 1) // max(1, LAYERS_READ - 1) for i in range(LAYERS_READ)})
    found = [value for layer in chosen for value in _correlate_layer(files, tensors, f"model.layers.{layer}", order)]
    return float(np.mean(found)) if found else 0.0


def _correlate_layer(
    files: list[GgufFile], tensors: Mapping[str, IndexedTensor], layer: str, order: I2sOrder
) -> Iterator[float]:
    def read(name: str) -> Array | None:
        one = tensors.get(f"{layer}.{name}.weight")
        if one is None:
            return None
        data = read_bytes(files[one.file].path, one.entry)
        return np.abs(
            unpack_codes(data, I2_S, one.shape, order)
            if one.entry.kind == I2_S
            else unpack_tensor(data, one.entry.kind, one.shape)
        )

    for module, norm in NORMS.items():
        one = tensors.get(f"{layer}.{module}.weight")
        if one is None or one.entry.kind != I2_S or one.shape[0] % 4:
            continue
        codes, weights = read(module), read(norm)
        assert codes is not None
        if weights is not None:
            yield _compute_correlation(codes.mean(0), weights)
        if module == "mlp.down_proj" and (gate := read("mlp.gate_proj")) is not None:
            yield _compute_correlation(codes.mean(0), gate.mean(1))


def _compute_correlation(ours: Array, theirs: Array) -> float:
    """Return |Pearson's r|; 0 for values that are all the same."""
    if ours.shape != theirs.shape or not ours.std() or not theirs.std():
        return 0.0
    return float(abs(np.corrcoef(ours, theirs)[0, 1]))
