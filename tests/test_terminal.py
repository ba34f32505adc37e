"""Text of any origin reaches a terminal of any encoding: it steers nothing, and it ends no command."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tqdm
import typer.main

from bitnet_bench import cli
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.tables import make_table, progress_bar, show
from bitnet_bench.cli.terminal import escape_controls, escape_json_controls, protect_streams

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
HOSTILE = [CLIPBOARD, "\x1b[2J", "\x9b31m", "a\rb", "\x08", "\x7f", "\u202e", "\u2066", "\u2028", "\udcec"]
HARMLESS = re.compile("[^\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]*")
COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", HOSTILE)
def test_controls_become_visible(text: str) -> None:
    """Each is written out, and what stands around it stays."""
    escaped = escape_controls(f"행 {text} 끝")
    assert escaped.startswith("행 ")
    assert escaped.endswith(" 끝")
    assert HARMLESS.fullmatch(escaped)
    assert "\\" in escaped


def test_ordinary_text_stays_as_it_is() -> None:
    """Korean, emoji with joiners, newlines and tabs."""
    text = "한국어 ± − 👩\u200d👩\u200d👧\n\t끝"
    assert escape_controls(text) == text


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("way", ["print", "log", "warning", "library", "table"])
def test_every_way_to_the_terminal_is_filtered(text: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prints, logs, warnings, handlers of libraries, and tables with their titles, heads and cells."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors="surrogateescape") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with protect_streams():
        if way == "print":
            print(text)
            print(text, file=sys.stderr)
        elif way == "log":
            handler = logging.lastResort
            assert handler is not None
            handler.handle(logging.makeLogRecord({"msg": text, "levelno": logging.WARNING}))
        elif way == "warning":
            sys.stderr.write(warnings.formatwarning(text, UserWarning, text, 1))
        elif way == "library":
            logging.StreamHandler().handle(logging.makeLogRecord({"msg": text}))
        else:
            show(make_table(text, [text, "b"], [[text, f"[red]{text}"]]))
    written = ""
    for stream in streams:
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        written += stream.buffer.getvalue().decode("utf-8", "surrogateescape")
    assert HARMLESS.fullmatch(written)
    assert "\\" in written


def test_a_progress_bar_on_a_terminal_is_filtered(run_in_terminal: Callable[..., str]) -> None:
    """The bar's own colours pass; its title, its note and what is printed meanwhile do not steer the terminal."""
    shown = run_in_terminal(
        "import logging, sys\n"
        "from bitnet_bench.cli.tables import progress_bar\n"
        "from bitnet_bench.cli.terminal import protect_streams\n"
        "with protect_streams(), progress_bar('a\\x1b]52;c;eA==\\x07') as progress:\n"
        "    progress(1, 2, 'b\\x1b]52;c;eA==\\x07')\n"
        "    print('c\\x1b]52;c;eA==\\x07', file=sys.stderr)\n"
        "    logging.warning('d\\x1b]52;c;eA==\\x07')\n",
        160,
    )
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert shown.count(r"\x1b]52") >= 4


def test_what_is_printed_after_a_question_is_filtered(run_in_terminal: Callable[..., str]) -> None:
    """Progress bars, one within the other, go away for it; when they are back, so is the filter in front of them."""
    shown = run_in_terminal(
        "import sys\n"
        "from bitnet_bench.cli.tables import progress_bar\n"
        "from bitnet_bench.cli.terminal import pause_progress, protect_streams\n"
        "with protect_streams():\n"
        "    streams = sys.stdout, sys.stderr\n"
        "    with progress_bar('outer'), progress_bar('inner'):\n"
        "        with pause_progress():\n"
        "            assert (sys.stdout, sys.stderr) == streams\n"
        "        for stream in (sys.stdout, sys.stderr):\n"
        "            print('a\\x1b[31mb', file=stream)\n"
        "    assert (sys.stdout, sys.stderr) == streams\n",
        160,
    )
    assert shown.count(r"a\x1b[31mb") == 2


