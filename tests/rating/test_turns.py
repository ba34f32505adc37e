"""People judge answers of several turns, and what they say is kept by question; older files still open."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.rating.collect import collect_ratings, save_judgement
from bitnet_bench.rating.ratings import SheetKey
from bitnet_bench.rating.sheet import make_sheet
from bitnet_bench.runs.folder import load_record
from bitnet_bench.runs.records import HumanJudgement
from tests.judging.made_up import TASK, write_open_run

POINTS = {"fluency": 4, "accuracy": 4, "relevance": 4}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Give two runs with answers to four questions of two turns."""
    return [
        write_open_run(tmp_path / name, [[f"{name} {i} 첫째", f"{name} {i} 둘째"] for i in range(4)], model)
        for name, model in (("가", "demo"), ("나", "demo-fp16"))
    ]


def read_items(page: Path) -> list[dict[str, Any]]:
    """Return what a page asks."""
    found = re.search(r'<script type="application/json" id="asked">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    items: list[dict[str, Any]] = json.loads(found[1])["items"]
    return items


def write_rating(page: Path, key: SheetKey, rater: str, prefers: str) -> Path:
    """Write the file of a rater who prefers run *prefers* (a or b) and gives its answers one point more."""
    judgements = [
        {
            "item": item,
            "left": dict.fromkeys(POINTS, 5 if (prefers == "a") == left_is_a else 4),
            "right": dict.fromkeys(POINTS, 4 if (prefers == "a") == left_is_a else 5),
            "preferred": "left" if (prefers == "a") == left_is_a else "right",
        }
        for item, left_is_a in enumerate(key.left_is_a)
    ]
    file = page.with_name(f"rating-{rater}.json")
    fields = {
        "kind": "bitnet-bench rating", "schema_version": 1, "sheet": key.sheet, "rater": rater,
        "finished": "2026-11-26T00:00:00Z", "judgements": judgements,
    }  # fmt: skip
    file.write_text(json.dumps(fields), encoding="utf-8")
    return file


def test_a_sheet_has_every_turn_with_both_answers(runs: list[Path], tmp_path: Path) -> None:
    """The sides of all turns are those of the item, and the reference stands beside its turn."""
    _, key_file = make_sheet(*runs, tmp_path / "sheet.html")
    key = SheetKey.model_validate_json(key_file.read_text(encoding="utf-8"))
    for item, left_is_a, asked in zip(read_items(tmp_path / "sheet.html"), key.left_is_a, key.items, strict=True):
        first, second = item["turns"]
        left, right = "가나" if left_is_a else "나가"
        assert (first["left"], first["right"]) == (f"{left} {asked.doc_id} 첫째", f"{right} {asked.doc_id} 첫째")
        assert (second["left"], second["right"]) == (f"{left} {asked.doc_id} 둘째", f"{right} {asked.doc_id} 둘째")
        assert (first["reference"], second["reference"]) == ("", "정답")
        assert first["question"] == f"질문 {asked.doc_id}의 0"


def test_what_raters_say_is_kept_by_question(runs: list[Path], tmp_path: Path) -> None:
    """Two prefer the first run and one the second, everywhere: 2 to 1, and points between 4 and 5."""
    page = tmp_path / "sheet.html"
    _, key_file = make_sheet(*runs, page)
    key = SheetKey.model_validate_json(key_file.read_text(encoding="utf-8"))
    files = [write_rating(page, key, rater, prefers) for rater, prefers in (("갑", "a"), ("을", "a"), ("병", "b"))]
    key, judgement = collect_ratings([key_file, *files])
    assert sorted(item.doc_id for item in judgement.rated) == [0, 1, 2, 3]
    for item in judgement.rated:
        assert (item.task, item.wins_a, item.ties, item.wins_b) == (TASK, 2, 0, 1)
        assert item.points_a == pytest.approx(14 / 3)
        assert item.points_b == pytest.approx(13 / 3)
    save_judgement(key, judgement)
    assert load_record(runs[0]).judgements == (judgement,)


def test_a_key_of_an_older_version_still_collects(runs: list[Path], tmp_path: Path) -> None:
    """It does not say which question an item is, so nothing is kept by question, and the rest is as before."""
    page = tmp_path / "sheet.html"
    _, key_file = make_sheet(*runs, page)
    fields = json.loads(key_file.read_text(encoding="utf-8"))
    del fields["items"]
    key_file.write_text(json.dumps(fields), encoding="utf-8")
    key = SheetKey.model_validate(fields)
    _, judgement = collect_ratings([key_file, write_rating(page, key, "갑", "a")])
    assert (judgement.wins_a, judgement.rated) == (4, ())
    assert "rated" not in judgement.model_dump()
    assert HumanJudgement.model_validate_json(judgement.model_dump_json()) == judgement


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here")
def test_a_rater_sees_the_whole_conversation(runs: list[Path], tmp_path: Path) -> None:
    """Each question is followed by both answers to it; the parts for single answers are hidden."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,1000"):
        options.add_argument(argument)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    try:
        make_sheet(*runs, tmp_path / "sheet.html")
        driver.get((tmp_path / "sheet.html").as_uri())
        turns = driver.find_elements("css selector", "#conversation .turn")
        assert [turn.find_element("css selector", "h2").text for turn in turns] == ["질문 1", "질문 2"]
        answers = driver.find_elements("css selector", "#conversation article bdi")
        assert {answer.text.split()[-1] for answer in answers[:2]} == {"첫째"}
        assert {answer.text.split()[-1] for answer in answers[2:]} == {"둘째"}
        assert not driver.find_element("id", "left").is_displayed()
        assert driver.find_element("id", "scales-left").is_displayed()
    finally:
        driver.quit()
