"""Compute how fast a model can be at most: a token takes the time of its bytes or of its products at the least."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_bench.checkpoints.config import read_config
from bitnet_bench.checkpoints.shape import ModelShape, compute_shape
from bitnet_bench.measurement.ceilings import measure_machine
from bitnet_bench.measurement.devices import Device
from bitnet_bench.measurement.energy.joules import make_modelled_metrics
from bitnet_bench.measurement.energy.models import TokenWork
from bitnet_bench.measurement.peak_memory import GPU_PEAK_METHOD
from bitnet_bench.runs.choices import TERNARY_PRECISIONS, Precision
from bitnet_bench.runs.records import Checkpoint, Cost, Measured, Modelled, Unavailable
from bitnet_bench.runs.value import Value

BITS_PER_WEIGHT: dict[Precision, float] = {
    "ternary": 2.0,
    "tq2_0": 2.0625,
    "tq1_0": 1.6875,
    "i2_s": 2.0,
    "tl1": 2.0,
    "tl2": 5 / 3,
    "q4_0": 4.5,
    "q8_0": 8.5,
    "q4_1": 5.0,
    "q5_0": 5.5,
    "q5_1": 6.0,
    "q2_k": 2.625,
    "q3_k": 3.4375,
    "q4_k": 4.5,
    "q5_k": 5.5,
    "q6_k": 6.5625,
    "iq4_nl": 4.5,
    "iq4_xs": 4.25,
    "fp16": 16.0,
    "bf16": 16.0,
    "fp32": 32.0,
}
"""Bits of a weight in the layers, scales of blocks included."""
CeilingsFunction = Callable[[int, int], Device]
"""Function that returns the rates of a machine, given how many bytes are read repeatedly, and the number of threads."""
ROUNDING_FACTOR = 1 + 1e-9
"""Factor on rates that were reached, so that rounding does not put a floor above the time it came from."""
BYTES_PER_KV_VALUE = {"ternary": 4, "fp32": 4}
"""Bytes of a key or value; 2 for other precisions."""


class PrecisionPlan(Value):
    """The memory and least times of one precision of a shape at a context and a batch."""

    precision: Precision
    head: str
    layer_bytes: int
    head_bytes: int
    embedding_bytes: int
    kv_bytes: int
    prefill_floor_s: float
    """Least seconds to read prompts that fill the context."""
    decode_floor_s: float
    """Least seconds of one more token of every row at the end of the context."""

    @property
    def total_bytes(self) -> int:
        """Return the bytes of everything that stays in memory."""
        return self.layer_bytes + self.head_bytes + self.embedding_bytes + self.kv_bytes


def plan_precision(
    shape: ModelShape, precision: Precision, device: Device, context: int, batch: int, head_bits: int = 16
) -> PrecisionPlan:
    """Return the bytes and the floors of *shape*; the head and the embedding take *head_bits*."""
    layers = round(shape.matrices * BITS_PER_WEIGHT[precision] / 8) + 4 * shape.norm_weights
    head = shape.head_weights * head_bits // 8
    kv_token = shape.kv_values * BYTES_PER_KV_VALUE.get(precision, 2)
    kv = kv_token * context * batch
    return PrecisionPlan(
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
    shape: ModelShape, precision: Precision, device: Device, context: int, batch: int, read_bytes: float
) -> float:
    """Return the least time of one token of each row after *context* tokens, given the bytes that it reads."""
    return max(read_bytes / device.read_bytes_per_s, _products_s(shape, precision, device, batch, context * batch))


def prefill_floor_s(shape: ModelShape, precision: Precision, device: Device, tokens: int, batch: int) -> float:
    """Return the least time to read *batch* prompts of *tokens*: products of all layers, attention to half of them."""
    layers = _layers_s(shape, precision, device, tokens * batch)
    seen = batch * tokens * (tokens + 1) // 2
    return layers + (shape.attention_operations * seen + 2 * batch * shape.head_weights) / device.float_ops_per_s


def _layers_s(shape: ModelShape, precision: Precision, device: Device, tokens: int) -> float:
    rate = device.int8_ops_per_s if precision in TERNARY_PRECISIONS else device.float_ops_per_s
    return 2 * shape.matrices * tokens / rate


def _products_s(shape: ModelShape, precision: Precision, device: Device, tokens: int, seen: int) -> float:
    floats = 2 * shape.head_weights * tokens + shape.attention_operations * seen
    return _layers_s(shape, precision, device, tokens) + floats / device.float_ops_per_s


@dataclass(frozen=True)
class _CostWork:
    """The least work of a measured cost in bytes and products: with its times it shows how fast this machine is."""

    cost: Cost
    shape: ModelShape
    read_bytes: float
    """Bytes that a token in the middle of the answer reads."""

    @property
    def positions(self) -> int:
        """Return the number of positions that a token in the middle of the answer attends to."""
        return int(self.cost.prompt_tokens + self.cost.new_tokens / 2)

    def prefill_floor_s(self, device: Device) -> float:
        """Return the least seconds of the prompts."""
        cost = self.cost
        return prefill_floor_s(self.shape, cost.precision, device, cost.prompt_tokens, cost.batch)

    def decode_floor_s(self, device: Device) -> float:
        """Return the least seconds of a token."""
        cost = self.cost
        return decode_floor_s(self.shape, cost.precision, device, self.positions, cost.batch, self.read_bytes)

    def quickest_s(self, metric: str) -> float:
        """Return the least reading of the time *metric*; infinite if there is none."""
        found = self.cost.metrics.get(metric)
        return min(found.readings) if isinstance(found, Measured) else math.inf

    def compute_speedup(self, device: Device) -> float:
        """Return how many times faster than *device* its products were; 1 or less if they were not faster."""
        unread = device.model_copy(update={"read_bytes_per_s": math.inf})
        prefill = self.prefill_floor_s(device) / self.quickest_s("prefill_s")
        return max(prefill, self.decode_floor_s(unread) / self.quickest_s("decode_s"))


def add_floors(measured: Sequence[tuple[Cost, Checkpoint]], ceilings: CeilingsFunction = measure_machine) -> list[Cost]:
    """Return the costs of one measurement with prefill_floor_s and decode_floor_s, from the best ceilings seen in it.

    Ceilings are this machine's own, measured now, and what any of the costs reached, so that no cost is faster than its
    floor. Bytes are those that the backend holds, without an embedding that is not the head, because it is not read as
    a whole. Costs on a GPU get no floors: its ceilings are not measured.
    """
    works = [_make_work(cost, checkpoint) for cost, checkpoint in measured]
    known = [work for work in works if work]
    devices = {id(work): ceilings(int(work.read_bytes), work.cost.threads) for work in known}
    return [
        cost if work is None else _with_floors(work, _find_best_ceilings(work, known, devices))
        for work, (cost, _) in zip(works, measured, strict=True)
    ]


def _find_best_ceilings(own: _CostWork, works: Sequence[_CostWork], devices: Mapping[int, Device]) -> Device:
    """Return the ceilings for *own*: the best of those that were measured and of what *works* reached.

    A cost that reads at least as many bytes shows how fast *own* can be read; fewer bytes may have come from a cache.
    """
    alike = [work for work in works if work.cost.threads == own.cost.threads]
    larger = [work for work in alike if work.read_bytes >= own.read_bytes]
    reading = max(devices[id(work)].read_bytes_per_s for work in larger)
    reached = ROUNDING_FACTOR * max(work.read_bytes / work.quickest_s("decode_s") for work in larger)
    device = devices[id(own)]
    floats = max((w.compute_speedup(device) for w in alike if w.cost.precision not in TERNARY_PRECISIONS), default=0.0)
    device = _speed_up(device, floats, device.int8_ops_per_s)
    every = max(work.compute_speedup(device) for work in alike)
    device = _speed_up(device, every, device.int8_ops_per_s * max(1.0, every))
    return device.model_copy(update={"read_bytes_per_s": max(reading, reached)})


def _speed_up(device: Device, times: float, int8: float) -> Device:
    """Return *device* with faster products; a machine multiplies integers at least as fast as floats."""
    floats = device.float_ops_per_s * max(1.0, times * ROUNDING_FACTOR)
    return device.model_copy(update={"float_ops_per_s": floats, "int8_ops_per_s": max(int8 * ROUNDING_FACTOR, floats)})


def _make_work(cost: Cost, checkpoint: Checkpoint) -> _CostWork | None:
    found = _count_checkpoint_shape(checkpoint)
    peak = cost.metrics["peak_bytes"]
    if isinstance(found, Unavailable) or (isinstance(peak, Measured) and peak.method == GPU_PEAK_METHOD):
        return None
    weights = cost.resident_weight_bytes - _count_unread(cost.resident_by_kind, found)
    positions = cost.prompt_tokens + cost.new_tokens / 2
    kv = cost.kv_bytes * positions / (cost.prompt_tokens + cost.new_tokens - 1)
    return _CostWork(cost, found, weights + kv)


def _count_unread(by_kind: Mapping[str, int], shape: ModelShape) -> int:
    """Return the bytes of weights that a decoded token does not read as a whole.

    These are an embedding that is not the head, and the stored head where tokens are chosen by a copy of it.
    """

    def count(name: str) -> int:
        return sum(size for kind, size in by_kind.items() if kind.startswith(f"{name} "))

    if count("greedy head"):
        return count("embedding") + count("head")
    return count("embedding") if shape.embedding_weights else 0


def _with_floors(work: _CostWork, device: Device) -> Cost:
    model = f"bytes read or products, whichever takes longer, at the best ceilings seen in this run: {device.source}, "
    model += "and what any contestant reached"
    floors = {"prefill_floor_s": work.prefill_floor_s(device), "decode_floor_s": work.decode_floor_s(device)}
    modelled = {name: Modelled(unit="s", model=model, value=seconds) for name, seconds in floors.items()}
    return work.cost.model_copy(update={"metrics": {**work.cost.metrics, **modelled}})


def with_modelled_energy(cost: Cost, checkpoint: Checkpoint) -> Cost:
    """Return *cost* with joules computed from its operations where none were read; they are `Modelled`."""
    found = _count_checkpoint_shape(checkpoint)
    if isinstance(found, Unavailable) or not isinstance(cost.metrics.get("energy_j"), Unavailable):
        return cost
    ternary = cost.precision in TERNARY_PRECISIONS
    dense = found.head_weights + (0 if ternary else found.matrices)
    work = TokenWork(found.matrices if ternary else 0, dense, "fp32" if cost.precision == "fp32" else "fp16")
    example = work.joules(cost.prompt_tokens + cost.new_tokens - 1)
    return cost.model_copy(update={"metrics": {**cost.metrics, **make_modelled_metrics(example, cost.new_tokens)}})


def _count_checkpoint_shape(checkpoint: Checkpoint) -> ModelShape | Unavailable:
    """Return the counts of *checkpoint*, or why they are not known for its architecture."""
    try:
        return compute_shape(read_config(Path(checkpoint.path)))
    except KeyError as error:
        return Unavailable(reason=f"{checkpoint.architecture} has no {error} in its config.json")
