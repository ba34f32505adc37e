"""Answers are kept for the model and the request that they belong to, and a file that is not ours is never trusted."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import answer_cache
from bitnet_bench.evaluation import evaluate as evaluating
from bitnet_bench.evaluation.answer_cache import SqliteStore, list_stored_models, prune
from bitnet_bench.evaluation.evaluate import evaluate as run_evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.jobs import EvaluateJob

TASKS = ["copa", "qa"]
SIX = EvaluateJob(limit=6)


def evaluate(out: Path, model: str = "demo", job: EvaluateJob = SIX) -> Any:
    return run_evaluate(model, select_tasks(["sample"], TASKS), out, job)


def samples(out: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((out / "samples").iterdir())]


def test_the_second_run_asks_the_model_nothing(tmp_path: Path) -> None:
    """Every answer is kept, and scores and samples are the same bytes."""
    first, second = evaluate(tmp_path / "a"), evaluate(tmp_path / "b")
    assert (first.counts["requests"], first.counts["cached"]) == (18, 0)
    assert (second.counts["requests"], second.counts["cached"]) == (18, 18)
    assert second.scores == first.scores
    assert samples(tmp_path / "a") == samples(tmp_path / "b")


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("backends", "hf/inference.py"),
        ("backends", "ternary/engine.py"),
        ("checkpoints", "loading.py"),
        ("checkpoints", "weights.py"),
        ("ternary", "linear.py"),
        ("ternary", "kernel/__init__.py"),
    ],
)
def test_the_identity_of_answers_holds_the_sources_that_compute_them(
    package: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders that are digested are where the code is, and a change of one byte of it gives another digest."""
    assert package in evaluating.ANSWER_CODE_PACKAGES
    own = Path(evaluating.__file__).parents[1]
    before = evaluating._digest_sources(package)
    monkeypatch.setattr(evaluating, "__file__", str(tmp_path / "evaluation" / "evaluate.py"))
    copy = Path(shutil.copytree(own / package, tmp_path / package))
    assert evaluating._digest_sources(package) == before
    (copy / file).write_bytes((copy / file).read_bytes() + b"#")
    assert evaluating._digest_sources(package) != before


def test_sources_that_are_not_found_are_an_error() -> None:
    """A folder that has moved must not be digested as nothing."""
    with pytest.raises(AssertionError, match="holds no sources"):
        evaluating._digest_sources("nowhere")


def test_no_cache_neither_reads_nor_writes(tmp_path: Path, own_cache: Path) -> None:
    """`--no-cache` leaves no file, and does not take what is there."""
    without = SIX.model_copy(update={"cache": False})
    evaluate(tmp_path / "a", job=without)
    assert not own_cache.exists()
    evaluate(tmp_path / "b")
    assert evaluate(tmp_path / "c", job=without).counts["cached"] == 0


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Give a copy of the embedded checkpoint."""
    return Path(shutil.copytree(open_checkpoint("demo").path, tmp_path / "copy"))


def change_json(file: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(content | fields), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_json("config.json", rms_norm_eps=1e-3),
        change_json("tokenizer_config.json", model_max_length=77),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    ],
    ids=["configuration", "tokenizer", "template"],
)
def test_a_checkpoint_with_another_file_is_another_model(
    copied: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The same weights with another configuration, tokenizer or template do not take its answers; a plain copy does."""
    evaluate(tmp_path / "demo")
    assert evaluate(tmp_path / "same", str(copied)).counts["cached"] == 18
    change(copied)
    assert evaluate(tmp_path / "changed", str(copied)).counts["cached"] == 0


def test_weights_and_precision_are_another_model(tmp_path: Path) -> None:
    """The twin has none of the answers, and its float32 run none of its bfloat16 one's."""
    evaluate(tmp_path / "ternary")
    for precision in ("fp32", "bf16"):
        job = SIX.model_copy(update={"precision": precision})
        assert evaluate(tmp_path / precision, "demo-fp16", job).counts["cached"] == 0


def test_more_rows_take_the_answers_of_fewer(tmp_path: Path) -> None:
    """A run with a higher limit computes the new rows only, and scores as one that computed them all."""
    evaluate(tmp_path / "six")
    eight = EvaluateJob(limit=8)
    more = evaluate(tmp_path / "eight", job=eight)
    assert (more.counts["requests"], more.counts["cached"]) == (24, 18)
    assert more.scores == evaluate(tmp_path / "all", job=eight.model_copy(update={"cache": False})).scores


