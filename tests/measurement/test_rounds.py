"""Rounds: contestants alternate, a busy neighbour is noticed, and who fails leaves the others to go on."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.measurement import machine_state
from bitnet_bench.measurement.budget import EXPECTED_CLOSING_S, Budget, Countdown, OutOfBudgetError
from bitnet_bench.measurement.child import CandidateProcess
from bitnet_bench.measurement.costs import CandidateInfo, make_costs, percentile
from bitnet_bench.measurement.messages import MeasuringTask, OpenResult
from bitnet_bench.measurement.peak_memory import read_memory_bytes
from bitnet_bench.measurement.readings import Round, find_disturbances, median_interval
from bitnet_bench.measurement.rounds import RoundResults, alternate_rounds
from bitnet_bench.measurement.scenario import Scenario, find_preset
from bitnet_bench.protocols import NO_OPTIONS
from bitnet_bench.runs.records import Measured, Unavailable

SCENARIO = Scenario(rounds=5, budget_s=1000)


class FakeClock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds


def countdown_on(clock: FakeClock, scenario: Scenario, told: list[tuple[float, int, int]] | None = None) -> Countdown:
    """Return the countdown of *scenario*; what it shows goes to *told*, with the time."""

    def show(done: int, total: int, note: str = "") -> None:
        if told is not None:
            told.append((clock(), done, total))

    return Countdown(Budget(scenario.budget_s, clock), show)


def reading(seconds: float = 1.0, **fields: object) -> Round:
    """Return the round of an undisturbed contestant."""
    given_ = {
        "prefill_s": seconds,
        "decode_s": seconds,
        "token_s": (seconds,),
        "prompt_tokens": 8,
        "new_tokens": 2,
        "repetitions": 1,
        "metered_s": seconds,
        "energy": Unavailable(reason="no meter"),
        "foreign_share": 0.0,
    }
    return Round.model_validate({**given_, **fields})


class FakeContender:
    """One whose rounds are given; None is a crash. Each run takes *run_s* of the clock, which the probe foresees."""

    def __init__(
        self,
        name: str,
        rounds: Sequence[Round | None],
        order: list[str],
        clock: FakeClock | None = None,
        run_s: float = 0.0,
        foreseen_s: float | None = None,
    ) -> None:
        self.name, self._rounds, self._order = name, iter(rounds), order
        self._clock, self._run_s = clock or FakeClock(), run_s
        self._foreseen_s = run_s if foreseen_s is None else foreseen_s

    def probe(self, batch: int, within_s: float) -> float:
        """Foresee at once."""
        return self._foreseen_s

    def warm_up(self, batch: int, within_s: float) -> Round:
        """Give a reading of its own, and take a kilobyte a row."""
        self._work(within_s)
        return reading(7.0, peak_bytes=1000 * batch)

    def round(self, batch: int, within_s: float) -> Round:
        """Give what is next."""
        self._order.append(self.name)
        self._work(within_s)
        found = next(self._rounds)
        if found is None:
            raise BenchError(f"{self.name} crashed.", "It always does.")
        return found

    def _work(self, within_s: float) -> None:
        self._clock.pass_by(min(self._run_s, within_s))
        if self._run_s > within_s:
            raise OutOfBudgetError(f"{self.name} took too long.")


def _alternate(
    contenders: Sequence[FakeContender],
    scenario: Scenario = SCENARIO,
    clock: FakeClock | None = None,
    slept: list[float] | None = None,
    told: list[tuple[float, int, int]] | None = None,
) -> list[RoundResults]:
    clock = clock or FakeClock()

    def sleep(seconds: float) -> None:
        clock.pass_by(seconds)
        if slept is not None:
            slept.append(seconds)

    return alternate_rounds(contenders, scenario, countdown_on(clock, scenario, told), sleep)


def _run(contenders: Sequence[FakeContender], scenario: Scenario = SCENARIO) -> list[int]:
    return [sum(map(len, turn.rounds.values())) for turn in _alternate(contenders, scenario)]


def test_contestants_take_turns_until_the_interval_is_narrow() -> None:
    """Two steady ones alternate for four of five rounds; an unsteady one keeps both going."""
    order: list[str] = []
    assert _run([FakeContender("a", [reading()] * 9, order), FakeContender("b", [reading()] * 9, order)]) == [4, 4]
    assert order == ["a", "b"] * 4
    unsteady = [reading(s) for s in (1.0, 1.5, 1.0, 1.5, 1.0)]
    assert _run([FakeContender("a", unsteady, []), FakeContender("b", [reading()] * 9, [])]) == [5, 5]


def test_rounds_end_early_when_most_of_them_are_made() -> None:
    """Then their end can be foreseen: ten steady rounds are seven, not three; of five they are four."""
    for rounds, made in ((10, 7), (5, 4), (1, 1)):
        assert _run([FakeContender("a", [reading()] * 20, [])], Scenario(rounds=rounds)) == [made]


def test_no_round_begins_when_the_time_is_up() -> None:
    """Rounds of ten seconds in a budget of a hundred: a warm-up, and as many as fit before the closing."""
    clock = FakeClock()
    unsteady = [reading(s) for s in (1.0, 1.5) * 20]
    (turns,) = _alternate([FakeContender("a", unsteady, [], clock, 10.0)], Scenario(rounds=20, budget_s=100), clock)
    assert len(turns.rounds[1]) == 8
    assert clock.now == 90


def test_one_whose_rounds_exceed_its_share_runs_once() -> None:
    """The slow one gets what the quick one leaves: its warm-up of forty seconds is its only round, and marked so."""
    clock, order = FakeClock(), list[str]()
    scenario = Scenario(rounds=5, budget_s=100)
    quick = FakeContender("quick", [reading()] * 20, order, clock, 2.0)
    slow = FakeContender("slow", [reading(40)] * 20, order, clock, 40.0)
    quick_turns, slow_turns = _alternate([slow, quick], scenario, clock)[::-1]
    assert len(quick_turns.rounds[1]) == 4
    assert [found.prefill_s for found in slow_turns.rounds[1]] == [7.0]
    assert "3 rounds of 40 s exceed its share of the budget of 100 s" in slow_turns.once[1]
    assert slow_turns.cold == {1}
    assert slow_turns.peak_bytes == {1: 1000}
    assert not quick_turns.once
    assert not quick_turns.cold
    assert "slow" not in order
    assert clock.now == 40 + 5 * 2.0


def test_one_whose_only_round_exceeds_its_share_is_left_out_with_the_reason() -> None:
    """Nothing of it is run, nothing is an error, and the others have all of the time."""
    clock, order = FakeClock(), list[str]()
    quick = FakeContender("quick", [reading()] * 20, order, clock, 2.0)
    slow = FakeContender("slow", [], order, clock, 1500.0)
    quick_turns, slow_turns = _alternate([quick, slow], Scenario(rounds=5, budget_s=100), clock)
    assert slow_turns.left_out[1].startswith("One run would take about 25 min, and its share of the budget of 100 s is")
    assert slow_turns.error is None
    assert not slow_turns.rounds
    assert len(quick_turns.rounds[1]) == 4
    assert "slow" not in order


def test_a_share_that_a_slow_one_cannot_use_goes_to_the_quick_one() -> None:
    """After the warm-ups 17.5 s are left: three rounds of 30 s are out of the question, and seven of 2.5 s are made."""
    clock = FakeClock()
    quick = FakeContender("quick", [reading(1 + i % 2) for i in range(20)], [], clock, 2.5)
    slow = [FakeContender(name, [], [], clock, 30.0, foreseen_s=12.0) for name in ("b", "c")]
    turns = _alternate([quick, *slow], Scenario(budget_s=82.5), clock)
    assert [len(one.rounds[1]) for one in turns] == [7, 1, 1]
    assert clock.now <= 82.5


def test_the_quickest_is_tried_even_if_a_probe_says_that_it_does_not_fit() -> None:
    """A probe may be wrong on a busy machine, and nothing would be measured otherwise; the budget still holds."""
    clock = FakeClock()
    (turns,) = _alternate(
        [FakeContender("a", [reading()] * 9, [], clock, 10.0, foreseen_s=150.0)], Scenario(budget_s=100), clock
    )
    assert len(turns.rounds[1]) > 1
    assert not turns.left_out
    (hopeless,) = _alternate([FakeContender("a", [], [], clock, 500.0)], Scenario(budget_s=100), FakeClock())
    assert hopeless.left_out == {1: "a took too long."}


def test_one_that_takes_much_longer_than_foreseen_is_ended_within_the_budget() -> None:
    """A probe may be wrong by a factor of a hundred: the process is ended, and the budget holds within a fifth."""
    clock = FakeClock()
    wrong = FakeContender("wrong", [], [], clock, 1200.0, foreseen_s=12.0)
    right = FakeContender("right", [reading()] * 20, [], clock, 2.0)
    turns = _alternate([right, wrong], Scenario(rounds=5, budget_s=100), clock)
    assert turns[1].left_out == {1: "wrong took too long."}
    assert turns[1].error is None
    assert clock.now <= 120
    later = _alternate([right, wrong], Scenario(rounds=5, budget_s=100, batches=(1, 2)), FakeClock())
    assert set(later[1].left_out) == {1, 2}, "what was ended is not asked again"


@given(
    st.lists(st.tuples(st.floats(0.5, 300), st.floats(0.3, 3)), min_size=1, max_size=5),
    st.floats(30, 600),
    st.sampled_from([(), (1, 4)]),
)
def test_the_budget_holds_whoever_takes_part(
    runs: list[tuple[float, float]], budget_s: float, batches: tuple[int, ...]
) -> None:
    """Within a fifth, however wrong the probes are; and whoever has no round has a reason."""
    clock = FakeClock()
    contenders = [
        FakeContender(str(i), [reading(1 + j % 2) for j in range(999)], [], clock, run_s, run_s * wrong)
        for i, (run_s, wrong) in enumerate(runs)
    ]
    found = _alternate(contenders, Scenario(budget_s=budget_s, batches=batches), clock)
    assert clock.now <= 1.2 * budget_s
    for turns in found:
        for batch in batches or (1,):
            assert (batch in turns.left_out) != bool(turns.rounds.get(batch))


@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=4), st.booleans(), st.integers(1, 10))
def test_the_time_that_is_left_is_foreseen_after_the_first_round(runs: list[float], steady: bool, rounds: int) -> None:
    """Within a factor of 1.5 of what it is, whether or not the intervals become narrow; the closing's seconds aside."""
    clock, told, order = FakeClock(), list[tuple[float, int, int]](), list[str]()
    readings = [reading(1.0 if steady else 1.0 + 0.5 * (j % 2)) for j in range(99)]
    contenders = [FakeContender(str(i), readings, order, clock, run_s) for i, run_s in enumerate(runs)]
    _alternate(contenders, Scenario(budget_s=180, rounds=rounds), clock, told=told)
    first_round_s = max((now for now, _, _ in told if now <= 2 * sum(runs)), default=0.0)
    closing = EXPECTED_CLOSING_S
    for now, done, total in told:
        if now > first_round_s:
            left, foreseen = clock.now - now + closing, total - done
            assert left / 1.5 - 1 <= foreseen <= 1.5 * left + 1


