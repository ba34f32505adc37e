"""Files of rows: lists, tables, other encodings and ends of lines, and text in NFC string by string."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_bench import cli
from bitnet_bench.data.jsonl import BadRowError, parse_nfc_json, read_json, read_numbered_lines
from bitnet_bench.data.rows import Row, Turn, read_rows
from bitnet_bench.errors import BenchError

FIELDS = [{"prompt": "눈은 왜 하얀가요?", "response": "빛을 흩어서요."}, {"prompt": "비는요?", "response": "맑아서요."}]
LINES = [json.dumps(fields, ensure_ascii=False) for fields in FIELDS]
ROWS = [Row((Turn("user", f["prompt"]), Turn("model", f["response"]))) for f in FIELDS]


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    file = folder / name
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a list over lines.jsonl", json.dumps(FIELDS, ensure_ascii=False, indent=1)),
        ("a list in one line.jsonl", json.dumps(FIELDS, ensure_ascii=False)),
        ("a list of a row a line.jsonl", "[\n" + ",\n".join(LINES) + "\n]\n"),
        ("a list with a comma at its end.json", "[" + ",".join(LINES) + ",\n]"),
        ("rows over lines.jsonl", "\n".join(json.dumps(f, ensure_ascii=False, indent=2) for f in FIELDS)),
        ("commas.jsonl", "".join(f"{line},\n" for line in LINES)),
        ("windows.jsonl", "\ufeff" + "\r\n".join(LINES) + "\r\n"),
        ("mac.jsonl", "\r".join(LINES)),
        ("table.csv", "prompt,response\n눈은 왜 하얀가요?,빛을 흩어서요.\n\n비는요?,맑아서요.\n"),
        ("excel.csv", '\ufeffprompt,response\r\n"눈은 왜 하얀가요?","빛을 흩어서요."\r\n비는요?,맑아서요.\r\n'),
        ("empty cells.csv", "prompt,completion,response\n눈은 왜 하얀가요?,,빛을 흩어서요.\n비는요?,맑아서요.,\n"),
        ("table.tsv", "prompt\tresponse\n눈은 왜 하얀가요?\t빛을 흩어서요.\n비는요?\t맑아서요.\n"),
    ],
)
def test_rows_are_read_from(name: str, text: str, tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, name, text)) == ROWS


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("list.jsonl", "[\n" + LINES[0] + ",\n\n" + '{"prompt": 3}' + "\n]", 4),
        ("rows.jsonl", "{\n" + LINES[0][1:] + "\n{\n" + '"prompt": 3}', 3),
        ("mac.jsonl", LINES[0] + "\r\r" + '{"prompt": 3}', 3),
        ("table.csv", 'prompt,response\n"두\n줄",네\n질문,', 4),
    ],
)
def test_the_line_where_a_bad_row_begins_is_named(name: str, text: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=f"^Line {line} of "):
        read_rows(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("list.jsonl", "[\n" + LINES[0] + "\n" + LINES[1] + "\n", "lacks its closing bracket"),
        ("list.jsonl", "[\n" + LINES[0] + '\n]\n{"a": 1}', "goes on after its closing bracket"),
        ("list.jsonl", "[\n" + LINES[0] + ',\n{"prompt": "가\n', "broken at line 3"),
        ("rows.jsonl", '{\n"prompt": "가"\n"response": "나"}', "broken at line 3"),
        ("table.csv", "prompt,response\n가,나,다\n", "Line 2 of .* has 3 cells under 2 names"),
        ("table.csv", "prompt,prompt\n가,나\n", "names a column twice"),
        ("table.csv", 'prompt,response\n"가" 나,다\n', "Line 2 of .* is no row of a table"),
        ("hub.json", '{"data": [], "data": []}', 'has the field "data" twice'),
    ],
)
def test_a_file_that_is_broken_as_a_whole_is_one_sentence(name: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=said):
        read_rows(write(tmp_path, name, text))


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-16"])
def test_another_encoding_is_named_and_converted_on_request(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error holds the command, and the command writes UTF-8."""
    file = write(tmp_path, "rows.jsonl", "\n".join(LINES) + "\n", encoding)
    name = "utf-16" if encoding == "utf-16" else "cp949"
    with pytest.raises(BenchError, match=f"is not UTF-8: .* It can be read as {name}") as caught:
        read_rows(file)
    assert f"rows.jsonl OUT --encoding {name}" in caught.value.hint
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr("sys.argv", ["bitnet-bench", "data", "convert", str(file), str(out), "--encoding", name])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "Wrote 2 rows" in capsys.readouterr().out
    assert read_rows(out) == ROWS


