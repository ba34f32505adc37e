"""The former name of `bitnet_bench.protocols`."""

from __future__ import annotations

from typing import Any

from bitnet_bench.moved import find_moved

_PLACES = {
    **dict.fromkeys(
        (
            "ALL",
            "NO_OPTIONS",
            "Answer",
            "CheckedBackend",
            "EnergyModel",
            "InferenceBackend",
            "Ingredients",
            "Meter",
            "Part",
            "Progress",
            "RuntimeOptions",
            "Session",
            "Steps",
            "TrainingBackend",
            "in_order",
        ),
        "bitnet_bench.protocols",
    ),
    "MARGIN": "bitnet_bench.comparison.results",
    "Report": "bitnet_bench.reports.sections",
    "ReportOptions": "bitnet_bench.reports.sections",
}
_NAMES = {
    "ALL": "ALL_REQUESTS",
    "Ingredients": "TrainingInputs",
    "Part": "Share",
    "Steps": "ProgressDisplay",
    "in_order": "sort_answers",
}


def __getattr__(name: str) -> Any:
    """Return *name* from where it is now."""
    return find_moved("bitnet_bench.ports", name, _PLACES, _NAMES)
