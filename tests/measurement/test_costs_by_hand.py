"""Every quantity that is measured, on a clock and a meter that go as they are told: values worked out by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.measurement import contest, machine_state, worker
from bitnet_bench.measurement.contest import measure_idle_power
from bitnet_bench.measurement.costs import CandidateInfo, make_costs, percentile
from bitnet_bench.measurement.gpu_readings import NoGpu
from bitnet_bench.measurement.messages import MeasuringTask, OpenResult
from bitnet_bench.measurement.readings import Round, is_narrow, median_interval
from bitnet_bench.measurement.rounds import RoundResults
from bitnet_bench.protocols import NO_OPTIONS, Meter, Session
from bitnet_bench.runs.records import Cost, Measured, Modelled, Unavailable

NO_METER = Unavailable(reason="no meter")


class FakeClock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class FakeMeter(Meter):
    """A meter of a machine that draws 50 W."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.intervals: list[tuple[float, float]] = []

    def start(self) -> None:
        """Begin."""
        self._began = self._clock()

    def stop(self) -> Measured | Unavailable:
        """Return 50 J for each second."""
        self.intervals.append((self._began, self._clock()))
        return Measured(unit="J", method="fake", readings=(50.0 * (self._clock() - self._began),))


class FakeSession(Session, adds=("calls",)):
    """A session that takes *prefill_s* for a prompt and *token_s* for a token, or *slow_s* for the first of them."""

    max_length = 2048
    tokenizer = range(100)
    precision = "fp32"

    def __init__(self, clock: FakeClock, prefill_s: float, token_s: float, slow_s: Sequence[float] = ()) -> None:
        self._clock, self._prefill_s, self._token_s = clock, prefill_s, token_s
        self._slow = dict(enumerate(slow_s))
        """Seconds of the tokens of a prompt that take another time, by their place after the first."""
        self.calls: list[str] = []

    def prefill(self, batch: Sequence[Sequence[int]]) -> int:
        """Read the prompts and choose the first token."""
        self.calls.append(f"prefill {len(batch)}x{len(batch[0])}")
        self._clock.now += self._prefill_s
        return 0

    def decode(self, state: int, steps: int) -> int:
        """Choose *steps* tokens."""
        self.calls.append(f"decode {steps}")
        for place in range(state, state + steps):
            self._clock.now += self._slow.get(place, self._token_s)
        return state + steps

    def loglikelihood(self, requests: Any, part: Any = None) -> Any:
        """Do nothing: it is not asked."""

    def generate(self, prompts: Any, max_new_tokens: int, stop: Any, part: Any = None) -> Any:
        """Do nothing: it is not asked."""

    def footprint(self) -> tuple[int, int]:
        """Return no bytes."""
        return 0, 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Give the clock of the worker and of the machine's idle power; the machine is quiet."""
    made = FakeClock()

    def sleep(seconds: float) -> None:
        made.now += seconds

    for module in (worker, contest):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=made, sleep=sleep))
    monkeypatch.setattr(machine_state, "measure_pace", lambda threads: 0.005)
    monkeypatch.setattr(machine_state, "read_moment", lambda: None)
    monkeypatch.setattr(machine_state, "diff_moments", lambda before, after, cores: {"foreign_share": 0.0})
    return made


def work(clock: FakeClock, session: Session, meter: Meter, batch: int = 1, new_tokens: int = 5) -> Any:
    """Return what measures *session* with prompts of eight tokens."""
    task = MeasuringTask(
        checkpoint=open_checkpoint("demo"),
        precision="ternary",
        backend="",
        options=NO_OPTIONS,
        threads=1,
        meter="",
        prompt_tokens=8,
        new_tokens=new_tokens,
    )
    return worker._BatchWorker(session, task, batch, meter, NoGpu())


def test_a_round_times_the_prompt_and_the_tokens_after_the_first(clock: FakeClock) -> None:
    """0.2 s and four tokens of 0.01 s, three times: 0.72 s are the first sum from half a second on."""
    meter = FakeMeter(clock)
    session = FakeSession(clock, prefill_s=0.2, token_s=0.01)
    found = work(clock, session, meter, batch=3).round()
    assert (found.prompt_tokens, found.new_tokens, found.repetitions) == (8, 5, 3)
    assert found.prefill_s == pytest.approx(0.2)
    assert found.decode_s == pytest.approx(4 * 0.01)
    assert found.token_s == pytest.approx((0.01, 0.01, 0.01, 0.01))
    assert set(session.calls) == {"prefill 3x8", "decode 4", "decode 1"}, "the first of five comes with the prompt"


