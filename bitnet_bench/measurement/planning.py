"""Plan the least memory and time of a shape on a device, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitnet_bench.checkpoints.locate import load_config
from bitnet_bench.errors import UsageError
from bitnet_bench.runs.choices import Precision

if TYPE_CHECKING:
    from bitnet_bench.measurement.devices import Device
    from bitnet_bench.measurement.floors import PrecisionPlan


def plan_shape(
    preset: str | None, model: str | None, context: int, batch: int, device: str = "cpu", threads: int = 0
) -> tuple[Device, list[PrecisionPlan]]:
    """Return the ceilings of *device* and the plan of each precision of a shape on it.

    The shape is that of a *preset* or of a checkpoint *model*; the device `cpu` is this machine, measured now.
    """
    from bitnet_bench.checkpoints.random_weights import read_preset_config
    from bitnet_bench.checkpoints.shape import compute_shape
    from bitnet_bench.measurement.ceilings import MAX_READ_BYTES, measure_machine
    from bitnet_bench.measurement.devices import find_device as named
    from bitnet_bench.measurement.floors import plan_precision as floors_of
    from bitnet_bench.measurement.machine_state import count_cores

    if (preset is None) == (model is None):
        raise UsageError("A plan is of a `preset` or of a `model`.", "Such as `preset=bitnet-2b-4t`.")
    config = read_preset_config(preset) if preset else load_config(model or "")
    ceilings = measure_machine(MAX_READ_BYTES, threads or count_cores()) if device == "cpu" else named(device)
    shape = compute_shape(config)
    kinds: list[tuple[Precision, int]] = [("ternary", 16), ("ternary", 8), ("tq2_0", 16), ("q8_0", 8), ("bf16", 16)]
    return ceilings, [floors_of(shape, precision, ceilings, context, batch, head) for precision, head in kinds]
