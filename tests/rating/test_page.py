"""A rater with a keyboard, in a real browser."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.rating.collect import collect_ratings
from bitnet_bench.rating.sheet import make_sheet

selenium = pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("no chromium and chromedriver on this machine", allow_module_level=True)

EVIL = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">\u202e\x00"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a headless Chromium whose downloads go to `browser.downloads`."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    downloads = tmp_path_factory.mktemp("downloads")
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver: Any = Chrome(options=options, service=ChromeService(shutil.which("chromedriver") or ""))
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def sheet(tmp_path: Path, write_run: Callable[..., Path]) -> Path:
    """Give a page of three items whose answers attack it."""
    a, b = (write_run(tmp_path / name, f"{name} {EVIL}", rows=3) for name in "가나")
    make_sheet(a, b, tmp_path / "sheet.html", samples=3)
    return tmp_path / "sheet.html"


def text(browser: Any, selector: str) -> str:
    """Return what stands in an element."""
    return str(browser.find_element("css selector", selector).text)


def press(browser: Any, keys: str) -> None:
    """Press keys, one after the other, wherever the focus is."""
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(keys).perform()


def test_a_rater_finishes_with_the_keyboard_and_the_file_is_collected(browser: Any, sheet: Path) -> None:
    """Digits, a letter, an arrow; progress survives a reload; the saved file is what `rate collect` reads."""
    from selenium.webdriver import Keys

    browser.get(sheet.as_uri())
    assert not browser.find_element("id", "save").is_enabled()
    press(browser, "543211a")
    press(browser, Keys.ARROW_RIGHT + "555555b")
    wait_for_progress(browser, "3개 중 2개")
    browser.refresh()
    wait_for_progress(browser, "3개 중 2개")
    press(browser, Keys.ARROW_RIGHT + "111112t")
    browser.find_element("id", "rater").send_keys("김 가")
    browser.find_element("id", "save").click()
    saved = _downloaded(browser.downloads)
    said = json.loads(saved.read_text(encoding="utf-8"))
    assert said["judgements"][0] == {
        "item": 0,
        "left": {"fluency": 5, "accuracy": 4, "relevance": 3},
        "right": {"fluency": 2, "accuracy": 1, "relevance": 1},
        "preferred": "left",
    }
    assert [one["preferred"] for one in said["judgements"]] == ["left", "right", "tie"]
    _key, judgement = collect_ratings([sheet.with_suffix(".key.json"), saved])
    assert (judgement.items, judgement.raters, judgement.ties) == (3, ("김 가",), 1)


def wait_for_progress(browser: Any, said: str) -> None:
    """Wait until the page says how far the rater is: a busy browser handles keys, and reads its store, later."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda _: said in text(browser, "#progress"), said)


def _downloaded(folder: Path) -> Path:
    for _ in range(100):
        found = list(folder.glob("rating-*.json"))
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("nothing was saved")


def test_nothing_that_a_model_wrote_runs_or_hides(browser: Any, sheet: Path) -> None:
    """It is shown as text, with invisible characters made visible; the page asks for nothing and logs nothing."""
    browser.get(sheet.as_uri())
    shown = text(browser, "#left")
    assert "<script>" in shown
    assert "⟨U+202E⟩" in shown
    assert "\ufffd" in shown
    assert browser.title == "bitnet-bench 평가지"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


def test_it_is_in_two_languages_and_fits_a_phone(browser: Any, sheet: Path) -> None:
    """The switch changes every label; at 390 pixels nothing has to be scrolled sideways."""
    browser.get(sheet.as_uri())
    browser.find_element("id", "language").click()
    assert browser.find_element("tag name", "html").get_attribute("lang") == "en"
    assert text(browser, "#preference legend") == "Which answer is better?"
    for width in (1440, 390):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
