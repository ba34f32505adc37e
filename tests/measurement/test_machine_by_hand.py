"""The state of a machine from files written for it, thresholds at their edges, plans of rounds counted by hand."""

from __future__ import annotations

import contextlib
import io
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.measurement import gpu_readings, machine_state, peak_memory
from bitnet_bench.measurement.admission import Admission, QueuedCandidate, load_candidates
from bitnet_bench.measurement.budget import Budget, Countdown, OutOfBudgetError, format_duration, parse_budget
from bitnet_bench.measurement.contest import measure_idle_power
from bitnet_bench.measurement.energy.limits import make_measured_joules
from bitnet_bench.measurement.energy.models import CodecarbonModel, NoMeter
from bitnet_bench.measurement.energy.rapl import RaplMeter
from bitnet_bench.measurement.energy.trace import TraceMeter, integrate_trace
from bitnet_bench.measurement.energy.zeus import ZeusMeter, sum_window_joules
from bitnet_bench.measurement.forecast import Forecast, LayerRates
from bitnet_bench.measurement.machine_state import MachineMoment, diff_moments, read_moment
from bitnet_bench.measurement.peak_memory import PeakMemory, read_memory_bytes
from bitnet_bench.measurement.readings import Round, find_disturbances, find_disturbed_rounds
from bitnet_bench.measurement.round_plan import (
    Allotment,
    RoundPlan,
    allot_shares,
    count_fitting_rounds,
    count_starting_rounds,
    plan_rounds,
)
from bitnet_bench.measurement.scenario import Scenario, find_preset, read_budget
from bitnet_bench.runs.records import Measured, Modelled, Unavailable


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def moment(**fields: Any) -> MachineMoment:
    given = {"time_s": 0.0, "foreign_s": 0.0, "stolen_s": 0.0, "frequency_hz": 1e9, "throttled": 0, "swapped_bytes": 0}
    return MachineMoment(**{**given, **fields})


def test_two_moments_by_hand() -> None:
    """Ten seconds of four cores are 40: 10 of others are a quarter, 2 stolen a twentieth; the higher clock counts."""
    before = moment(time_s=5.0, foreign_s=100.0, stolen_s=7.0, frequency_hz=2e9, throttled=3, swapped_bytes=4096)
    after = moment(time_s=15.0, foreign_s=110.0, stolen_s=9.0, frequency_hz=3e9, throttled=5, swapped_bytes=12288)
    assert diff_moments(before, after, 4) == {
        "foreign_share": 0.25, "stolen_share": 0.05, "frequency_hz": 3e9, "throttled": 2, "swapped_bytes": 8192
    }  # fmt: skip


def test_shares_stay_between_none_and_all() -> None:
    """Counters of the kernel go in steps: more than all of the cores, or less than nothing, is all and nothing."""
    more = diff_moments(moment(), moment(time_s=1.0, foreign_s=9.0, stolen_s=9.0), 2)
    less = diff_moments(moment(foreign_s=1.0, stolen_s=1.0), moment(time_s=1.0), 2)
    assert (more["foreign_share"], more["stolen_share"]) == (1.0, 1.0)
    assert (less["foreign_share"], less["stolen_share"]) == (0.0, 0.0)


@pytest.mark.parametrize("known", ["before", "after", "neither"])
def test_what_a_machine_does_not_count_is_not_zero(known: str) -> None:
    """A counter that one moment lacks has no difference; a clock that is known once is that one."""
    none: dict[str, Any] = dict.fromkeys(("stolen_s", "frequency_hz", "throttled", "swapped_bytes"))
    before = moment() if known == "before" else moment(**none)
    after = moment(time_s=1.0) if known == "after" else moment(time_s=1.0, **none)
    found = diff_moments(before, after, 1)
    assert [found[name] for name in ("stolen_share", "throttled", "swapped_bytes")] == [None, None, None]
    assert found["frequency_hz"] == (None if known == "neither" else 1e9)


def test_a_machine_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    """The mean of two cores' clocks in kHz, the sum of their throttlings, pages in and out."""
    proc, cpus = tmp_path / "proc", tmp_path / "cpu"
    for core, (clock, events) in enumerate(((2_000_000, 3), (3_000_000, 4))):
        write(cpus, f"cpu{core}/cpufreq/scaling_cur_freq", f"{clock}\n")
        write(cpus, f"cpu{core}/thermal_throttle/core_throttle_count", f"{events}\n")
        write(cpus, f"cpu{core}/thermal_throttle/package_throttle_count", "10\n")
    write(proc, "cpuinfo", "cpu MHz\t\t: 1.0\n")
    write(proc, "vmstat", "nr_free_pages 9\npswpin 2\npswpout 3\n")
    found = read_moment(proc, cpus)
    assert (found.frequency_hz, found.throttled) == (2.5e9, 27)
    assert found.swapped_bytes == 5 * os.sysconf("SC_PAGE_SIZE")


