"""Shards that know nothing of one another make, merged, the record and the samples of one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.backends import batched_session
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation import evaluate as evaluating
from bitnet_bench.evaluation import shards
from bitnet_bench.evaluation.answer_log import HEAD, MAGIC, AnswerLog, read_answers
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.shards import Shard, evaluate_shard, merge_shards
from bitnet_bench.runs.folder import load_record, save_record
from bitnet_bench.runs.jobs import EvaluateJob

JOB = EvaluateJob(limit=8, cache=False)
COUNT = 3


def choose() -> Any:
    return select_tasks(["sample"], ["copa", "qa"])


def shard(out: Path, number: int, job: EvaluateJob = JOB) -> Any:
    return evaluate_shard("demo-fp16", choose(), out, Shard(number, COUNT), job)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the run of one process, `one`, and the shards of the same, `cut`; small batches."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batched_session, "TOKENS_PER_BATCH", 60)
        evaluate("demo-fp16", choose(), folder / "one", JOB)
        for number in range(1, COUNT + 1):
            shard(folder / "cut", number)
    return folder


@pytest.fixture
def cut(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a copy of the finished shards."""
    monkeypatch.setattr(batched_session, "TOKENS_PER_BATCH", 60)
    shutil.copytree(finished / "cut", tmp_path / "cut")
    return tmp_path / "cut"


