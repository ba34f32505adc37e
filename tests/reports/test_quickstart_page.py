"""The quickstart's report as a page: how long it is, on paper too, and whether each language is that language.

`quickstart.tar.xz` has the four runs of a `bitnet-bench quickstart` on two cores, with the paths shortened.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.reports.write import write_report
from bitnet_bench.wording.sentences import SENTENCE_PATTERN

RUNS = ("ternary-before", "fp16-before", "ternary-after", "fp16-after")
MAX_PHONE_PIXELS, MAX_PAGES = 9000, 12
A4_INCHES = {"paperWidth": 8.27, "paperHeight": 11.69}
RAW_KEY_PATTERN = re.compile(r"\b[a-z]+[0-9]*(?:_[a-z0-9]+)+\b|\b[a-z_]+:[a-z][a-z0-9_]+\b|\bsample-\w+")
"""snake_case, SUITE:TASK, and the names of files of the embedded suite."""


class Words(HTMLParser):
    """Collects the text that a page shows in one language, without code, scripts and what is marked as English."""

    def __init__(self, text: str, language: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self._other = "en" if language == "ko" else "ko"
        self._language = language
        self._hidden: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the start of what is hidden, and the headings of cards."""
        given = dict(attrs)
        is_foreign = self._language == "ko" and given.get("lang") == "en" and tag == "bdi"
        if self._hidden or tag in ("script", "style", "code") or given.get("class") == self._other or is_foreign:
            if tag not in ("meta", "input"):
                self._hidden.append(tag)
        elif given.get(f"data-{self._language}"):
            self.texts.append(str(given[f"data-{self._language}"]))

    def handle_endtag(self, tag: str) -> None:
        """Note the end of what is hidden."""
        if self._hidden:
            assert self._hidden.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text that is shown."""
        if not self._hidden and data.strip():
            self.texts.append(data.strip())


def chart_texts(text: str, language: str) -> Iterator[str]:
    """Yield the texts in the page's charts: titles, labels, names of tasks and metrics."""
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[0])
    technical = {"$schema", "type", "field", "mark", "format", "color", "interpolate", "scheme", "test", "filter"}

    def walk(value: Any, key: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(inner, name)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner, key)
        elif isinstance(value, str) and key not in technical:
            yield value

    for chart in data["charts"]:
        yield from walk(chart[language])


def find_raw_keys(texts: list[str]) -> list[str]:
    """Return what looks like a key of a file rather than a word."""
    return [key for text in texts for key in RAW_KEY_PATTERN.findall(text)]


