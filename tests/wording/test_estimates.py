"""A score with its uncertainty, as the terminal, cards and reports write it."""

from __future__ import annotations

import pytest

from bitnet_bench.runs.records import Score
from bitnet_bench.wording.estimates import format_estimate


@pytest.mark.parametrize(
    ("value", "stderr", "interval", "ko", "en"),
    [
        (87.5, 6.0, (75.7, 99.3), "87.5 ±11.8", "87.5 ±11.8"),
        (100.0, 0.0, (34.2, 100.0), "100.0 (34.2~100.0)", "100.0 (34.2 to 100.0)"),
        (50.0, None, None, "50.0", "50.0"),
        (50.0, -0.01, None, "50.0", "50.0"),
        (-1.0, 0.5, (-2.0, 0.0), "−1.0 ±1.0", "−1.0 ±1.0"),
    ],
)
def test_an_estimate_never_claims_certainty(
    value: float, stderr: float | None, interval: tuple[float, float] | None, ko: str, en: str
) -> None:
    """± is 1.96 standard errors; where that would be ±0.0 the interval stands instead."""
    shown = format_estimate(value, stderr, interval)
    assert (shown.ko, shown.en) == (ko, en)


def test_two_of_two_right_have_an_interval_and_an_error_for_means() -> None:
    """A score whose examples came out alike counts in a mean with its Wilson interval, not as certain."""
    score = Score(task="s:t", metric="accuracy", value=100.0, stderr=0.0, n=2, signature="s")
    assert score.interval == pytest.approx((34.24, 100.0), abs=0.01)
    assert score.stderr_for_means == pytest.approx(65.76 / 1.96, abs=0.01)
    assert score.model_copy(update={"stderr": 3.0}).stderr_for_means == 3.0
    assert score.model_copy(update={"stderr": None}).stderr_for_means is None