def test_a_disturbed_round_is_made_again_and_flagged_if_it_stays_so() -> None:
    """A neighbour of one round costs a pause and a repetition; one that stays costs a flag, and its rounds are kept."""
    busy = reading(2.0, foreign_share=0.4)
    slept: list[float] = []
    turns = _alternate([FakeContender("a", [busy, *[reading()] * 4], [])], slept=slept)
    assert [r.foreign_share for r in turns[0].rounds[1]] == [0.0] * 4
    assert not turns[0].disturbances[1]
    assert slept == [1.0]
    turns = _alternate([FakeContender("a", [busy] * 15, [])], slept=slept)
    assert turns[0].disturbances[1] == {i: ["other processes used 40% of the cores"] for i in range(5)}
    assert slept[1:] == [1.0, 3.0] * 5


def test_a_disturbed_round_is_not_made_again_when_others_need_the_time() -> None:
    """A budget for the warm-up and three rounds, and no more: no pause, no repetition, and the rounds are flagged."""
    clock, slept, order = FakeClock(), list[float](), list[str]()
    busy = reading(foreign_share=0.4)
    scenario = Scenario(rounds=3, budget_s=45)
    (turns,) = _alternate([FakeContender("a", [busy] * 9, order, clock, 10.0)], scenario, clock, slept)
    assert not slept
    assert len(order) == 3
    assert set(turns.disturbances[1]) == {0, 1, 2}
    assert clock.now == 40


