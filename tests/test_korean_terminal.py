"""The command line in Korean: its catalogue is complete, its values are kept, and JSON stays as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.cells import cell_len

from bitnet_bench.cli import app
from bitnet_bench.cli.output import print_document
from bitnet_bench.cli.sentences import print_text
from bitnet_bench.cli.terminal import protect_streams
from bitnet_bench.cli.translated_help import KoreanContext, translate_help, translate_option_help, wrap_words
from bitnet_bench.comparison.comparing import compare
from bitnet_bench.comparison.formats import FORMATS
from bitnet_bench.wording import load_catalogue
from bitnet_bench.wording.translation import (
    FIELD,
    LANGUAGE,
    expand_plurals,
    list_terminal_sentences,
    read_language,
    translate_lines,
    translate_to_korean,
)

SENTENCES = list_terminal_sentences()
WORDS = load_catalogue()
WRITTEN_AS_IS = re.compile(r"--[a-z][a-z-]*|`[^`]+`|\$[A-Z_]+|[A-Z]{2,}[:/=][A-Z]+|\d+")
"""Options, commands, variables and numbers, which a translation must not lose."""
LOOSE_NUMBERS = {"1", "2", "3"}
"""Numbers that a translation may spell out, or leave to the grammar."""
TERMINAL_COLUMNS = 80


def list_commands(command: Any, path: str = "bitnet-bench") -> Iterator[tuple[str, Any, Any]]:
    """Yield every command below *command* with its path and a context."""
    yield path, command, command.context_class(command, info_name=path)
    for name, below in getattr(command, "commands", {}).items():
        yield from list_commands(below, f"{path} {name}")


def list_help_texts(command: Any, context: Any) -> Iterator[str]:
    """Yield the texts of a command's help: its paragraphs, its options and the panels of them."""
    yield from (command.help or "").split("\n\n")
    for parameter in command.get_params(context):
        yield getattr(parameter, "help", None) or ""
        yield getattr(parameter, "rich_help_panel", None) or ""


COMMANDS = list(list_commands(typer.main.get_command(app)))
each_command = pytest.mark.parametrize(("path", "command", "context"), COMMANDS, ids=[path for path, *_ in COMMANDS])


@pytest.fixture
def korean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make Korean the language of the command line in this process."""
    token = LANGUAGE.set("ko")
    yield
    LANGUAGE.reset(token)


@each_command
def test_every_help_text_has_a_translation(path: str, command: Any, context: Any) -> None:
    """A new option brings its Korean help, in bitnet_bench/wording/terminal.yaml."""
    texts = [" ".join(text.split()) for text in list_help_texts(command, context)]
    assert [text for text in texts if text and translate_to_korean(text) == text] == []


def test_a_translation_has_the_values_of_its_sentence() -> None:
    """What stands in {braces} is the same in both languages, and no sentence has two translations."""
    assert [one.en for one in SENTENCES if sorted(FIELD.findall(one.en)) != sorted(FIELD.findall(one.ko))] == []
    assert len({one.en for one in SENTENCES}) == len(SENTENCES)


def test_a_translation_keeps_options_commands_and_numbers() -> None:
    """A default or an option that is named in English is named in Korean."""
    lost = {
        one.en: names
        for one in SENTENCES
        if (names := set(WRITTEN_AS_IS.findall(one.en)) - set(WRITTEN_AS_IS.findall(one.ko)) - LOOSE_NUMBERS)
    }
    assert lost == {}


def test_a_translation_is_korean() -> None:
    """Every entry has a Korean syllable, but for those that only arrange values."""
    assert [one.ko for one in SENTENCES if not re.search("[가-힣]", one.ko) and re.search("[a-z]{3}", one.ko)] == [
        *(one.ko for one in SENTENCES if FIELD.sub("", one.en).strip(" :·()—→~to") == "")
    ]


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "BITNET_BENCH_LANG": "en"}, "en"),
        ({"LANG": "C", "BITNET_BENCH_LANG": "ko"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "BITNET_BENCH_LANG": ""}, "ko"),
    ],
)
def test_the_language_is_that_of_the_variable_or_of_the_locale(environment: dict[str, str], language: str) -> None:
    """BITNET_BENCH_LANG, else LC_ALL, LC_MESSAGES and LANG, as POSIX reads them; else English."""
    assert read_language(environment, "utf-8") == language


def test_a_terminal_without_korean_characters_stays_english() -> None:
    """Escapes of every syllable would be worse than English."""
    assert read_language({"BITNET_BENCH_LANG": "ko"}, "ascii") == "en"
    assert read_language({"BITNET_BENCH_LANG": "ko"}, "cp949") == "ko"


@pytest.mark.usefixtures("korean")
def test_the_end_of_an_unknown_sentence_is_not_translated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word that stands alone on the last line of a sentence may also be a heading, which has a translation."""
    monkeypatch.setenv("COLUMNS", "36")
    with protect_streams():
        print_text("no catalogue has these words about time")
    assert capsys.readouterr().out == "no catalogue has these words about\ntime\n"
    assert translate_to_korean("time") != "time"


