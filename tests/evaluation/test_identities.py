"""Everything that decides an answer is in the identity of the model that gave it, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation import answer_log
from bitnet_bench.evaluation import evaluate as evaluating
from bitnet_bench.evaluation.finished import check_same_machine, digest_task
from bitnet_bench.evaluation.run_writer import RunWriter
from bitnet_bench.evaluation.task_run import TaskResult
from bitnet_bench.evaluation.tasks import TaskSettings, build_task
from bitnet_bench.machine.environment import read_environment
from bitnet_bench.runs.folder import SEAL_FIELD, compute_seal
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import Example, RunRecord, Score

CHECKPOINT_FILES = {
    "config.json": '{"rms_norm_eps": 1e-6}',
    "generation_config.json": '{"eos_token_id": 1}',
    "tokenizer.json": '{"model": {}}',
    "tokenizer_config.json": '{"chat_template": "a"}',
    "special_tokens_map.json": '{"eos_token": "$"}',
    "added_tokens.json": "{}",
    "vocab.json": "{}",
    "vocab.txt": "a",
    "merges.txt": "a b",
    "tokenizer.model": "model",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tool_use.jinja": "{{ tools }}",
}
"""Files of a checkpoint that decide what a model is asked or what its tokens say."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a folder with such files; its weights have a digest."""
    folder = tmp_path / "model"
    for name, content in CHECKPOINT_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def identify(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Give what returns the identity under which answers of a run are kept; arguments change the record."""
    found: list[bytes] = []

    class Store:
        """Keeps the identity."""

        def __init__(self, file: Path, identity: bytes, about: Mapping[str, str]) -> None:
            found.append(identity)

        def close(self) -> None:
            """Do nothing."""

    monkeypatch.setattr(answer_log, "SqliteStore", Store)
    monkeypatch.setattr(evaluating, "_digest_sources", lambda package: package.encode())
    monkeypatch.setattr(
        evaluating.plugins, "list_plugins", lambda kind: dict.fromkeys(("hf", "ternary"), SimpleNamespace(dist=None))
    )
    environment = read_environment().model_copy(
        update={"packages": {"bitnet-bench": "1", "torch": "2", "transformers": "3", "numpy": "4"}}
    )
    checkpoint = open_checkpoint("demo").model_copy(update={"path": str(model), "sha256": "a" * 64})

    def identity(arithmetic: str = "cpu", checkpoint_fields: Any = None, **fields: Any) -> bytes:
        base = {"name": "run", "backend": "hf", "precision": "ternary", "environment": environment}
        record = RunRecord(
            **{**base, "checkpoint": checkpoint.model_copy(update=checkpoint_fields or {}), **fields}  # type: ignore[arg-type]
        )
        with evaluating._open_answer_store(record, EvaluateJob(), arithmetic):
            return found.pop()

    return identity


Identify = Callable[..., bytes]


def test_the_same_model_has_the_same_identity(identify: Identify) -> None:
    """Twice, or no answer would ever be found."""
    assert identify() == identify()


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_fields": {"sha256": "b" * 64}},
        {"precision": "fp32"},
        {"backend": "ternary"},
        {"arithmetic": "cuda bfloat16"},
        {"arithmetic": "cuda float16"},
        {"arithmetic": "llama.cpp b1234, model.gguf"},
    ],
    ids=["weights", "precision", "backend", "dtype", "another dtype", "build of the runtime"],
)
def test_another_ingredient_is_another_model(change: dict[str, Any], identify: Identify) -> None:
    """Each alone: answers of other weights, another arithmetic or another runtime are not taken."""
    assert identify(**change) != identify()


@pytest.mark.parametrize("package", ["bitnet-bench", "torch", "transformers"])
def test_another_version_of_the_software_is_another_model(package: str, identify: Identify) -> None:
    """Of each package that computes."""
    here = read_environment()
    packages = {"bitnet-bench": "1", "torch": "2", "transformers": "3", "numpy": "4"}
    other = here.model_copy(update={"packages": packages | {package: "1.0.1"}})
    assert identify(environment=other) != identify()


@pytest.mark.parametrize("package", ["backends", "checkpoints", "ternary"])
def test_changed_code_is_another_model(
    package: str, identify: Identify, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each package whose code decides the bits of an answer."""
    before = identify()
    monkeypatch.setattr(evaluating, "_digest_sources", lambda name: b"changed" if name == package else name.encode())
    assert identify() != before


def test_another_version_of_a_plugin_is_another_model(identify: Identify, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend of somebody else's package changes with that package."""

    def install(version: str) -> None:
        backend = SimpleNamespace(dist=SimpleNamespace(name="own-backend", version=version))
        monkeypatch.setattr(evaluating.plugins, "list_plugins", lambda kind: {"hf": backend})

    install("1.0")
    before = identify()
    install("1.1")
    assert identify() != before


@pytest.mark.parametrize("file", CHECKPOINT_FILES)
def test_another_file_of_the_checkpoint_is_another_model(file: str, identify: Identify, model: Path) -> None:
    """Configuration, tokenizer and template, each file alone; one that is missing is another, too."""
    before = identify()
    (model / file).write_text(CHECKPOINT_FILES[file].replace("a", "b") + " ", encoding="utf-8")
    changed = identify()
    (model / file).unlink()
    assert len({before, changed, identify()}) == 3


def test_files_are_no_part_of_each_other(identify: Identify, model: Path) -> None:
    """What is moved from the end of one file to the beginning of the next makes another model."""
    (model / "merges.txt").write_text("a b", encoding="utf-8")
    (model / "vocab.txt").write_text("c d", encoding="utf-8")
    before = identify()
    (model / "merges.txt").write_text("a", encoding="utf-8")
    (model / "vocab.txt").write_text(" bc d", encoding="utf-8")
    assert identify() != before


def test_what_decides_no_answer_is_no_part_of_the_identity(identify: Identify, model: Path, tmp_path: Path) -> None:
    """Where the checkpoint lies, what the run is called, which tasks it has, when and on what it runs."""
    before = identify()
    here = read_environment().model_copy(
        update={
            "packages": {"bitnet-bench": "1", "torch": "2", "transformers": "3", "numpy": "5"},
            "time": "2000-01-01",
        }
    )
    moved = Path(shutil.copytree(model, tmp_path / "moved"))
    assert identify(checkpoint_fields={"path": str(moved), "source": "elsewhere"}) == before
    assert identify(name="other", suites={"kobest": "2"}, settings={"limit": 3}, environment=here) == before
    (model / "finetune.json").write_text("{}", encoding="utf-8")
    (model / "README.md").write_text("-", encoding="utf-8")
    (model / "tensorboard").mkdir()
    (model / "tensorboard" / "events").write_text("-", encoding="utf-8")
    assert identify() == before


BASE = {
    "suite.yaml": """
name: own
version: "1"
title: Own
licence: none
citation: none
tasks:
  - {name: one, metrics: [accuracy], chance: 50.0, local: ., files: {test: test.jsonl, train: train.jsonl}}
""",
    "one.yaml": "include: shared.yaml\ntask: bb_own_one\n",
    "shared.yaml": """
output_type: multiple_choice
test_split: test
training_split: train
doc_to_text: "{{text}}?"
doc_to_target: label
doc_to_choice: ["가", "나"]
metric_list:
  - {metric: acc}
""",
    "test.jsonl": '{"text": "다", "label": 0}\n{"text": "라", "label": 1}\n{"text": "마", "label": 1}\n',
    "train.jsonl": '{"text": "바", "label": 0}\n{"text": "사", "label": 1}\n{"text": "아", "label": 1}\n',
}


def digest_own_task(folder: Path, limit: int | None = 2, seed: int = 0, **files: str) -> dict[str, str]:
    """Return the digests of a task of one's own, of which *files* are other than in `BASE`."""
    from bitnet_bench.evaluation.suites import read_suite

    folder.mkdir(exist_ok=True)
    for name, content in {**BASE, **{name.replace("_", "."): text for name, text in files.items()}}.items():
        (folder / name).write_text(content, encoding="utf-8")
    suite = read_suite(folder / "suite.yaml")
    settings = TaskSettings(folder, shots=2, seed=seed)
    return digest_task(build_task(suite, suite.tasks[0], settings), settings, limit)


ROWS, EXAMPLES, DEFINITION = "rows of own:one", "few-shot examples of own:one", "task definition of own:one"


@pytest.mark.parametrize(
    ("files", "differing"),
    [
        ({"test_jsonl": BASE["test.jsonl"].replace('"라", "label": 1', '"라", "label": 0')}, ROWS),
        ({"test_jsonl": "".join(BASE["test.jsonl"].splitlines(True)[::-1])}, ROWS),
        ({"limit": 3}, ROWS),
        ({"train_jsonl": BASE["train.jsonl"].replace('"label": 1', '"label": 0')}, EXAMPLES),
        ({"seed": 1}, EXAMPLES),
        ({"shared_yaml": BASE["shared.yaml"].replace('["가", "나"]', '["나", "가"]')}, DEFINITION),
        ({"shared_yaml": BASE["shared.yaml"].replace("?", "!")}, DEFINITION),
        (
            {"shared_yaml": BASE["shared.yaml"].replace("doc_to_target: label", 'doc_to_target: "{{1 - label}}"')},
            DEFINITION,
        ),
        ({"one_yaml": BASE["one.yaml"] + "target_delimiter: ''\n"}, DEFINITION),
        ({"suite_yaml": BASE["suite.yaml"].replace("[accuracy]", "[macro_f1]")}, DEFINITION),
        ({"suite_yaml": BASE["suite.yaml"].replace("chance: 50.0", "chance: 25.0")}, DEFINITION),
        ({"test_jsonl": BASE["test.jsonl"].replace("마", "자")}, None),  # beyond the limit
        ({"test_jsonl": BASE["test.jsonl"].replace('"text": "다", "label": 0', '"label": 0, "text": "다"')}, None),
        ({"suite_yaml": BASE["suite.yaml"].replace("title: Own", "title: Other")}, None),
        ({"shared_yaml": "# a comment\n" + BASE["shared.yaml"]}, None),
    ],
)
def test_a_task_s_digests_tell_what_changed(files: dict[str, Any], differing: str | None, tmp_path: Path) -> None:
    """Rows that are asked, rows that are shown before them, and how the task asks and scores, each by itself."""
    before, after = digest_own_task(tmp_path / "before"), digest_own_task(tmp_path / "after", **files)
    assert set(before) == {ROWS, EXAMPLES, DEFINITION}
    assert [name for name in before if before[name] != after[name]] == ([differing] if differing else [])


@pytest.mark.parametrize("package", ["bitnet-bench", "torch", "transformers", "lm-eval"])
def test_a_run_is_not_continued_with_another_version_of(package: str, tmp_path: Path) -> None:
    """Each package alone decides scores."""
    record = make_record()
    here = record.environment.model_copy(update={"packages": record.environment.packages | {package: "0.0.1"}})
    check_same_machine(tmp_path, record, record.runtime, record.environment)
    with pytest.raises(BenchError, match=rf"{package} \(.*, not 0\.0\.1\)"):
        check_same_machine(tmp_path, record, record.runtime, here)


def test_a_run_is_continued_with_another_version_of_what_decides_no_score(tmp_path: Path) -> None:
    """And at another time, in another folder, by another command."""
    record = make_record()
    packages = {**record.environment.packages, "numpy": "0.0.1", "rich": "0.0.1"}
    here = record.environment.model_copy(update={"packages": packages, "time": "2000-01-01", "command": "other"})
    check_same_machine(tmp_path, record, record.runtime, here)


def make_example(number: int, **fields: Any) -> Example:
    """Return an example of a task that writes."""
    given = {"task": "klue:ner", "doc_id": number, "prompt": "가", "target": "나", "output": "다", "correct": 0.0}
    return Example.model_validate({**given, **fields})


def make_record() -> RunRecord:
    """Return the record of a run that begins."""
    return RunRecord(
        name="run",
        checkpoint=open_checkpoint("demo"),
        backend="hf",
        precision="ternary",
        environment=read_environment(),
    )


def test_malformed_answers_are_counted_over_all_tasks(tmp_path: Path) -> None:
    """Two of three, then one of two: three, beside the requests of both; seconds add up too."""
    run = RunWriter(tmp_path / "run", make_record(), True, make_record())
    tasks = {"klue:ner": (True, False, True), "klue:dp": (False, True)}
    for name, malformed in tasks.items():
        examples = tuple(make_example(i, task=name, malformed=is_bad) for i, is_bad in enumerate(malformed))
        score = Score(task=name, metric="m", value=1.0, stderr=None, n=len(examples), signature="m|v1", primary=True)
        result = TaskResult(name, (score,), examples, "c" * 64)
        counts = {"requests": len(examples), "truncated": 1, "cached": 0}
        run.record_result(
            SimpleNamespace(source="rows.jsonl", task=SimpleNamespace(kind="scored")), result, counts, 2.5
        )  # type: ignore[arg-type]
    assert run.record.counts == {"requests": 5, "truncated": 2, "cached": 0, "malformed": 3}
    assert run.record.seconds == 5.0
    assert [score.task for score in run.record.scores] == ["klue:ner", "klue:dp"]


SEALED = {
    "schema_version": 1,
    "name": "run",
    "scores": [{"task": "kobest:copa", "metric": "accuracy", "value": 50.0, "signature": "accuracy|v1", "n": 4}],
    "settings": {"limit": None, "shots": 0},
    "samples": {"kobest:copa": "d" * 64},
    "data": {"kobest:copa": "e" * 64},
    "once_unsealed": False,
}
EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a score": lambda fields: fields["scores"][0].update(value=51.0),
    "its signature": lambda fields: fields["scores"][0].update(signature="accuracy|v2"),
    "its number of examples": lambda fields: fields["scores"][0].update(n=5),
    "a score that is gone": lambda fields: fields["scores"].clear(),
    "a setting": lambda fields: fields["settings"].update(shots=1),
    "a setting that is new": lambda fields: fields["settings"].update(seed=0),
    "null for a number": lambda fields: fields["settings"].update(limit=0),
    "a digest of samples": lambda fields: fields["samples"].update({"kobest:copa": "d" * 63 + "e"}),
    "a digest of rows": lambda fields: fields["data"].update({"kobest:copa": "d" * 64}),
    "the name": lambda fields: fields.update(name="other"),
    "the mark of a record without a seal": lambda fields: fields.update(once_unsealed=True),
    "a field of another program": lambda fields: fields.update(note=""),
}


@pytest.mark.parametrize("edit", EDITS)
def test_whatever_is_edited_breaks_the_seal_of_a_record(edit: str) -> None:
    """Each field alone, at any depth."""
    fields = {**SEALED, "scores": [dict(SEALED["scores"][0])]}  # type: ignore[index]
    fields |= {name: dict(SEALED[name]) for name in ("settings", "samples", "data")}  # type: ignore[call-overload]
    before = compute_seal(fields)
    EDITS[edit](fields)
    assert compute_seal(fields) != before


def test_the_order_of_fields_and_the_seal_itself_are_no_part_of_it() -> None:
    """A record may be written again by another program."""
    before = compute_seal(SEALED)
    assert compute_seal({**dict(reversed(SEALED.items())), SEAL_FIELD: "f" * 64}) == before


@pytest.fixture
def shots(tmp_path: Path) -> Callable[..., list[str]]:
    """Give what returns the prompts of three questions after some of six training rows."""
    from bitnet_bench.evaluation.select import load_suites

    suite = load_suites()["classification"]
    (task,) = (one for one in suite.tasks if one.name == "nsmc")
    folder = tmp_path / "nsmc"
    folder.mkdir()
    for name, letters in (("train", "가나다라마바"), ("test", "사아자")):
        rows = [f'{{"id": "1", "document": "{c}", "label": {i % 2}}}\n' for i, c in enumerate(letters)]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")

    def ask(**settings: Any) -> list[str]:
        built = build_task(suite, task, TaskSettings(tmp_path, **settings)).lm_task
        built.build_all_requests(limit=None, rank=0, world_size=1)
        return [instance.args[0] for instance in built.instances if instance.idx == 0]

    return ask


def test_examples_stand_before_every_question_in_the_order_in_which_they_were_drawn(
    shots: Callable[..., list[str]],
) -> None:
    """Seed 0 draws the fourth and the sixth of six rows, with their right answers; every question has the same."""
    before = "리뷰: 라 긍부정: 긍정\n\n리뷰: 바 긍부정: 긍정\n\n"
    assert shots(shots=2) == [f"{before}리뷰: {c} 긍부정:" for c in "사아자"]
    assert shots(shots=2, seed=0) == shots(shots=2)


def test_another_seed_draws_other_examples_and_no_shots_draw_none(shots: Callable[..., list[str]]) -> None:
    """Seed 1 draws the second and the fifth."""
    before = "리뷰: 나 긍부정: 긍정\n\n리뷰: 마 긍부정: 부정\n\n"
    assert shots(shots=2, seed=1) == [f"{before}리뷰: {c} 긍부정:" for c in "사아자"]
    assert shots(shots=0, seed=1) == [f"리뷰: {c} 긍부정:" for c in "사아자"]