def read_results(out: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the record without times, command and name, and the bytes of the samples."""
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    for name in ("seconds", "name", "sha256"):
        record.pop(name)
    for name in ("time", "command"):
        record["environment"].pop(name)
    return record, {file.name: file.read_bytes() for file in sorted((out / "samples").iterdir())}


def test_merged_shards_are_the_run_of_one_process(finished: Path, cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of the record but times and names, every byte of the samples, and no weights are loaded."""

    def refuse(*given: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(evaluating, "_open_session", refuse)
    merge_shards(cut)
    assert read_results(cut) == read_results(finished / "one")


def test_each_shard_answers_a_part(finished: Path) -> None:
    """No request is answered twice, and none by nobody."""
    known = [read_answers(finished / "cut" / "shards" / f"{n}-of-{COUNT}" / "answers")[1] for n in (1, 2, 3)]
    assert all(known)
    requests = load_record(finished / "one").counts["requests"]
    assert sum(map(len, known)) == len(set().union(*known)) == requests


def test_a_shard_that_was_killed_goes_on(finished: Path, cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its last whole answer, to the same bytes; what it has answered is not asked again."""
    folder = cut / "shards" / f"2-of-{COUNT}"
    whole = (folder / "answers").read_bytes()
    (folder / "answers").write_bytes(whole[: len(whole) * 2 // 3])
    kept = len(read_answers(folder / "answers")[1])
    assert kept
    (folder / "record.json").unlink()
    with pytest.raises(BenchError, match="2/3 have not finished"):
        merge_shards(cut)
    record = shard(cut, 2)
    assert not record.errors
    assert (folder / "answers").read_bytes() == whole
    merge_shards(cut)
    assert read_results(cut) == read_results(finished / "one")


def test_a_finished_shard_loads_nothing(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again: the tasks are answered."""
    monkeypatch.setattr(evaluating, "_open_session", lambda *given: pytest.fail("the model was loaded"))
    assert set(shard(cut, 1).finished_tasks) == {"sample:copa", "sample:qa"}


def test_answers_that_are_in_no_shard_are_computed(finished: Path, cut: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a card had no memory for the batches of the others: the model is loaded, and that is said."""
    file = cut / "shards" / f"3-of-{COUNT}" / "answers"
    file.write_bytes(file.read_bytes()[:-1])
    merge_shards(cut)
    assert "1 of 8 answers are in no shard" in caplog.text
    assert read_results(cut) == read_results(finished / "one")


def test_shards_of_other_settings_are_refused(cut: Path) -> None:
    """Named with both shards; nothing is written."""
    shutil.rmtree(cut / "shards" / f"2-of-{COUNT}")
    shard(cut, 2, JOB.model_copy(update={"limit": 7}))
    with pytest.raises(BenchError, match=r"The shards 1/3 and 2/3 .* have another `limit`"):
        merge_shards(cut)
    assert not (cut / "record.json").exists()


def test_shards_of_other_code_are_refused(cut: Path) -> None:
    """The file of answers knows the code that answered, where two versions have one number."""
    file = cut / "shards" / f"2-of-{COUNT}" / "answers"
    identity = read_answers(file)[0]["identity"].encode()
    file.write_bytes(file.read_bytes().replace(identity, b"0" * len(identity), 1))
    with pytest.raises(BenchError, match=r"1/3 and 2/3 .* were answered by other code"):
        merge_shards(cut)
    assert not (cut / "record.json").exists()


def test_a_shard_is_not_continued_with_other_settings(cut: Path) -> None:
    """As a run is not."""
    with pytest.raises(BenchError, match="holds a run with another `limit`"):
        shard(cut, 1, JOB.model_copy(update={"limit": 7}))


def test_missing_shards_are_named(cut: Path) -> None:
    """The first eight of them, with the command."""
    shutil.rmtree(cut / "shards" / f"1-of-{COUNT}")
    shutil.rmtree(cut / "shards" / f"3-of-{COUNT}")
    with pytest.raises(BenchError, match=r"Of 3 shards .*, 1/3, 3/3 have not finished\.\n?.*--shard 1/3"):
        merge_shards(cut)


def test_a_file_of_answers_that_says_nothing_of_its_model_is_refused(cut: Path) -> None:
    """By its name, with what to do."""
    folder = cut / "shards" / f"2-of-{COUNT}"
    (folder / "answers").unlink()
    AnswerLog(folder / "answers", b"model", {"model": "demo"}).close()
    with pytest.raises(BenchError, match=r"answers does not say how(.|\n)*run the shard 2/3 again"):
        merge_shards(cut)


def test_a_task_that_an_edited_header_names_often_is_looked_for_once(
    cut: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All suites are read for each name, and a thousand names took ten seconds."""
    asked: list[Any] = []
    monkeypatch.setattr(shards, "select_tasks", lambda *given: asked.append(given) or select_tasks(*given))
    for file in (cut / "shards").glob("*/answers"):
        data, header = file.read_bytes(), read_answers(file)[0]
        header["about"]["tasks"] *= 1000
        (length,) = HEAD.unpack_from(data, len(MAGIC))
        edited = json.dumps(header).encode()
        file.write_bytes(MAGIC + HEAD.pack(len(edited)) + edited + data[len(MAGIC) + HEAD.size + length :])
    merge_shards(cut)
    assert len(asked) == 2
    assert read_results(cut) == read_results(finished / "one")


def test_two_counts_of_shards_are_refused(cut: Path) -> None:
    """It is not guessed which is meant."""
    (cut / "shards" / "1-of-16").mkdir()
    with pytest.raises(BenchError, match="shards of 3 and of 16 jobs"):
        merge_shards(cut)


@pytest.mark.parametrize("name", ["1-of-999999999999", "0-of-3", "4-of-3"])
def test_a_folder_that_is_no_shard_is_passed_over(cut: Path, name: str) -> None:
    """Its name is all that it has of one; a count of jobs that nobody has would be looked through."""
    (cut / "shards" / name).mkdir()
    assert merge_shards(cut).scores


def test_a_folder_without_shards_says_what_makes_them(tmp_path: Path) -> None:
    """With the option."""
    with pytest.raises(BenchError, match=r"no shards in (.|\n)*--shard 1/16"):
        merge_shards(tmp_path)


def test_a_task_that_a_shard_could_not_answer_is_not_scored(cut: Path) -> None:
    """The others are; the record says why, and which shard to run again."""
    folder = cut / "shards" / f"2-of-{COUNT}"
    record = load_record(folder)
    answered = {task: count for task, count in record.answered.items() if task != "sample:qa"}
    save_record(folder, record.model_copy(update={"answered": answered, "errors": {"sample:qa": "It was too long."}}))
    merged = merge_shards(cut)
    assert [score.task for score in merged.scores if score.primary] == ["sample:copa"]
    assert "It was too long. Run the shard 2/3 again" in " ".join(merged.errors["sample:qa"].split())


def test_an_open_task_is_not_divided(tmp_path: Path) -> None:
    """A second turn follows the answer to the first, which another shard may have."""
    with pytest.raises(UsageError, match="open:sample cannot be divided"):
        evaluate_shard("demo-fp16", select_tasks(["open"], ["sample"]), tmp_path, Shard(1, 2), JOB)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/100001", "１/３", "-1/3", "1/3/5", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError, match="such as 3/16"):
        Shard.parse(text)


def test_shards_have_names_that_sort(tmp_path: Path) -> None:
    """With as many digits as the count has."""
    assert Shard.parse("3/16").folder == "03-of-16"
    assert str(Shard(3, 16)) == "3/16"


def test_shards_within_torchrun_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both divide the work."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        shard(tmp_path, 1)
