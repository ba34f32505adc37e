"""Energy: counters, traces and models; what is missing says why, and what a model gives is called modelled."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench import plugins
from bitnet_bench.measurement.contest import measure_idle_power
from bitnet_bench.measurement.energy.joules import make_energy_metrics
from bitnet_bench.measurement.energy.models import CodecarbonModel, TokenWork
from bitnet_bench.measurement.energy.nvml_meter import NvmlMeter
from bitnet_bench.measurement.energy.rapl import RaplMeter
from bitnet_bench.measurement.energy.trace import TraceMeter
from bitnet_bench.measurement.energy.zeus import ZeusMeter
from bitnet_bench.measurement.readings import Round
from bitnet_bench.runs.records import Measured, Modelled, Unavailable

IDLE = Measured(unit="W", method="recorded", readings=(10.0,))


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def _domain(root: Path, name: str, energy: int, span: int = 1_000_000, limit: int | None = None) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    if limit is not None:
        (folder / "constraint_0_power_limit_uw").write_text(f"{limit}\n")
    return folder


def _round(energy: Measured | Modelled | Unavailable, repetitions: int = 2) -> Round:
    times = {"prefill_s": 0.5, "decode_s": 0.5, "token_s": (0.5,), "metered_s": 2.0}
    counts = {"prompt_tokens": 8, "new_tokens": 2, "repetitions": repetitions, "foreign_share": 0.0}
    return Round.model_validate({**times, **counts, "energy": energy})


def test_rapl_sums_packages_and_unwraps_a_counter(tmp_path: Path) -> None:
    """Two packages add up, one of them passing the end of its range; core domains inside them are not counted twice."""
    first, second = _domain(tmp_path, "intel-rapl:0", 900_000), _domain(tmp_path, "intel-rapl:1", 100_000)
    _domain(tmp_path, "intel-rapl:0:0", 5)
    clock = FakeClock()
    meter = RaplMeter(tmp_path, clock)
    meter.start()
    (first / "energy_uj").write_text("100000\n")
    (second / "energy_uj").write_text("400000\n")
    clock.now = 1.0
    energy = meter.stop()
    assert isinstance(energy, Measured)
    assert energy.readings == pytest.approx((0.5,))


def test_missing_energy_is_not_zero(tmp_path: Path) -> None:
    """A machine without a counter says so; a meter that was never started too, and a counter that stands still."""
    meter = RaplMeter(tmp_path)
    meter.start()
    assert isinstance(meter.stop(), Unavailable)
    _domain(tmp_path, "intel-rapl:0", 1)
    clock = FakeClock()
    still = RaplMeter(tmp_path, clock)
    assert isinstance(still.stop(), Unavailable)
    still.start()
    clock.now = 1.0
    assert isinstance(still.stop(), Unavailable)


def test_a_reading_beyond_the_limit_of_the_device_is_refused(tmp_path: Path) -> None:
    """Half a joule in a millisecond is 500 W, which a package limited to 65 W does not draw."""
    domain, clock = _domain(tmp_path, "intel-rapl:0", 0, limit=65_000_000), FakeClock()
    meter = RaplMeter(tmp_path, clock)
    meter.start()
    (domain / "energy_uj").write_text("500000\n")
    clock.now = 0.001
    found = meter.stop()
    assert isinstance(found, Unavailable)
    assert "65 W" in found.reason


class FakeNvml:
    """A driver with one GPU, whose counter goes up by 30 J at each reading and which may draw 100 W."""

    def __init__(self) -> None:
        self._millijoules = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802, D102 - NVML's
        count._obj.value = 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: ctypes.c_void_p, value: Any) -> int:  # noqa: N802, D102 - NVML's
        self._millijoules += 30_000
        value._obj.value = self._millijoules
        return 0

    def nvmlDeviceGetEnforcedPowerLimit(self, device: ctypes.c_void_p, value: Any) -> int:  # noqa: N802, D102 - NVML's
        value._obj.value = 100_000
        return 0


@pytest.mark.usefixtures("on_the_cpu")
def test_nvml_counts_joules_and_says_what_is_missing() -> None:
    """The difference of two readings is measured; without a driver, and beyond the limit, there is a reason instead."""
    clock = FakeClock()
    meter = NvmlMeter(FakeNvml(), clock)
    meter.start()
    clock.now = 1.0
    assert meter.stop() == Measured(unit="J", method="NVML total energy of all GPUs", readings=(30.0,))
    meter.start()
    clock.now = 1.1
    assert isinstance(meter.stop(), Unavailable), "30 J in 0.1 s are 300 W of 100"


def test_zeus_gives_a_chip_its_own_figure() -> None:
    """On Apple silicon the parts of the chip add up, in millijoules; a board without a figure gives a reason."""

    class Window:
        cpu_energy = None
        gpu_energy = None
        soc_energy: Any = type("Chip", (), {"cpu_total_mj": 2000, "gpu_mj": 500, "efficiency_cores_mj": [700]})()

    class Monitor:
        def begin_window(self, name: str) -> None:
            pass

        def end_window(self, name: str) -> Window:
            return Window()

    clock = FakeClock()
    meter = ZeusMeter(Monitor(), clock)
    meter.start()
    clock.now = 1.0
    energy = meter.stop()
    assert isinstance(energy, Measured)
    assert energy.readings == (2.5,)
    Window.soc_energy = None
    meter.start()
    assert isinstance(meter.stop(), Unavailable)


def test_a_recorded_trace_is_replayed(tmp_path: Path) -> None:
    """Power is integrated between start and stop; idle power comes out of the same trace; its end is no 0."""
    trace, clock = tmp_path / "trace.jsonl", FakeClock()
    rows = [{"s": 0, "w": 10}, {"s": 2, "w": 10}, {"s": 4, "w": 30}, {"s": 6, "w": 30}]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    meter = TraceMeter(trace, clock)
    clock.now = 1.0
    meter.start()
    clock.now = 5.0
    energy = meter.stop()
    assert isinstance(energy, Measured)
    assert energy.readings == (10.0 + 40.0 + 30.0,)
    clock.now = 7.0
    assert isinstance(meter.stop(), Unavailable)


def test_gross_and_net_are_of_an_example() -> None:
    """40 J over 2 s and 2 repetitions are 20 J an example, 10 J net of 10 W idle, and half of that a token of two."""
    rounds = [_round(Measured(unit="J", method="counter", readings=(40.0,))) for _ in range(3)]
    found = make_energy_metrics(rounds, batch=1, idle=IDLE)
    medians = {name: m.median for name, m in found.items() if isinstance(m, Measured)}
    assert medians == {
        "energy_j": 20.0,
        "energy_net_j": 10.0,
        "energy_j_per_token": 10.0,
        "energy_net_j_per_token": 5.0,
        "idle_power_w": 10.0,
    }
    assert "10.0 W" in found["energy_net_j"].method  # type: ignore[union-attr]


def test_net_energy_below_zero_is_no_number() -> None:
    """A machine that drew less than idle gives a reason for net joules, and its gross joules stay."""
    rounds = [_round(Measured(unit="J", method="counter", readings=(4.0,)))]
    found = make_energy_metrics(rounds, batch=1, idle=IDLE)
    assert isinstance(found["energy_j"], Measured)
    assert isinstance(found["energy_net_j"], Unavailable)


def test_modelled_rounds_stay_modelled_and_never_mix() -> None:
    """Joules of a model are modelled in every metric; beside one measured round there is no number at all."""
    modelled, measured = Modelled(unit="J", model="table", value=4.0), Measured(unit="J", method="m", readings=(4.0,))
    found = make_energy_metrics([_round(modelled)] * 2, batch=1, idle=IDLE)
    assert {m.kind for m in found.values()} == {"modelled"}
    assert found["energy_j"].value == 2.0  # type: ignore[union-attr]
    mixed = make_energy_metrics([_round(modelled), _round(measured)], batch=1, idle=IDLE)
    assert {m.kind for m in mixed.values()} == {"unavailable"}


def test_operations_cost_what_the_papers_say() -> None:
    """An int8 addition is 0.007 pJ, an FP16 multiplication with its addition 0.5 pJ (arXiv:2310.11453, 7 nm)."""
    assert TokenWork(ternary_weights=10**12, other_weights=0).joules(1).value == pytest.approx(0.007)
    assert TokenWork(ternary_weights=0, other_weights=10**12).joules(2).value == pytest.approx(1.0)


def test_codecarbon_is_modelled_and_names_its_constant() -> None:
    """Whatever codecarbon rests on, its figure is modelled, with the share that is a constant for memory."""

    class Tracker:
        final_emissions_data: Any = type("Data", (), {"energy_consumed": 1e-6, "ram_energy": 8e-7})()

        def start(self) -> None:
            pass

        def stop(self) -> None:
            pass

    model = CodecarbonModel(Tracker())
    model.start()
    found = model.stop()
    assert isinstance(found, Modelled)
    assert found.value == pytest.approx(3.6)
    assert "80% of the figure" in found.model


def test_idle_power_is_measured_only() -> None:
    """A meter without a counter gives its reason at once; a model is not asked."""
    assert isinstance(measure_idle_power(RaplMeter(Path("/nowhere"))), Unavailable)
    assert isinstance(measure_idle_power(CodecarbonModel()), Unavailable)


MUTATION = """
from bitnet_bench.measurement.energy.models import CodecarbonModel, TokenWork
from bitnet_bench.protocols import EnergyModel, Meter
from bitnet_bench.runs.records import Measured

model: EnergyModel = CodecarbonModel()
meter: Meter = CodecarbonModel()
joules: Measured = TokenWork(1, 1).joules(1)
"""


@pytest.mark.slow  # mypy reads the project anew: a minute of computing
def test_a_model_in_the_place_of_a_meter_does_not_type_check(tmp_path: Path) -> None:
    """mypy refuses a modelled number as a measured one, and a model as a meter, and nothing else of the file."""
    file = tmp_path / "mutation.py"
    file.write_text(MUTATION)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(file)]  # what `make check` knows is taken over
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    errors = [line for line in said.splitlines() if "error:" in line and f"{file.name}:" in line]
    assert [line.split(":")[1] for line in errors] == ["7", "8"], said


def test_every_meter_says_what_it_is() -> None:
    """A plugin that models says so by its attribute, and what its class returns agrees with that."""
    for name in ("rapl", "nvml", "zeus", "trace", "none", "codecarbon"):
        meter = plugins.load_plugin("meters", name)
        returns = type(meter).stop.__annotations__["return"]
        assert ("Modelled" in returns) == getattr(meter, "modelled", False), name
        assert not ("Modelled" in returns and "Measured" in returns), name
