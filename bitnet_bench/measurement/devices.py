"""Published ceilings of devices by name."""

from __future__ import annotations

from bitnet_bench.errors import UsageError
from bitnet_bench.runs.value import Value

SHEET = "the vendor's data sheet, dense"


class Device(Value):
    """What a device can do at most."""

    name: str
    read_bytes_per_s: float
    int8_ops_per_s: float
    float_ops_per_s: float
    """In FP16 or BF16, whichever is faster."""
    source: str


def _sheet(name: str, gigabytes: float, int8_tops: float, float_tflops: float) -> Device:
    return Device(
        name=name,
        read_bytes_per_s=gigabytes * 1e9,
        int8_ops_per_s=int8_tops * 1e12,
        float_ops_per_s=float_tflops * 1e12,
        source=SHEET,
    )


DEVICES = {
    device.name: device
    for device in (
        _sheet("h200", 4800, 1979, 989),
        _sheet("h100-sxm", 3350, 1979, 989),
        _sheet("h100-pcie", 2000, 1513, 756),
        _sheet("a100-80gb", 2039, 624, 312),
        _sheet("l40s", 864, 733, 362),
        _sheet("l4", 300, 242, 121),
        _sheet("t4", 320, 130, 65),
        _sheet("rtx-4090", 1008, 661, 165),
        _sheet("rtx-3090", 936, 284, 71),
        _sheet("jetson-orin-nano", 68, 20, 10),
    )
}


def device(name: str) -> Device:
    """Return a device by name; UsageError lists those there are."""
    if name.lower() not in DEVICES:
        raise UsageError(
            f"There is no device {name!r}.", f"`cpu` measures this machine; named are {', '.join(DEVICES)}."
        )
    return DEVICES[name.lower()]