def test_repetitions_cost_nobody_the_fewest_rounds() -> None:
    """The first round was made three times, in 19 s of 58: that is no reason to make no other one."""
    clock = FakeClock()
    busy = reading(foreign_share=0.4)
    (turns,) = _alternate([FakeContender("a", [busy] * 30, [], clock, 5.0)], Scenario(rounds=10, budget_s=60), clock)
    assert len(turns.rounds[1]) >= 3
    assert not turns.once
    assert clock.now <= 60


def test_a_neighbour_that_no_counter_shows_is_seen_by_its_pace() -> None:
    """A host's other machine on the same core: rounds before the quiet ones are flagged as well, in the end."""
    slow, fast = reading(1.6, pace_s=9e-3), reading(pace_s=4.5e-3)
    turns = _alternate([FakeContender("a", [slow, *[fast] * 4], []), FakeContender("b", [fast] * 5, [])])
    assert turns[0].disturbances[1] == {0: ["the cores did 50% of the work of the quietest round"]}
    assert not turns[1].disturbances[1]
    again = _alternate([FakeContender("b", [fast] * 4, []), FakeContender("a", [slow, *[fast] * 4], [])])
    assert [r.pace_s for r in again[1].rounds[1]] == [4.5e-3] * 4


def test_disturbed_rounds_are_left_out_of_the_numbers_if_others_are_enough() -> None:
    """Three quiet rounds make the median; the disturbed one stays in the record. Of two quiet ones all are used."""
    quiet_rounds = [reading(s) for s in (1.0, 1.1, 1.2)]
    busy = reading(5.0, foreign_share=0.4)
    for rounds, median, left in ((([busy, *quiet_rounds]), 1.1, 1), (([busy, *quiet_rounds[:2]]), 1.1, 0)):
        turns = RoundResults({1: rounds}, {1: 1000}, {1: {0: ["other processes used 40% of the cores"]}})
        entry = CandidateInfo("ternary", "ternary", open_checkpoint("demo"), None, 1)
        (cost,) = make_costs(entry, OpenResult.model_validate_json(OPENED), turns, Unavailable(reason="no meter"))
        prefill = cost.metrics["prefill_s"]
        assert isinstance(prefill, Measured)
        assert prefill.median == median
        assert [(found.round, found.prefill_s) for found in cost.left_out] == [(1, 5.0)][:left]
        assert cost.disturbances == ("round 1: other processes used 40% of the cores",)
        assert cost.is_disturbed == (not left)