def test_the_meter_runs_for_the_repetitions_and_nothing_else(clock: FakeClock) -> None:
    """One second of prompt and four milliseconds of tokens at 50 W; tokens timed one by one come after it."""
    meter = FakeMeter(clock)
    found = work(clock, FakeSession(clock, prefill_s=1.0, token_s=0.001), meter).round()
    assert meter.intervals == [(100.0, pytest.approx(101.004))]
    assert found.metered_s == pytest.approx(1.004)
    assert found.energy.readings == pytest.approx((50.2,))
    assert found.repetitions == 1
    assert clock.now == pytest.approx(102.008), "a second run, whose tokens are timed one by one"


def test_single_tokens_are_timed_each_by_itself(clock: FakeClock) -> None:
    """A token that takes longer than the others keeps its place."""
    session = FakeSession(clock, prefill_s=0.5, token_s=0.001, slow_s=(0.001, 0.004, 0.002))
    found = work(clock, session, FakeMeter(clock)).round()
    assert found.token_s == pytest.approx((0.001, 0.004, 0.002, 0.001))
    assert found.decode_s == pytest.approx(0.008)


def test_a_probe_foresees_the_seconds_of_a_run(clock: FakeClock) -> None:
    """A prompt of 0.3 s whatever its length, and four tokens of 0.1 s."""
    probed = work(clock, FakeSession(clock, prefill_s=0.3, token_s=0.1), FakeMeter(clock)).probe()
    assert probed == pytest.approx(0.3 + 4 * 0.1)


class FakeMemory:
    """A process whose memory is read as it is told."""

    method = "fake"

    def __init__(self, peak: int) -> None:
        self._peak = peak
        self.watched = 0

    def read(self) -> int:
        """Return the peak."""
        return self._peak

    @contextlib.contextmanager
    def watch_peak(self) -> Iterator[None]:
        """Count."""
        self.watched += 1
        yield


