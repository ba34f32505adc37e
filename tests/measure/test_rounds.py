"""Rounds: contestants alternate, a busy neighbour is noticed, and who fails leaves the others to go on."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench import api
from bitnet_bench.errors import BenchError
from bitnet_bench.measure import machine
from bitnet_bench.measure.child import Child, Opened
from bitnet_bench.measure.costs import Entry, costs, percentile
from bitnet_bench.measure.memory import memory_bytes
from bitnet_bench.measure.rounds import Round, Turns, alternate, disturbances, median_interval
from bitnet_bench.measure.scenario import Scenario, preset
from bitnet_bench.records import Measured, Unavailable

SCENARIO = Scenario(rounds=4, least_rounds=2, seconds=100)


def quiet(done: int, total: int, note: str = "") -> None:
    """Show nothing."""


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
    """One whose rounds are given; None is a crash."""

    def __init__(self, name: str, rounds: Sequence[Round | None], order: list[str]) -> None:
        self.name, self._rounds, self._order = name, iter(rounds), order

    def warm_up(self, batch: int) -> int:
        """Take a kilobyte a row."""
        return 1000 * batch

    def round(self, batch: int) -> Round:
        """Give what is next."""
        self._order.append(self.name)
        found = next(self._rounds)
        if found is None:
            raise BenchError(f"{self.name} crashed.", "It always does.")
        return found


def _clock(step: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step


def _run(contenders: Sequence[FakeContender], scenario: Scenario = SCENARIO, step: float = 1.0) -> list[int]:
    ticks = _clock(step)
    turns = alternate(contenders, scenario, lambda: next(ticks), quiet, lambda seconds: None)
    return [sum(map(len, turn.rounds.values())) for turn in turns]


def test_contestants_take_turns_until_the_interval_is_narrow() -> None:
    """Two steady ones alternate for the least number of rounds; an unsteady one keeps both going."""
    order: list[str] = []
    assert _run([FakeContender("a", [reading()] * 9, order), FakeContender("b", [reading()] * 9, order)]) == [2, 2]
    assert order == ["a", "b", "a", "b"]
    unsteady = [reading(s) for s in (1.0, 1.5, 1.0, 1.5)]
    assert _run([FakeContender("a", unsteady, []), FakeContender("b", [reading()] * 9, [])]) == [4, 4]


def test_no_round_begins_when_the_time_is_up() -> None:
    """The clock ends what the interval does not, after the least number of rounds."""
    unsteady = [reading(s) for s in (1.0, 1.5, 1.0, 1.5)]
    assert _run([FakeContender("a", unsteady, [])], replace(SCENARIO, seconds=1.0), step=5.0) == [2]


def test_a_disturbed_round_is_made_again_and_flagged_if_it_stays_so() -> None:
    """A neighbour of one round costs a pause and a repetition; one that stays costs a flag, and its rounds are kept."""
    busy = reading(2.0, foreign_share=0.4)
    slept: list[float] = []
    turns = alternate(
        [FakeContender("a", [busy, reading(), reading()], [])], SCENARIO, lambda: 0.0, quiet, slept.append
    )
    assert [r.foreign_share for r in turns[0].rounds[1]] == [0.0, 0.0]
    assert not turns[0].disturbances[1]
    assert slept == [1.0]
    turns = alternate([FakeContender("a", [busy] * 12, [])], SCENARIO, lambda: 0.0, quiet, slept.append)
    assert turns[0].disturbances[1] == {i: ["other processes used 40% of the cores"] for i in range(4)}
    assert slept[1:] == [1.0, 3.0] * 4


def test_no_pause_is_made_when_the_time_is_up() -> None:
    """Rounds are made again then, at once."""
    busy, slept, ticks = reading(foreign_share=0.4), list[float](), _clock(60.0)
    alternate([FakeContender("a", [busy] * 9, [])], SCENARIO, lambda: next(ticks), quiet, slept.append)
    assert slept == [1.0]


def test_a_neighbour_that_no_counter_shows_is_seen_by_its_pace() -> None:
    """A host's other machine on the same core: rounds before the quiet ones are flagged as well, in the end."""
    slow, fast = reading(1.6, pace_s=9e-3), reading(pace_s=4.5e-3)
    turns = alternate(
        [FakeContender("a", [slow, fast, fast], []), FakeContender("b", [fast] * 3, [])],
        SCENARIO,
        lambda: 0.0,
        quiet,
        lambda seconds: None,
    )
    assert turns[0].disturbances[1] == {0: ["the cores did 50% of the work of the quietest round"]}
    assert not turns[1].disturbances[1]
    again = alternate(
        [FakeContender("b", [fast, fast], []), FakeContender("a", [slow, fast, fast], [])],
        SCENARIO,
        lambda: 0.0,
        quiet,
        lambda seconds: None,
    )
    assert [r.pace_s for r in again[1].rounds[1]] == [4.5e-3, 4.5e-3]


