"""A leaderboard as a file: what its page, its Markdown and its JSON say, also of runs that are damaged or hostile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitnet_bench as bb
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.reports.board_chart import board_cost_section
from bitnet_bench.reports.board_markdown import format_board
from bitnet_bench.reports.board_page import render_board
from bitnet_bench.reports.board_tables import twin_table
from bitnet_bench.reports.board_view import BoardView
from bitnet_bench.reports.sections import Switch
from bitnet_bench.reports.write_board import dump_board, make_leaderboard, write_leaderboard
from bitnet_bench.runs.folder import compute_seal, save_record, save_samples
from bitnet_bench.runs.jobs import BoardOptions
from bitnet_bench.runs.run import LoadedRun
from bitnet_bench.wording import LANGUAGES, load_catalogue

GOOD, FAIR, BAD = ([1.0] * right + [0.0] * (100 - right) for right in (90, 86, 40))
NASTY = "<script>document.title='run'</script>|\u202e`[x](y)"


def save(run: LoadedRun, out: Path, samples: bool = True) -> Path:
    """Write *run* as a run folder."""
    written = {task: save_samples(out, task, rows) for task, rows in run.examples.items()} if samples else {}
    save_record(out, run.record.model_copy(update={"samples": written}))
    return out


@pytest.fixture
def place(make_results: Any, make_cost: Any, tmp_path: Path) -> Path:
    """Give a folder with a ternary run, its twin, and a run with other shots; the first two are measured."""
    save(make_results("mine", {"kobest:boolq": FAIR, "kobest:wic": BAD}, costs=(make_cost(),)), tmp_path / "mine")
    twin = make_results(
        "mine-fp16", {"kobest:boolq": GOOD, "kobest:wic": GOOD}, precision="fp16", costs=(make_cost("fp16", 50.0),)
    )
    save(twin, tmp_path / "mine-fp16")
    few = make_results("few", {"kobest:boolq": GOOD})
    few.record.settings["shots"] = 5
    save(few, tmp_path / "few")
    return tmp_path


@pytest.fixture
def page(place: Path) -> str:
    return render_board(make_leaderboard([place]))


def read_text(page: str) -> str:
    """Return the text of a page without its scripts, styles and tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", page)))


def test_the_page_says_who_is_first_in_both_languages(page: str) -> None:
    """And what it is first of; the run that lacks a task has no mean."""
    text = read_text(page)
    assert "‘mine-fp16’ ranks first of 3 runs on 2 tasks, with 90.0 ±4.2 on average (KoBEST)." in text
    assert "실행 3개, 2개 과제 가운데 ‘mine-fp16’의 평균이 90.0 ±4.2점으로 가장 높다(평균: KoBEST)." in text
    assert "1 of 2 tasks" in text


def test_a_cell_has_score_interval_and_rank(page: str) -> None:
    """Beside the settings of its row and the number of rows in its heading."""
    text = read_text(page)
    assert "86.0 ±6.8 1–2위 rank 1–2" in text
    assert "n 100 · chance 50" in text
    assert "shots 0 · prompts default · chat template off" in text


def test_a_score_at_its_limit_has_the_limits_beside_it(make_results: Any, tmp_path: Path) -> None:
    """All of 100 right are not "100.0 ±3.7", which would go beyond."""
    save(make_results("a", {"s:t": [1.0] * 100}), tmp_path / "a")
    assert "100.0 (96.3 to 100.0)" in format_board(make_leaderboard([tmp_path]), "en")


def test_a_run_that_is_not_comparable_is_shown_with_the_reason(page: str) -> None:
    """Below those that are ranked, and without a rank."""
    text = read_text(page)
    assert "not ranked with the others: shots 5 (ranked: 0)" in text
    assert "순위 제외: 예시 5(순위 기준 0)" in text


def test_twins_stand_side_by_side_with_their_difference(page: str) -> None:
    """The paired difference of the mean, and the tasks below it."""
    text = read_text(page)
    assert "B · mine A · mine-fp16 63.0 90.0 −27.0" in text
    assert "row by row" in text


def test_the_rules_of_the_ranking_stand_on_the_page(page: str) -> None:
    """How ties are decided, what is comparable, what a mean is."""
    text = read_text(page)
    for rule in ("comparable", "ranks", "means"):
        assert load_catalogue()[f"board.rule.{rule}"].en in text


def test_every_run_says_where_it_comes_from(place: Path, page: str) -> None:
    """Folder, model, weights, version, date, machine."""
    text = read_text(page)
    for said in ("…/", "bbbbbbbbbbbb", "0.1.0", "2026-01-01 00:00", "CPU"):
        assert said in text
    assert str(place) not in page
    assert str(place) in render_board(make_leaderboard([place]), keep_paths=True)


