"""A report in a real Chromium: it works in both languages, and nothing that a run wrote runs, loads or breaks it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.reports.html import HTMLReport
from bitnet_bench.reports.sections import ReportOptions
from bitnet_bench.runs.run import Notice
from bitnet_bench.wording import plain_text

WIDE, NARROW = 1440, 390
# what a model, a prompt or a name may hold: markup, handlers, addresses, directions, controls, huge and broken text
NASTY = (
    "<script>document.title='run'</script>",
    "<img src=https://example.com/x.png onerror=\"document.title='run'\">",
    "</script></textarea></title><svg onload=\"document.title='run'\">",
    "<style>*{display:none}</style><link rel=stylesheet href=https://example.com/x.css>",
    "<iframe srcdoc=\"<script>parent.document.title='run'</script>\"></iframe><meta http-equiv=refresh content=0>",
    "javascript:document.title='run' &lt;b&gt; &#60;script&#62; {{7*7}} ${7*7} <!-- ]]> --!>",
    "\u202eright to left\u2066 isolate \u200b\u200e\ufeff",
    "null \x00 bell \x07 escape \x1b[31m \x85 \u2028 \u2029",
    "half a character \ud83d and \udc00, 👨\u200d👩\u200d👧, " + "Z\u0351\u036b\u0343" * 60,
    "가" * 3000,
    "unbroken" * 400,
    "\n" * 300 + "after many lines",
)


def show(browser: Any, text: str, folder: Path, width: int = WIDE, anchor: str = "") -> None:
    """Open *text* as a file in a window *width* pixels wide, and scroll through it so that every part is drawn."""
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == NARROW}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for log in ("browser", "performance"):
        browser.get_log(log)  # what was before is not this page's
    browser.get(f"{file.as_uri()}{anchor}")
    wait(browser, "document.documentElement.dataset.ready === 'yes'")


def wait(browser: Any, condition: str) -> None:
    """Wait until a JavaScript *condition* holds."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda b: b.execute_script(f"return {condition}"), condition)


def draw_all(browser: Any) -> None:
    """Draw every chart, as before printing, and build the table of samples."""
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    undrawn = "[...document.querySelectorAll('[data-chart]:not([data-drawn])')]"
    wait(browser, f"{undrawn}.filter((place) => place.getClientRects().length).length === 0")
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    browser.execute_script("document.querySelector('.samples').scrollIntoView()")
    wait(browser, "!document.getElementById('rows') || document.querySelectorAll('#rows tbody tr').length > 0")