def test_the_pace_is_that_of_the_slowest_thread() -> None:
    """Work that touches no memory, on as many threads as asked for: some milliseconds."""
    assert 1e-4 < machine_state.measure_pace(1) < 1
    assert machine_state.measure_pace(2) > 1e-4


def test_heat_swapping_and_a_slower_clock_disturb() -> None:
    """Each is named; a machine that counts none of them disturbs nothing."""
    fast = reading(frequency_hz=3e9)
    assert find_disturbances(reading(stolen_share=0.031), []) == ["other machines of the host took 3% of the cores"]
    assert not find_disturbances(reading(stolen_share=0.02), [])
    assert find_disturbances(reading(throttled=3), []) == ["3 thermal events slowed the processor"]
    assert find_disturbances(reading(swapped_bytes=1 << 20), []) == ["1.0 MiB were swapped"]
    assert find_disturbances(reading(frequency_hz=2e9), [fast]) == ["the cores ran at 2.00 GHz instead of 3.00"]
    assert not find_disturbances(reading(), [fast])


def test_one_that_crashes_leaves_the_others() -> None:
    """Its rounds so far stay, it is not asked again, and the other one goes on to the end."""
    order: list[str] = []
    unsteady = [reading(s) for s in (1.0, 1.5, 1.0, 1.5, 1.0)]
    counts = _run([FakeContender("a", [reading(), None], order), FakeContender("b", unsteady, order)])
    assert counts == [1, 5]
    assert order == ["a", "b", "a", "b", "b", "b", "b"]


