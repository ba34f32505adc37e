"""With which words measuring refuses, and why a number is absent: every reason is shown to a reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.measurement.energy.joules import make_energy_metrics
from bitnet_bench.measurement.energy.nvml_meter import NvmlMeter
from bitnet_bench.measurement.energy.trace import TraceMeter, integrate_trace
from bitnet_bench.measurement.planning import plan_shape
from bitnet_bench.measurement.readings import Round
from bitnet_bench.runs.records import Measured, Modelled, Unavailable

MODELLED = Modelled(unit="J", model="table", value=4.0)
MEASURED = Measured(unit="J", method="m", readings=(4.0,))
ABSENT = Unavailable(reason="no counter")


def write_trace(folder: Path, text: str) -> Path:
    (folder / "trace.jsonl").write_text(text, encoding="utf-8")
    return folder / "trace.jsonl"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"s": 1}', "w: Field required"),
        ('{"s": 1, "w": 2, "x": 3}', "x is not known here"),
        ('{"s": "a", "w": 2}', "s must be a valid number, unable to parse string as a number, not 'a'"),
    ],
)
def test_a_line_of_a_power_trace_is_refused_by_its_number(line: str, why: str, tmp_path: Path) -> None:
    """Blank lines count, and the hint says what a line holds."""
    file = write_trace(tmp_path, f'{{"s": 0, "w": 1}}\n\n{line}\n')
    with pytest.raises(BenchError) as caught:
        TraceMeter(file)
    assert caught.value.problem == f"Line 3 of {file} cannot be read: {why}."
    assert caught.value.hint == ('BITNET_BENCH_POWER_TRACE names a file with {"s": seconds, "w": watts} in each line.')


def test_a_trace_says_why_it_has_no_joules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is named, it was not started, or it ends too early; else it has them from its start on."""
    monkeypatch.delenv("BITNET_BENCH_POWER_TRACE", raising=False)
    nothing = TraceMeter()
    assert nothing.why_absent() == "no trace is named (BITNET_BENCH_POWER_TRACE)"
    assert nothing.stop() == Unavailable(reason="no trace is named (BITNET_BENCH_POWER_TRACE)")
    file = write_trace(tmp_path, '{"s": 0, "w": 10}\n{"s": 4, "w": 30}\n')
    meter = TraceMeter(file, iter([100.0, 101.0, 103.0, 105.5]).__next__)
    assert meter.why_absent() is None
    assert meter.stop() == Unavailable(reason="it was not started")
    meter.start()
    found: Any = meter.stop()
    assert (found.kind, found.unit, found.readings) == ("measured", "J", (40.0,))  # 20 W on average for 2 s
    assert "recorded trace trace.jsonl" in found.method
    assert meter.stop() == Unavailable(reason="the trace ends after 4 s, the interval after 5.5 s")


@pytest.mark.parametrize(
    ("begin", "end", "joules"), [(0, 4, 80.0), (0, 2, 30.0), (3, 4, 27.5), (2, 2, 0.0), (3, 9, 27.5)]
)
def test_joules_are_the_area_below_the_watts(begin: float, end: float, joules: float) -> None:
    """From 10 W to 30 W in 4 s: 5 W more each second."""
    assert integrate_trace([(0.0, 10.0), (4.0, 30.0)], begin, end) == pytest.approx(joules)


def test_a_gpu_that_counts_no_energy_says_so() -> None:
    """Whatever it is asked."""

    class Old:
        """A driver without such a counter."""

        def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, value: Any) -> int:  # noqa: N802 - NVIDIA's name
            """Return that it is not supported."""
            return 3

    meter = NvmlMeter.__new__(NvmlMeter)
    meter._library, meter._devices, meter._reason, meter._before = Old(), ["gpu"], None, None
    meter._clock, meter._began = lambda: 0.0, 0.0
    reason = "this GPU counts no energy (older than Volta, or not permitted)"
    assert meter.why_absent() == reason
    assert meter.stop() == Unavailable(reason=reason)


@pytest.mark.parametrize(("preset", "model"), [(None, None), ("bitnet-2b-4t", "demo")])
def test_a_plan_is_of_one_shape(preset: str | None, model: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        plan_shape(preset, model, 8, 1, "l4")
    assert caught.value.problem == "A plan is of a `preset` or of a `model`."
    assert caught.value.hint == "Such as `preset=bitnet-2b-4t`."


@pytest.mark.parametrize(
    ("readings", "reason"),
    [
        ((MEASURED, MODELLED), "some rounds were measured and others modelled"),
        ((MEASURED, ABSENT), "no counter"),
        ((ABSENT, MODELLED), "no counter"),
        ((ABSENT, Unavailable(reason="later")), "no counter"),
    ],
)
def test_rounds_of_several_kinds_have_no_joules(readings: tuple[Any, ...], reason: str) -> None:
    """The first reason that a round gives, else that the kinds differ."""
    fields = {"prefill_s": 1, "decode_s": 1, "token_s": (1,), "prompt_tokens": 4, "new_tokens": 2, "repetitions": 1}
    rounds = [Round(**fields, metered_s=2, foreign_share=0, energy=one) for one in readings]  # type: ignore[arg-type]
    assert make_energy_metrics(rounds, 1, ABSENT) == {"energy_j": Unavailable(reason=reason)}