def complaints(browser: Any) -> list[str]:
    """Return what the browser refused or failed at."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def requests(browser: Any) -> list[str]:
    """Return the addresses that were asked for, apart from the file itself, what lies in it, and what was forbidden."""
    asked, forbidden = {}, set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked[message["params"]["requestId"]] = message["params"]["request"]["url"]
        elif message["method"] == "Network.loadingFailed" and message["params"].get("blockedReason") == "csp":
            forbidden.add(message["params"]["requestId"])
    left = [url for request, url in asked.items() if request not in forbidden]
    return [url for url in left if not url.startswith(("file:", "data:", "blob:", "chrome:"))]


def overflow(browser: Any) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(browser.execute_script("const e = document.documentElement; return e.scrollWidth - e.clientWidth"))


def texts(browser: Any, selector: str) -> list[str]:
    """Return the visible text of what a selector finds."""
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText ?? e.textContent)"
    return [str(text) for text in browser.execute_script(script, selector)]


def rows(browser: Any) -> int:
    """Return how many rows the filters leave; the page is in English."""
    said = str(browser.execute_script("return document.getElementById('count').textContent"))
    return int(re.findall(r"[\d,]+", said)[0].replace(",", ""))


def click(browser: Any, selector: str) -> None:
    """Click what a selector finds, wherever it is scrolled to."""
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center'})", found := browser.find_element("css selector", selector)
    )
    found.click()


def choose(browser: Any, name: str, value: str) -> None:
    """Set a filter as a person does."""
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true}))",
        name,
        value,
    )


def test_a_report_is_clicked_through_in_both_languages(browser: Any, twins: Any, tmp_path: Path) -> None:
    """Switching the language changes heading, charts, table and title; every chart is drawn under the policy."""
    show(browser, HTMLReport().render(twins, ReportOptions()), tmp_path)
    draw_all(browser)
    assert "품질의 77.8% 유지" in texts(browser, "h1")[0]
    assert "과제" in texts(browser, "#rows th.task")[0]
    korean = texts(browser, "[data-chart] svg")
    click(browser, "[data-language=en]")
    wait(browser, "document.title === 'bitnet-bench report'")
    assert "keeps 77.8% of the quality" in texts(browser, "h1")[0]
    assert "점 낮다" not in texts(browser, "body")[0]
    assert "Task" in texts(browser, "#rows th.task")[0]
    wait(browser, f"document.querySelectorAll('[data-chart] svg').length === {len(korean)}")
    click(browser, "[data-language=ko]")
    wait(browser, "document.title === 'bitnet-bench 보고서'")
    assert complaints(browser) == []
    assert requests(browser) == []


def test_samples_are_filtered_found_and_linked(browser: Any, twins: Any, tmp_path: Path) -> None:
    """Each filter leaves the rows it names; a row opens with both outputs, their difference marked, and has a link."""
    text = HTMLReport().render(twins, ReportOptions(language="en"))
    show(browser, text, tmp_path)
    draw_all(browser)
    assert rows(browser) == 200
    for value, left in (("to-wrong", 40), ("to-right", 0), ("both-wrong", 20), ("differ", 40), ("all", 200)):
        choose(browser, "outcome", value)
        assert rows(browser) == left, value
    choose(browser, "task", "1")
    assert rows(browser) == 100
    choose(browser, "search", "질문 77")
    assert rows(browser) == 1
    click(browser, "#clear")
    assert rows(browser) == 200
    choose(browser, "outcome", "to-wrong")
    click(browser, "#rows tbody .toggle")
    assert len(texts(browser, ".detail .outputs .field")) == 2
    assert len(texts(browser, ".detail mark")) == 2
    link = browser.execute_script("return document.querySelector('.detail a').hash")
    show(browser, text.replace("<title>", "<title >"), tmp_path, anchor=link)
    wait(browser, "document.querySelectorAll('.detail').length === 1")
    assert "질문 50" in texts(browser, ".detail .field")[0]


def test_the_keyboard_opens_a_sample(browser: Any, twins: Any, tmp_path: Path) -> None:
    """The button of a row takes the focus, opens with Enter, and says that it is open."""
    from selenium.webdriver.common.keys import Keys

    show(browser, HTMLReport().render(twins, ReportOptions(language="en")), tmp_path)
    draw_all(browser)
    button = browser.find_element("css selector", "#rows tbody .toggle")
    assert button.get_attribute("aria-expanded") == "false"
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-expanded") == "true"
    assert "s:t 50" in str(button.get_attribute("aria-label"))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_that_a_run_wrote_runs_loads_or_breaks_the_page(
    width: int, browser: Any, make_results: Any, make_cost: Any, tmp_path: Path
) -> None:
    """Scripts, addresses, directions, controls, huge and broken text in outputs, prompts, names and reasons."""
    from bitnet_bench.runs.records import Example

    examples = [
        Example(task="s:t", doc_id=i, prompt=text, target=text, output=NASTY[-1 - i], correct=i % 2)
        for i, text in enumerate(NASTY)
    ]
    runs = []
    for i, name in enumerate(("".join(NASTY[:3]), "".join(NASTY[5:8]))):
        run = make_results(
            name, {"s:t": [1.0]}, precision=("ternary", "fp16")[i], costs=(make_cost(("ternary", "fp16")[i]),)
        )
        task = NASTY[i] + NASTY[6]
        scores = tuple(s.model_copy(update={"task": task}) for s in run.record.scores)
        mine = [e.model_copy(update={"task": task, "output": e.output + str(i)}) for e in examples]
        record = run.record.model_copy(
            update={"scores": scores, "errors": {task: NASTY[1]}, "settings": {NASTY[2]: NASTY[0]}}
        )
        runs.append(
            replace(run, record=record, examples={task: mine}, notices=(Notice(NASTY[0], plain_text(NASTY[9])),))
        )
    show(browser, HTMLReport().render(runs, ReportOptions(language="en")), tmp_path, width)
    draw_all(browser)
    browser.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")
    browser.execute_script("for (const e of document.querySelectorAll('#rows .toggle')) e.click()")
    wait(browser, "document.querySelectorAll('.detail').length > 0")
    assert browser.title == "bitnet-bench report"
    elements = "script[src],img,iframe,link,svg[onload],textarea,object,embed"
    assert browser.execute_script("return document.querySelectorAll(arguments[0]).length", elements) == 0
    assert browser.execute_script("return document.querySelectorAll('style').length") == 1
    assert overflow(browser) <= 0
    assert complaints(browser) == []
    assert requests(browser) == []
    shown = "".join(texts(browser, ".detail .text"))
    assert "<script>document.title='run'</script>" in shown
    assert "⟨U+202E⟩" in shown


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_is_wider_than_the_window(width: int, browser: Any, twins: Any, tmp_path: Path) -> None:
    """On a wide and on a narrow screen, in both languages, the page does not scroll sideways."""
    show(browser, HTMLReport().render(twins, ReportOptions()), tmp_path, width)
    draw_all(browser)
    for language in ("en", "ko"):
        click(browser, f"[data-language={language}]")
        assert overflow(browser) <= 0
    assert complaints(browser) == []


def test_the_policy_forbids_what_would_slip_through(browser: Any, twins: Any, tmp_path: Path) -> None:
    """Were markup ever to get into the page, its handler would not run and its picture would not be asked for."""
    show(browser, HTMLReport().render(twins, ReportOptions(language="en")), tmp_path)
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", NASTY[1])
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = \"document.title='run'\"; document.body.append(s)"
    )
    assert browser.title == "bitnet-bench report"
    assert requests(browser) == []
    assert any("Content Security Policy" in message for message in complaints(browser))


def test_a_run_alone_shows_the_probabilities_of_its_choices(browser: Any, make_results: Any, tmp_path: Path) -> None:
    """One run is both of those that are compared, and each choice has one probability, on a line of its own."""
    show(browser, HTMLReport().render([make_results("a", {"s:t": [1.0]})], ReportOptions()), tmp_path)
    draw_all(browser)
    click(browser, "#rows .toggle")
    shares = browser.execute_script("return [...document.querySelectorAll('.choices meter')].map((bar) => bar.value)")
    assert sorted(shares) == pytest.approx([0.2689, 0.7311])
    tops = "[...document.querySelectorAll('.choices .choice')].map((name) => name.getBoundingClientRect().top)"
    assert len(set(browser.execute_script(f"return {tops}"))) == 3
