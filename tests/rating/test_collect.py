"""What raters say together, by hand on small numbers; and what is not counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitnet_bench.cli import app
from bitnet_bench.errors import BenchError
from bitnet_bench.rating.collect import collect_ratings, save_judgement, summarize_ratings
from bitnet_bench.rating.ratings import RatedRun, Rating, SheetKey
from bitnet_bench.runs.folder import load_record, lock_folder
from bitnet_bench.runs.records import HumanJudgement
from bitnet_bench.statistics import wilson

LEFT_IS_A = (True, False, True, False)


def make_key(**changes: Any) -> SheetKey:
    """Return the key of a sheet of four items."""
    a, b = (RatedRun(name=name, folder="/nowhere", checkpoint_sha256=name) for name in "ab")
    return SheetKey(
        **{"sheet": "5" * 64, "a": a, "b": b, "seed": 0, "tasks": ("s:qa",), "left_is_a": LEFT_IS_A, **changes}
    )


def points(value: int) -> dict[str, int]:
    """Return the same points on every scale."""
    return {"fluency": value, "accuracy": value, "relevance": value}


def rating(
    rater: str, whose: str, a: tuple[int, ...] = (5, 4, 5, 4), b: tuple[int, ...] = (1, 2, 1, 2)
) -> dict[str, Any]:
    """Return a rater's file: whom they prefer by item (a, b or t), and the points of run A and run B."""
    judgements = []
    for i, left_is_a in enumerate(LEFT_IS_A):
        left, right = (a[i], b[i]) if left_is_a else (b[i], a[i])
        side = "tie" if whose[i] == "t" else "left" if (whose[i] == "a") == left_is_a else "right"
        judgements.append({"item": i, "left": points(left), "right": points(right), "preferred": side})
    return {
        "kind": "bitnet-bench rating", "schema_version": 1, "sheet": "5" * 64, "rater": rater,
        "finished": "2026-11-25T00:00:00Z", "judgements": judgements,
    }  # fmt: skip


def test_sides_are_undone_and_ties_are_half_a_win() -> None:
    """Two raters: 3 + 2 wins of A, a tie each; the interval is Wilson's over the four items."""
    found = summarize_ratings(
        make_key(), [Rating.model_validate(rating(*one)) for one in (("가", "aaat"), ("나", "aabt"))]
    )
    assert (found.wins_a, found.ties, found.wins_b) == (5, 2, 1)
    assert found.win_rate.value == pytest.approx(100 * (1 + 1 + 0.5 + 0.5) / 4)
    assert found.win_rate.interval == pytest.approx(tuple(100 * limit for limit in wilson(3.0, 4)))
    means = found.scales["fluency"]
    assert (means["a"].value, means["b"].value, means["difference"].value) == (4.5, 1.5, 3.0)
    assert means["a"].interval is not None
    assert means["a"].interval[1] == 5.0, "an interval ends where the scale does"


def test_agreement_is_krippendorff_s() -> None:
    """Nominal alpha by hand for the preferences of two raters (Krippendorff 2011, section C), 1 where all agree."""
    found = summarize_ratings(
        make_key(), [Rating.model_validate(rating(*one)) for one in (("가", "aabb"), ("나", "aabt"))]
    )
    # coincidences: a 4, b 3, t 1 of n = 8; observed disagreement 2 / 8, expected 2 (12 + 4 + 3) / (8 x 7)
    assert found.alpha["preference"].kind == "estimated"
    assert found.alpha["preference"].value == pytest.approx(1 - (2 / 8) / (38 / 56))
    assert found.alpha["accuracy"].kind == "estimated"
    assert found.alpha["accuracy"].value == pytest.approx(1.0)


def test_agreement_that_cannot_be_computed_says_why() -> None:
    """One rater, or no variation: a reason and no number."""
    alone = summarize_ratings(make_key(), [Rating.model_validate(rating("가", "aaaa"))])
    assert alone.alpha["preference"].kind == "unavailable"
    assert "two raters" in alone.alpha["preference"].reason
    same = summarize_ratings(make_key(), [Rating.model_validate(rating(name, "aaaa")) for name in "가나"])
    assert same.alpha["preference"].kind == "unavailable"


