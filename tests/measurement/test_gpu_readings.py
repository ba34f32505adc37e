"""What is read of a GPU while a round runs, with a GPU that is faked: events, clock, energy and memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.machine.nvml import GpuState, find_gpu_handles, read_gpu_state
from bitnet_bench.measurement import gpu_readings, worker
from bitnet_bench.measurement.costs import CandidateInfo, make_costs
from bitnet_bench.measurement.energy.nvml_meter import NvmlMeter
from bitnet_bench.measurement.gpu_readings import CudaReadings, NoGpu
from bitnet_bench.measurement.messages import MeasuringTask, OpenResult
from bitnet_bench.measurement.readings import Round, find_disturbances
from bitnet_bench.measurement.rounds import RoundResults
from bitnet_bench.protocols import NO_OPTIONS, Session
from bitnet_bench.runs.records import Measured, Unavailable


class FakeCuda:
    """`torch.cuda` with a clock that the work moves; what is asked of it is logged."""

    def __init__(self) -> None:
        self.now_ms, self.log = 0.0, list[str]()
        self.free = 90 * 10**9

    def Event(self, enable_timing: bool) -> Any:  # noqa: N802 - torch's name
        """Return an event that notes the time."""
        cuda = self

        class Event:
            def record(self) -> None:
                self.at = cuda.now_ms
                cuda.log.append("record")

            def elapsed_time(self, other: Any) -> float:
                return float(other.at - self.at)

        return Event()

    def synchronize(self) -> None:
        """Do nothing."""
        self.log.append("synchronize")

    def mem_get_info(self) -> tuple[int, int]:
        """Return (free, total)."""
        return self.free, 100 * 10**9

    def reset_peak_memory_stats(self) -> None:
        """Do nothing."""
        self.log.append("reset")


class FakeNvml:
    """A driver with one GPU of 30 W at 1.98 GHz, slowed by heat for 20 ms between two readings."""

    def __init__(self, log: list[str] | None = None, fails: tuple[str, ...] = ()) -> None:
        self.log = [] if log is None else log
        self.fails, self.heat, self.millijoules = fails, 0, 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        """Return the function of NVML: 0 is success."""

        def function(*arguments: Any) -> int:
            if name in self.fails:
                return 3
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                self.log.append("energy")
                self.millijoules += 30_000
                arguments[1]._obj.value = self.millijoules
            if name == "nvmlDeviceGetEnforcedPowerLimit":
                arguments[1]._obj.value = 700_000
            if name == "nvmlDeviceGetCount_v2":
                arguments[0]._obj.value = 2
            if name == "nvmlDeviceGetHandleByUUID":
                return 0 if arguments[0] == b"GPU-1" else 2
            if name == "nvmlDeviceGetClockInfo":
                arguments[2]._obj.value = 1980
            if name == "nvmlDeviceGetCurrentClocksThrottleReasons":
                arguments[1]._obj.value = 0x4 | 0x1
            if name == "nvmlDeviceGetViolationStatus":
                self.heat += 20_000_000
                arguments[2]._obj.violation = self.heat if arguments[1] == 1 else 0
            return 0

        return function


class FakeSession(Session):
    """A session on a fake GPU: a prompt takes it 30 ms, a token 2 ms."""

    max_length = 2048
    tokenizer = range(100)
    before_waiting: Callable[[], None] | None = None

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def prefill(self, batch: Any) -> str:
        """Read the prompts."""
        return self._wait(30.0)

    def decode(self, state: str, steps: int) -> str:
        """Choose *steps* tokens."""
        return self._wait(2.0 * steps)

    def loglikelihood(self, requests: Any, part: Any = None) -> Any:
        """Do nothing: it is not asked."""

    def generate(self, prompts: Any, max_new_tokens: int, stop: Any, part: Any = None) -> Any:
        """Do nothing: it is not asked."""

    def footprint(self) -> tuple[int, int]:
        """Return no bytes."""
        return 0, 0

    def _wait(self, milliseconds: float) -> str:
        self.cuda.now_ms += milliseconds
        if self.before_waiting is not None:
            self.before_waiting()
        return "state"


def contest(cuda: FakeCuda, library: Any, monkeypatch: pytest.MonkeyPatch) -> worker._BatchWorker:
    monkeypatch.setattr(gpu_readings, "find_gpu_uuid", lambda: "GPU-1")
    session = FakeSession(cuda)
    task = MeasuringTask(
        checkpoint=open_checkpoint("demo"),
        precision="ternary",
        backend="",
        options=NO_OPTIONS,
        threads=1,
        meter="",
        prompt_tokens=8,
        new_tokens=5,
    )
    meter = NvmlMeter(library, uuid="GPU-1")
    return worker._BatchWorker(session, task, 1, meter, CudaReadings(session, library, cuda))  # type: ignore[arg-type]


@pytest.fixture
def a_round(monkeypatch: pytest.MonkeyPatch) -> Round:
    """A round of one repetition: any time is long enough."""
    monkeypatch.setattr(worker, "SHORTEST_ROUND_S", 1e-9)
    cuda = FakeCuda()
    return contest(cuda, FakeNvml(cuda.log), monkeypatch).round()


def test_a_round_has_the_gpus_own_times_by_events(a_round: Round) -> None:
    assert a_round.gpu_prefill_s == pytest.approx(0.030)
    assert a_round.gpu_decode_s == pytest.approx(0.008)
    assert Round.model_validate_json(a_round.model_dump_json()) == a_round


def test_a_round_says_what_the_clock_was_and_what_held_it_down(a_round: Round) -> None:
    assert a_round.gpu_frequency_hz == 1.98e9
    assert a_round.gpu_slowed_by == ("power cap",), "idling is no reason"
    assert a_round.gpu_heat_s == pytest.approx(0.04)
    assert a_round.gpu_power_s == 0


def test_energy_is_read_when_the_gpu_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SHORTEST_ROUND_S", 1e-9)
    cuda = FakeCuda()
    contest(cuda, FakeNvml(cuda.log), monkeypatch).round()
    readings = [i for i, what in enumerate(cuda.log) if what == "energy"]
    assert len(readings) == 2
    assert all(cuda.log[i - 1] == "synchronize" for i in readings)


def test_a_warm_up_says_what_the_card_lost_and_forgets_the_peak_of_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SHORTEST_ROUND_S", 1e-9)
    monkeypatch.setattr(worker, "read_device_peak", lambda: 5 * 10**9)
    from bitnet_bench.measurement.peak_memory import PeakMemory

    cuda = FakeCuda()
    found = contest(cuda, FakeNvml(), monkeypatch).warm_up(PeakMemory(), 0, 2 * 10**9)
    assert found.peak_bytes == 5 * 10**9
    assert found.card_bytes == 8 * 10**9
    assert cuda.log[0] == "reset"


def test_a_session_that_waits_for_nothing_has_no_times_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_readings, "find_gpu_uuid", lambda: None)
    readings = CudaReadings(SimpleNamespace(), FakeNvml(), FakeCuda())
    readings.begin()
    assert readings.elapsed_s() is None
    assert readings.read_state() is None, "two GPUs, and nobody knows which"


def test_the_cpu_has_none_of_it() -> None:
    nothing = NoGpu()
    nothing.begin()
    assert (nothing.elapsed_s(), nothing.read_state(), nothing.used_bytes()) == (None, None, None)
    assert gpu_readings.diff_moments(nothing.read_state(), nothing.read_state()) == {}


def test_a_driver_that_says_nothing_leaves_nothing_made_up() -> None:
    silent = ("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetViolationStatus")
    assert read_gpu_state(FakeNvml(fails=silent), None) == GpuState(None, (), None, None)


def test_the_meter_reads_the_gpu_in_use_and_all_of_them_only_if_it_is_not_known() -> None:
    clock = iter([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    meter = NvmlMeter(FakeNvml(), lambda: next(clock), "GPU-1")
    meter.start()
    assert meter.stop() == Measured(unit="J", method="NVML total energy of the GPU", readings=(30.0,))
    meter = NvmlMeter(FakeNvml(), lambda: next(clock), "GPU-of-another-machine")
    meter.start()
    assert meter.stop() == Measured(unit="J", method="NVML total energy of all GPUs", readings=(120.0,)), (
        "two boards, each 30 J a reading further"
    )


def test_without_a_driver_or_a_gpu_there_is_a_reason() -> None:
    assert "no NVIDIA driver" in str(find_gpu_handles(None))
    assert "shows no GPU" in str(find_gpu_handles(FakeNvml(fails=("nvmlInit_v2",))))
    assert "does not open GPU 0" in str(find_gpu_handles(FakeNvml(fails=("nvmlDeviceGetHandleByIndex_v2",))))


def reading(**changes: Any) -> Round:
    fields = {
        "prefill_s": 0.1, "decode_s": 0.1, "token_s": (0.05, 0.05), "prompt_tokens": 8, "new_tokens": 3,
        "repetitions": 1, "metered_s": 1.0, "energy": Unavailable(reason="none"), "foreign_share": 0.0,
    }  # fmt: skip
    return Round(**(fields | changes))


def test_heat_and_a_lower_clock_of_the_gpu_disturb_a_round_and_its_power_limit_does_not() -> None:
    fast = reading(gpu_frequency_hz=1.98e9, gpu_power_s=0.9)
    slow = reading(gpu_frequency_hz=1.2e9, gpu_heat_s=0.5)
    assert find_disturbances(fast, [fast, slow]) == []
    said = find_disturbances(slow, [fast, slow])
    assert said == ["heat slowed the GPU for 0.50 s", "the GPU ran at 1.20 GHz instead of 1.98"]


def test_a_cost_keeps_the_gpus_readings_and_what_computed() -> None:
    from bitnet_bench.checkpoints.locate import open_checkpoint

    one = reading(gpu_prefill_s=0.09, gpu_decode_s=0.08, gpu_frequency_hz=1.98e9, runtime="transformers on a fake")
    turns = RoundResults(rounds={1: [one]}, peak_bytes={1: 10}, card_bytes={1: 12})
    opened = OpenResult(load_s=1, resident_weight_bytes=1, kv_per_token=1, resident_by_kind={}, memory_method="m")
    entry = CandidateInfo("hf", "bf16", open_checkpoint("demo"), None, 1)
    (cost,) = make_costs(entry, opened, turns, Unavailable(reason="none"))
    assert cost.runtime == "transformers on a fake"
    assert cost.conditions["card_bytes"].readings == (12.0,)  # type: ignore[union-attr]
    assert math.isclose(cost.conditions["gpu_decode_s"].readings[0], 0.04)  # type: ignore[union-attr]
    turns = RoundResults(rounds={1: [reading()]}, peak_bytes={1: 10})
    (cost,) = make_costs(entry, opened, turns, Unavailable(reason="none"))
    assert not any(name.startswith(("gpu", "card")) for name in cost.conditions), "nothing of a GPU on the CPU"
