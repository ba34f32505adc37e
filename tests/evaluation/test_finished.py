"""Finished scores stand for what they were made of, and for nothing else; what is continued is continued alike."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import evaluate as evaluating
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks, trust_suite_names
from bitnet_bench.runs.folder import RECORD_FILE, SEAL_FIELD, compute_seal, load_record, save_record
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.reading import read_run
from bitnet_bench.runs.records import RunRecord

SUITE = """
name: own
version: "1"
title: Own
licence: none
citation: none
tasks:
  - name: sentiment
    metrics: [accuracy]
    chance: 50.0
    module: hooks.py
    local: .
    files: {test: test.jsonl, train: train.jsonl}
"""
SHARED = """
task: bb_own_sentiment
output_type: multiple_choice
test_split: test
training_split: train
doc_to_text: !function asked.prompt
doc_to_target: label
doc_to_choice: ["나쁨", "좋음"]
target_delimiter: " "
metric_list:
  - metric: acc
"""
MODULE = """
def prompt(row):
    return row["text"] + "\\n답:"
"""
ROWS = [{"text": f"영화 {n}번은 볼 만하다.", "label": n % 2} for n in range(4)]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write *rows* to *file* as JSON Lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


class Place:
    """A checkpoint, a suite, its rows and a run folder, all of which a test may change."""

    def __init__(self, folder: Path) -> None:
        self.model, self.suite, self.data, self.out = (folder / n for n in ("model", "suite", "data", "run"))
        shutil.copytree(open_checkpoint("demo").path, self.model)
        self.suite.mkdir()
        self.data.mkdir()
        (self.suite / "suite.yaml").write_text(SUITE, encoding="utf-8")
        (self.suite / "sentiment.yaml").write_text("include: shared.yaml\n", encoding="utf-8")
        (self.suite / "shared.yaml").write_text(SHARED, encoding="utf-8")
        (self.suite / "asked.py").write_text(MODULE, encoding="utf-8")
        (self.suite / "hooks.py").write_text("VALUES = (0.0, 1.0)\n", encoding="utf-8")
        write(self.data / "test.jsonl", ROWS)
        write(self.data / "train.jsonl", [{"text": f"연극 {n}번은 지루하다.", "label": 0} for n in range(3)])

    def copy_to(self, folder: Path) -> Place:
        """Return a copy of it below *folder*."""
        other = copy.copy(self)
        for name in ("model", "suite", "data", "out"):
            setattr(other, name, Path(shutil.copytree(getattr(self, name), folder / getattr(self, name).name)))
        return other

    def evaluate(self, **job: Any) -> RunRecord:
        """Score the one task with one example before each question."""
        given = EvaluateJob(**{"data_dir": str(self.data), "shots": 1, "cache": False, **job})
        trust_suite_names([str(self.suite)])  # also after it was changed
        return evaluate(str(self.model), select_tasks([str(self.suite)], ["sentiment"]), self.out, given)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace *old* in *file* of the suite."""
        path = self.suite / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Give a place in which everything was scored, for tests that change nothing in it."""
    there = Place(tmp_path_factory.mktemp("scored"))
    assert there.evaluate().scores
    return there


@pytest.fixture
def place(scored: Place, tmp_path: Path) -> Place:
    """Give a copy of it that a test may change."""
    return scored.copy_to(tmp_path / "place")


def change_json(file: Path, **fields: Any) -> None:
    """Set *fields* of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