def test_every_batch_has_rounds_of_its_own() -> None:
    """Throughput by batch: the same contestant, warmed up and timed for each."""
    scenario = SCENARIO.model_copy(update={"batches": (1, 4)})
    turns = _alternate([FakeContender("a", [reading()] * 9, [])], scenario)
    assert {batch: len(rounds) for batch, rounds in turns[0].rounds.items()} == {1: 4, 4: 4}
    assert turns[0].peak_bytes == {1: 1000, 4: 4000}


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_the_interval_of_the_median_covers_it(readings: list[float]) -> None:
    """It is the narrowest pair of order statistics around the middle that misses the median with 5 % at most."""
    low, high = median_interval(readings)
    ordered, n = sorted(readings), len(readings)
    assert low <= ordered[n // 2] <= high
    k = ordered.index(low)
    outside = 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n
    assert outside <= 0.05 or (low, high) == (ordered[0], ordered[-1])


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_a_reading(readings: list[float], share: float) -> None:
    """The nearest rank: the least reading that the share of all do not exceed."""
    found = percentile(readings, share)
    assert found in readings
    assert sum(r <= found for r in readings) >= share * len(readings)
    assert sum(r < found for r in readings) < share * len(readings)


def test_scenarios_have_names() -> None:
    """A preset gives lengths; another name lists those there are."""
    assert find_preset("classify") == (256, 2)
    with pytest.raises(BenchError, match="no scenario"):
        find_preset("poem")


ANSWERS = {
    "garbage": "print('segmentation fault', flush=True)",
    "no number": """print('{"load_s": NaN, "resident_weight_bytes": 1}', flush=True)""",
    "crash": "sys.stderr.write('out of memory\\n'); sys.exit(9)",
    "hang": "time.sleep(60)",
}
OPENED = '{"load_s": 1, "resident_weight_bytes": 1, "kv_per_token": 1, "resident_by_kind": {}, "memory_method": ""}'


def _task() -> MeasuringTask:
    return MeasuringTask(
        checkpoint=open_checkpoint("demo"),
        precision="ternary",
        backend="",
        options=NO_OPTIONS,
        threads=1,
        meter="",
        prompt_tokens=8,
        new_tokens=4,
    )


def _child(code: str, timeout_s: float = 20.0) -> CandidateProcess:
    program = f"import sys, time\nsys.stdin.readline()\n{code}"
    return CandidateProcess("x", _task(), timeout_s, (sys.executable, "-c", program))


@pytest.mark.parametrize(
    ("kind", "said"),
    [("garbage", "segmentation"), ("no number", "load_s"), ("crash", "out of memory"), ("hang", "did not answer")],
)
def test_a_process_that_fails_is_named_with_what_it_said(kind: str, said: str) -> None:
    """Garbage, a NaN, a crash and a hang each become one sentence, and nothing of the process stays."""
    child = _child(ANSWERS[kind], timeout_s=1.0 if kind == "hang" else 20.0)
    try:
        with pytest.raises(BenchError, match=said):
            child.open()
    finally:
        child.close()


def test_a_process_that_exceeds_its_share_is_ended_and_nothing_is_wrong_with_it() -> None:
    """The share is shorter than the time after which it would hang: another sentence, and who waits is told."""
    waited: list[None] = []
    program = "import sys, time\nsys.stdin.readline()\ntime.sleep(60)"
    child = CandidateProcess("x", _task(), 20.0, (sys.executable, "-c", program), lambda: waited.append(None))
    with pytest.raises(OutOfBudgetError, match=r"Loading it took more than 1.5 s, which was its share"):
        child.open(within_s=1.5)
    assert len(waited) == 1
    assert child._process.returncode is not None
    child.close()


def test_a_wrong_count_of_tokens_is_caught() -> None:
    """A round of other tokens than were asked for is not the scenario's."""
    round_ = reading(new_tokens=3, token_s=(1.0, 1.0)).model_dump_json()
    child = _child(f"print({OPENED!r}, flush=True)\nsys.stdin.readline()\nprint({round_!r}, flush=True)")
    try:
        child.open()
        with pytest.raises(BenchError, match="3 new tokens"):
            child.round(1)
    finally:
        child.close()


def test_the_machine_is_read_through_the_kernels_files(tmp_path: Path) -> None:
    """Clock, heat and swapping come from files; where there are none, there is no number."""
    cpu = tmp_path / "cpus" / "cpu0"
    (cpu / "cpufreq").mkdir(parents=True)
    (cpu / "cpufreq" / "scaling_cur_freq").write_text("2500000\n")
    (cpu / "thermal_throttle").mkdir()
    (cpu / "thermal_throttle" / "package_throttle_count").write_text("7\n")
    (tmp_path / "vmstat").write_text("pswpin 1\npswpout 2\n")
    moment = machine_state.read_moment(tmp_path, tmp_path / "cpus")
    assert (moment.frequency_hz, moment.throttled) == (2.5e9, 7)
    moment = replace(moment, stolen_s=3.0)
    later = replace(moment, time_s=moment.time_s + 10, foreign_s=moment.foreign_s + 5, stolen_s=4.0, throttled=9)
    told = machine_state.diff_moments(moment, later, cores=2)
    shares = {"foreign_share": 0.25, "stolen_share": 0.05}
    assert told == {**shares, "frequency_hz": 2.5e9, "throttled": 2, "swapped_bytes": 0}
    assert machine_state.diff_moments(replace(moment, stolen_s=None), later, cores=2)["stolen_share"] is None
    empty = machine_state.read_moment(tmp_path / "none", tmp_path / "none")
    assert (empty.frequency_hz, empty.throttled, empty.swapped_bytes) == (None, None, None)


def test_pages_of_files_count_whole(tmp_path: Path) -> None:
    """PSS splits them between processes: a contestant would shrink below its start when the next one maps torch.

    Each needs all of its libraries and weights. Without PSS: None.
    """
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "smaps").write_text(
        "00400000-00452000 r--p 00000000 08:02 1 /models/a/model.safetensors\nRss: 100 kB\nPss: 50 kB\n"
        "7f00-7f01 r--p 00000000 08:02 1 /usr/lib/libc.so\nRss: 30 kB\nPss: 10 kB\nVmFlags: rd\n"
        "c000-d000 rw-p 00000000 00:00 0 [heap]\nRss: 8 kB\nPss: 4 kB\n"
        "e000-f000 rw-p 00000000 00:00 0\nRss: 2 kB\nPss: 2 kB\n"
    )
    assert read_memory_bytes(proc=tmp_path) == 136 * 1024
    assert read_memory_bytes(pid=1, proc=tmp_path) is None


def test_random_rounds_never_lose_a_contender() -> None:
    """Whatever happens to one, every other has as many rounds as the fewest that were needed."""
    rng = random.Random(0)
    for _ in range(20):
        rounds = [[reading(rng.choice([1.0, 1.02])) if rng.random() > 0.1 else None for _ in range(9)] for _ in "abc"]
        counts = _run([FakeContender(name, given_, []) for name, given_ in zip("abc", rounds, strict=True)])
        crashed = [None in given_[:5] for given_ in rounds]
        healthy = {count for count, crash in zip(counts, crashed, strict=True) if not crash}
        assert len(healthy) <= 1
