"""Published peak rates of devices by name."""

from __future__ import annotations

from bitnet_bench.errors import UsageError, did_you_mean
from bitnet_bench.runs.value import Value

SHEET_SOURCE = "the vendor's data sheet, dense"


class Device(Value):
    """The peak rates of a device."""

    name: str
    read_bytes_per_s: float
    int8_ops_per_s: float
    float_ops_per_s: float
    """Operations per second in FP16 or BF16, whichever is faster."""
    source: str


def _make_sheet_device(name: str, gigabytes: float, int8_tops: float, float_tflops: float) -> Device:
    return Device(
        name=name,
        read_bytes_per_s=gigabytes * 1e9,
        int8_ops_per_s=int8_tops * 1e12,
        float_ops_per_s=float_tflops * 1e12,
        source=SHEET_SOURCE,
    )


DEVICES = {
    device.name: device
    for device in (
        _make_sheet_device("h200", 4800, 1979, 989),
        _make_sheet_device("h100-sxm", 3350, 1979, 989),
        _make_sheet_device("h100-pcie", 2000, 1513, 756),
        _make_sheet_device("a100-80gb", 2039, 624, 312),
        _make_sheet_device("l40s", 864, 733, 362),
        _make_sheet_device("l4", 300, 242, 121),
        _make_sheet_device("t4", 320, 130, 65),
        _make_sheet_device("rtx-4090", 1008, 661, 165),
        _make_sheet_device("rtx-3090", 936, 284, 71),
        _make_sheet_device("jetson-orin-nano", 68, 20, 10),
    )
}


def find_device(name: str) -> Device:
    """Return a device by name; UsageError lists the known ones."""
    if name.lower() not in DEVICES:
        hint = (
            f"{did_you_mean(name.lower(), list(DEVICES))} `cpu` measures this machine; named are {', '.join(DEVICES)}."
        )
        raise UsageError(f"There is no device {name!r}.", hint.lstrip())
    return DEVICES[name.lower()]