@pytest.mark.parametrize(
    "content",
    [b"", b"not a database", b"SQLite format 3\0" + bytes(200), None],
    ids=["empty", "text", "broken", "foreign"],
)
def test_what_is_no_cache_is_set_aside(
    tmp_path: Path, own_cache: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The evaluation goes on with a new file, says so, and the old one stays under another name."""
    if content is None:
        with sqlite3.connect(own_cache) as database:
            database.execute("CREATE TABLE answers (key, answer)")
        database.close()
    else:
        own_cache.write_bytes(content)
    before = own_cache.read_bytes()
    assert evaluate(tmp_path / "run").counts["cached"] == 0
    aside = list(own_cache.parent.glob("*.aside-*"))
    if content == b"":  # a new file, as SQLite sees it
        assert not aside
    else:
        assert [file.read_bytes() for file in aside] == [before]
        assert str(aside[0]) in caplog.text
    assert evaluate(tmp_path / "again").counts["cached"] == 18


def test_a_cache_that_cannot_be_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its folder is a file: the scores come all the same, and the log says that nothing is kept."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BITNET_BENCH_CACHE", str(tmp_path / "file" / "answers.sqlite3"))
    assert evaluate(tmp_path / "run").scores
    assert "Answers are not kept" in caplog.text


PAIRS = [(f"request {i}".encode(), f"answer {i}".encode() * 20) for i in range(60)]


@settings(deadline=None, max_examples=150)
@given(where=st.floats(0, 1, exclude_max=True), flips=st.binary(min_size=1, max_size=40))
def test_a_damaged_file_never_gives_a_wrong_answer(
    tmp_path_factory: pytest.TempPathFactory, where: float, flips: bytes
) -> None:
    """Whatever bytes are changed, an answer is the one that was kept or none at all, and keeping goes on."""
    file = tmp_path_factory.mktemp("damaged") / "answers.sqlite3"
    answers = SqliteStore(file, b"model", {"model": "m"})
    answers.save(PAIRS)
    answers.close()
    content = bytearray(file.read_bytes())
    start = int(where * len(content))
    for i, flip in enumerate(flips[: len(content) - start]):
        content[start + i] ^= flip
    file.write_bytes(content)
    again = SqliteStore(file, b"model", {"model": "m"})
    asked = [request for request, _ in PAIRS]
    assert all(answer == PAIRS[i][1] for i, answer in again.lookup(asked).items())
    again.save(PAIRS)
    assert all(answer == PAIRS[i][1] for i, answer in again.lookup(asked).items())
    again.close()


@pytest.mark.parametrize("column", ["answer", "seal"])
@pytest.mark.parametrize("value", ["24942", "'text'", "1.5"])
def test_a_value_of_another_type_is_no_answer(own_cache: Path, column: str, value: str) -> None:
    """One changed byte of a row's header makes a number of a blob."""
    answers = SqliteStore(own_cache, b"model", {"model": "m"})
    answers.save(PAIRS[:3])
    with sqlite3.connect(own_cache) as database:
        database.execute(f"UPDATE answers SET {column} = {value}")
    database.close()
    assert answers.lookup([request for request, _ in PAIRS[:3]]) == {}
    answers.save(PAIRS[:3])
    assert len(answers.lookup([request for request, _ in PAIRS[:3]])) == 3
    answers.close()


def test_the_models_that_are_kept_and_forgotten(own_cache: Path) -> None:
    """`ls` counts answers by model; `prune` forgets those that were not used lately, and the file shrinks."""
    assert list_stored_models(own_cache) == []
    for name, count in {"one": 3000, "two": 10}.items():
        answers = SqliteStore(own_cache, name.encode(), {"model": name})
        answers.save([(str(i).encode(), b"x" * 50) for i in range(count)])
        answers.close()
    with sqlite3.connect(own_cache) as database:
        database.execute("UPDATE models SET used = '2020-01-01' WHERE id = 1")
    database.close()
    assert [(model.about["model"], model.answers) for model in list_stored_models(own_cache)] == [
        ("two", 10),
        ("one", 3000),
    ]
    forgotten, freed = prune(own_cache, unused_days=30)
    assert [model.about["model"] for model in forgotten] == ["one"]
    assert freed > 3000 * 50
    assert [(model.about["model"], model.answers) for model in list_stored_models(own_cache)] == [("two", 10)]
    assert len(prune(own_cache, unused_days=0)[0]) == 1
    assert list_stored_models(own_cache) == []
    assert prune(own_cache, unused_days=0) == ([], 0)


def test_answers_of_a_model_that_was_forgotten_meanwhile_stay_its_own(own_cache: Path) -> None:
    """Its number may be another model's by then; what it computes later is not counted, nor forgotten, with that."""
    running = SqliteStore(own_cache, b"one", {"model": "one"})
    running.save(PAIRS[:1])
    prune(own_cache, unused_days=0)
    other = SqliteStore(own_cache, b"two", {"model": "two"})
    other.save(PAIRS[:1])
    running.save(PAIRS[:3])
    for answers in (running, other):
        answers.close()
    assert {model.about["model"]: model.answers for model in list_stored_models(own_cache)} == {"one": 3, "two": 1}


def test_a_model_that_is_used_again_is_not_forgotten(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation opened it between listing and forgetting."""
    SqliteStore(own_cache, b"one", {"model": "one"}).close()
    real = answer_cache.list_stored_models

    def listed(file: Path) -> list[answer_cache.StoredModel]:
        found = real(file)
        SqliteStore(own_cache, b"one", {"model": "one"}).close()
        return found

    monkeypatch.setattr(answer_cache, "list_stored_models", listed)
    assert prune(own_cache, unused_days=0)[0] == []
    assert len(real(own_cache)) == 1


def test_space_that_a_killed_prune_left_is_given_back_by_the_next(own_cache: Path) -> None:
    """It had forgotten the answers, and was killed before it could make the file smaller."""
    answers = SqliteStore(own_cache, b"one", {"model": "one"})
    answers.save([(str(i).encode(), b"x" * 50) for i in range(3000)])
    answers.close()
    database = sqlite3.connect(own_cache)
    database.execute("DELETE FROM answers")
    database.execute("DELETE FROM models")
    database.commit()
    database.close()
    forgotten, freed = prune(own_cache, unused_days=30)
    assert forgotten == []
    assert freed > 3000 * 50


def test_listing_what_is_no_cache_says_so(own_cache: Path) -> None:
    """`cache ls` does not touch a file that it cannot read."""
    own_cache.write_bytes(b"a letter")
    with pytest.raises(BenchError, match="not a cache"):
        list_stored_models(own_cache)
    assert own_cache.read_bytes() == b"a letter"