def test_a_machine_without_cpufreq_says_its_clock_in_cpuinfo(tmp_path: Path) -> None:
    """In MHz, a line for each core; a file that holds no number is no clock."""
    write(tmp_path, "proc/cpuinfo", "processor : 0\ncpu MHz : 1500.5\nprocessor : 1\ncpu MHz : 2500.5\n")
    write(tmp_path, "proc/vmstat", "nr_free_pages 9\n")
    write(tmp_path, "cpu/cpu0/cpufreq/scaling_cur_freq", "unknown\n")
    found = read_moment(tmp_path / "proc", tmp_path / "cpu")
    assert found.frequency_hz == pytest.approx(2000.5e6)
    assert found.throttled is None
    assert found.swapped_bytes == 0


def test_a_machine_that_shows_nothing_has_nothing(tmp_path: Path) -> None:
    """No file, or files of another form, are None and no error."""
    found = read_moment(tmp_path, tmp_path)
    assert (found.frequency_hz, found.throttled, found.swapped_bytes) == (None, None, None)
    write(tmp_path, "cpuinfo", "cpu MHz : fast\n")
    write(tmp_path, "vmstat", "pswpin many\n")
    found = read_moment(tmp_path, tmp_path)
    assert (found.frequency_hz, found.swapped_bytes) == (None, None)


def times(user: float, system: float, **more: float) -> Any:
    return SimpleNamespace(user=user, system=system, **more)


