"""A budget: how it is written, how it is shared, who is loaded, and what the display says of the time that is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitnet_bench.checkpoints.random_weights import read_preset_config
from bitnet_bench.cli.tables import LOG_EVERY_S, _LineProgress
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.measurement.admission import Admission, QueuedCandidate, load_candidates
from bitnet_bench.measurement.budget import Budget, Countdown, OutOfBudgetError, format_duration, parse_budget
from bitnet_bench.measurement.forecast import Forecast, LayerRates, forecast_run
from bitnet_bench.measurement.round_plan import allot_shares, count_starting_rounds, plan_rounds
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.runs.records import RuntimeParity


class FakeClock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class FakeLoadable:
    """One that takes so long to load, or fails."""

    def __init__(self, name: str, clock: FakeClock, load_s: float, order: list[str], fails: bool = False) -> None:
        self.name, self._clock, self._load_s, self._order, self._fails = name, clock, load_s, order, fails

    def load(self, within_s: float) -> RuntimeParity | None:
        """Let time pass."""
        self._order.append(self.name)
        self._clock.now += min(self._load_s, within_s)
        if self._fails:
            raise BenchError(f"{self.name} is broken.", "Mend it.")
        if self._load_s > within_s:
            raise OutOfBudgetError(f"Loading it took more than {format_duration(within_s)}, which was its share.")
        return None


def _admit(
    budget_s: float, entrants: Callable[[FakeClock, list[str]], list[QueuedCandidate]]
) -> tuple[list[Admission], float]:
    clock = FakeClock()
    countdown = Countdown(Budget(budget_s, clock), lambda done, total, note="": None)
    return load_candidates(entrants(clock, []), countdown), clock.now


def _entrant(
    loadable: FakeLoadable, run_s: float | None = None, size: int = 1, kind: tuple[str, str] | None = None
) -> QueuedCandidate:
    forecast = None if run_s is None else Forecast("fp16", run_s, LayerRates(3e9, 1e9))
    return QueuedCandidate(loadable, lambda: forecast, size, kind or (loadable.name, "hf"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("3m", 180), ("1h", 3600), ("1.5m", 90), (" 2m ", 120)])
def test_a_budget_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    """Seconds, minutes or hours."""
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "3 minutes", "-1m", "0s", "m", "1m30s"])
def test_another_form_of_a_budget_is_refused_with_examples(text: str) -> None:
    """A bare number is no budget: nobody knows of what."""
    with pytest.raises(UsageError) as error:
        parse_budget(text)
    assert "90s, 3m or 1h" in error.value.hint


@given(st.dictionaries(st.integers(), st.floats(0.01, 1e4), max_size=6), st.floats(0, 1e3), st.integers(1, 5))
@example({0: 1.0, 1: 1.0}, 1.0, 1)  # the first does not fit its half, the second would fit the whole
@example({0: 1.0, 1: 1.0}, 3.5, 2)  # the first runs once in its half, what it leaves lets the second run twice
@example({0: 1.0, 1: 5.0, 2: 5.5}, 11.5, 3)  # the middle one does not fit, the slowest would
def test_what_is_allotted_fits_and_the_quicker_one_is_never_worse_off(
    run_s: dict[int, float], left_s: float, runs: int
) -> None:
    """Max-min fairness: all that are to run fit into what is left, and nobody slower gets more turns."""
    found = allot_shares(run_s, left_s, runs)
    count = {"often": runs, "once": 1, "never": 0}
    assert sum(count[found[key].turn] * seconds for key, seconds in run_s.items()) <= left_s + 1e-6
    in_order = [count[found[key].turn] for key in sorted(run_s, key=lambda key: run_s[key])]
    assert in_order == sorted(in_order, reverse=True)
    if run_s and min(run_s.values()) <= left_s / len(run_s):
        assert max(in_order) > 0


@given(st.integers(1, 40), st.floats(0.1, 100), st.floats(0, 600))
def test_a_plan_of_rounds_fits_and_its_end_is_foreseen(most: int, round_s: float, left_s: float) -> None:
    """Rounds fit into what is left, and what is expected after one round is right within 1.5 for either end."""
    plan = plan_rounds(most, 3, round_s, left_s)
    assert 1 <= plan.earliest <= plan.most <= most
    assert plan.most == 1 or plan.most * round_s <= left_s + 1e-6
    if plan.most > 1:
        for ends in (plan.earliest, plan.most):
            for over in range(0 if ends > 2 else 1):  # at the start of the second round, and when it is over
                ratio = (plan.expect_rounds(1, narrow=True) - over) / (ends - 1 - over)
                assert 1 / 1.5 - 0.01 <= ratio <= 1.5 + 0.01
    assert plan.expect_rounds(1, narrow=False) == plan.most - 1


@given(st.integers(1, 50), st.integers(1, 150), st.integers(0, 300))
def test_the_rounds_that_will_begin_are_those_for_which_there_is_time(round_s: int, more_s: int, left_s: int) -> None:
    """Counted one by one: each begins while the time of one is left, and takes longer where it is repeated."""
    counted, now = 0, left_s
    while now >= round_s:
        counted, now = counted + 1, now - round_s - more_s
    assert count_starting_rounds(round_s, round_s + more_s, left_s) == counted


def test_the_quickest_is_loaded_first_and_leaves_its_time_to_others() -> None:
    """Seventy seconds are for loading: after two of them the slow one may take all that is left."""
    order: list[str] = []

    def entrants(clock: FakeClock, _: list[str]) -> list[QueuedCandidate]:
        slow = FakeLoadable("slow", clock, 65, order)
        return [_entrant(slow, run_s=5.0), _entrant(FakeLoadable("quick", clock, 2, order))]

    admitted, now = _admit(100, entrants)
    assert order == ["quick", "slow"]
    assert all(one.is_running for one in admitted)
    assert now == 67


def test_a_slow_load_is_not_ended_while_there_is_time_for_the_others() -> None:
    """On a busy machine one that is loaded is worth more than three that were ended at equal shares."""

    def entrants(clock: FakeClock, _: list[str]) -> list[QueuedCandidate]:
        return [_entrant(FakeLoadable(name, clock, 45, []), size=i, kind=("x", "hf")) for i, name in enumerate("abc")]

    (a, b, c), now = _admit(100, entrants)
    assert a.is_running
    assert str(b.left_out).startswith("Loading it would take about 45 s, as the other precision did; its share")
    assert c.left_out is not None
    assert now == 45


def test_one_that_is_forecast_to_exceed_its_share_is_not_even_loaded() -> None:
    """The sentence says how fast its products are here, how long a run would take, and what its share is."""
    order: list[str] = []

    def entrants(clock: FakeClock, _: list[str]) -> list[QueuedCandidate]:
        return [
            _entrant(FakeLoadable("fp16", clock, 5, order), run_s=1500.0),
            _entrant(FakeLoadable("bf16", clock, 5, order), run_s=2.0),
        ]

    (fp16, bf16), _ = _admit(180, entrants)
    assert bf16.is_running
    assert order == ["bf16"]
    assert fp16.left_out == (
        "One run would take about 25 min, because FP16 products reach 3 GFLOP/s on this processor; "
        "its share of the budget of 3 min is 2.9 min."
    )


def test_loading_that_exceeds_its_share_is_ended_and_a_crash_is_an_error() -> None:
    """One that hangs leaves each of the others a tenth of the budget."""

    def entrants(clock: FakeClock, _: list[str]) -> list[QueuedCandidate]:
        return [
            _entrant(FakeLoadable("broken", clock, 1, [], fails=True), size=1),
            _entrant(FakeLoadable("hangs", clock, 500, []), size=2),
            _entrant(FakeLoadable("quick", clock, 8, []), size=3),
        ]

    (broken, hangs, quick), now = _admit(100, entrants)
    assert broken.error is not None
    assert broken.left_out is None
    assert hangs.left_out == "Loading it took more than 59 s, which was its share."
    assert hangs.error is None
    assert quick.is_running
    assert now == 68


@pytest.mark.usefixtures("on_the_cpu")
def test_fp16_without_units_is_foreseen_from_a_product_of_the_models_own_layer() -> None:
    """A run of the 2B shape takes longer than one of a small model; what torch does not run is not forecast."""
    small = {**read_preset_config("bitnet-2b-4t"), "num_hidden_layers": 1}
    scenario = Scenario(prompt_tokens=128, new_tokens=32)
    whole, layer = (forecast_run(c, "hf", "fp16", scenario, 1) for c in (read_preset_config("bitnet-2b-4t"), small))
    assert whole is not None
    assert layer is not None
    assert whole.seconds > 3 * layer.seconds > 0
    assert "FP16 products reach" in whole.describe()
    assert forecast_run(small, "llamacpp", "fp16", scenario, 1) is None
    assert forecast_run(small, "hf", "ternary", scenario, 1) is None
    assert forecast_run({"n_embd": 64}, "hf", "fp16", scenario, 1) is None


def test_the_display_counts_the_budget_down() -> None:
    """Seconds of what is expected, never more than that, and a finish at what it took."""
    clock, told = FakeClock(), list[tuple[int, int, str]]()
    countdown = Countdown(Budget(180, clock), lambda done, total, note="": told.append((done, total, note)))
    clock.now = 30.0
    countdown.show_progress("load a")
    countdown.set_expected(40.0)
    clock.now = 31.5
    countdown.show_progress()
    clock.now = 300.0
    countdown.show_progress()
    countdown.finish()
    assert told == [(30, 180, "load a"), (31, 71, "load a"), (300, 301, "load a"), (300, 300, "")]


def test_a_line_of_progress_says_what_is_left_at_the_pace_since_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A countdown that is at 20 s of 180 when it is first told leaves 150 s ten seconds later, not 50."""
    clock = FakeClock()
    progress = _LineProgress("measure (s)", clock)
    clock.now = 1.0
    progress(20, 180, "load")
    clock.now += LOG_EVERY_S
    progress(30, 180, "load")
    assert capsys.readouterr().err == "measure (s): 30/180, 2 min left load\n"