def test_the_picture_has_memory_and_speed_of_one_machine(place: Path, make_cost: Any, make_results: Any) -> None:
    """A run of another machine is in no picture with them."""

    def charts(view: BoardView) -> list[str]:
        section = board_cost_section(view)
        assert section is not None
        switch = next(block for block in section.blocks if isinstance(block, Switch))
        return [name.en for name, _ in switch.charts]

    view = make_leaderboard([place])
    assert charts(view) == ["Memory", "Speed"]
    for name, speed in (("far", 10.0), ("away", 20.0)):
        run = make_results(name, {"kobest:boolq": GOOD, "kobest:wic": BAD}, costs=(make_cost(speed=speed),))
        elsewhere = run.record.environment.model_copy(update={"cpu": "Another"})
        save(LoadedRun(run.record.model_copy(update={"environment": elsewhere}), run.examples), place / name)
    both = make_leaderboard([place])
    assert charts(both) == ["Memory · CPU", "Speed · CPU", "Memory · Another", "Speed · Another"]
    section = board_cost_section(both)
    assert section is not None
    drawn = json.dumps(next(b for b in section.blocks if isinstance(b, Switch)).charts[0][1].specs["en"])
    assert "mine-fp16" in drawn
    assert "far" not in drawn


def test_the_pictures_are_drawn_by_vega(place: Path) -> None:
    """In both languages, on a linear and a logarithmic axis."""
    import vl_convert

    section = board_cost_section(make_leaderboard([place]))
    assert section is not None
    switch = next(block for block in section.blocks if isinstance(block, Switch))
    for _, chart in switch.charts:
        for language in LANGUAGES:
            spec = {**chart.specs[language], "width": 700}
            assert "<svg" in vl_convert.vegalite_to_svg(spec, vl_version="6.4")


def test_runs_without_costs_have_no_picture_and_no_library(make_results: Any, tmp_path: Path) -> None:
    """The page is a tenth of the size then."""
    for name in ("a", "b"):
        save(make_results(name, {"s:t": GOOD}), tmp_path / name)
    view = make_leaderboard([tmp_path])
    assert board_cost_section(view) is None
    assert len(render_board(view)) < 150_000


def test_what_a_run_wrote_is_text(make_results: Any, tmp_path: Path) -> None:
    """In the page and in Markdown: no element, no second cell of a table, no hidden character."""
    for number in range(2):
        run = make_results("x", {"s:t": GOOD}).record
        checkpoint = run.checkpoint.model_copy(update={"source": NASTY})
        settings = {**run.settings, "system": NASTY}
        fields = {"name": NASTY, "checkpoint": checkpoint, "settings": settings}
        save_record(tmp_path / str(number), run.model_copy(update=fields))
    view = make_leaderboard([tmp_path])
    page = render_board(view)
    assert "<script>document" not in page
    assert "\u202e" not in page
    for language in LANGUAGES:
        text = format_board(view, language)
        assert "\u202e" not in text
        assert "<script" not in text.replace("\\<script", "")
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables[:4]}) == 1


def test_two_runs_of_one_name_are_told_apart(make_results: Any, tmp_path: Path) -> None:
    """By a number, and by their folders."""
    for folder in ("one", "two"):
        save(make_results("same", {"s:t": GOOD}), tmp_path / folder)
    text = format_board(make_leaderboard([tmp_path]), "en", keep_paths=True)
    assert "A · same<br>" in text
    assert "B · same (2)<br>" in text
    assert str(tmp_path / "two") in text


def test_damaged_runs_are_named_and_left_out(place: Path, make_results: Any) -> None:
    """Half a file, another schema, a run without scores; the others are ranked."""
    for name, text in (("half", "{"), ("schema", '{"schema_version": 99}')):
        (place / name).mkdir()
        (place / name / "record.json").write_text(text, encoding="utf-8")
    bare = make_results("bare", {"kobest:boolq": GOOD}).record.model_copy(update={"scores": ()})
    save_record(place / "bare", bare)
    view = make_leaderboard([place])
    assert sorted(run.name for run in view.board.runs) == ["few", "mine", "mine-fp16"]
    said = {Path(notice.where).name: notice.what.en for notice in view.notices}
    assert said["half"].startswith("cannot be read and is left out")
    assert "schema version 99" in said["schema"]
    assert said["bare"] == "has none of the chosen scores and is left out"
    assert "half" in read_text(render_board(view))