def test_foreign_work_is_that_of_all_less_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 + 20 s of the machine, 3 + 1 of this process and 5 + 2 of a child; one that has just ended counts as none."""

    def child(*used: float) -> Any:
        def cpu_times() -> Any:
            if not used:
                raise psutil.NoSuchProcess(1)
            return times(*used)

        return SimpleNamespace(cpu_times=cpu_times)

    asked = []
    own = child(3.0, 1.0)
    own.children = lambda recursive: asked.append(recursive) or [child(5.0, 2.0), child()]
    monkeypatch.setattr(psutil, "Process", lambda: own)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times(100.0, 20.0, steal=8.0))
    found = read_moment()
    assert (found.foreign_s, found.stolen_s) == (109.0, 8.0)
    assert asked == [True]
    monkeypatch.setattr(psutil, "cpu_times", lambda: times(100.0, 20.0))
    assert read_moment().stolen_s is None


def test_the_pace_is_the_best_try_of_the_slowest_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries of 3, 2 and 4 s are 2 s; of threads of 2 and of 5 s the pace is 5."""
    ticks = iter([0.0, 3.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(machine_state, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert machine_state._measure_thread_pace(0) == 2.0
    monkeypatch.setattr(machine_state, "_measure_thread_pace", lambda thread: [2.0, 5.0, 3.0][thread])
    assert machine_state.measure_pace(3) == 5.0


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 cores those of the affinity; all of them where there is none; one where nobody knows."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8} if pid == 0 else set(), raising=False)
    assert machine_state.count_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine_state.count_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine_state.count_cores() == 1


SMAPS = """\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/python
Size:                328 kB
Rss:                 300 kB
Pss:                  30 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0 
Rss:                 200 kB
Pss:                 100 kB
Pss_Dirty:            90 kB
7f1000000000-7f1000100000 r--p 00000000 08:02 99  /models/weights.safetensors
Rss:                   8 kB
Pss:                   2 kB
"""  # noqa: W291 - as the kernel writes it


def test_memory_is_files_whole_and_the_rest_by_its_share(tmp_path: Path) -> None:
    """300 and 8 kB of files, 100 kB of the rest."""
    write(tmp_path, "7/smaps", SMAPS)
    assert read_memory_bytes(7, tmp_path) == (300 + 100 + 8) * 1024
    assert read_memory_bytes(8, tmp_path) is None
    write(tmp_path, "9/smaps", "")
    assert read_memory_bytes(9, tmp_path) is None


def test_the_peak_is_of_this_process_and_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most of what was read; a child that has just ended takes nothing; without PSS the largest resident memory."""
    sizes: dict[Any, int | None] = {"self": 100, 5: 20, 6: None}
    monkeypatch.setattr(peak_memory, "read_memory_bytes", lambda pid="self": sizes[pid])
    monkeypatch.setattr(peak_memory, "_list_children", lambda: [5, 6])
    monkeypatch.setattr(peak_memory, "read_device_peak", lambda: None)
    memory = PeakMemory()
    assert memory.read() == 120
    sizes["self"] = 50
    assert memory.read() == 120
    with memory.watch_peak():
        sizes["self"] = 60
    assert memory.read() == 80, "what was before is forgotten"
    assert memory.method == "peak of the warm-up (mapped files whole, the rest as PSS) over the process before loading"
    sizes["self"] = None
    monkeypatch.setattr(peak_memory.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7))
    monkeypatch.setattr(peak_memory.sys, "platform", "linux")
    assert PeakMemory().read() == 7 * 1024
    monkeypatch.setattr(peak_memory.sys, "platform", "darwin")
    assert PeakMemory().read() == 7
    assert memory.method == "largest resident memory over the process before loading"
    monkeypatch.setattr(peak_memory, "read_device_peak", lambda: 0)
    assert memory.method == "peak of torch's allocator on the GPU in the warm-up"


@pytest.mark.parametrize(
    ("available", "begun", "most", "peak"), [(0, 1, 9, None), (1, 0, 9, None), (1, 1, 0, None), (1, 1, 9, 9)]
)
def test_the_peak_of_a_gpu_is_known_once_something_is_on_it(
    available: int, begun: int, most: int, peak: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torch, without a GPU, before its first use and with nothing allocated there is none."""
    cuda = SimpleNamespace(
        is_available=lambda: bool(available), is_initialized=lambda: bool(begun), max_memory_allocated=lambda: most
    )
    monkeypatch.setitem(peak_memory.sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert peak_memory.read_device_peak() == peak
    monkeypatch.delitem(peak_memory.sys.modules, "torch")
    assert peak_memory.read_device_peak() is None


def reading(**fields: Any) -> Round:
    given = {
        "prefill_s": 0.1, "decode_s": 0.1, "token_s": (0.05, 0.05), "prompt_tokens": 8, "new_tokens": 3,
        "repetitions": 1, "metered_s": 10.0, "energy": Unavailable(reason="none"), "foreign_share": 0.0,
    }  # fmt: skip
    return Round(**(given | fields))


@pytest.mark.parametrize(
    ("quiet", "disturbed", "said"),
    [
        ({"foreign_share": 0.1}, {"foreign_share": 0.11}, "other processes used 11% of the cores"),
        ({"stolen_share": 0.02}, {"stolen_share": 0.021}, "other machines of the host took 2% of the cores"),
        ({"throttled": 0}, {"throttled": 1}, "1 thermal events slowed the processor"),
        ({"swapped_bytes": 0}, {"swapped_bytes": 1 << 19}, "0.5 MiB were swapped"),
        ({"frequency_hz": 2.7e9}, {"frequency_hz": 2.69e9}, "the cores ran at 2.69 GHz instead of 3.00"),
        ({"gpu_heat_s": 0.1}, {"gpu_heat_s": 0.11}, "heat slowed the GPU for 0.11 s"),
        ({"gpu_frequency_hz": 1.8e9}, {"gpu_frequency_hz": 1.79e9}, "the GPU ran at 1.79 GHz instead of 2.00"),
        ({"pace_s": 0.00999}, {"pace_s": 0.0101}, "the cores did 89% of the work of the quietest round"),
    ],
)
def test_a_disturbance_begins_beyond_its_threshold(quiet: dict[str, Any], disturbed: dict[str, Any], said: str) -> None:
    """At it a round is quiet; one reading in doubt is one reason; rounds are held to the fastest of all."""
    others = [
        reading(frequency_hz=2e9, gpu_frequency_hz=1e9, pace_s=0.02),
        reading(frequency_hz=3e9, gpu_frequency_hz=2e9, pace_s=0.009),
        reading(),
    ]
    assert find_disturbances(reading(**quiet), others) == []
    assert find_disturbances(reading(**disturbed), others) == [said]
    assert find_disturbed_rounds([reading(**quiet), reading(**disturbed)], others) == {1: [said]}
    assert find_disturbances(reading(), []) == []


def test_shares_by_hand() -> None:
    """Of 30 s three get 10 each, and what a quick one leaves goes on; what fits once runs once, or never."""
    assert allot_shares({}, 30.0, 3) == {}
    assert allot_shares({"a": 1.0, "b": 2.0, "c": 3.0}, 30.0, 3) == {
        "a": Allotment("often", 10.0),
        "b": Allotment("often", 13.5),
        "c": Allotment("often", 21.0),
    }
    assert allot_shares({"slow": 9.0, "quick": 2.0}, 16.0, 3) == {
        "quick": Allotment("often", 8.0),
        "slow": Allotment("once", 10.0),
    }
    assert allot_shares({"slow": 11.0, "quick": 2.0}, 16.0, 3)["slow"] == Allotment("never", 10.0)
    assert allot_shares({"a": 2.0, "b": 2.0}, -1.0, 3) == {"a": Allotment("never", 0.0), "b": Allotment("never", 0.0)}
    assert allot_shares({"exact": 3.0}, 9.0, 3) == {"exact": Allotment("often", 9.0)}
    assert allot_shares({"once": 3.0}, 3.0, 3) == {"once": Allotment("once", 3.0)}


@pytest.mark.parametrize(
    ("most", "least", "round_s", "left_s", "plan"),
    [
        (10, 3, 1.0, 100.0, RoundPlan(7, 10)),  # 3 + 7 / 2.25 = 6.1
        (5, 3, 1.0, 100.0, RoundPlan(4, 5)),
        (10, 3, 10.0, 55.0, RoundPlan(4, 5)),
        (10, 9, 1.0, 100.0, RoundPlan(9, 10)),
        (10, 3, 1.0, 0.5, RoundPlan(1, 1)),
        (1, 3, 1.0, 100.0, RoundPlan(1, 1)),
        (40, 3, 1.0, 100.0, RoundPlan(20, 40)),
        (10, 3, 0.0, 1e-3, RoundPlan(7, 10)),
    ],
)
def test_plans_of_rounds_by_hand(most: int, least: int, round_s: float, left_s: float, plan: RoundPlan) -> None:
    """As many as fit and are asked for; the earliest end is 3 and a 2.25th of the others, but the least."""
    assert plan_rounds(most, least, round_s, left_s) == plan


@pytest.mark.parametrize(
    ("done", "narrow", "more"),
    [
        (0, False, 10),
        (1, False, 9),
        (1, True, (1 + 8 / 1.5 + 1 + 5 * 1.5) / 2),
        (2, True, (1 + 7 / 1.5 + 1 + 4 * 1.5) / 2),
        (3, True, 4),
        (6, True, 1),
        (7, True, 3),
        (12, False, 0),
    ],
)
def test_rounds_to_come_by_hand(done: int, narrow: bool, more: float) -> None:
    """Of ten, at the earliest seven: wide intervals take all; after three rounds narrow ones end at seven."""
    assert RoundPlan(7, 10).expect_rounds(done, narrow) == pytest.approx(more)
    assert RoundPlan(2, 3).expect_rounds(1, narrow=True) == 1


@pytest.mark.parametrize(
    ("round_s", "left_s", "fits"), [(2.0, 9.9, 4), (2.0, 10.0, 5), (2.0, -1.0, 0), (0.0, 1e-6, 1), (1e-9, 2e-6, 2)]
)
def test_rounds_that_fit(round_s: float, left_s: float, fits: int) -> None:
    """Whole rounds; one is taken to last a microsecond at least."""
    assert count_fitting_rounds(round_s, left_s) == fits


@pytest.mark.parametrize(
    ("round_s", "mean_s", "left_s", "begin"), [(2, 3, 1.9, 0), (2, 3, 2, 1), (2, 3, 4.9, 1), (2, 3, 5, 2), (0, 0, 0, 1)]
)
def test_rounds_that_begin(round_s: float, mean_s: float, left_s: float, begin: int) -> None:
    """One begins while a round is left, and takes the mean."""
    assert count_starting_rounds(round_s, mean_s, left_s) == begin


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.44, "0.44 s"), (9.94, "9.9 s"), (10.0, "10 s"), (119.4, "119 s"), (120.0, "2 min"), (5399.0, "90 min"),
        (5400.0, "1.5 h"), (16560.0, "4.6 h"),
    ],
)  # fmt: skip
def test_durations_in_words(seconds: float, shown: str) -> None:
    """Seconds below two minutes, minutes below ninety, then hours."""
    assert format_duration(seconds) == shown


def test_a_budget_by_hand() -> None:
    """Of 40 s 1.2 are for the closing and 4 are grace; of 100 s no more than 2 close."""
    now = [13.0]
    budget = Budget(40.0, lambda: now[0], 3.0)
    assert budget.elapsed_s == 10.0
    assert budget.closing_s == pytest.approx(1.2)
    assert budget.left_s == pytest.approx(28.8)
    assert budget.hard_left_s == pytest.approx(32.8)
    assert budget.left_until_s(0.5) == pytest.approx(10.0)
    assert budget.left_until_s(1.0) == pytest.approx(28.8)
    assert Budget(100.0, lambda: 0.0).closing_s == 2.0
    assert budget.describe() == "budget of 40 s"
    now[0] = 99.0
    assert budget.left_s < 0
    assert budget.hard_left_s == 0.0
    begun = Budget.starting_now(5.0, lambda: now[0])
    assert (begun.seconds, begun.began_s, begun.elapsed_s) == (5.0, 99.0, 0.0)


def test_a_countdown_by_hand() -> None:
    """Seconds so far, of those that are expected, which are always more; the last note stays until there is another."""
    now, told = [0.0], list[tuple[int, int, str]]()
    countdown = Countdown(Budget(100.0, lambda: now[0]), lambda done, total, note="": told.append((done, total, note)))
    countdown.show_progress("load")
    now[0] = 10.9
    countdown.show_progress()
    countdown.set_expected(20.4)
    countdown.show_progress("run")
    countdown.set_expected(-5.0)
    countdown.show_progress()
    now[0] = 30.0
    countdown.show_progress()
    countdown.finish()
    assert told == [
        (0, 100, "load"), (10, 100, "load"), (10, 32, "run"), (10, 12, "run"), (30, 31, "run"), (30, 30, "")
    ]  # fmt: skip
    assert countdown.expected_s == pytest.approx(11.9)
    Countdown(Budget(100.0, lambda: 0.2), lambda done, total, note="": told.append((done, total, note))).finish()
    assert told[-1] == (1, 1, "")
    short = Countdown(Budget(10.0, lambda: 0.0), lambda done, total, note="": None)
    short.set_expected(5.0)
    assert short.expected_s == pytest.approx(5.3), "three hundredths of ten seconds close it"


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2.0), ("2 m", 120.0), ("0.5h", 1800.0)])
def test_budgets_as_a_setting(text: str, seconds: float) -> None:
    """Text and seconds; what is neither is told with an example."""
    assert parse_budget(text) == read_budget(text) == seconds
    assert read_budget(7.0) == 7.0
    with pytest.raises(UsageError, match="'soon' is not a budget"):
        parse_budget("soon")
    with pytest.raises(
        ValueError, match=r"'soon' is not a budget: Give a number with s, m or h, such as 90s, 3m or 1h$"
    ):
        read_budget("soon")