def find_latin_sentences(texts: list[str]) -> list[str]:
    """Return the texts with four words or more in Latin letters in a row."""
    return [text for text in texts if SENTENCE_PATTERN.search(text)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the quickstart's report."""
    folder = tmp_path_factory.mktemp("quickstart")
    with tarfile.open(Path(__file__).with_name("quickstart.tar.xz")) as packed:
        packed.extractall(folder, filter="data")
    training = {folder / f"{kind}-after": folder / "models" / kind for kind in ("ternary", "fp16")}
    # the records' models are in a relative folder, which the clone has too after `make quickstart`
    with contextlib.chdir(folder):
        path, notices = write_report([folder / run for run in RUNS], folder / "report.html", "html", None, training)
    assert notices == []
    return path


@pytest.mark.parametrize("language", ["ko", "en"])
def test_no_key_of_a_file_is_shown(language: str, page: Path) -> None:
    """Tasks, metrics, costs and settings have names in both languages; keys stand in code alone."""
    text = page.read_text(encoding="utf-8")
    texts = Words(text, language).texts
    assert len(texts) > 300
    assert find_raw_keys(texts) == []
    charts = list(chart_texts(text, language))
    assert len(charts) > 300
    assert find_raw_keys(charts) == []


def test_the_korean_page_has_no_english_sentence(page: Path) -> None:
    """Reasons, methods and models of the records are Korean; none of them is left as English, marked or not."""
    text = page.read_text(encoding="utf-8")
    assert find_latin_sentences(Words(text, "ko").texts) == []
    assert find_latin_sentences(list(chart_texts(text, "ko"))) == []
    assert not re.search(r'<bdi lang="en">', text), "a sentence of the quickstart is not in sentences.yaml"
    assert find_latin_sentences(Words(text, "en").texts), "the English page has some, so the search can find them"


def test_a_key_and_an_english_sentence_would_be_found() -> None:
    """The searches above can fail."""
    planted = Words('<p>macro_f1 <bdi>sample:boolq</bdi> sample-en2ko</p><p class="en">a_b</p><code>c_d</code>', "ko")
    assert find_raw_keys(planted.texts) == ["macro_f1", "sample:boolq", "sample-en2ko"]
    shown = Words('<p>이유: this machine shows no counter</p><bdi lang="en">this is marked as English</bdi>', "ko")
    assert find_latin_sentences(shown.texts) == ["이유: this machine shows no counter"]


def test_the_compared_pair_comes_first(page: Path) -> None:
    """The first screen begins with what is kept, of the runs after fine-tuning, which are A and B."""
    texts = Words(page.read_text(encoding="utf-8"), "ko").texts
    assert any(re.match(r"‘ternary-after’: ‘fp16-after’ 품질의 [\d.]+% 유지\(95% 구간", text) for text in texts)
    order = [text for text in texts if re.fullmatch(r"[A-D] · [\w-]+", text)]
    assert order[:4] == ["A · ternary-after", "B · fp16-after", "C · ternary-before", "D · fp16-before"]


def show(browser: Any, page: Path, width: int, language: str) -> None:
    """Open the page in a window of this width, in this language, with every chart and the samples drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    browser.execute_script(f"document.querySelector('[data-language={language}]').click()")
    browser.execute_script("for (const kind of ['before', 'after']) window.dispatchEvent(new Event(kind + 'print'))")
    undrawn = (
        "[...document.querySelectorAll('[data-chart]:not([data-drawn])')].filter((e) => e.getClientRects().length)"
    )
    WebDriverWait(browser, 60, poll_frequency=0.1).until(lambda b: b.execute_script(f"return !{undrawn}.length"))


@pytest.mark.parametrize("language", ["ko", "en"])
def test_a_phone_shows_it_within_nine_thousand_pixels(language: str, browser: Any, page: Path) -> None:
    """At 390 pixels the page, with everything drawn, is at most 9,000 high, and does not scroll sideways."""
    show(browser, page, 390, language)
    root = "document.documentElement"
    height, overflow = browser.execute_script(f"return [{root}.scrollHeight, {root}.scrollWidth - {root}.clientWidth]")
    assert 3000 < height <= MAX_PHONE_PIXELS
    assert overflow <= 0
    assert browser.execute_script("return document.querySelectorAll('#rows tbody tr').length") == 8


@pytest.mark.parametrize("language", ["ko", "en"])
def test_it_prints_on_twelve_pages(language: str, browser: Any, page: Path) -> None:
    """On A4 the report takes at most 12 pages, and it has the samples."""
    show(browser, page, 1440, language)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {**A4_INCHES, "printBackground": True})
    pages = re.findall(rb"/Type\s*/Page\b(?!s)", base64.b64decode(printed["data"]))
    assert 3 <= len(pages) <= MAX_PAGES


def test_the_contents_stay_and_mark_the_part_that_is_read(browser: Any, page: Path) -> None:
    """Scrolled to the costs, the bar is still at the top, and "costs" is marked in it; at the end it is the samples."""
    show(browser, page, 1440, "ko")
    for anchor in ("costs", "samples", "summary"):
        browser.execute_script("document.getElementById(arguments[0]).scrollIntoView()", anchor)
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        found = browser.execute_script(
            "return [document.querySelector('.top').getBoundingClientRect().top,"
            "[...document.querySelectorAll('.contents [aria-current]')].map((link) => link.hash)]"
        )
        assert found == [0, [f"#{anchor}"]]


def test_a_switch_shows_quality_against_another_cost(browser: Any, page: Path) -> None:
    """Latency instead of memory: its chart is drawn, with a point for each backend and precision, the other hidden."""
    show(browser, page, 1440, "ko")
    browser.execute_script("document.querySelector('.switch [data-shows=\"1\"]').click()")
    from selenium.webdriver.support.ui import WebDriverWait

    drawn = "document.querySelector('.switch [data-panel=\"1\"] [data-drawn]')"
    WebDriverWait(browser, 60, poll_frequency=0.1).until(lambda b: b.execute_script(f"return !!{drawn}"))
    shown = browser.execute_script("return document.querySelector('.switch').innerText")
    for words in ("A 삼진", "B hf FP16", "B hf BF16", "토큰당 시간 (ms)"):
        assert words in shown
    assert "최대 메모리 (MiB)" not in shown
    assert browser.execute_script("return document.querySelector('.switch [data-panel=\"0\"]').hidden")


def test_samples_begin_with_changed_results_and_have_probabilities(browser: Any, page: Path) -> None:
    """The first row is right in one run only; opened, it has a score for each run and a probability for each choice."""
    show(browser, page, 1440, "ko")
    first = browser.execute_script("return document.querySelector('#rows tbody tr').innerText")
    assert "정답" in first
    assert "오답" in first
    browser.execute_script("document.querySelector('#rows .toggle').click()")
    opened = browser.execute_script("return document.querySelector('.detail').innerText")
    assert "점수 100" in opened
    assert "점수 0" in opened
    shares = browser.execute_script("return [...document.querySelectorAll('.choices meter')].map((bar) => bar.value)")
    assert len(shares) == 4
    assert shares[0] + shares[2] == pytest.approx(1.0, abs=0.001)


def test_a_card_shows_its_main_columns_until_it_is_opened(browser: Any, page: Path) -> None:
    """On a phone a row of scores has A and B; a tap on it shows the metric and the other runs."""
    show(browser, page, 390, "ko")
    row = "document.querySelector('#scores').closest('section').querySelector('.folds tbody tr')"
    closed = browser.execute_script(f"return {row}.innerText")
    browser.execute_script(f"{row}.querySelector('.more').click()")
    opened = browser.execute_script(f"return {row}.innerText")
    assert "매크로 F1" not in closed
    assert "매크로 F1" in opened
    assert len(opened) > len(closed)
