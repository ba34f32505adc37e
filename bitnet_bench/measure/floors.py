"""How fast a model can be at most: no token takes less than its bytes at the memory's rate, nor than its products."""

from __future__ import annotations

from pathlib import Path

from bitnet_bench.measure.ceilings import this_machine
from bitnet_bench.measure.devices import Device
from bitnet_bench.measure.energy.joules import modelled_metrics
from bitnet_bench.measure.energy.models import Work
from bitnet_bench.measure.memory import ON_GPU
from bitnet_bench.measure.shape import Shape, shape_of
from bitnet_bench.records import TERNARY_PRECISIONS, Checkpoint, Cost, Measured, Modelled, Precision, Unavailable, Value
from bitnet_bench.ternary.config import read_config

BITS: dict[Precision, float] = {
    "ternary": 2.0,
    "tq2_0": 2.0625,
    "tq1_0": 1.6875,
    "i2_s": 2.0,
    "tl1": 2.0,
    "tl2": 5 / 3,
    "q4_0": 4.5,
    "q8_0": 8.5,
    "fp16": 16.0,
    "bf16": 16.0,
    "fp32": 32.0,
}
"""Of a weight in the layers, scales of blocks included."""
KV_BYTES = {"ternary": 4, "fp32": 4}
"""Of a key or value; 2 elsewhere."""


class Plan(Value):
    """What one precision of a shape takes at a context and a batch, at the least."""

    precision: Precision
    head: str
    layer_bytes: int
    head_bytes: int
    embedding_bytes: int
    kv_bytes: int
    prefill_floor_s: float
    """Reading prompts that fill the context."""
    decode_floor_s: float
    """One more token of every row at the end of the context."""

    @property
    def total_bytes(self) -> int:
        """All that stays in memory."""
        return self.layer_bytes + self.head_bytes + self.embedding_bytes + self.kv_bytes


def plan(shape: Shape, precision: Precision, device: Device, context: int, batch: int, head_bits: int = 16) -> Plan:
    """Return the bytes and the floors of *shape*; the head and the embedding take *head_bits*."""
    layers = round(shape.layer_weights * BITS[precision] / 8) + 4 * shape.norm_weights
    head = shape.head_weights * head_bits // 8
    kv_token = shape.kv_values * KV_BYTES.get(precision, 2)
    kv = kv_token * context * batch
    return Plan(
        precision=precision,
        head=f"{head_bits}-bit",
        layer_bytes=layers,
        head_bytes=head,
        embedding_bytes=shape.embedding_weights * head_bits // 8,
        kv_bytes=kv,
        prefill_floor_s=prefill_floor_s(shape, precision, device, context, batch),
        decode_floor_s=decode_floor_s(shape, precision, device, context, batch, layers + head + kv),
    )


def decode_floor_s(
    shape: Shape, precision: Precision, device: Device, context: int, batch: int, read_bytes: float
) -> float:
    """Return the least time of one token of each row after *context* tokens, given the bytes that it reads."""
    return max(read_bytes / device.read_bytes_per_s, _products_s(shape, precision, device, batch, context * batch))


def prefill_floor_s(shape: Shape, precision: Precision, device: Device, tokens: int, batch: int) -> float:
    """Return the least time to read *batch* prompts of *tokens*: products of all layers, attention to half of them."""
    layers = _layers_s(shape, precision, device, tokens * batch)
    seen = batch * tokens * (tokens + 1) // 2
    return layers + (shape.attention_operations * seen + 2 * batch * shape.head_weights) / device.float_ops_per_s


def _layers_s(shape: Shape, precision: Precision, device: Device, tokens: int) -> float:
    rate = device.int8_ops_per_s if precision in TERNARY_PRECISIONS else device.float_ops_per_s
    return 2 * shape.layer_weights * tokens / rate


def _products_s(shape: Shape, precision: Precision, device: Device, tokens: int, seen: int) -> float:
    floats = 2 * shape.head_weights * tokens + shape.attention_operations * seen
    return _layers_s(shape, precision, device, tokens) + floats / device.float_ops_per_s


def floored(cost: Cost, checkpoint: Checkpoint) -> Cost:
    """Return *cost* with prefill_floor_s and decode_floor_s, from this machine's own ceilings.

    The bytes are those that the backend holds: an embedding that is not the head is not read as a whole. On a GPU,
    whose ceilings are not measured, there are none.
    """
    found = _shape(checkpoint)
    peak = cost.metrics["peak_bytes"]
    if isinstance(found, Unavailable) or (isinstance(peak, Measured) and peak.method == ON_GPU):
        return cost
    beside = sum(size for kind, size in cost.resident_by_kind.items() if kind.startswith("embedding"))
    weights = cost.resident_weight_bytes - (beside if found.embedding_weights else 0)
    positions = cost.prompt_tokens + cost.new_tokens / 2  # of a token in the middle
    kv = cost.kv_bytes * positions / (cost.prompt_tokens + cost.new_tokens - 1)
    device = this_machine(int(weights + kv), cost.threads)
    context = int(positions)
    model = f"bytes read or products, whichever takes longer; {device.source}"
    floors = {
        "prefill_floor_s": prefill_floor_s(found, cost.precision, device, cost.prompt_tokens, cost.batch),
        "decode_floor_s": decode_floor_s(found, cost.precision, device, context, cost.batch, weights + kv),
    }
    modelled = {name: Modelled(unit="s", model=model, value=seconds) for name, seconds in floors.items()}
    return cost.model_copy(update={"metrics": {**cost.metrics, **modelled}})


def with_modelled_energy(cost: Cost, checkpoint: Checkpoint) -> Cost:
    """Return *cost* with joules worked out of its operations where none were read; they are `Modelled`."""
    found = _shape(checkpoint)
    if isinstance(found, Unavailable) or not isinstance(cost.metrics.get("energy_j"), Unavailable):
        return cost
    ternary = cost.precision in TERNARY_PRECISIONS
    dense = found.head_weights + (0 if ternary else found.layer_weights)
    work = Work(found.layer_weights if ternary else 0, dense, "fp32" if cost.precision == "fp32" else "fp16")
    example = work.joules(cost.prompt_tokens + cost.new_tokens - 1)
    return cost.model_copy(update={"metrics": {**cost.metrics, **modelled_metrics(example, cost.new_tokens)}})


def _shape(checkpoint: Checkpoint) -> Shape | Unavailable:
    """Return the counts of *checkpoint*, or why its architecture is not counted."""
    try:
        return shape_of(read_config(Path(checkpoint.path)))
    except KeyError as error:
        return Unavailable(reason=f"{checkpoint.architecture} has no {error} in its config.json")