def test_scenarios_by_hand() -> None:
    """Three rounds make an interval, unless fewer are asked for; several batches take the place of one."""
    assert Scenario(rounds=10).fewest_rounds == 3
    assert Scenario(rounds=2).fewest_rounds == 2
    assert Scenario(batch=4).each_batch == (4,)
    assert Scenario(batch=4, batches=(1, 8)).each_batch == (1, 8)
    assert find_preset("summarize") == (1024, 128)
    with pytest.raises(UsageError, match="There is no scenario 'sing'") as error:
        find_preset("sing")
    assert error.value.hint == "There are chat, summarize, classify."


def loadable(name: str, seconds: float, clock: list[float], within: list[tuple[str, float]], fails: Any = None) -> Any:
    def load(within_s: float) -> None:
        within.append((name, round(within_s, 6)))
        clock[0] += seconds
        if fails:
            raise fails

    return SimpleNamespace(name=name, load=load)


def admit(candidates: list[tuple[Any, float | None, int, str]], budget_s: float, clock: list[float]) -> list[Admission]:
    queued = [
        QueuedCandidate(
            one,
            lambda run_s=run_s: None if run_s is None else Forecast("fp16", run_s, LayerRates(1e9, 1)),
            size,
            (kind, "hf"),
        )
        for one, run_s, size, kind in candidates
    ]
    return load_candidates(queued, Countdown(Budget(budget_s, lambda: clock[0]), lambda done, total, note="": None))


