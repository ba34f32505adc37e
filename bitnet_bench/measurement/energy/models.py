"""Compute joules where nothing measures them; results are always `Modelled`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitnet_bench.protocols import EnergyModel, Meter
from bitnet_bench.runs.records import Modelled, Unavailable

PICOJOULES_PER_OPERATION = {
    "int8 add": 0.007,
    "fp16 add": 0.16,
    "fp16 multiply": 0.34,
    "fp32 add": 0.38,
    "fp32 multiply": 1.31,
}
"""Picojoules of an operation at 7 nm, as the BitNet papers assume (arXiv:2310.11453, its energy table; 2402.17764,
section 3)."""
OPERATIONS_MODEL = (
    "operations of the matrix products x published pJ at 7 nm (arXiv:2310.11453): no memory traffic, no idle power"
)


@dataclass(frozen=True)
class TokenWork:
    """The matrix products of one token: with ternary weights (an addition each) and with other weights."""

    ternary_weights: int
    other_weights: int
    precision: str = "fp16"
    """Precision of the weights that are not ternary: fp16, which also stands for bf16, or fp32."""

    def joules(self, tokens: int) -> Modelled:
        """Return the joules of *tokens* tokens by published energies of single operations."""
        other = (
            PICOJOULES_PER_OPERATION[f"{self.precision} add"] + PICOJOULES_PER_OPERATION[f"{self.precision} multiply"]
        )
        picojoules = self.ternary_weights * PICOJOULES_PER_OPERATION["int8 add"] + self.other_weights * other
        return Modelled(unit="J", model=OPERATIONS_MODEL, value=tokens * picojoules * 1e-12)


class NoMeter(Meter):
    """Reads nothing: used where only a model was requested."""

    def why_absent(self) -> str:
        """Return that nothing is read."""
        return self.stop().reason

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> Unavailable:
        """Return that nothing was read."""
        return Unavailable(reason="energy was not to be measured")


class CodecarbonModel(EnergyModel):
    """Reads codecarbon's figure, which is modelled in every case: it adds a constant for memory to every reading."""

    def __init__(self, tracker: Any = None) -> None:
        self._tracker = tracker
        self._reason = "it was not started"

    def start(self) -> None:
        """Begin to track this machine."""
        try:
            if self._tracker is None:
                from codecarbon import OfflineEmissionsTracker

                self._tracker = OfflineEmissionsTracker(
                    country_iso_code="KOR", save_to_file=False, log_level="critical", allow_multiple_runs=True
                )
            self._tracker.start()
        except ImportError:
            self._reason = "codecarbon is not installed (pip install 'bitnet-bench[codecarbon]')"

    def stop(self) -> Modelled | Unavailable:
        """Return joules, with the share that is the constant for memory."""
        if self._tracker is None:
            return Unavailable(reason=self._reason)
        self._tracker.stop()
        data, self._tracker = self._tracker.final_emissions_data, None
        if not data.energy_consumed > 0:
            return Unavailable(reason="codecarbon gives no energy for so short a time")
        memory = data.ram_energy / data.energy_consumed
        model = f"codecarbon: load x a table, and a constant for memory ({memory:.0%} of the figure)"
        return Modelled(unit="J", model=model, value=3.6e6 * data.energy_consumed)
