"""The HTML file: what it holds, in both languages, and that foreign text in it stays text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.reports.html import HTMLReport
from bitnet_bench.reports.sections import Paragraph, ReportOptions, Section
from bitnet_bench.runs.records import Example, Modelled, Unavailable
from bitnet_bench.runs.run import Notice
from bitnet_bench.wording import get_text, load_catalogue, plain_text
from bitnet_bench.wording.sentences import translate_sentence

HOSTILE = '</bdi></script><script>alert("x")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}'


class Page(HTMLParser):
    """Collects tags, attributes, visible text, and what script and style elements hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inlined: list[tuple[str, str]] = []
        self.text = ""
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a start tag."""
        self.tags.append(tag)
        self.attributes += attrs
        self._open = tag if tag in ("script", "style") else None
        if self._open:
            self.inlined.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        """Note the end of an inlined part."""
        self._open = None

    def handle_data(self, data: str) -> None:
        """Note text, or what an element inlines."""
        if self._open:
            tag, before = self.inlined[-1]
            self.inlined[-1] = (tag, before + data)
        else:
            self.text += data

    @property
    def data(self) -> Any:
        """Return what the script reads."""
        return json.loads(next(content for _, content in self.inlined if content.startswith("{")))


def render(*runs: Any, **options: Any) -> str:
    return HTMLReport().render(runs, ReportOptions(**options))


def test_the_first_screen_says_how_good_how_certain_and_how_much_cheaper(twins: Any) -> None:
    """The heading has the verdict with its interval, the line below it sizes and speeds, in both languages."""
    text = render(*twins)
    heading = re.search(r"<h1>(.*?)</h1>", text, re.S)
    assert heading is not None
    assert "‘쌍둥이’ 품질의 77.8% 유지(95% 구간 7" in heading.group(1)
    assert "‘삼진’ keeps 77.8% of the quality of ‘쌍둥이’ (95% interval 7" in heading.group(1)
    assert "디코드 2.0배 빠름" in heading.group(1)
    assert "peak memory 1.00× larger" in heading.group(1)
    assert "20.0점 낮다(95% 구간 −" in text
    assert "20.0 points worse" in text
    assert "저장 가중치 88% 절감" in text
    assert "decode 2.0× faster" in text


def test_an_undecided_pair_says_how_many_examples_would_decide(make_results: Any) -> None:
    """Two runs that differ on one of ten rows each way are told apart by many more rows, and the heading says so."""
    a, b = [1.0] * 6 + [0.0] * 4, [1.0] * 5 + [0.0] * 4 + [1.0]
    text = render(make_results("a", {"s:t": a}), make_results("b", {"s:t": b}, precision="fp16"))
    heading = re.search(r"<h1>(.*?)</h1>", text, re.S)
    assert heading is not None
    assert re.search(r"예제가 약 [\d,]+개 더 필요하다", heading.group(1))
    assert re.search(r"About [\d,]+ more examples would decide", heading.group(1))
    same = render(make_results("a", {"s:t": [1.0, 0.0] * 500}), make_results("b", {"s:t": [0.0, 1.0] * 500}))
    assert "would decide" in same
    sure = render(make_results("a", {"s:t": [0.0] * 90 + [1.0] * 9}), make_results("b", {"s:t": [1.0] * 99}))
    assert "would decide" not in sure


def test_a_share_of_a_guess_is_called_little(make_results: Any) -> None:
    """Half right of two answers is chance: the share kept of it has a warning; nine of ten right has none."""
    half, most = [1.0, 0.0] * 50, [1.0] * 90 + [0.0] * 10
    pages = [
        render(make_results("a", {"s:t": half}), make_results("b", {"s:t": rows}, precision="fp16"))
        for rows in (half, most)
    ]
    assert ["not clearly better than chance" in page for page in pages] == [True, False]


def test_a_sentence_that_nobody_translated_is_marked_as_english(make_results: Any, make_cost: Any) -> None:
    """A known reason is Korean in the Korean page; an unknown one stays as it is, with its language."""
    known, strange = "this machine shows no energy counter", "the meter was eaten by a dog"
    costs = [make_cost(metrics={"energy_j": Unavailable(reason=reason)}) for reason in (known, strange)]
    known_page, strange_page = (render(make_results("a", {"s:t": [1.0]}, costs=(cost,))) for cost in costs)
    assert "이 장비에는 에너지 카운터가 없음" in known_page
    assert f'<bdi lang="en">{strange}</bdi>' in strange_page
    assert f'lang="en">{known}</bdi>' in known_page
    notice = Notice("x", get_text("notice.failed", why=translate_sentence(strange)))
    failed = render(make_results("a", {"s:t": [1.0]}), unread=(notice,))
    assert f'채점 실패: </bdi><bdi class="en" lang="en">could not be scored: </bdi><bdi lang="en">{strange}' in failed


def test_the_first_sentence_counts_memory_and_takes_the_better_float_precision_of_each_figure(
    make_results: Any, make_cost: Any, measured: Any
) -> None:
    """FP16 that is small and slow and BF16 that is large and fast stand for one twin; the backends are named."""

    def cost(backend: str, precision: str, speed: float, mib: float) -> Any:
        made = make_cost(precision, speed, backend=backend, resident_weight_bytes=int(mib * 2**20))
        return made.model_copy(update={"metrics": made.metrics | {"peak_bytes": measured("B", mib * 2**20)}})

    ternary = make_results("t", {"s:t": [1.0, 0.0]}, backend="ternary", costs=(cost("ternary", "ternary", 100.0, 10),))
    floats = (cost("hf", "fp16", 10.0, 40), cost("hf", "bf16", 50.0, 80))
    twin = make_results("f", {"s:t": [1.0, 1.0]}, precision="bf16", costs=floats)
    text = html.unescape(render(ternary, twin))
    assert "Cost of ‘t’ (backend ternary) against ‘f’ (backend hf, the better of FP16 and BF16)" in text
    assert "peak memory 4.0× smaller" in text
    once = measured("tokens/s", 60.0)
    slow = floats[1].model_copy(update={"metrics": floats[1].metrics | {"decode_tokens_per_s": once}})
    assert "decode 1.7× faster (one reading)" in html.unescape(
        render(ternary, make_results("f", {"s:t": [1.0, 1.0]}, precision="bf16", costs=(slow,)))
    )
    assert "decode 2.0× faster" in text


def test_markup_in_what_runs_wrote_is_text(make_results: Any) -> None:
    """Markup in an output, a prompt, a target, a name, a task or a reason makes no element, and a template none."""
    row = Example(task=HOSTILE, doc_id=0, prompt=HOSTILE, target=HOSTILE, output=HOSTILE, correct=0.0)
    run = make_results(HOSTILE, {"s:t": [1.0]}, settings={HOSTILE: HOSTILE}, errors={"s:t": HOSTILE})
    scores = tuple(s.model_copy(update={"task": HOSTILE}) for s in run.record.scores)
    run = replace(run, record=run.record.model_copy(update={"scores": scores}), examples={HOSTILE: [row]})
    page = Page(render(run, run, unread=(Notice(HOSTILE, plain_text(HOSTILE)),)))
    assert page.tags.count("script") == 4
    assert "img" not in page.tags
    assert page.data["samples"]["outputs"][0][0] == HOSTILE
    assert page.text.count(HOSTILE) >= 4
    assert "49" not in page.text


def test_bidi_overrides_and_controls_are_visible(make_results: Any) -> None:
    """Direction overrides are spelled out, controls and NUL become U+FFFD, and line breaks stay."""
    run = make_results("a\u202eb", {"s:t": [1.0]})
    rows = [e.model_copy(update={"output": "앞\u202e뒤\x00끝\x1b[31m\r\n줄"}) for e in run.examples["s:t"]]
    text = render(replace(run, examples={"s:t": rows}))
    assert Page(text).data["samples"]["outputs"][0][0] == "앞⟨U+202E⟩뒤\ufffd끝\ufffd[31m\n줄"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text.split("<script>")[0])


def test_a_surrogate_that_stands_alone_breaks_no_file(make_results: Any) -> None:
    """Half a character, which UTF-8 cannot hold, becomes U+FFFD, and the file can be written."""
    run = make_results("a", {"s:t": [1.0]})
    rows = [e.model_copy(update={"output": "앞\ud83d뒤"}) for e in run.examples["s:t"]]
    text = render(replace(run, examples={"s:t": rows}))
    assert "앞\ufffd뒤" in text
    text.encode("utf-8")


def test_the_policy_allows_exactly_the_inlined_parts(twins: Any) -> None:
    """Nothing is allowed but the stylesheet and the scripts of this very file, by their hashes."""
    page = Page(render(*twins))
    policy = next(value for name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    parts = [(tag, content) for tag, content in page.inlined if not content.startswith("{")]
    hashes = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for _, content in parts]
    assert re.findall(r"sha256-([^']+)", policy) == hashes
    assert [tag for tag, _ in parts] == ["style", "script", "script", "script"]


def test_the_file_asks_for_nothing(twins: Any) -> None:
    """No attribute loads anything or holds code or style, and links stay within the page."""
    page = Page(render(*twins))
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "style", "action", "formaction", "ping")
        assert not name.startswith("on")
        assert name != "href" or (value or "").startswith("#")
    assert not {"link", "img", "iframe", "object", "base", "embed"} & set(page.tags)
    assert "url(" not in next(content for tag, content in page.inlined if tag == "style")


def test_our_script_makes_text_nodes_only() -> None:
    """What a run wrote never passes through HTML."""
    from bitnet_bench.reports.assets import read_page_script

    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp", read_page_script()
    )


def test_without_samples_the_file_is_small(make_results: Any, twins: Any) -> None:
    """Scripts, charts and tables of a report without samples take less than 3 MB, and it has no table library."""
    text = render(*twins, samples=0)
    assert len(text.encode()) < 3_000_000
    assert Page(text).tags.count("script") == 3


def test_same_runs_give_the_same_file(twins: Any) -> None:
    """Rendering twice gives the same bytes."""
    assert render(*twins) == render(*twins)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_a_language_is_shown_first(language: str, twins: Any) -> None:
    """--lang sets the page's language and title; the other one is in the file as well."""
    text = render(*twins, language=language)
    assert f'<html lang="{language}">' in text
    assert f"<title>{get_text('page.title').in_language(language)}</title>" in text  # type: ignore[arg-type]
    assert "Paired differences" in text
    assert "쌍별 비교" in text