def test_loading_by_hand() -> None:
    """70 of 100 s are for loading, and each that waits keeps 10: the smallest first, then what the forecast says."""
    clock, within = [0.0], list[tuple[str, float]]()
    big, small, slow = (loadable(name, 5.0, clock, within) for name in ("big", "small", "slow"))
    found = admit([(slow, 1.0, 1, "a"), (big, None, 9, "b"), (small, None, 2, "c")], 100.0, clock)
    assert within == [("small", 50.0), ("big", 55.0), ("slow", 60.0)]
    assert all(one.is_running for one in found)
    assert found[0] == Admission(None, None, None)


def test_too_little_time_to_load() -> None:
    """Below half a second nothing is tried: of two with 1.35 s each would have 0.67 s, the second then nothing."""
    clock, within = [0.0], list[tuple[str, float]]()
    both = [(loadable(name, 1.3, clock, within), None, size, name) for size, name in enumerate("ab")]
    first, second = admit(both, 2.0, clock)
    assert within == [("a", 1.2)]
    assert first.is_running
    assert second.left_out == "No time was left for it in the budget of 2 s."


@pytest.mark.parametrize(("run_s", "runs"), [(117.0, True), (118.0, False)])
def test_a_forecast_may_exceed_its_share_by_a_fifth(run_s: float, runs: bool) -> None:
    """Of 100 s 98 are left to one that is alone: 117.6 s are tried, and more are not."""
    clock, within = [0.0], list[tuple[str, float]]()
    (found,) = admit([(loadable("a", 1.0, clock, within), run_s, 1, "a")], 100.0, clock)
    assert found.is_running == runs
    assert bool(within) == runs