def test_disturbed_rounds_are_left_out_of_the_numbers_if_others_are_enough() -> None:
    """Three quiet rounds make the median; the disturbed one stays in the record. Of two quiet ones all are used."""
    quiet_rounds = [reading(s) for s in (1.0, 1.1, 1.2)]
    busy = reading(5.0, foreign_share=0.4)
    for rounds, median, left in ((([busy, *quiet_rounds]), 1.1, 1), (([busy, *quiet_rounds[:2]]), 1.1, 0)):
        turns = Turns({1: rounds}, {1: 1000}, {1: {0: ["other processes used 40% of the cores"]}})
        entry = Entry("ternary", "ternary", api.open_checkpoint("demo"), None, 1)
        (cost,) = costs(entry, Opened.model_validate_json(OPENED), turns, Unavailable(reason="no meter"))
        prefill = cost.metrics["prefill_s"]
        assert isinstance(prefill, Measured)
        assert prefill.median == median
        assert [(found.round, found.prefill_s) for found in cost.left_out] == [(1, 5.0)][:left]
        assert cost.disturbances == ("round 1: other processes used 40% of the cores",)
        assert cost.disturbed == (not left)


def test_the_pace_is_that_of_the_slowest_thread() -> None:
    """Work that touches no memory, on as many threads as asked for: some milliseconds."""
    assert 1e-4 < machine.pace(1) < 1
    assert machine.pace(2) > 1e-4


def test_heat_swapping_and_a_slower_clock_disturb() -> None:
    """Each is named; a machine that counts none of them disturbs nothing."""
    fast = reading(frequency_hz=3e9)
    assert disturbances(reading(stolen_share=0.031), []) == ["other machines of the host took 3% of the cores"]
    assert not disturbances(reading(stolen_share=0.02), [])
    assert disturbances(reading(throttled=3), []) == ["3 thermal events slowed the processor"]
    assert disturbances(reading(swapped_bytes=1 << 20), []) == ["1.0 MiB were swapped"]
    assert disturbances(reading(frequency_hz=2e9), [fast]) == ["the cores ran at 2.00 GHz instead of 3.00"]
    assert not disturbances(reading(), [fast])


def test_one_that_crashes_leaves_the_others() -> None:
    """Its rounds so far stay, it is not asked again, and the other one goes on to the end."""
    order: list[str] = []
    unsteady = [reading(s) for s in (1.0, 1.5, 1.0, 1.5)]
    counts = _run([FakeContender("a", [reading(), None], order), FakeContender("b", unsteady, order)])
    assert counts == [1, 4]
    assert order == ["a", "b", "a", "b", "b", "b"]


def test_every_batch_has_rounds_of_its_own() -> None:
    """Throughput by batch: the same contestant, warmed up and timed for each."""
    scenario = replace(SCENARIO, batches=(1, 4))
    turns = alternate([FakeContender("a", [reading()] * 9, [])], scenario, lambda: 0.0, quiet)
    assert {batch: len(rounds) for batch, rounds in turns[0].rounds.items()} == {1: 2, 4: 2}
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
    assert preset("classify") == (256, 2)
    with pytest.raises(BenchError, match="no scenario"):
        preset("poem")


ANSWERS = {
    "garbage": "print('segmentation fault', flush=True)",
    "no number": """print('{"load_s": NaN, "resident_weight_bytes": 1}', flush=True)""",
    "crash": "sys.stderr.write('out of memory\\n'); sys.exit(9)",
    "hang": "time.sleep(60)",
}
OPENED = '{"load_s": 1, "resident_weight_bytes": 1, "kv_per_token": 1, "resident_by_kind": {}, "memory_method": ""}'


def _child(code: str, timeout_s: float = 20.0) -> Child:
    program = f"import sys, time\nsys.stdin.readline()\n{code}"
    return Child("x", {"threads": 1, "new_tokens": 4}, timeout_s, (sys.executable, "-c", program))


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
    moment = machine.now(tmp_path, tmp_path / "cpus")
    assert (moment.frequency_hz, moment.throttled) == (2.5e9, 7)
    moment = replace(moment, stolen_s=3.0)
    later = replace(moment, time_s=moment.time_s + 10, foreign_s=moment.foreign_s + 5, stolen_s=4.0, throttled=9)
    told = machine.between(moment, later, cores=2)
    shares = {"foreign_share": 0.25, "stolen_share": 0.05}
    assert told == {**shares, "frequency_hz": 2.5e9, "throttled": 2, "swapped_bytes": 0}
    assert machine.between(replace(moment, stolen_s=None), later, cores=2)["stolen_share"] is None
    empty = machine.now(tmp_path / "none", tmp_path / "none")
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
    assert memory_bytes(proc=tmp_path) == 136 * 1024
    assert memory_bytes(pid=1, proc=tmp_path) is None


def test_random_rounds_never_lose_a_contender() -> None:
    """Whatever happens to one, every other has as many rounds as the fewest that were needed."""
    rng = random.Random(0)
    for _ in range(20):
        rounds = [[reading(rng.choice([1.0, 1.02])) if rng.random() > 0.1 else None for _ in range(9)] for _ in "abc"]
        counts = _run([FakeContender(name, given_, []) for name, given_ in zip("abc", rounds, strict=True)])
        crashed = [None in given_[:4] for given_ in rounds]
        healthy = {count for count, crash in zip(counts, crashed, strict=True) if not crash}
        assert len(healthy) <= 1