def test_only_damaged_runs_are_an_error(tmp_path: Path) -> None:
    """It names one of them and says what writes a run."""
    (tmp_path / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(BenchError, match="no run that can be read") as raised:
        make_leaderboard([tmp_path])
    assert str(tmp_path) in raised.value.hint
    assert "evaluate" in raised.value.hint


def test_runs_without_any_score_are_an_error(make_results: Any, tmp_path: Path) -> None:
    """A measured run has costs alone."""
    save_record(tmp_path / "a", make_results("a", {"s:t": GOOD}).record.model_copy(update={"scores": ()}))
    with pytest.raises(BenchError, match="a has no score") as raised:
        make_leaderboard([tmp_path])
    assert "bitnet-bench evaluate" in raised.value.hint


def test_fields_of_a_newer_version_are_left_out_with_a_notice(place: Path) -> None:
    """In the record and in its scores, and the run is still ranked."""
    file = place / "mine" / "record.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    del fields["sha256"]
    fields["opinions"] = {"score": 7}
    fields["scores"][0]["repeats"] = 4
    fields["checkpoint"]["served_by"] = "vllm"
    file.write_text(json.dumps({**fields, "sha256": compute_seal(fields)}), encoding="utf-8")
    view = make_leaderboard([place])
    assert "mine" in {run.name for run in view.board.runs}
    said = [notice.what.en for notice in view.notices if "mine" in notice.where]
    unknown = "opinions, checkpoint.served_by, scores.repeats"
    assert said == [f"fields that this version does not know are left out: {unknown}"]


def test_examples_are_read_for_twins_alone(place: Path) -> None:
    """A run without a twin, or any without `paired`, may have examples that cannot be read."""
    for file in place.glob("few/samples/*"):
        file.write_bytes(b"\xff")
    assert make_leaderboard([place]).board.twins[0].test == "paired"
    for file in place.glob("*/samples/*"):
        file.write_bytes(b"\xff")
    view = make_leaderboard([place], BoardOptions(paired=False))
    assert view.board.twins[0].test == "unpaired"
    assert not [notice for notice in view.notices if "samples" in notice.where]


def test_unpaired_twins_are_shown_with_the_tasks_of_their_difference(make_results: Any, tmp_path: Path) -> None:
    """A task of which the twin has other rows is in neither mean."""
    ours, theirs = {"kobest:boolq": FAIR, "kobest:wic": BAD}, {"kobest:boolq": GOOD, "kobest:wic": GOOD}
    twin = make_results("mine-fp16", theirs, precision="fp16")
    twin.record.data["kobest:wic"] = "0" * 64
    folders = [save(run, tmp_path / run.record.name, samples=False) for run in (make_results("mine", ours), twin)]
    view = make_leaderboard(folders)
    (row,) = twin_table(view, view.board.twins).rows
    assert [cell.text.en for cell in row.cells[1:4]] == ["86.0", "90.0", "−4.0"]


def test_a_notice_of_many_places_is_one(make_results: Any, tmp_path: Path) -> None:
    """A board of a hundred runs without examples would have a page of them else."""
    for number in range(6):
        save(make_results(f"r{number}", {"s:t": GOOD, "s:u": GOOD}), tmp_path / f"r{number}", samples=False)
    view = make_leaderboard([tmp_path])
    (notice,) = view.notices
    assert notice.what.en == "has no examples, so only scores are shown (and 3 more places)"
    assert notice.where.count(str(tmp_path)) == 3


def test_markdown_has_the_tables_of_the_page(place: Path) -> None:
    """In the language that was asked for."""
    view = make_leaderboard([place])
    english, korean = (format_board(view, language) for language in ("en", "ko"))
    assert "| A · mine-fp16<br>FP16 · hf · twin B<br>shots 0 · prompts default · chat template off | 1 |" in english
    assert "## Twins" in english
    assert "## 쌍둥이" in korean
    assert not re.search(r"not ranked|Twins", korean)


def test_json_has_the_numbers(place: Path) -> None:
    """Not rounded, with reasons, and with paths shortened unless they are to be kept."""
    view = make_leaderboard([place], BoardOptions(tasks=("boolq",)))
    found = dump_board(view)
    json.dumps(found, allow_nan=False)
    (column,) = found["columns"]
    assert [(score["value"], score["rank"]) for score in column["scores"]] == [
        (90.0, [1, 2]),
        (86.0, [1, 2]),
        (90.0, None),
    ]
    assert column["scores"][2]["differs"][0]["en"] == "shots 5 (ranked: 0)"
    assert found["twins"][0]["comparison"]["differences"][0]["difference"] == pytest.approx(-4.0)
    assert str(place) not in json.dumps(found)
    assert str(place) in json.dumps(dump_board(view, keep_paths=True))


def test_the_ending_of_the_file_says_its_format(place: Path, tmp_path: Path) -> None:
    """Another one is wrong use."""
    view = make_leaderboard([place])
    assert write_leaderboard(view, tmp_path / "b.MD").read_text(encoding="utf-8").startswith("# bitnet-bench")
    assert write_leaderboard(view, tmp_path / "b.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(UsageError, match=r"neither in .html nor in .md"):
        write_leaderboard(view, tmp_path / "b.pdf")


def test_the_public_function_writes_and_returns_the_board(place: Path, tmp_path: Path) -> None:
    """`bb.leaderboard`, with the filters of the command."""
    board = bb.leaderboard([place / "mine*"], tmp_path / "b.html", tasks=["boolq"], language="en")
    assert [run.name for run in board.runs] == ["mine-fp16", "mine"]
    assert '<html lang="en">' in (tmp_path / "b.html").read_text(encoding="utf-8")
    assert bb.leaderboard([place], None).means[0].suite == "kobest"
    assert sorted(file.name for file in tmp_path.glob("b.*")) == ["b.html"]


def test_a_board_of_categories_has_its_scores_first(place: Path) -> None:
    """There is no mean that could stand there; twins are named and not compared."""
    for file in place.glob("*/record.json"):
        fields = json.loads(file.read_text(encoding="utf-8"))
        del fields["sha256"]
        for score in fields["scores"]:
            score["parts"] = {"역사": 50.0}
        file.write_text(json.dumps({**fields, "sha256": compute_seal(fields)}), encoding="utf-8")
    text = format_board(make_leaderboard([place], BoardOptions(categories=("역사",))), "en")
    assert "| Run | KoBEST BoolQ · 역사<br>accuracy | KoBEST WiC · 역사<br>accuracy |" in text
    assert "twin B" in text
    assert "## Twins" not in text


def test_a_hundred_runs_are_read_without_their_examples(
    make_results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work grows with runs and tasks: each record is read once."""
    from bitnet_bench.reports import write_board

    run = make_results("r", {f"s:t{task}": GOOD[:4] for task in range(40)})
    for number in range(100):
        save_record(tmp_path / f"r{number:03}", run.record.model_copy(update={"name": f"r{number:03}"}))
    read: list[Path] = []
    reader: Callable[..., LoadedRun] = write_board.read_run
    monkeypatch.setattr(write_board, "read_run", lambda folder, **more: read.append(folder) or reader(folder, **more))
    view = make_leaderboard([tmp_path])
    assert len(read) == len(view.board.runs) == 100
    assert len(view.board.columns) == 40


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_works_in_a_browser(width: int, place: Path, tmp_path: Path, browser: Any) -> None:
    """It fits, sorts by heading or list, speaks both languages, draws its picture, and nothing is logged."""
    file = write_leaderboard(make_leaderboard([place]), tmp_path / "b.html")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == 390}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get(file.as_uri())
    wait(browser, "document.documentElement.dataset.ready === 'yes'")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    names = (
        "return [...document.querySelectorAll('table.sorts')[1].tBodies[0].rows]"
        ".map((row) => row.cells[0].querySelector('bdi').textContent)"
    )
    written = browser.execute_script(names)
    assert written == ["A · mine-fp16", "B · mine", "C · few"]
    choose = (
        "const list = document.querySelectorAll('.sorting select')[1];"
        "list.value = arguments[0]; list.dispatchEvent(new Event('change'));"
    )
    browser.execute_script(choose, "0")
    by_name = browser.execute_script(names)
    assert [name.partition("· ")[2] for name in by_name] == ["few", "mine", "mine-fp16"]
    browser.execute_script("document.querySelectorAll('table.sorts')[1].querySelectorAll('.sort')[0].click()")
    browser.execute_script(choose, "-1")
    assert browser.execute_script(names) == written
    browser.execute_script("document.querySelector('[data-language=en]').click()")
    assert browser.execute_script("return document.title") == "bitnet-bench leaderboard"
    assert browser.execute_script("return document.querySelector('.sorting span').textContent") == "Sort"
    browser.execute_script("document.querySelector('#cost').scrollIntoView()")
    wait(browser, "!!document.querySelector('[data-chart][data-drawn] svg')")
    assert browser.get_log("browser") == []


def wait(browser: Any, condition: str) -> None:
    """Wait until a JavaScript *condition* holds."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda b: b.execute_script(f"return {condition}"), condition)