def test_what_loading_ends_with() -> None:
    """Time that is over is no failure, a failure is an error; neither tells how long another of its kind takes."""
    clock, within = [0.0], list[tuple[str, float]]()
    failed = BenchError("It is broken.", "Mend it.")
    broken = loadable("broken", 1.0, clock, within, failed)
    late = loadable("late", 30.0, clock, within, OutOfBudgetError("It took long."))
    again = loadable("again", 1.0, clock, within)
    found = admit([(broken, None, 1, "x"), (late, None, 2, "y"), (again, None, 3, "y")], 100.0, clock)
    assert found[0].error is failed
    assert not found[0].is_running
    assert (found[1].left_out, found[1].error) == ("It took long.", None)
    assert found[2].is_running, "39 s are left, and the other took 30"
    assert OutOfBudgetError("It took long.").hint == "Give a longer budget to measure it."


@pytest.mark.parametrize(
    ("joules", "seconds", "limit", "reason"),
    [
        (150.0, 1.0, 100.0, None),
        (151.0, 1.0, 100.0, "the counter's 151.0 W are not within the device's limit of 100 W"),
        (0.0, 1.0, 100.0, "the counter's 0.0 W are not within the device's limit of 100 W"),
        (-5.0, 2.0, None, "the counter's -2.5 W are not within the 5000 W of any machine"),
        (5000.0, 1.0, None, None),
        (5001.0, 1.0, None, "the counter's 5001.0 W are not within the 5000 W of any machine"),
        (1.0, 0.0, None, "the meter's interval has no length"),
        (1.0, -1.0, None, "the meter's interval has no length"),
        (0.5, 0.5, 0.0, None),
    ],
)
def test_joules_within_what_a_device_can_draw(
    joules: float, seconds: float, limit: float | None, reason: str | None
) -> None:
    """More than nothing, and no more than one and a half times its limit, or than any machine's."""
    found = make_measured_joules(joules, seconds, limit, "m")
    if reason is None:
        assert found == Measured(unit="J", method="m", readings=(joules,))
    else:
        assert isinstance(found, Unavailable)
        assert found.reason.startswith(reason)


def rapl(root: Path, name: str, energy: str = "1000000", **files: int) -> Path:
    write(root, f"{name}/energy_uj", f"{energy}\n")
    write(root, f"{name}/max_energy_range_uj", "50000000\n")
    for file, value in files.items():
        write(root, f"{name}/{file}", f"{value}\n")
    return root / name


def run(meter: Any, clock: list[float], seconds: float, change: Any = None) -> Any:
    meter.start()
    clock[0] += seconds
    if change:
        change()
    return meter.stop()


