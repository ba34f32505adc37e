"""A finished fine-tuning stands for what it learned from, and for nothing else; a folder is written by one process."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.checkpoints.identity import digest_files
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.errors import BenchError
from bitnet_bench.runs.folder import TRAINING_FILE, load_training_record, lock_folder
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.finished import digest_rows
from bitnet_bench.training.resume import CLAIM_FILE, claim_run_folder
from bitnet_bench.training.saved_steps import STATE_FOLDER

ROWS = [{"prompt": f"{n} 더하기 {n}은?", "response": f"{2 * n}입니다."} for n in range(8)]


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    """Write *rows* to *file* as JSON Lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneRecord]:
    """Give a folder in which one distillation from a teacher was done, and its record."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("base", "teacher"):
        model = open_checkpoint("demo-fp16")
        shutil.copytree(model.path, folder / name)
    write(folder / "rows.jsonl", ROWS)
    write(folder / "checked.jsonl", ROWS[-1:])
    return folder, finetune(job(folder))


def job(folder: Path) -> FinetuneJob:
    """Return a job of one step with all that a job can name."""
    return FinetuneJob(
        model=str(folder / "base"),
        method="distill",
        teacher=str(folder / "teacher"),
        data=(str(folder / "rows.jsonl"),),
        validation=(str(folder / "checked.jsonl"),),
        out=str(folder / "out"),
        max_steps=1,
        batch_size=4,
        compute="fp32",
        relation_weight=0.0,
        track=(),
    )


@pytest.fixture
def finished(trained: tuple[Path, FinetuneRecord], tmp_path: Path) -> tuple[Path, FinetuneJob, FinetuneRecord]:
    """Give a copy of that folder in its place, so that a test can change it; it is put back afterwards."""
    folder, record = trained
    shutil.copytree(folder, tmp_path / "kept")
    yield folder, job(folder), record
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


Finished = tuple[Path, FinetuneJob, FinetuneRecord]


def change_weights(folder: Path) -> None:
    """Change one weight of the checkpoint *folder* in place."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    name = min(weights)
    weights[name] = weights[name] * 2
    save_file(weights, file, {"format": "pt"})


def change_json(file: Path, **fields: Any) -> None:
    """Set *fields* of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


CHANGES: dict[str, Callable[[Path], object]] = {
    "base weights": lambda folder: change_weights(folder / "base"),
    "teacher weights": lambda folder: change_weights(folder / "teacher"),
    "data rows": lambda folder: write(folder / "rows.jsonl", [{**ROWS[0], "response": "1입니다."}, *ROWS[1:]]),
    "validation rows": lambda folder: write(folder / "checked.jsonl", [{**ROWS[-1], "response": "1입니다."}]),
    "tokenizer": lambda folder: change_json(folder / "base" / "tokenizer_config.json", model_max_length=7),
    "chat template": lambda folder: (folder / "base" / "chat_template.jinja").write_text("{{ messages }}"),
    "configuration": lambda folder: change_json(folder / "base" / "config.json", rms_norm_eps=1e-3),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_finished_run_does_not_stand_for_another_ingredient(what: str, finished: Finished) -> None:
    """What changed is named, and the old result is left alone."""
    folder, again, record = finished
    assert finetune(again) == record, "nothing changed yet"
    CHANGES[what](folder)
    with pytest.raises(BenchError, match=f"finished run with different .*{what}"):
        finetune(again)
    assert load_training_record(folder / "out") == record


OTHER_SETTINGS: dict[str, Any] = {
    "limit": 7,
    "hold_out": 0.25,
    "max_length": 128,
    "template": "plain",
    "packing": True,
    "precision": "fp16",
    "beta": 0.2,
    "epochs": 2.0,
    "learning_rate": 1e-5,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "max_steps": 2,
    "seed": 1,
    "schedule": "linear",
    "warmup_ratio": 0.1,
    "compute": "bf16",
    "gradient_checkpointing": True,
    "weight_decay": 0.1,
    "loss_reduction": "sum",
    "freeze": ("norms",),
    "neftune_alpha": 5.0,
    "ternary_warmup": 1,
    "float_learning_rate": 1e-5,
    "subln": True,
    "group_size": 64,
    "activations": "int8",
    "lora_rank": 2,
    "lora_alpha": 8.0,
    "distill_weight": 1.0,
    "temperature": 1.0,
    "relation_weight": 1.0,
    "relation_layer": 0,
    "relation_heads": 2,
    "keep_masters": True,
}
"""Another value for each setting that decides what is learned, or which checkpoint is left."""
NAMES = {"data", "validation", "data_dir", "model", "tokenizer", "read_as", "teacher", "method", "template_sha256"}
"""What is read, which is compared by what it holds too; and what comes with others."""
UNDECISIVE: dict[str, Any] = {
    "save_every": 1,
    "save_minutes": 1.0,
    "track": ("tensorboard",),
    "shard": True,
    "compile": "off",
}
"""Another value for each setting that decides neither."""


@pytest.mark.parametrize("setting", OTHER_SETTINGS)
def test_a_finished_run_does_not_stand_for_another_setting(
    setting: str, trained: tuple[Path, FinetuneRecord], caplog: pytest.LogCaptureFixture
) -> None:
    """Each alone, and it is named; nothing is trained."""
    folder, record = trained
    with pytest.raises(BenchError, match=rf"finished run with another `{setting}`\."):
        finetune(job(folder).model_copy(update={setting: OTHER_SETTINGS[setting]}))
    assert load_training_record(folder / "out") == record


def test_every_setting_of_a_training_decides_or_is_known_not_to(trained: tuple[Path, FinetuneRecord]) -> None:
    """A setting that is added belongs to one of the lists above; those of the last one change nothing."""
    folder, record = trained
    filled_in = {"out", "learning_rate_source"}
    assert set(FinetuneJob.model_fields) == {*OTHER_SETTINGS, *NAMES, *UNDECISIVE, *filled_in}
    assert set(record.job.settings()) == {*OTHER_SETTINGS, *NAMES}
    assert finetune(job(folder).model_copy(update=UNDECISIVE)) == record


def test_the_order_of_the_rows_is_an_ingredient(finished: Finished) -> None:
    """The same rows in another order are learned otherwise."""
    folder, again, _ = finished
    write(folder / "rows.jsonl", [*ROWS[1:], ROWS[0]])
    with pytest.raises(BenchError, match="different data rows"):
        finetune(again)


def test_what_is_gone_is_named_and_the_run_believed(finished: Finished, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what could not be compared."""
    folder, again, record = finished
    (folder / "rows.jsonl").unlink()
    shutil.rmtree(folder / "base")
    with caplog.at_level(logging.WARNING):
        assert finetune(again) == record
    assert "could not be compared by: base weights, data rows, validation rows" in caplog.text