def saved(tmp_path: Path, **files: dict[str, Any]) -> list[Path]:
    """Write a key and the files of raters."""
    written = [tmp_path / "sheet.key.json"]
    written[0].write_text(make_key().model_dump_json(), encoding="utf-8")
    for name, content in files.items():
        written.append(tmp_path / f"{name}.json")
        written[-1].write_text(json.dumps(content), encoding="utf-8")
    return written


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (rating("나", "aaaa") | {"sheet": "6" * 64}, "another sheet"),
        (rating(" 가 ", "bbbb"), "both by"),
        (rating("나", "aaaa") | {"judgements": rating("나", "aaaa")["judgements"][:3]}, "1 of 4 items are missing"),
        (rating("나", "aaaa") | {"judgements": 2 * rating("나", "aaaa")["judgements"]}, "stands twice"),
        (rating("나", "aaaa", a=(6, 1, 1, 1)), "not complete, or was changed"),
        (rating("", "aaaa"), "rater"),
        ({"kind": "something else"}, "neither a rating nor a key"),
        (make_key().model_dump(mode="json"), "both keys"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_belong_there_is_refused(tmp_path: Path, second: dict[str, Any], words: str) -> None:
    """The sentence names the file, and nothing is counted."""
    files = saved(tmp_path, first=rating("가", "aaaa"), second=second)
    with pytest.raises(BenchError, match=words) as raised:
        collect_ratings(files)
    assert "second.json" in str(raised.value)


def test_a_key_and_ratings_are_needed(tmp_path: Path) -> None:
    """Either alone says nothing."""
    key, first = saved(tmp_path, first=rating("가", "aaaa"))
    with pytest.raises(BenchError, match="key"):
        collect_ratings([first])
    with pytest.raises(BenchError, match="rating"):
        collect_ratings([key])


def test_the_command_prints_and_keeps_what_was_said(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    """From two runs to a judgement in both of their records; collected again it is not there twice."""
    a, b = write_run(tmp_path / "a", "가", rows=4), write_run(tmp_path / "b", "나", rows=4)
    command = CliRunner()
    made = command.invoke(app, ["rate", "sheet", str(a), str(b), "--out", str(tmp_path / "sheet.html")])
    assert made.exit_code == 0, made.output
    key = SheetKey.model_validate_json((tmp_path / "sheet.key.json").read_text(encoding="utf-8"))
    everything = {side: points(4) for side in ("left", "right")} | {"preferred": "tie"}
    said = rating("가", "aaaa") | {"sheet": key.sheet, "judgements": [{"item": i, **everything} for i in range(4)]}
    (tmp_path / "r.json").write_text(json.dumps(said), encoding="utf-8")
    for _ in range(2):
        done = command.invoke(app, ["rate", "collect", *map(str, tmp_path.glob("*.json")), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["win_rate"]["value"] == 50.0
    assert [len(load_record(run).judgements) for run in (a, b)] == [1, 1]
    shown = command.invoke(app, ["rate", "collect", str(tmp_path / "sheet.key.json"), str(tmp_path / "r.json")])
    assert "agreement needs two raters" in " ".join(shown.stdout.replace("\n", " ").split())


@pytest.fixture
def judged(tmp_path: Path, write_run: Callable[..., Path]) -> tuple[SheetKey, HumanJudgement, Path, Path]:
    """Give a key and what was said about the two runs behind it, which are there."""
    a, b = write_run(tmp_path / "a", "가", rows=4), write_run(tmp_path / "b", "나", rows=4)
    page = CliRunner().invoke(app, ["rate", "sheet", str(a), str(b), "--out", str(tmp_path / "sheet.html")])
    assert page.exit_code == 0, page.output
    key = SheetKey.model_validate_json((tmp_path / "sheet.key.json").read_text(encoding="utf-8"))
    everything = {side: points(4) for side in ("left", "right")} | {"preferred": "tie"}
    fields = rating("가", "aaaa") | {"sheet": key.sheet, "judgements": [{"item": i, **everything} for i in range(4)]}
    return key, summarize_ratings(key, [Rating.model_validate(fields)]), a, b


def test_a_record_that_was_edited_keeps_its_broken_seal(judged: Any) -> None:
    """Neither record is written: a new seal would vouch for what was edited."""
    key, judgement, a, b = judged
    untouched = (a / "record.json").read_bytes()
    edited = (b / "record.json").read_text(encoding="utf-8").replace('"digest"', '"edited"')
    (b / "record.json").write_text(edited, encoding="utf-8")
    with pytest.raises(BenchError, match="was edited after it was written"):
        save_judgement(key, judgement)
    assert (a / "record.json").read_bytes() == untouched
    assert (b / "record.json").read_text(encoding="utf-8") == edited


def test_a_run_that_is_being_written_is_not_judged_meanwhile(judged: Any) -> None:
    """What one of the two writes would be lost."""
    key, judgement, a, b = judged
    with lock_folder(b), pytest.raises(BenchError, match="Another process writes into"):
        save_judgement(key, judgement)
    assert not load_record(a).judgements
    assert save_judgement(key, judgement) == [a, b]
