"""A sheet is blind, drawn by its seed, and says nothing that a model wrote but as text."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.rating.ratings import SheetKey
from bitnet_bench.rating.sheet import make_sheet
from bitnet_bench.runs.folder import load_record, save_record

WriteRun = Callable[..., Path]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\u202eabc\x00 끝"


def asked(page: Path) -> list[dict[str, str]]:
    """Return what a page asks."""
    found = re.search(r'<script type="application/json" id="asked">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    items: list[dict[str, str]] = json.loads(found[1])["items"]
    return items


def test_a_sheet_shows_both_answers_and_not_whose_they_are(tmp_path: Path, write_run: WriteRun) -> None:
    """Every item has an answer of each run; the key says which, and neither name nor folder is in the page."""
    a, b = write_run(tmp_path / "first-run", "가"), write_run(tmp_path / "second-run", "나")
    count, key_file = make_sheet(a, b, tmp_path / "sheet.html", samples=10, seed=3)
    key = SheetKey.model_validate_json(key_file.read_text(encoding="utf-8"))
    items = asked(tmp_path / "sheet.html")
    assert count == len(items) == len(key.left_is_a) == 10
    assert sum(key.left_is_a) == 5, "either run is on the left as often"
    for item, left_is_a in zip(items, key.left_is_a, strict=True):
        number = item["prompt"].split()[-1]
        assert (item["left"], item["right"]) == tuple(f"{who} {number}" for who in ("가나" if left_is_a else "나가"))
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert not [word for word in ("first-run", "second-run", "left_is_a", str(tmp_path)) if word in page]


def test_the_seed_decides_what_is_shown(tmp_path: Path, write_run: WriteRun) -> None:
    """The same seed gives the same page to the byte, another one another order and other sides."""
    a, b = write_run(tmp_path / "a", "가"), write_run(tmp_path / "b", "나")
    pages = []
    for name, seed in (("one", 1), ("same", 1), ("two", 2)):
        make_sheet(a, b, tmp_path / f"{name}.html", samples=8, seed=seed)
        pages.append((tmp_path / f"{name}.html").read_bytes())
    assert pages[0] == pages[1] != pages[2]


def test_what_a_model_wrote_is_no_markup(tmp_path: Path, write_run: WriteRun) -> None:
    """It stands in JSON where no tag can begin, under a policy that forbids every request and foreign script."""
    a, b = write_run(tmp_path / "a", EVIL), write_run(tmp_path / "b", "나", prompt="질문")
    make_sheet(a, b, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert "default-src 'none'" in html.unescape(page)
    assert any(EVIL in item["left"] + item["right"] for item in asked(tmp_path / "sheet.html"))
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r'id="asked">.*?</script>', "", page))


def test_runs_that_cannot_be_set_side_by_side_are_refused(tmp_path: Path, write_run: WriteRun) -> None:
    """Other rows, other words of a prompt, chosen answers only, or a task that is not shared: a sentence, no page."""
    a = write_run(tmp_path / "a", "가")
    other = write_run(tmp_path / "other", "나")
    save_record(other, load_record(other).model_copy(update={"data": {"sample:qa": "another"}}))
    words = write_run(tmp_path / "words", "나", prompt="물음")
    chosen = [write_run(tmp_path / name, "가", task="copa") for name in ("c", "d")]
    for runs, tasks, sentence in (
        ((a, other), (), "share no task"),
        ((a, words), (), "in other words"),
        (chosen, (), "no written answers"),
        ((a, a), ("sample:copa",), "did not both answer sample:copa"),
    ):
        with pytest.raises(BenchError, match=sentence):
            make_sheet(runs[0], runs[1], tmp_path / "sheet.html", tasks=tasks)
    assert not list(tmp_path.glob("sheet*"))
    assert make_sheet(chosen[0], chosen[1], tmp_path / "sheet.html", tasks=["sample:copa"])[0] == 12