def test_the_catalogue_says_everything_in_both_languages() -> None:
    """Every entry has both languages, with the same values in their braces, and Korean holds Hangul or a sign."""
    for key, said in load_catalogue().items():
        places = [set(re.findall(r"{(\w+)[:}]", text)) for text in (said.ko, said.en)]
        assert places[0] == places[1], key
        assert said.ko, key
        assert said.en, key
        assert not re.search("[가-힣]", said.en), key


def test_every_wording_is_in_the_catalogue() -> None:
    """Keys that are written out in the code are there."""
    from pathlib import Path

    import bitnet_bench
    from bitnet_bench.reports import assets

    package = Path(bitnet_bench.__file__).parent
    files = [*package.rglob("*.py"), *assets.ASSETS_DIR.glob("*.py"), *assets.ASSETS_DIR.glob("*.j2")]
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    written = set(re.findall(r"""say\(["']([\w.-]+)["']""", sources))
    assert written <= set(load_catalogue())


def test_what_is_wrong_with_a_run_is_said(make_results: Any) -> None:
    """Notices stand on the first screen with their place, in both languages."""
    run = make_results("a", {"s:t": [1.0]}, notices=(Notice("runs/a/record.json", get_text("notice.edited")),))
    text = render(run, unread=(Notice("runs/old", get_text("notice.unreadable", why="schema version 0")),))
    page = Page(text).text
    for words in ("runs/a/record.json", "체크섬 불일치", "its checksum differs", "runs/old", "schema version 0"):
        assert words in page