def test_the_limit_of_packages_is_the_sum_of_their_highest(tmp_path: Path) -> None:
    """Two packages of 20 W (of 10 and 20) and 30 W may draw 75 W for a moment; one without a limit leaves none."""
    clock = [0.0]
    first = rapl(
        tmp_path, "intel-rapl:0", constraint_0_power_limit_uw=10_000_000, constraint_1_power_limit_uw=20_000_000
    )
    rapl(tmp_path, "intel-rapl:1", constraint_0_power_limit_uw=30_000_000)
    meter = RaplMeter(tmp_path, lambda: clock[0])
    assert meter.why_absent() is None
    found = run(meter, clock, 0.2, lambda: write(first, "energy_uj", "15800000"))
    assert found.method == "RAPL package domains (powercap)"
    assert found.readings == (pytest.approx(14.8),)
    write(first, "energy_uj", "1000000")
    found = run(meter, clock, 0.2, lambda: write(first, "energy_uj", "16200000"))
    assert "76.0 W are not within the device's limit of 50 W" in found.reason
    (tmp_path / "intel-rapl:1" / "constraint_0_power_limit_uw").write_text("0\n")
    write(first, "energy_uj", "1000000")
    assert isinstance(run(meter, clock, 0.2, lambda: write(first, "energy_uj", "16200000")), Measured)


def test_a_counter_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None there, none of a form that is known, and one for root alone."""
    absent = RaplMeter(tmp_path)
    assert absent.why_absent() == "this machine shows no energy counter (no /sys/class/powercap/intel-rapl:*)"
    assert absent.stop().reason == "it was not started"  # type: ignore[union-attr]
    rapl(tmp_path, "intel-rapl:0", energy="much")
    odd = RaplMeter(tmp_path)
    assert str(odd.why_absent()).startswith("the energy counters cannot be read: invalid literal")
    odd.start()
    assert odd.stop().reason.startswith("the energy counters cannot be read")  # type: ignore[union-attr]

    def refuse(self: Path, *given: Any, **more: Any) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert str(odd.why_absent()) == (
        "the energy counters are readable by root only (sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj, "
        "again after every boot)"
    )


def test_a_trace_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 10 W to 30 W in two seconds: the second of them is 25 J; outside the trace there is nothing."""
    rows = [(0.0, 10.0), (2.0, 30.0), (3.0, 30.0)]
    assert integrate_trace(rows, 1.0, 2.0) == pytest.approx(25.0)
    assert integrate_trace(rows, 0.0, 3.0) == pytest.approx(70.0)
    assert integrate_trace(rows, 1.5, 2.5) == pytest.approx(0.5 * 27.5 + 15.0)
    assert integrate_trace(rows, 2.0, 2.0) == 0.0
    assert integrate_trace(rows, 3.0, 9.0) == 0.0
    clock = [100.0]
    file = tmp_path / "power.jsonl"
    file.write_text('{"s": 0, "w": 10}\n\n{"s": 4, "w": 10}\n')
    monkeypatch.setenv("BITNET_BENCH_POWER_TRACE", str(file))
    meter = TraceMeter(clock=lambda: clock[0])
    assert meter.why_absent() is None
    assert meter.stop() == Unavailable(reason="it was not started")
    clock[0] = 101.0
    assert run(meter, clock, 3.0) == Measured(unit="J", method="recorded trace power.jsonl", readings=(30.0,))
    assert run(meter, clock, 0.5) == Unavailable(reason="the trace ends after 4 s, the interval after 4.5 s")
    monkeypatch.delenv("BITNET_BENCH_POWER_TRACE")
    nothing = TraceMeter()
    assert nothing.why_absent() == "no trace is named (BITNET_BENCH_POWER_TRACE)"
    assert nothing.stop() == Unavailable(reason="no trace is named (BITNET_BENCH_POWER_TRACE)")


def window(**fields: Any) -> Any:
    return SimpleNamespace(**{"soc_energy": None, "cpu_energy": None, "gpu_energy": None, **fields})


@pytest.mark.parametrize(
    ("found", "joules"),
    [
        (window(soc_energy=SimpleNamespace(total_energy_mj=5000), gpu_energy={0: 9.0}), 5.0),
        (window(soc_energy=SimpleNamespace(cpu_total_mj=1000, dram_mj=200, gpu_mj=30, ane_mj=4)), 1.234),
        (window(cpu_energy={0: 1.0, 1: 2.0}, gpu_energy={0: 4.0}), 7.0),
        (window(gpu_energy={0: 4.0}), 4.0),
        (window(), None),
        (window(cpu_energy={}), None),
    ],
)
def test_a_window_of_zeus(found: Any, joules: float | None) -> None:
    """A chip's own figure includes all others; else packages and cards add up."""
    assert sum_window_joules(found) == joules