INVERTED = [{**row, "label": 1 - int(row["label"])} for row in ROWS]
TRAIN = [{"text": "연극은 재미있다.", "label": 1}] * 3
CHANGES: dict[str, tuple[Callable[[Place], object], str]] = {
    "labels inverted": (lambda p: write(p.data / "test.jsonl", INVERTED), "rows of own:sentiment"),
    "training rows of examples": (lambda p: write(p.data / "train.jsonl", TRAIN), "few-shot examples of own:sentiment"),
    "an included YAML": (lambda p: p.edit("shared.yaml", "좋음", "최고"), "task definition of own:sentiment"),
    "the YAML": (
        lambda p: p.edit("sentiment.yaml", "include", 'target_delimiter: "  "\ninclude'),
        "task definition of own:sentiment",
    ),
    "a prompt": (lambda p: p.edit("asked.py", "답:", "대답:"), "task definition of own:sentiment"),
    "metrics in the suite": (lambda p: p.edit("suite.yaml", "[accuracy]", "[macro_f1]"), "task definition"),
    "chance in the suite": (lambda p: p.edit("suite.yaml", "chance: 50.0", "chance: 25.0"), "task definition"),
    "how answers are read": (
        lambda p: (p.suite / "hooks.py").write_text("VALUES = (1.0, 0.0)\n", encoding="utf-8"),
        "task definition of own:sentiment",
    ),
    "the tokenizer": (lambda p: change_json(p.model / "tokenizer_config.json", model_max_length=7), "tokenizer"),
    "the chat template": (lambda p: (p.model / "chat_template.jinja").write_text("{{ messages }}"), "chat template"),
    "the configuration": (lambda p: change_json(p.model / "config.json", rms_norm_eps=1e-3), "configuration"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_finished_scores_do_not_stand_for_another_ingredient(change: str, place: Place) -> None:
    """What changed is named, and the old record is left alone."""
    before = place.evaluate()
    act, named = CHANGES[change]
    act(place)
    with pytest.raises(BenchError, match=f"made with different .*{named}"):
        place.evaluate()
    assert load_record(place.out) == before


def double_a_weight(folder: Path) -> None:
    """Double one weight of the checkpoint in *folder*."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if weights[name].is_floating_point())
    save_file({**weights, name: weights[name] * 2}, folder / "model.safetensors", {"format": "pt"})


def test_finished_scores_do_not_stand_for_other_weights(place: Place) -> None:
    """One weight of many is enough."""
    before = place.evaluate()
    double_a_weight(place.model)
    with pytest.raises(BenchError, match="holds a run with another checkpoint"):
        place.evaluate()
    assert load_record(place.out) == before


SETTINGS: dict[str, dict[str, Any]] = {
    "limit": {"limit": 3},
    "shots": {"shots": 2},
    "seed": {"seed": 1},
    "chat_template": {"chat_template": True},
    "stage": {"stage": "after"},
    "allow_mismatch": {"allow_mismatch": True},
    "backend": {"backend": "hf"},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_finished_scores_do_not_stand_for_another_setting(setting: str, scored: Place) -> None:
    """Each alone, and it is named."""
    before = load_record(scored.out)
    with pytest.raises(BenchError, match=f"holds a run with another `?{setting}"):
        scored.evaluate(**SETTINGS[setting])
    assert load_record(scored.out) == before


def test_finished_scores_do_not_stand_for_another_version_of_the_suite(place: Place) -> None:
    """Its author says that scores before and after are not the same thing."""
    before = place.evaluate()
    place.edit("suite.yaml", 'version: "1"', 'version: "2"')
    with pytest.raises(BenchError, match="holds a run with another suites"):
        place.evaluate()
    assert load_record(place.out) == before


@pytest.mark.parametrize(
    "act",
    [
        lambda p: p.edit("shared.yaml", "test_split: test", "test_split: test  # a comment"),
        lambda p: p.edit("suite.yaml", "citation: none", "citation: ours"),
        lambda p: (p.model / "notes.json").write_text("{}"),
        lambda p: write(p.data / "test.jsonl", [dict(reversed(row.items())) for row in ROWS]),
    ],
)
def test_what_decides_no_score_may_change(act: Callable[[Place], object], place: Place) -> None:
    """A comment, a citation, another program's file, the order of fields."""
    before = place.evaluate()
    act(place)
    assert place.evaluate() == before


def test_rows_in_another_folder_are_the_same_rows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the folder moved, or is named by the environment: its path decides no score."""
    before = place.evaluate()
    moved = place.data.rename(place.data.with_name("moved"))
    assert place.evaluate(data_dir=str(moved)) == before
    monkeypatch.setenv("BITNET_BENCH_DATA", str(moved))
    assert place.evaluate(data_dir=None) == before


def test_rows_that_are_gone_are_named_and_the_scores_believed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """As rows of a hub that cannot be reached are."""
    before = place.evaluate()
    (place.data / "test.jsonl").unlink()
    with caplog.at_level(logging.WARNING):
        assert place.evaluate() == before
    assert "could not be compared by: rows of own:sentiment" in caplog.text


def test_rows_that_are_there_and_broken_are_not_believed(place: Place) -> None:
    """They are other rows, whatever they were."""
    (place.data / "test.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(BenchError, match="broken at line 1"):
        place.evaluate()


def test_a_record_of_an_older_version_is_compared_by_its_rows(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """It has no other digests, and the log says so."""
    save_record(place.out, load_record(place.out).model_copy(update={"inputs": {}}))
    before = load_record(place.out)
    assert place.evaluate() == before
    assert "could not be compared by: tokenizer, chat template, configuration" in caplog.text
    write(place.data / "test.jsonl", INVERTED)
    with pytest.raises(BenchError, match="different rows of own:sentiment"):
        place.evaluate()


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], RunRecord]:
    """Give what goes on with a run of two tasks of which one is scored."""

    def go_on() -> RunRecord:
        return evaluate("demo", select_tasks(["sample"], ["copa", "wic"]), tmp_path, EvaluateJob(limit=2))

    real = evaluating._score_task

    def first_only(run: Any, one: Any, *rest: Any) -> None:
        if one.task.name == "wic":
            raise KeyboardInterrupt
        real(run, one, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "_score_task", first_only)
        with pytest.raises(KeyboardInterrupt):
            go_on()
    return go_on


def test_a_run_is_not_continued_by_another_runtime(half: Callable[[], RunRecord], tmp_path: Path) -> None:
    """Its record can name one only."""
    record = load_record(tmp_path)
    save_record(tmp_path, record.model_copy(update={"runtime": "ternary engine on another CPU"}))
    with pytest.raises(BenchError, match=r"another runtime \(ternary engine on another CPU, not "):
        half()


@pytest.mark.parametrize(
    ("update", "named"),
    [
        ({"cpu": "Another CPU"}, r"processor \(Another CPU, not "),
        ({"packages": {"torch": "1.0"}}, r"torch \(1\.0, not "),
    ],
)
def test_a_run_is_not_continued_on_another_machine(
    update: dict[str, Any], named: str, half: Callable[[], RunRecord], tmp_path: Path
) -> None:
    """Nor with other software; where nothing is left to score, neither matters."""
    record = load_record(tmp_path)
    other = record.model_copy(update={"environment": record.environment.model_copy(update=update)})
    save_record(tmp_path, other)
    with pytest.raises(BenchError, match=named):
        half()
    save_record(tmp_path, record)
    whole = half()
    elsewhere = whole.model_copy(update={"environment": whole.environment.model_copy(update=update)})
    save_record(tmp_path, elsewhere)
    assert half() == elsewhere


def edit(folder: Path) -> None:
    """Change a score by hand."""
    fields = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    fields["scores"][0]["value"] = 99.0
    (folder / RECORD_FILE).write_text(json.dumps(fields), encoding="utf-8")


def test_an_edited_record_is_not_extended(half: Callable[[], RunRecord], tmp_path: Path) -> None:
    """A new seal would vouch for what was edited; the file stays as it was edited."""
    edit(tmp_path)
    edited = (tmp_path / RECORD_FILE).read_bytes()
    with pytest.raises(BenchError, match="was edited after it was written"):
        half()
    assert (tmp_path / RECORD_FILE).read_bytes() == edited


def test_a_record_without_a_seal_is_extended_and_goes_on_saying_so(
    half: Callable[[], RunRecord], tmp_path: Path
) -> None:
    """It was written by a version that made none; whether it was edited before cannot be told."""
    fields = json.loads((tmp_path / RECORD_FILE).read_text(encoding="utf-8"))
    del fields[SEAL_FIELD]
    (tmp_path / RECORD_FILE).write_text(json.dumps(fields), encoding="utf-8")
    half()
    fields = json.loads((tmp_path / RECORD_FILE).read_text(encoding="utf-8"))
    assert fields[SEAL_FIELD] == compute_seal(fields)
    assert any("had no checksum" in notice.what.en for notice in read_run(tmp_path).notices)


def test_a_task_of_lm_eval_s_own_is_compared_too(tmp_path: Path) -> None:
    """Its rows are digested before it runs, whatever it does to them."""
    query = "### 질문: 물은 몇 도에서 끓는가?\n### 선택지:\n(A) 100\n(B) 10\n(C) 1\n(D) 0\n(E) 50\n### 정답:"
    rows = [{"query": query, "answer": answer} for answer in ("(A)", "(B)")]
    write(tmp_path / "rows.jsonl", rows)
    job = EvaluateJob(rows={"lm-eval:haerae_history": str(tmp_path / "rows.jsonl")}, shots=0)
    tasks = select_tasks(["lm-eval:haerae_history"])
    before = evaluate("demo", tasks, tmp_path / "run", job)
    assert before.scores
    assert evaluate("demo", tasks, tmp_path / "run", job) == before
    write(tmp_path / "rows.jsonl", rows[::-1])
    with pytest.raises(BenchError, match="different rows of lm-eval:haerae_history"):
        evaluate("demo", tasks, tmp_path / "run", job)