@pytest.mark.usefixtures("korean")
@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_document_is_the_same_in_every_language(
    form: str, make_results: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interval in a table of LaTeX keeps its "to": "~" would be a space there."""
    right, wrong = [1.0] * 30 + [0.0] * 10, [1.0] * 12 + [0.0] * 28
    runs = [make_results(name, {"s:a": scores, "s:b": right}) for name, scores in (("a", right), ("b", wrong))]
    text = FORMATS[form](compare(*runs))
    with protect_streams():
        print_document(text)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.usefixtures("korean")
@pytest.mark.parametrize(
    ("english", "korean_text"),
    [
        ("Report: runs/x/report.html", "보고서: runs/x/report.html"),
        ("Run: time", "실행: time"),  # a folder with the name of a heading
        ("  There are: a, b.", "  사용할 수 있는 것: a, b."),
        ("Error: There is no suite 'x'.\n", "오류: 'x' 과제 모음은 없습니다.\n"),
        (
            "Error: demo was not scored on a:b. z.jsonl has no rows.",
            "오류: demo: a:b에서 채점하지 못했습니다. z.jsonl: 행이 없습니다.",
        ),
        (
            "The backend `bitnetcpp` needs your own build of bitnet.cpp. Check the name.",
            "백엔드 `bitnetcpp`에는 직접 빌드한 bitnet.cpp가 필요합니다. 이름을 확인하세요.",
        ),
        ("without heat\n→ Make room.", "heat 없음\n→ 공간을 확보하세요."),
        ("a sentence that no catalogue has", "a sentence that no catalogue has"),
        ("a/b.jsonl: z.jsonl has no rows.", "a/b.jsonl: z.jsonl: 행이 없습니다."),
        ("−1.5 to +2.0", "−1.5 ~ +2.0"),
        ("from here to there", "from here to there"),
        ("no difference found: 2 · better: 1", f"{WORDS['verdict.undecided'].ko}: 2 · {WORDS['verdict.better'].ko}: 1"),
    ],
)
def test_a_printed_line_is_translated_with_its_values(english: str, korean_text: str) -> None:
    """Names and paths stay; a reason within a message is translated, too."""
    assert translate_lines(english) == korean_text


def test_a_plural_is_two_sentences() -> None:
    """`{count:task|tasks}`, as reports write it."""
    assert expand_plurals("{a:task|tasks} of {b:run|runs}") == [
        "{a} task of {b} run",
        "{a} task of {b} runs",
        "{a} tasks of {b} run",
        "{a} tasks of {b} runs",
    ]


def test_without_korean_nothing_is_translated() -> None:
    """English is the default."""
    assert translate_lines("Error: There is no suite 'x'.") == "Error: There is no suite 'x'."


@pytest.mark.parametrize("key", [key for key in WORDS if key.startswith("headline.")])
def test_a_verdict_is_the_sentence_of_the_report(key: str) -> None:
    """`compare` says in Korean what the Korean report says."""
    text = WORDS[key]
    english = {**dict.fromkeys(FIELD.findall(text.en), "7"), "tasks": "2 tasks", "interval": "−1.0 to +2.5"}
    korean_values = {**english, "tasks": "2개 과제", "interval": "−1.0 ~ +2.5"}
    assert translate_to_korean(text.en.format(**english)) == text.ko.format(**korean_values)


@pytest.mark.parametrize(
    ("english", "korean_text"),
    [
        ("Tokens to decode.  [default: 64; x>=1]", "디코딩할 토큰 수입니다.  [기본값: 64; x>=1]"),
        ("A run folder.  [required]", "실행 폴더입니다.  [필수]"),
        ("[default: as published]", "[기본값: 공개된 형식]"),
    ],
)
def test_what_typer_adds_to_a_help_text_is_translated(english: str, korean_text: str) -> None:
    """Defaults keep their values."""
    assert translate_option_help(english) == korean_text


@each_command
def test_korean_help_fits_a_terminal(path: str, command: Any, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A syllable takes two columns; only a name or a word that is longer than its column stands out."""
    monkeypatch.setenv("COLUMNS", str(TERMINAL_COLUMNS))
    shown = KoreanContext(command, info_name=path, help_option_names=["-h", "--help"], terminal_width=80).get_help()
    long = [line for line in shown.splitlines() if cell_len(line) > TERMINAL_COLUMNS]
    assert [line for line in long if not re.search(r"[<|{\[]|pretrained=", line)] == []
    assert re.search("[가-힣]", shown)


def test_words_are_not_broken() -> None:
    """Lines end between words, and count the columns of a syllable."""
    assert wrap_words("가나다 라마 abc", 6) == ["가나다", "라마", "abc"]
    assert wrap_words("아주긴낱말이다 짧다", 4) == ["아주긴낱말이다", "짧다"]


def test_the_help_of_every_command_is_korean() -> None:
    """Of commands below a group, too."""
    root = typer.main.get_command(app)
    translate_help(root)
    assert all(command.context_class is KoreanContext for _, command, _ in list_commands(root))


def run_in(language: str, *arguments: str) -> tuple[str, str]:
    """Return standard output and standard error of a command."""
    environment = {**os.environ, "BITNET_BENCH_LANG": language, "COLUMNS": "80"}
    command = [sys.executable, "-m", "bitnet_bench", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    return done.stdout, done.stderr


def test_json_is_the_same_in_every_language() -> None:
    """Programs read it."""
    assert run_in("ko", "suites", "--json") == run_in("en", "suites", "--json")


def test_the_command_line_speaks_korean() -> None:
    """Help, tables and errors, from outside."""
    shown, _ = run_in("ko", "backends")
    assert "백엔드" in shown
    assert "what it is" not in shown
    _, said = run_in("ko", "evaluate", "--suite", "nosuch")
    assert said.startswith("오류: 'nosuch' 과제 모음은 없습니다.")
    _, said = run_in("ko", "evaluat")
    assert "명령은 없습니다" in said
    assert "사용법:" in said
