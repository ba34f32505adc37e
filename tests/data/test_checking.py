"""Training rows are checked line by line: what is found, on which line, and nothing that is not there."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench import cli
from bitnet_bench.data.checking import FileFindings, examine_rows, length_histogram, length_quantiles
from bitnet_bench.data.rows import convert_data, read_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.tasks import normalise_text

GOOD = {"prompt": "한국의 수도는?", "response": "서울이에요."}
TESTED = "이 문장은 시험지에 그대로 실려 있는 아주 긴 문장이다."
LONG = "이 답은 아주 길게 이어지면서 무엇인가를 설명하다가 갑자기 " * 8


def write(folder: Path, *rows: dict[str, Any] | str) -> Path:
    file = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file


def checked(file: Path, tokenizer: Any, max_length: int = 4096) -> FileFindings:
    return examine_rows(file, tokenizer, "dialogue", max_length, {normalise_text(TESTED): "suite:task"}, normalise_text)


def test_every_finding_has_its_line(tmp_path: Path, tokenizer: Any) -> None:
    """All of a file at once, the broken lines too; good rows, and near misses, have none."""
    file = write(
        tmp_path,
        GOOD,
        '{"prompt": "끊긴',
        {"prompt": "질문", "response": ""},
        {"prompt": "한국의 수도는?", "response": "서울이에요. "},
        {"prompt": unicodedata.normalize("NFD", "맑은 날"), "response": "네."},
        {"prompt": "다음을 읽으세요. " + TESTED.replace(" ", "  "), "response": "네."},
        {"prompt": "이 문장은 시험지에", "response": "없어요."},
        {"prompt": "설명해 주세요.", "response": LONG.strip()},
        {"prompt": "설명해 주세요!", "response": LONG + "끝났습니다"},
    )
    found = checked(file, tokenizer)
    assert [(f.line, f.kind) for f in found.findings] == [
        (2, "bad"),
        (3, "bad"),
        (4, "duplicate"),
        (5, "nfd"),
        (6, "overlap"),
        (8, "cut"),
    ]
    assert "is the same as line 1" in found.findings[2].reason
    assert "suite:task" in found.findings[4].reason
    assert found.counts == {"bad": 2, "duplicate": 1, "overlap": 1, "cut": 1, "nfd": 1}
    assert (found.lines, len(found.tokens)) == (9, 7)


def test_lengths_are_those_that_training_sees(tmp_path: Path, tokenizer: Any) -> None:
    """Tokens with template and special tokens, and those with loss; a row over the limit says by how many."""
    from bitnet_bench.data.tokenizing import IGNORED_LABEL, tokenize_rows

    pair = {"prompt": "질문", "chosen": "네.", "rejected": "응."}
    file = write(tmp_path, GOOD, pair, {"text": "오늘 날씨는 맑아요."})
    (example,) = tokenize_rows(read_rows(file)[:1], tokenizer, "dialogue", 512, pretrain=False).examples
    found = checked(file, tokenizer, len(example.input_ids) - 3)
    assert found.tokens[0] == len(example.input_ids)
    assert found.response_tokens[0] == sum(label != IGNORED_LABEL for label in example.labels)
    assert "3 too many" in next(f.reason for f in found.findings if f.line == 1)
    assert found.tokens[2] == found.response_tokens[2]


def test_a_dialogue_that_a_chat_template_has_no_prompt_for_is_found(
    tmp_path: Path, make_tokenizer: Callable[[bool], Any]
) -> None:
    """Training would stop at it; the other rows are checked all the same."""
    tokenizer = make_tokenizer(False)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"
    turns = [{"role": "model", "content": "어서 오세요."}, {"role": "user", "content": "네"}]
    file = write(tmp_path, {"messages": turns}, GOOD)
    found = examine_rows(file, tokenizer, "auto", 512, {}, normalise_text)
    assert [(f.line, f.kind) for f in found.findings] == [(1, "bad")]
    assert len(found.tokens) == 1


def test_quantiles_and_histogram() -> None:
    """Of known lengths; of one; of none."""
    lengths = tuple(range(1, 101))
    assert length_quantiles(lengths) == {
        "least": 1, "median": 50.5, "p95": pytest.approx(95.05), "p99": pytest.approx(99.01), "greatest": 100,
        "mean": 50.5, "sum": 5050,
    }  # fmt: skip
    assert length_quantiles((7,))["p99"] == 7
    assert (length_quantiles(()), length_histogram(())) == ({}, [])
    assert length_histogram((1, 2, 3, 9)) == [(1, 1, 1), (2, 3, 2), (4, 7, 0), (8, 15, 1)]


def test_converted_rows_are_the_same_rows(tmp_path: Path) -> None:
    """Every shape becomes messages, pairs stay pairs, text stays text; nothing is overwritten."""
    shapes = [
        GOOD,
        {"instruction": "요약하세요.", "input": "본문", "output": "답"},
        {"turns": ["사용자: 안녕?", "모델: 네."]},
        {"prompt": "질문", "chosen_response": "네", "rejected_response": "응"},
        {"document": "글"},
    ]
    file = write(tmp_path, *shapes)
    assert convert_data(file, tmp_path / "out.jsonl") == 5
    assert read_rows(tmp_path / "out.jsonl") == read_rows(file)
    first = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert [m["role"] for m in first["messages"]] == ["user", "assistant"]
    with pytest.raises(BenchError, match="there already"):
        convert_data(file, tmp_path / "out.jsonl")
    with pytest.raises(BenchError, match="Line 2"):
        convert_data(write(tmp_path, GOOD, "{"), tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()


def test_the_command_finds_rows_of_a_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row made of an embedded test row is an overlap, and the exit status says so; stats are JSON as well."""
    ((suite, task),) = select_tasks(["sample"], ["sentineg"])
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task

    docs = build_task(suite, task, TaskSettings()).lm_task.test_docs()
    text = next(t for doc in docs for t in doc.values() if isinstance(t, str) and len(normalise_text(t)) >= 20)
    file = write(tmp_path, GOOD, {"prompt": f"감정을 말하세요: {text}", "response": "긍정"})

    def bench(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["bitnet-bench", "data", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    assert bench("check", str(file), "--suite", "sample", "--json") == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"overlap": 1}
    assert found["findings"][0]["line"] == 2
    assert bench("check", str(file)) == 0
    assert "nothing found" in capsys.readouterr().out
    assert bench("stats", str(file), "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["tokens"]["least"] > 5
    assert bench("stats", str(file)) == 0
    assert "median" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_rows_is_not_in_order(content: str, tmp_path: Path) -> None:
    """The command says so and ends with 1; beside another file as well."""
    from typer.testing import CliRunner

    from bitnet_bench.cli import app

    (tmp_path / "none.jsonl").write_text(content, encoding="utf-8")
    (tmp_path / "one.jsonl").write_text('{"prompt": "왜?", "response": "네."}\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "one.jsonl"), str(tmp_path / "none.jsonl")])
    assert result.exit_code == 1
    assert "one.jsonl: 1 rows; nothing found" in result.stdout
    assert "none.jsonl has no rows" in result.stdout