@pytest.mark.parametrize(("imported", "taken"), [(250, 650), (0, 900), (899, 1)])
def test_peak_memory_is_what_a_process_takes_over_one_that_has_only_imported(
    imported: int, taken: int, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """900 MB at the peak, of which 250 MB were there before anything was loaded, are 650 MB of the model."""
    monkeypatch.setattr(worker, "read_device_peak", lambda: None)
    memory = FakeMemory(900 * 10**6)
    found = work(clock, FakeSession(clock, 0.5, 0.01), FakeMeter(clock)).warm_up(memory, imported * 10**6, None)
    assert found.peak_bytes == taken * 10**6
    assert found.card_bytes is None
    assert memory.watched == 1


def test_on_a_gpu_the_peak_is_the_allocator_s_whatever_the_process_takes(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at nothing, so that no baseline is subtracted."""
    monkeypatch.setattr(worker, "read_device_peak", lambda: 700)
    found = work(clock, FakeSession(clock, 0.5, 0.01), FakeMeter(clock)).warm_up(FakeMemory(900), 250, None)
    assert found.peak_bytes == 700


def test_idle_power_is_joules_over_the_seconds_that_passed(clock: FakeClock) -> None:
    """Four seconds of rest at 50 W."""
    found = measure_idle_power(FakeMeter(clock), seconds=4.0)
    assert isinstance(found, Measured)
    assert (found.unit, found.readings) == ("W", (50.0,))
    assert clock.now == 104.0


def reading(**fields: Any) -> Round:
    """Return a round of 0.1 s for a prompt of eight tokens and 0.08 s for the four tokens after the first."""
    given = {
        "prefill_s": 0.1,
        "decode_s": 0.08,
        "token_s": (0.02,) * 4,
        "prompt_tokens": 8,
        "new_tokens": 5,
        "repetitions": 1,
        "metered_s": 0.18,
        "energy": NO_METER,
        "foreign_share": 0.0,
    }
    return Round.model_validate({**given, **fields})


def cost_of(*rounds: Round, batch: int = 1, idle: Measured | Unavailable = NO_METER, **turns: Any) -> Cost:
    """Return the cost that *rounds* of one batch make."""
    opened = OpenResult(load_s=3.5, resident_weight_bytes=70, kv_per_token=6, resident_by_kind={}, memory_method="m")
    results = RoundResults(rounds={batch: list(rounds)}, peak_bytes={batch: 1234}, **turns)
    entry = CandidateInfo("hf", "ternary", open_checkpoint("demo"), None, 2)
    (cost,) = make_costs(entry, opened, results, idle)
    return cost


def readings_of(cost: Cost, name: str) -> tuple[float, ...]:
    """Return the readings of a metric."""
    found = cost.metrics[name]
    assert isinstance(found, Measured), name
    return found.readings


def test_prefill_speed_is_all_prompt_tokens_over_its_time() -> None:
    """A batch of three prompts of eight tokens in 0.1 and in 0.2 s: 240 and 120 tokens a second."""
    cost = cost_of(reading(), reading(prefill_s=0.2), batch=3)
    assert readings_of(cost, "prefill_s") == (0.1, 0.2)
    assert readings_of(cost, "prefill_tokens_per_s") == pytest.approx((240.0, 120.0))


def test_decode_speed_leaves_out_the_first_token() -> None:
    """Five new tokens of which four are decoded in 0.08 and in 0.16 s: 20 and 40 ms a token, for each of three rows."""
    cost = cost_of(reading(), reading(decode_s=0.16), batch=3)
    assert readings_of(cost, "decode_s") == pytest.approx((0.02, 0.04))
    assert readings_of(cost, "decode_tokens_per_s") == pytest.approx((150.0, 75.0))


def test_what_was_read_once_stands_as_it_is() -> None:
    """The time of loading, the peak, and keys and values of all tokens but the last of each row."""
    cost = cost_of(reading(), batch=3)
    assert readings_of(cost, "load_s") == (3.5,)
    assert readings_of(cost, "peak_bytes") == (1234.0,)
    assert cost.kv_bytes == 6 * (8 + 5 - 1) * 3
    assert (cost.prompt_tokens, cost.new_tokens, cost.batch, cost.threads) == (8, 5, 3, 2)
    assert cost.resident_weight_bytes == 70


MILLISECONDS = tuple(range(1, 101))


@pytest.mark.parametrize(
    ("readings", "p50", "p90", "p95", "p99"),
    [
        (MILLISECONDS, 50, 90, 95, 99),
        (MILLISECONDS[::-1], 50, 90, 95, 99),
        (range(1, 21), 10, 18, 19, 20),
        (range(1, 11), 5, 9, 10, 10),
        ((3, 1, 2), 2, 3, 3, 3),
        ((1, 2), 1, 2, 2, 2),
        ((7,), 7, 7, 7, 7),
        ((*[1] * 95, *[50] * 5), 1, 1, 1, 50),
        ((*[1] * 94, *[50] * 6), 1, 1, 50, 50),
    ],
)
def test_percentiles_are_the_nearest_rank(readings: Sequence[float], p50: int, p90: int, p95: int, p99: int) -> None:
    """The least reading that the share of all do not exceed."""
    assert [percentile(readings, share) for share in (0.5, 0.9, 0.95, 0.99)] == [p50, p90, p95, p99]


def test_token_times_of_all_rounds_make_the_percentiles() -> None:
    """Ninety-four tokens of 1 ms, five of 50 ms and one of 90 ms, over two rounds."""
    first = reading(token_s=(*[0.001] * 94,), new_tokens=5)
    second = reading(token_s=(0.05, 0.05, 0.09, 0.05, 0.05, 0.05))
    cost = cost_of(first, second)
    assert len(readings_of(cost, "token_s")) == 100
    assert readings_of(cost, "token_p50_s") == (0.001,)
    assert readings_of(cost, "token_p95_s") == (0.05,)
    assert readings_of(cost, "token_p99_s") == (0.05,)


def joules(value: float) -> Measured:
    """Return what a counter read."""
    return Measured(unit="J", method="counter", readings=(value,))


WATTS = Measured(unit="W", method="counter", readings=(10.0,))


def test_energy_is_of_one_example_and_net_of_the_idle_power() -> None:
    """600 J in 24 s for five repetitions of four rows: 30 J each, of which 12 J are 1.2 s at 10 W; a fifth a token."""
    cost = cost_of(reading(energy=joules(600.0), metered_s=24.0, repetitions=5), batch=4, idle=WATTS)
    assert readings_of(cost, "energy_j") == pytest.approx((30.0,))
    assert readings_of(cost, "energy_net_j") == pytest.approx((18.0,))
    assert readings_of(cost, "energy_j_per_token") == pytest.approx((6.0,))
    assert readings_of(cost, "energy_net_j_per_token") == pytest.approx((3.6,))
    assert readings_of(cost, "idle_power_w") == (10.0,)


@pytest.mark.parametrize(("batch", "repetitions"), [(1, 1), (1, 5), (4, 1), (4, 5), (7, 3)])
def test_a_batch_and_its_repetitions_share_the_joules(batch: int, repetitions: int) -> None:
    """2 J for each row of each repetition, of which 1 J is 0.1 s at 10 W; a fifth of it a token."""
    rows = batch * repetitions
    one = reading(energy=joules(2.0 * rows), metered_s=0.1 * rows, repetitions=repetitions)
    cost = cost_of(one, batch=batch, idle=WATTS)
    assert readings_of(cost, "energy_j") == pytest.approx((2.0,))
    assert readings_of(cost, "energy_net_j") == pytest.approx((1.0,))
    assert readings_of(cost, "energy_j_per_token") == pytest.approx((0.4,))


def test_every_round_has_its_own_joules_and_the_median_is_shown() -> None:
    """10, 30 and 20 J gross in 1, 1 and 2 s; the idle power's median is that of three readings."""
    idle = Measured(unit="W", method="counter", readings=(90.0, 4.0, 5.0))
    rounds = [reading(energy=joules(j), metered_s=s) for j, s in ((10.0, 1.0), (30.0, 1.0), (20.0, 2.0))]
    cost = cost_of(*rounds, idle=idle)
    assert readings_of(cost, "energy_j") == (10.0, 30.0, 20.0)
    assert readings_of(cost, "energy_net_j") == (5.0, 25.0, 10.0)
    found = cost.metrics["energy_j"], cost.metrics["energy_net_j"]
    assert [one.median for one in found if isinstance(one, Measured)] == [20.0, 10.0]


def test_modelled_joules_are_of_one_example_too() -> None:
    """The sum of 40 and 80 J over three repetitions of four rows."""
    rounds = [
        reading(energy=Modelled(unit="J", model="table", value=value), repetitions=repetitions)
        for value, repetitions in ((40.0, 1), (80.0, 2))
    ]
    cost = cost_of(*rounds, batch=4, idle=WATTS)
    values = {name: one.value for name, one in cost.metrics.items() if isinstance(one, Modelled)}
    assert values == pytest.approx({"energy_j": 10.0, "energy_j_per_token": 2.0})
    assert not isinstance(cost.metrics.get("energy_net_j"), Measured)


@pytest.mark.parametrize(
    ("readings", "median"),
    [((3.0,), 3.0), ((1.0, 3.0), 2.0), ((9.0, 1.0, 2.0), 2.0), ((4.0, 1.0, 2.0, 9.0), 3.0)],
)
def test_a_median_is_the_middle_or_the_mean_of_both(readings: tuple[float, ...], median: float) -> None:
    """Whatever the order of the readings."""
    assert Measured(unit="s", method="m", readings=readings).median == median


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # ranks from the binomial distribution with 1/2: the largest tail below 2.5 %
    [
        (1, 1, 1),
        (2, 1, 2),
        (5, 1, 5),
        (6, 1, 6),
        (8, 1, 8),
        (9, 2, 8),
        (11, 2, 10),
        (12, 3, 10),
        (15, 4, 12),
        (20, 6, 15),
    ],
)
def test_the_interval_of_a_median_is_between_two_ranks(count: int, low: int, high: int) -> None:
    """As in printed tables; below six readings it is all of them."""
    readings = [float(rank) for rank in range(count, 0, -1)]
    assert median_interval(readings) == (low, high)


def test_an_interval_is_narrow_by_its_share_of_the_median() -> None:
    """From 9.9 to 10.2 around 10 is three hundredths."""
    readings = (9.9, 10.0, 10.2)
    assert is_narrow(readings, 0.0301)
    assert not is_narrow(readings, 0.0299)


def test_load_of_others_is_the_mean_of_the_rounds_that_count() -> None:
    """A disturbed round is left out of every number if three others are quiet, and stays named."""
    quiet = [reading(prefill_s=s, foreign_share=share) for s, share in ((0.1, 0.01), (0.2, 0.02), (0.4, 0.03))]
    busy = reading(prefill_s=9.0, decode_s=4.0, foreign_share=0.9)
    cost = cost_of(busy, *quiet, disturbances={1: {0: ["busy"]}})
    assert cost.foreign_load == pytest.approx(0.02)
    assert readings_of(cost, "prefill_s") == (0.1, 0.2, 0.4)
    (dropped,) = cost.left_out
    assert (dropped.round, dropped.prefill_s, dropped.decode_s, dropped.why) == (1, 9.0, 1.0, ("busy",))