def test_a_base_that_is_there_and_broken_is_no_reason_to_believe(finished: Finished) -> None:
    """It is another base, whatever it was."""
    folder, again, _ = finished
    (folder / "base" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(BenchError):
        finetune(again)


def test_a_record_of_an_older_version_is_compared_by_its_tokens(
    finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no digests of rows as they were read; those of its tokens and of its base are enough."""
    folder, again, record = finished
    old = json.loads((folder / "out" / TRAINING_FILE).read_text(encoding="utf-8"))
    del old["inputs"]
    (folder / "out" / TRAINING_FILE).write_text(json.dumps(old), encoding="utf-8")
    assert finetune(again) == record.model_copy(update={"inputs": {}})
    assert "could not be compared by: validation rows, teacher weights" in caplog.text
    write(folder / "rows.jsonl", ROWS[1:])
    with pytest.raises(BenchError, match="different data rows"):
        finetune(again)


def test_a_digest_of_rows_holds_every_field_and_no_default() -> None:
    """Fields that rows of today do not have will not change the digests of rows that do not use them."""
    row = Row((Turn("user", "가"), Turn("model", "나")))
    others = (
        Row((Turn("user", "가"), Turn("model", "다"))),
        Row((Turn("system", "가"), Turn("model", "나"))),
        Row((Turn("user", "가"), Turn("model", "나")), verbatim=True),
        Row((Turn("user", "가"), Turn("model", "나")), rejected="다"),
    )
    assert len({digest_rows([each]) for each in (row, *others)}) == 5


def test_two_trainings_on_one_folder_are_one_too_many(finished: Finished) -> None:
    """The second is refused with a sentence, and the folder is as it was."""
    folder, again, _ = finished
    other = again.model_copy(update={"out": str(folder / "other")})
    with lock_folder(folder / "other"), pytest.raises(BenchError, match="Another process writes into"):
        finetune(other)
    assert not (folder / "other").exists()


def test_a_training_holds_its_folder_while_it_runs(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """From before the first row is read."""
    folder, again, _ = finished
    other = again.model_copy(update={"out": str(folder / "other")})

    def is_held(job: FinetuneJob, *_: Any) -> Any:
        with pytest.raises(BenchError, match="Another process writes into"), lock_folder(Path(job.out)):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr("bitnet_bench.training.finetune.read_training_rows", is_held)
    with pytest.raises(KeyboardInterrupt):
        finetune(other)


def test_a_run_killed_at_its_very_first_write_goes_on(tmp_path: Path) -> None:
    """What claiming a folder leaves behind when it is cut off is no foreign file."""
    with lock_folder(tmp_path / "out"):
        (tmp_path / "out" / STATE_FOLDER).mkdir()
        (tmp_path / "out" / STATE_FOLDER / f"{CLAIM_FILE}.{'0' * 16}.tmp").write_text("{", encoding="utf-8")
        claim_run_folder(tmp_path / "out", {"seed": 0}, {})
    assert (tmp_path / "out" / STATE_FOLDER / CLAIM_FILE).is_file()


@pytest.mark.parametrize("name", ["notes.txt", f"{STATE_FOLDER}/checkpoint-1", f"{STATE_FOLDER}/notes.txt"])
def test_a_folder_with_other_files_is_still_refused(name: str, tmp_path: Path) -> None:
    """They are somebody's."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(BenchError, match="is not empty"):
        claim_run_folder(tmp_path, {"seed": 0}, {})


def test_a_template_in_the_tokenizer_s_settings_is_no_part_of_the_tokenizer(tmp_path: Path) -> None:
    """Each digest is of its own files, and of nothing else in the folder."""
    (tmp_path / "tokenizer_config.json").write_text('{"a": 1, "chat_template": "x"}', encoding="utf-8")
    before = digest_files(tmp_path)
    (tmp_path / "record.json").write_text("{}", encoding="utf-8")
    assert digest_files(tmp_path) == before
    (tmp_path / "tokenizer_config.json").write_text('{"a": 1, "chat_template": "y"}', encoding="utf-8")
    after = digest_files(tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["chat template"]