def test_json_stays_json_with_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Controls are escaped the way of JSON, and so is what the encoding lacks."""
    value = {"".join(HOSTILE[:-1]): "한국어 😀 ± é"}
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert HARMLESS.fullmatch(printed)
    for encoding in ("ascii", "cp949", "latin-1", "nonsense"):
        text = escape_json_controls(json.dumps(value, ensure_ascii=False), encoding)
        assert json.loads(text) == value
    assert escape_json_controls('"한국어"', "cp949") == '"한국어"'


def test_hostile_names_in_a_record_do_not_reach_the_terminal(
    run_command: Callable[..., Any], make_record_folder: Callable[[str], Path]
) -> None:
    """The task, the run and the metric of a record that somebody sent, in a table, a notice, Markdown and JSON."""
    folder = make_record_folder(CLIPBOARD)
    for words in (
        ("report", folder, "--out", "r.html"),
        *(("compare", folder, folder, "--format", form) for form in ("table", "md", "csv", "json", "latex")),
        ("evaluate", "--suite", CLIPBOARD),
        ("inspect", CLIPBOARD),
    ):
        done = run_command(*words)
        assert "Traceback" not in done.stderr
        assert HARMLESS.fullmatch(done.stdout + done.stderr), words


@pytest.fixture
def make_record_folder(tmp_path: Path) -> Callable[[str], Path]:
    """Give what writes a run whose names hold a text."""
    from bitnet_bench.checkpoints.locate import open_checkpoint
    from bitnet_bench.machine.environment import read_environment
    from bitnet_bench.runs.folder import save_record
    from bitnet_bench.runs.records import RunRecord, Score

    def make(text: str) -> Path:
        folder = tmp_path / "sent"
        score = Score(task=f"s:{text}", metric=f"m{text}", value=1, stderr=0.5, n=2, signature="s", primary=True)
        save_record(
            folder,
            RunRecord(
                name=f"n{text}", checkpoint=open_checkpoint("demo"), backend="hf", precision="ternary",
                environment=read_environment(), scores=(score,), errors={f"s:e{text}": text},
                settings={"tasks": [f"s:{text}", f"s:e{text}"]},
            ),
        )  # fmt: skip
        return folder

    return make


LACKING: dict[str, dict[str, str]] = {
    "cp949": {"PYTHONIOENCODING": "cp949"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
"""What makes Python write to the terminal in an encoding without some characters of ours."""


def run_in(encoding: str, folder: Path, *commands: tuple[str, ...]) -> list[tuple[int, bytes]]:
    """Run commands in one process whose terminal has *encoding*; return the status and the output of each.

    The test fails by a traceback.
    """
    code = (
        "import sys\n"
        "from bitnet_bench import cli\n"
        f"for words in {commands!a}:\n"
        "    sys.argv = ['bitnet-bench', *words]\n"
        "    status = 0\n"
        "    try: cli.main()\n"
        "    except SystemExit as ended: status = ended.code or 0\n"
        "    print(f'@@{status}@@', flush=True)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **LACKING[encoding], "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        timeout=500,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    parts = re.split(rb"@@(\d+)@@\n", done.stdout)
    return [(int(status), output) for output, status in zip(parts[::2], parts[1::2], strict=False)]


@pytest.mark.parametrize("encoding", LACKING)
def test_help_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    """Of every command there is."""
    commands = [(command, "--help") for command in COMMANDS if command != "lm-eval"]
    done = run_in(encoding, tmp_path, *commands)
    assert [status for status, _ in done] == [0] * len(commands)
    assert all(b"Usage:" in output for _, output in done)


@pytest.mark.parametrize(
    "encoding", ["cp949", pytest.param("ascii", marks=pytest.mark.slow), pytest.param("C", marks=pytest.mark.slow)]
)
def test_the_main_commands_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    """None dies on a sign that its tables and sentences have, least of all after its work."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "안녕?", "response": "네, 안녕하세요."}\n' * 4, encoding="utf-8")
    scored = ("evaluate", "--suite", "sample", "--task", "copa", "--limit", "4", "--out")
    commands = [
        (*scored, "a"),
        (*scored, "b", "--json"),
        ("compare", "a", "b"),
        ("compare", "a", "b", "--format", "md"),
        ("compare", "a", "b", "--format", "latex"),
        ("compare", "a", "b", "--format", "json"),
        ("report", "a", "b"),
        ("suites",),
        ("backends",),
        ("doctor",),
        ("inspect", "demo"),
        ("data", "check", "rows.jsonl"),
        ("finetune", "--data", "rows.jsonl", "--max-steps", "1", "--out", "trained", "--batch-size", "2"),
        ("evaluate", "--suite", "sample:\u2212"),
    ]
    done = run_in(encoding, tmp_path, *commands)
    assert [status for status, _ in done] == [0] * (len(commands) - 1) + [2]
    for words, (_, output) in zip(commands, done, strict=True):
        if words[-1] in ("json", "--json"):
            assert json.loads(output.decode("cp949" if encoding == "cp949" else "ascii")), words
        if words[-1] in ("latex", "md"):
            assert not re.search(rb"\\u20|\\u22", output), words


def test_a_line_of_progress_is_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    """As in a log file."""
    with protect_streams(), progress_bar(CLIPBOARD) as progress:
        progress(2, 2, CLIPBOARD)
    assert HARMLESS.fullmatch(capsys.readouterr().err)


def test_a_bar_of_a_library_begins_its_line_again(capsys: pytest.CaptureFixture[str]) -> None:
    with protect_streams():
        for _ in tqdm.tqdm(range(2), desc=f"a{CLIPBOARD}", mininterval=0):
            pass
        for _ in tqdm.tqdm(range(2), leave=False, mininterval=0):
            pass
        print("done", file=sys.stderr)
    written = capsys.readouterr().err
    assert "\\x0d" not in written
    assert written.count("\ra\\x1b]52") >= 2
    assert "\x1b" not in written
    assert written.endswith("\rdone\n")


@pytest.mark.parametrize("first", ["stdout", "stderr"])
def test_no_carriage_return_hides_other_text(first: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither at the beginning of a write, nor within one, nor through the other stream."""
    with protect_streams():
        print("delete all?", end="", file=getattr(sys, first))
        print("\rkeep all?", end="", file=sys.stderr)
        print("\nwarning\rhidden\n\rhidden")
    written = capsys.readouterr()
    assert "\r" not in written.out + written.err
    assert (written.out + written.err).count("\\x0d") == 3
