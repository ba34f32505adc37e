"""What the tests of reports share: costs, one run beside its twin, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bitnet_bench.runs.records import Cost, Measured, Measurement, Unavailable

NO_COUNTER = "this machine shows no energy counter"
BROWSER_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def measured() -> Callable[..., Measured]:
    """Give a factory of readings in a unit."""

    def make(unit: str, *readings: float) -> Measured:
        return Measured(unit=unit, method="monotonic clock", readings=readings)

    return make


@pytest.fixture(scope="session")
def make_cost(measured: Any) -> Callable[..., Cost]:
    """Give a factory of costs by precision and decode speed."""

    def make(precision: str = "ternary", speed: float = 100.0, **fields: Any) -> Cost:
        metrics: dict[str, Measurement] = {
            "prefill_tokens_per_s": measured("tokens/s", 1000.0),
            "decode_s": measured("s/token", 1 / speed),
            "decode_tokens_per_s": measured("tokens/s", speed, speed + 1, speed + 2),
            "peak_bytes": measured("B", 5e6 + speed),
            "energy_j": Unavailable(reason=NO_COUNTER),
        }
        given = {
            "backend": "hf",
            "precision": precision,
            "prompt_tokens": 128,
            "new_tokens": 32,
            "batch": 1,
            "threads": 2,
            "weight_bytes": {"ternary": 1000, "embedding": 1000},
            "resident_weight_bytes": 2048,
            "kv_bytes": 4096,
            "metrics": metrics,
            "foreign_load": 0.0,
            **fields,
        }
        return Cost(**given)

    return make


@pytest.fixture(scope="session")
def twins(make_results: Any, make_cost: Any) -> Any:
    """Give a ternary run and its FP16 twin, 40 points apart, both measured."""
    good, bad = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50
    return (
        make_results("삼진", {"s:t": bad, "s:u": good}, costs=(make_cost(),)),
        make_results("쌍둥이", {"s:t": good, "s:u": good}, precision="fp16", costs=(make_cost("fp16", 50.0),)),
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a Chromium with a profile of its own, whose logs can be read."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver: `make browser`")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()