def test_a_meter_of_zeus_by_hand() -> None:
    """One window of the same name; what it read is named; a second stop has nothing."""
    calls = []
    monitor = SimpleNamespace(
        begin_window=lambda name: calls.append(("begin", name)),
        end_window=lambda name: calls.append(("end", name)) or window(cpu_energy={0: 2.0}, gpu_energy={0: 3.0}),
    )
    clock = [0.0]
    meter = ZeusMeter(monitor, lambda: clock[0])
    assert meter.stop() == Unavailable(reason="it was not started")
    assert run(meter, clock, 1.0) == Measured(unit="J", method="zeus: cpu_energy, gpu_energy", readings=(5.0,))
    assert calls == [("begin", "bitnet-bench"), ("end", "bitnet-bench")]
    assert isinstance(meter.stop(), Unavailable)


def test_models_that_were_not_started() -> None:
    """They say so; no meter at all says that none was wanted."""
    assert CodecarbonModel().stop() == Unavailable(reason="it was not started")
    nothing = NoMeter()
    nothing.start()
    assert nothing.why_absent() == "energy was not to be measured"
    assert nothing.stop() == Unavailable(reason="energy was not to be measured")


def test_codecarbon_by_hand() -> None:
    """2 Wh of which half a Wh is the constant; no energy has no share, and a tracker serves once."""
    calls = []
    data = SimpleNamespace(energy_consumed=2e-3, ram_energy=5e-4)
    tracker = SimpleNamespace(
        start=lambda: calls.append("start"), stop=lambda: calls.append("stop"), final_emissions_data=data
    )
    model = CodecarbonModel(tracker)
    model.start()
    said = "codecarbon: load x a table, and a constant for memory (25% of the figure)"
    assert model.stop() == Modelled(unit="J", model=said, value=7200.0)
    assert calls == ["start", "stop"]
    assert isinstance(model.stop(), Unavailable)
    data.energy_consumed = 0.0
    assert CodecarbonModel(tracker).stop() == Unavailable(reason="codecarbon gives no energy for so short a time")


def test_idle_power_that_cannot_be_measured_says_why() -> None:
    """A meter without a counter gives its reason, a model is not asked, and modelled joules are not taken."""
    meter = SimpleNamespace(modelled=False, why_absent=lambda: None, start=lambda: None)
    meter.stop = lambda: Modelled(unit="J", model="m", value=1.0)
    modelled = Unavailable(reason="idle power is measured, and this meter models")
    assert measure_idle_power(meter, 0.0) == modelled
    assert measure_idle_power(SimpleNamespace(modelled=True), 0.0) == modelled  # type: ignore[arg-type]
    meter.stop = lambda: Unavailable(reason="it broke")
    assert measure_idle_power(meter, 0.0) == Unavailable(reason="it broke")
    meter.why_absent = lambda: "no counter"
    assert measure_idle_power(meter, 0.0) == Unavailable(reason="no counter")


def test_a_gpu_between_two_moments() -> None:
    """The higher clock, each cause once, and seconds of nanoseconds that never run backwards."""
    state = gpu_readings.GpuState
    before, after = state(1e9, ("heat", "power cap"), 5_000_000_000, 9), state(2e9, ("heat",), 7_500_000_000, 4)
    assert gpu_readings.diff_moments(before, after) == {
        "gpu_frequency_hz": 2e9, "gpu_slowed_by": ["heat", "power cap"], "gpu_heat_s": 2.5, "gpu_power_s": 0.0
    }  # fmt: skip
    unknown = gpu_readings.diff_moments(before, state(None, (), None, None))
    assert unknown == {
        "gpu_frequency_hz": 1e9, "gpu_slowed_by": ["heat", "power cap"], "gpu_heat_s": None, "gpu_power_s": None
    }  # fmt: skip
    assert gpu_readings.diff_moments(None, after) == gpu_readings.diff_moments(before, None) == {}


def test_what_is_said_to_be_impossible_is_one_line() -> None:
    """Standard error of a process that fails holds the problem and what to do, and its status is 1."""
    from bitnet_bench.measurement.messages import run_process

    def fail() -> None:
        raise BenchError("It is broken.", "Mend it.")

    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        run_process(fail)
    assert (said.getvalue(), ended.value.code) == ("It is broken. Mend it.\n", 1)
    assert math.isfinite(open_checkpoint("demo").parameters)
