"""How much cheaper a run is than another: the ratios of the first screen, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from bitnet_bench.comparison import compare
from bitnet_bench.reports.figures import format_factor
from bitnet_bench.reports.named_runs import name_runs
from bitnet_bench.reports.pairs import choose_pairs
from bitnet_bench.reports.scores import compute_primary_mean
from bitnet_bench.reports.summary import make_summary
from bitnet_bench.runs.records import Measured

ROWS = {"s:t": [1.0, 0.0, 1.0, 0.0]}


def metrics(
    prefill: tuple[float, ...], decode: tuple[float, ...], peak: float, energy: tuple[float, ...]
) -> dict[str, Measured]:
    """Return readings of the metrics that the first screen compares."""
    units = {"prefill_tokens_per_s": "tokens/s", "decode_tokens_per_s": "tokens/s", "peak_bytes": "B", "energy_j": "J"}
    readings = (prefill, decode, (peak,), energy)
    return {
        name: Measured(unit=unit, method="fake", readings=values)
        for (name, unit), values in zip(units.items(), readings, strict=True)
    }


OURS = metrics(prefill=(90.0, 100.0, 110.0), decode=(30.0, 10.0, 20.0), peak=3e9, energy=(2.0, 4.0, 3.0))
THEIRS = metrics(prefill=(300.0, 250.0, 200.0), decode=(5.0, 4.0, 3.0), peak=9e9, energy=(4.0, 9.0, 4.5))


def describe(make_results: Any, make_cost: Any, ours: Any = OURS, *theirs: Any, **fields: Any) -> str:
    """Return the sentence on cost of a ternary run beside a float one of several precisions."""
    precisions = ("fp16", "bf16")
    a = make_results(
        "a", ROWS, costs=(make_cost(metrics=ours, weight_bytes={"ternary": 1}, resident_weight_bytes=500, **fields),)
    )
    costs = tuple(
        make_cost(precision, metrics=one, weight_bytes={"linear": 1}, resident_weight_bytes=2000)
        for precision, one in zip(precisions, theirs or (THEIRS,), strict=False)
    )
    runs = name_runs([a, make_results("b", ROWS, precision="fp16", costs=costs)])
    (pair,) = choose_pairs(runs)
    comparison = compare(make_results("a", ROWS), make_results("b", ROWS))
    return make_summary(runs, (pair, comparison)).cost.en


def test_ratios_are_of_medians_and_say_which_way(make_results: Any, make_cost: Any) -> None:
    """Medians of 100 and 250, 20 and 4 tokens a second, 3 and 9 GB, 3 and 4.5 J; 1,000 and 8,000 bytes on disk."""
    said = describe(make_results, make_cost)
    assert "stored weights 8.0× smaller" in said
    assert "weights in memory 4.0× smaller" in said
    assert "peak memory 3.0× smaller" in said
    assert "prefill 2.5× slower" in said
    assert "decode 5.0× faster" in said
    assert "energy 1.5× smaller" in said


def test_the_other_way_round_is_the_other_word(make_results: Any, make_cost: Any) -> None:
    """The same readings, exchanged."""
    said = describe(make_results, make_cost, THEIRS, OURS)
    assert "peak memory 3.0× larger" in said
    assert "prefill 2.5× faster" in said
    assert "decode 5.0× slower" in said
    assert "energy 1.5× larger" in said


def test_of_several_float_precisions_the_best_counts_for_each_metric(make_results: Any, make_cost: Any) -> None:
    """Against FP16 alone, ternary would look better than it is."""
    bf16 = metrics(prefill=(150.0, 160.0, 170.0), decode=(10.0, 10.0, 10.0), peak=6e9, energy=(6.0, 6.0, 6.0))
    said = describe(make_results, make_cost, OURS, THEIRS, bf16)
    assert "prefill 2.5× slower" in said, "FP16 reads prompts faster"
    assert "decode 2.0× faster" in said, "BF16 writes faster"
    assert "peak memory 2.0× smaller" in said, "BF16 takes less"
    assert "energy 1.5× smaller" in said, "FP16 takes less"


def test_readings_that_overlap_are_no_difference(make_results: Any, make_cost: Any) -> None:
    """Medians of 20 and 18, but the fastest of the slower run is faster than the slowest of the other."""
    close = metrics(prefill=(100.0,), decode=(18.0, 11.0, 19.0), peak=3e9, energy=(1.0,))
    said = describe(make_results, make_cost, OURS, close)
    assert "decode 1.1× faster (within the spread of readings)" in said
    assert "prefill 1.00× faster (one reading)" in said


def test_another_scenario_is_not_compared(make_results: Any, make_cost: Any) -> None:
    """Prompts of another length are other work."""
    said = describe(make_results, make_cost, prompt_tokens=64)
    assert "faster" not in said
    assert "peak memory" not in said


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(1.0, "1.00×"), (1.049, "1.05×"), (1.1, "1.1×"), (2.449, "2.4×"), (9.96, "10.0×"), (12.6, "13×")],
)
def test_a_factor_has_two_digits_or_three_near_one(ratio: float, shown: str) -> None:
    """Which is as much as a few rounds can tell."""
    assert format_factor(ratio).en == shown


def test_the_mean_of_a_run_is_that_of_its_tasks(make_results: Any) -> None:
    """50 on four rows and 75 on eight are 62.5, with the root of both squared errors over two."""
    rows = {"s:t": [1.0, 0.0, 1.0, 0.0], "s:u": [1.0, 1.0, 1.0, 0.0] * 2}
    (run,) = name_runs([make_results("a", rows, metrics=("accuracy",))])
    mean = compute_primary_mean(run)
    assert mean is not None
    assert (mean.value, mean.tasks) == (62.5, 2)
    # p (1 - p) / (n - 1) for each
    errors = [0.25 / 3, 0.1875 / 7]
    assert mean.stderr == pytest.approx(100 * (sum(errors) ** 0.5) / 2)