@pytest.mark.parametrize(("encoding", "said"), [("klingon", "no text encoding"), ("rot13", "no text encoding"),
                                                ("ascii", "is not ascii"), ("utf-16", "is not utf-16")])  # fmt: skip
def test_an_encoding_that_does_not_fit_is_a_sentence(encoding: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=said):
        read_rows(write(tmp_path, "rows.jsonl", LINES[0] + "  \n"), encoding=encoding)


def test_bytes_of_no_known_encoding_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES[0].encode() + b"\n\xff\xff\xff\xff\n")
    with pytest.raises(BenchError, match=r"is not UTF-8: .* in line 2, at byte"):
        read_rows(tmp_path / "rows.jsonl")


def test_a_limit_reads_no_line_after_it(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, "rows.jsonl", LINES[0] + "\n\n" + LINES[1] + "\n{"), limit=2) == ROWS


@pytest.mark.parametrize("text", ["줄\n\u0301바꿈", '"\u0301', "\\\u0301", "\t\u0327", "ㅎ\u1161\u11ab"])
@pytest.mark.parametrize("escaped", [True, False])
def test_a_mark_that_follows_an_escape_breaks_nothing(text: str, escaped: bool) -> None:
    """NFC of the escaped line would join the mark to the letter of the escape."""
    value, _ = read_json(json.dumps({"text": text}, ensure_ascii=escaped))
    assert value == {"text": unicodedata.normalize("NFC", text)}


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))), st.booleans())
def test_any_strings_come_back_in_nfc(value: dict[str, str], escaped: bool) -> None:
    """Names too; two names that NFC makes one are refused."""

    def nfc(text: str) -> str:
        return unicodedata.normalize("NFC", text)

    expected = {nfc(name): nfc(text) for name, text in value.items()}
    text = json.dumps(value, ensure_ascii=escaped)
    if len(expected) < len(value):
        with pytest.raises(BadRowError, match="twice"):
            read_json(text)
        return
    assert read_json(text) == (expected, expected != value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "가", "prompt": "나"}', 'the field "prompt" twice'),
        ('{"a": {"b": 1, "b": 1}}', 'the field "b" twice'),
        ('{"text": "\\ud83d"}', 'half a character .* in "text"'),
        ('{"\\udc00": 1}', "half a character .* in a field's name"),
        ('["\\ude00\\ud83d"]', "half a character .* in the row"),
        ('{"n": ' + "1" * 5000 + "}", "is not JSON .*4300 digits"),
        ("", "is not JSON"),
    ],
)
def test_json_that_would_lose_something_is_refused(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_nfc_json(line)


def test_a_whole_emoji_that_is_escaped_is_read() -> None:
    assert parse_nfc_json('"\\ud83d\\ude00"') == "😀"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60) | st.text(st.sampled_from('[]{}",:\n\r\\u가\u0301 1'), max_size=30).map(str.encode),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv"]),
)
def test_any_bytes_are_lines_or_a_sentence(content: bytes, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    values: list[Any] = []
    try:
        lines = list(read_numbered_lines(file))
    except BenchError:
        return
    for number, line in lines:
        assert number >= 1
        try:
            values.append(parse_nfc_json(line))
        except BadRowError:
            continue
