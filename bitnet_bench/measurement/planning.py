"""Plan what a shape takes at the least on a device, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitnet_bench.checkpoints.locate import load_config
from bitnet_bench.errors import UsageError
from bitnet_bench.runs.choices import Precision

if TYPE_CHECKING:
    from bitnet_bench.measurement.devices import Device
    from bitnet_bench.measurement.floors import Plan


def plan(
    preset: str | None, model: str | None, context: int, batch: int, device: str = "cpu", threads: int = 0
) -> tuple[Device, list[Plan]]:
    """Return the ceilings of *device* and what each precision of a shape takes there at the least.

    The shape is that of a *preset* or of a checkpoint *model*; the device `cpu` is this machine, measured now.
    """
    from bitnet_bench.checkpoints.random_weights import preset_config
    from bitnet_bench.checkpoints.shape import shape_of
    from bitnet_bench.measurement.ceilings import LARGEST_BYTES, this_machine
    from bitnet_bench.measurement.devices import device as named
    from bitnet_bench.measurement.floors import plan as floors_of
    from bitnet_bench.measurement.machine_state import cores

    if (preset is None) == (model is None):
        raise UsageError("A plan is of a `preset` or of a `model`.", "Such as `preset=bitnet-2b-4t`.")
    config = preset_config(preset) if preset else load_config(model or "")
    ceilings = this_machine(LARGEST_BYTES, threads or cores()) if device == "cpu" else named(device)
    shape = shape_of(config)
    kinds: list[tuple[Precision, int]] = [("ternary", 16), ("ternary", 8), ("tq2_0", 16), ("q8_0", 8), ("bf16", 16)]
    return ceilings, [floors_of(shape, precision, ceilings, context, batch, head) for precision, head in kinds]