def test_a_run_without_examples_shows_its_scores_and_no_samples(make_results: Any) -> None:
    """Scores stay, the pair is refused with the reason, and the samples say that there are none."""
    a, b = (make_results(name, {"s:t": [1.0, 0.0]}, precision=p) for name, p in (("a", "ternary"), ("b", "fp16")))
    page = Page(render(replace(a, examples={}), replace(b, examples={})))
    assert "50.0 ±" in page.text
    assert "a has no examples" in page.text
    assert "There are no examples." in page.text


def test_missing_energy_is_a_dash_with_its_reason(twins: Any) -> None:
    """A run without a counter shows a dash and why, and no 0 J anywhere."""
    text = render(*twins)
    assert "this machine shows no energy counter" in text
    assert not re.search(r">\s*(0(\.0+)? J|nan|None|NaN)\b", text.split("<script")[0], re.IGNORECASE)


def test_a_modelled_number_looks_otherwise_than_a_measured_one(make_results: Any, make_cost: Any) -> None:
    """A joule from a formula is in italics, with its formula, and its bar is hollow and dashed."""
    energy = Modelled(unit="J", model="65 W x time", value=12.0)
    cost = make_cost(metrics={"energy_j": energy})
    page = render(make_results("a", {"s:t": [1.0]}, costs=(cost,)))
    assert '<span class="value modelled"><bdi>12 J</bdi></span>' in page
    assert "65 W x time" in page
    charts = json.dumps(Page(page).data["charts"][-1]["en"])
    assert '"kind": "modelled"' in charts
    assert '"transparent"' in charts


def test_an_unknown_metric_keeps_its_own_name(make_results: Any, make_cost: Any, measured: Any) -> None:
    """A cost that another version measures is shown as it is called."""
    cost = make_cost(metrics={"decode_p95_s": measured("s", 0.25)})
    text = render(make_results("a", {"s:t": [1.0]}, costs=(cost,)))
    assert "decode_p95_s" in text
    assert "250 ms" in text


def test_a_section_can_be_added(twins: Any) -> None:
    """What another module adds has a heading, an entry in the contents and both languages, and is text."""
    title, words = plain_text("사람의 판단"), plain_text("<b>3:1</b>")
    section = Section("rating", title, (Paragraph(words),))
    text = render(*twins, sections=(section,))
    assert '<h2 id="rating">' in text
    assert 'href="#rating"' in text
    assert "&lt;b&gt;3:1&lt;/b&gt;" in text


def test_no_runs_is_an_error() -> None:
    """A report about nothing is refused."""
    with pytest.raises(BenchError, match="no run"):
        render()


def test_every_element_is_closed(twins: Any) -> None:
    """Start and end tags match, whatever sections the runs bring along."""
    text = re.sub(r"<script.*?</script>", "", render(*twins), flags=re.S)
    open_tags: list[str] = []
    for closing, tag, rest in re.findall(r"<(/?)([a-z0-9]+)((?:\"[^\"]*\"|[^>\"])*)>", text):
        if tag in ("meta", "input") or rest.endswith("/"):
            continue
        if closing:
            assert open_tags.pop() == tag
        else:
            open_tags.append(tag)
    assert open_tags == []
