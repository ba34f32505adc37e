"""What is made for others names no folder of this machine, and what comes from others leads out of no folder."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import bitnet_bench as bb
from bitnet_bench.checkpoints.gguf.exports import export_gguf
from bitnet_bench.checkpoints.hub import list_left_out, push_checkpoint
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.model_card import find_hub_base, make_card
from bitnet_bench.comparison import compare
from bitnet_bench.comparison.formats import FORMATS, format_csv, format_latex, format_markdown
from bitnet_bench.errors import BenchError
from bitnet_bench.escaping import escape_markdown, guard_csv_cell, make_code_span
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.reports.html import HTMLReport
from bitnet_bench.runs.folder import (
    RECORD_FILE,
    load_record,
    load_samples,
    load_training_record,
    resolve_inside,
    samples_path,
    save_record,
    save_samples,
)
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.reading import read_run
from bitnet_bench.shared_paths import share, share_model, shorten_paths
from bitnet_bench.training.finetune import finetune

ABSOLUTE = re.compile(r"(?<![\w/.~…:<\\])(?:/[\w.가-힣 -]+){2,}")
INSTALLATION = str(Path(bb.__file__).resolve().parents[1])


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/kim/a.jsonl", "~/a.jsonl"),
        ("/home/kim/고객사/과제/a.jsonl", "…/과제/a.jsonl"),
        ("/home/kim", "~"),
        ("/Users/kim/runs/x", "~/runs/x"),
        ("/root/x", "~/x"),
        (r"C:\Users\kim\고객사\a.txt", "~/고객사/a.txt"),
        ("/mnt/nas/고객사/rows.jsonl", "…/고객사/rows.jsonl"),
        ("Line 3 of /mnt/nas/x/rows.jsonl.", "Line 3 of …/x/rows.jsonl."),
        ("evaluate --rows a:b=/home/kim/p/q/r.jsonl --limit 3", "evaluate --rows a:b=…/q/r.jsonl --limit 3"),
        ("evaluate '/home/kim/내 문서/모델' --limit 3", "evaluate '~/내 문서/모델' --limit 3"),
        ('{"data_dir": "/srv/kim (old)/x/y"}', '{"data_dir": "…/x/y"}'),
        ('File "/usr/lib/python3.11/site-packages/torch/x.py", line 3', 'File "…/torch/x.py", line 3'),
        ("file:///home/kim/p/q/r", "…/q/r"),
        ("see //home/kim/p/q/r", "see …/q/r"),
        ("host:/mnt/a/b/c", "host:…/b/c"),
        ("failed at /srv/kim secret/a/b/c.txt: no such", "failed at …/b/c.txt: no such"),
        ("~/김 고객/비밀 프로젝트/내 rows.jsonl", "…/비밀 프로젝트/내 rows.jsonl"),
        ("Wrote /srv/my own secret folder/a/b.", "Wrote …/a/b."),
        ("evaluate /srv/kim/a/b --out runs/mine/x", "evaluate …/a/b --out runs/mine/x"),
        ("../../srv/kim/a/b", "…/a/b"),
        ("No ../kim/a/b here", "No …/a/b here"),
        ("runs/../../../srv/kim/a", "…/kim/a"),
        (r"..\..\kim\a\b", "…/a/b"),
        (r"\\server\share\kim\a\b", "…/a/b"),
        (r"read \\server\share\kim\a\b.", "read …/a/b."),
        ("경로는/srv/kim/a/b/c", "경로는…/b/c"),
        ("'okay:pick=/srv/김 고객/비밀/과제/내 rows.jsonl'", "'okay:pick=…/과제/내 rows.jsonl'"),
    ],
)
def test_an_absolute_path_is_shortened(text: str, shared: str) -> None:
    """To the home folder or to its last two parts, wherever it stands in a text."""
    assert shorten_paths(text) == shared
    assert shorten_paths(shared) == shared


@pytest.mark.parametrize(
    "text",
    [
        "runs/base",
        "../x",
        "tok/s and/or 1/2",
        "https://huggingface.co/a/b/c",
        "s3://b/x/y",
        "질문/답",
        "runs/고객/모델/x",
        "모델/과제/x",
        "a\\\\b \\\\\\\\",
        "x = a // b",
        "see https://a.b/c/d and/or https://e.f/g",
        "1/2 / 3/4",
        "…/a/b c/d",
        "/chat",
        "< / >",
    ],
)
def test_other_text_with_slashes_stays(text: str) -> None:
    assert shorten_paths(text) == text


@pytest.mark.parametrize(
    ("arguments", "shared"),
    [
        (["--rows", "okay:pick=/home/kim/김 고객/비밀 프로젝트/내 rows.jsonl"],
         "--rows 'okay:pick=…/비밀 프로젝트/내 rows.jsonl'"),
        (["--rows", "a:b=/home/kim/p/q/r.jsonl,c:d=/srv/x y/z/u"], "--rows a:b=…/q/r.jsonl,c:d=…/z/u"),
        (["--data", "/srv/kim's, old/a, b/c d"], "--data '…/a, b/c d'"),
        (["--out=/srv/kim -old/a/b", "-n", "3"], "--out=…/a/b -n 3"),
        (["~/내 고객/비밀/가/나"], "…/가/나"),
        (["hub:org/name/x.gguf", "klue:ynat", "runs/my run", "두 개"],
         "hub:org/name/x.gguf klue:ynat 'runs/my run' '두 개'"),
        ([r"C:\Users\kim lee\고객\a\b"], "…/a/b"),
        (["https://a.b/c/d"], "https://a.b/c/d"),
    ],
)  # fmt: skip
def test_a_command_is_shortened_argument_by_argument(arguments: list[str], shared: str) -> None:
    """Before it is quoted: an argument holds one path, whatever characters its folders have in their names."""
    environment = {"command": shlex.join(["bitnet-bench", *arguments])}
    assert share(environment) == {"command": f"bitnet-bench {shared}"}
    assert share(share(environment)) == share(environment)
    assert share({"command": "an 'open quote /srv/kim/a/b"}) == {"command": "an 'open quote …/a/b"}


def test_a_path_of_the_current_project_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "my project"
    project.mkdir()
    monkeypatch.chdir(project)
    assert shorten_paths(f"{project}/runs/a") == "runs/a"
    assert shorten_paths(f"Wrote {project}/runs/a.") == "Wrote runs/a."


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run of a checkpoint that was trained, with rows of the user and a task that failed by a traceback."""
    home = tmp_path_factory.mktemp("home") / "kim" / "고객사"
    home.mkdir(parents=True)
    rows = home / "비밀.jsonl"
    rows.write_text(json.dumps({"prompt": "문이 열렸나요?", "response": "네."}, ensure_ascii=False) + "\n", "utf-8")
    (home / "틀.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "utf-8")
    trained = home / "trained"
    settings = {"template": str(home / "틀.jinja"), "keep_masters": True}
    finetune(FinetuneJob(model="demo", data=(str(rows),), out=str(trained), max_steps=1, **settings))
    out = home / "run"
    evaluate(str(trained), select_tasks(["sample"])[:1], out)
    record = load_record(out)
    why = f'Traceback:\n  File "{INSTALLATION}/bitnet_bench/x/y.py", line 3\nOSError: {home}/data/rows.jsonl'
    save_record(
        out,
        record.model_copy(
            update={
                "errors": {"sample:lost": why},
                "settings": {**record.settings, "tasks": ["sample:lost"], "data_dir": str(home / "data")},
                "environment": record.environment.model_copy(update={"command": f"x --out {out} --gguf {home}/g.gguf"}),
                "cost_errors": {"hf ternary": f"No {home}/x/y."},
            }
        ),
    )
    return out


def list_paths(text: str, *folders: Path) -> list[str]:
    """Return what in *text* names this machine: *folders*, the installation, and any absolute path."""
    named = [str(folder) for folder in folders if str(folder) in text]
    return [*named, *([INSTALLATION] if INSTALLATION in text else []), *ABSOLUTE.findall(text)]


def test_a_report_names_no_folder_of_this_machine(scored: Path, tmp_path: Path) -> None:
    """Neither of the run, the rows, the checkpoint and the recipe, nor of the installation; unless it is asked for."""
    text = bb.report([scored], tmp_path / "r.html").read_text(encoding="utf-8")
    shown = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S)
    assert list_paths(shown, scored.parents[2], scored.parent) == []
    assert "trained" in shown
    whole = bb.report([scored], tmp_path / "w.html", keep_paths=True).read_text(encoding="utf-8")
    assert str(scored.parent) in whole


@pytest.mark.parametrize("form", FORMATS)
def test_a_shared_comparison_names_no_folder(form: str, make_results: Any, scored: Path) -> None:
    a = make_results(str(scored), {"s:t": [1.0, 0.0] * 20})
    b = make_results("b", {"s:t": [1.0] * 40})
    text = FORMATS[form](share_model(compare(a, b)))
    assert list_paths(text, scored.parent) == []
    assert form == "csv" or "run" in text


def test_a_record_finds_its_files_all_the_same(scored: Path) -> None:
    """Only what is made of it is shortened."""
    record = load_record(scored)
    assert inspect_folder(Path(record.checkpoint.path)).sha256 == record.checkpoint.sha256
    assert read_run(scored).training is not None


def test_a_card_names_neither_teacher_nor_template_nor_a_base_that_the_hub_does_not_have(scored: Path) -> None:
    """A base such as runs/base looks like a hub id; it is one only if it came from the hub."""
    folder = scored.parent / "trained"
    record = load_training_record(folder)
    assert record is not None
    job = record.job.model_copy(update={"method": "distill", "teacher": str(scored.parent / "교사" / "큰 것")})
    local = record.model_copy(update={"base": record.base.model_copy(update={"source": "runs/base"}), "job": job})
    card = make_card(inspect_folder(folder), local)
    assert "base_model" not in card
    assert list_paths(card, scored.parent) == []
    assert "| `teacher` | 큰 것 |" in card
    assert "| `template` | 틀.jinja |" in card
    assert "`base`" in card
    hub = record.base.model_copy(update={"source": "org/base", "revision": "0" * 40})
    assert "base_model: org/base\n" in make_card(inspect_folder(folder), record.model_copy(update={"base": hub}))


def test_a_base_of_the_hub_is_found_through_local_checkpoints(scored: Path, tmp_path: Path) -> None:
    """The base's own record says what it was made from."""
    record = load_training_record(scored.parent / "trained")
    assert record is not None
    hub = record.base.model_copy(update={"source": "org/base", "revision": "0" * 40})
    (tmp_path / "finetune.json").write_text(record.model_copy(update={"base": hub}).model_dump_json(), "utf-8")
    local = record.base.model_copy(update={"path": str(tmp_path), "source": str(tmp_path)})
    assert find_hub_base(record.model_copy(update={"base": local})) == "org/base"
    (tmp_path / "finetune.json").write_text(record.model_copy(update={"base": local}).model_dump_json(), "utf-8")
    assert find_hub_base(record.model_copy(update={"base": local})) is None


class RecordingHub:
    """A hub that keeps what is uploaded in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        """Do nothing."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **_: Any) -> None:
        """Keep the files that the patterns name."""
        self.files = {name: (folder_path / name).read_bytes() for name in allow_patterns}

    def snapshot_download(self, repo_id: str, **_: Any) -> str:
        """Do nothing."""
        return ""


def test_push_uploads_what_it_knows_and_names_the_rest(scored: Path) -> None:
    """Not every JSON file that lies in the folder, and none of its paths."""
    folder = scored.parent / "trained"
    for name in ("wandb-key.json", "trainer_state.json", "record.json", "notes.jinja", "private.model"):
        (folder / name).write_text("{}", encoding="utf-8")
    config = folder / "tokenizer_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text("utf-8")), "name_or_path": str(scored.parent / "basis" / "x")}),
        "utf-8",
    )
    hub = RecordingHub()
    push_checkpoint(folder, "org/name", private=True, runs=[], hub=hub)
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "finetune.json"} <= hub.files.keys()
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    left_out = list_left_out(folder)
    assert {"wandb-key.json", "trainer_state.json", "notes.jinja", "private.model", "masters/"} <= set(left_out)
    assert not hub.files.keys() & set(left_out)
    for name, content in hub.files.items():
        if not name.endswith(".safetensors") and name != "tokenizer.json":
            assert list_paths(content.decode(), scored.parent) == [], name
    assert json.loads(hub.files["finetune.json"])["job"]["data"] == ["비밀.jsonl"]
    assert json.loads(config.read_text("utf-8"))["name_or_path"].startswith(str(scored.parent)), "it stays as it is"


def test_a_gguf_file_names_no_folder(scored: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    export_gguf(str(scored.parent / "trained"), "tq2_0", tmp_path / "x.gguf")
    content = (tmp_path / "x.gguf").read_bytes()
    assert str(scored.parent).encode() not in content
    assert INSTALLATION.encode() not in content


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(text: str, make_results: Any) -> None:
    """A task's name begins like one; numbers, negative ones too, stay numbers."""
    assert guard_csv_cell(text).startswith("'")
    a, b = (make_results(name, {text: right}) for name, right in (("a", [1.0, 0.0] * 20), ("b", [1.0] * 40)))
    (row,) = csv.DictReader(io.StringIO(format_csv(compare(a, b)), newline=""))
    assert row["task"].startswith("'")
    assert float(row["difference"]) < 0
    assert guard_csv_cell(-1.5) == -1.5


HOSTILE = "# a\n\n| b | [c](javascript:x) `d` *e* <meta http-equiv=refresh content=0> &lt;"


def test_a_name_does_not_leave_its_place_in_markdown(make_results: Any) -> None:
    """Newlines, bars, backticks, links and tags in the names of runs, tasks and metrics."""
    a, b = (
        make_results(f"{HOSTILE}{name}", {HOSTILE: right})
        for name, right in (("a", [1.0, 0.0] * 20), ("b", [1.0] * 40))
    )
    text = format_markdown(compare(a, b))
    lines = text.splitlines()
    assert len(lines) == 7
    assert len({line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}) == 1
    assert not re.search(r"(?<!\\)(?:`|\[|<meta)", text)
    assert not lines[0].startswith(("#", "-", ">"))
    assert "\n\n" not in format_latex(compare(a, b)).strip()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("# a", "\\# a"), ("- a", "\\- a"), ("1. a", "1\\. a"), ("> a", "\\> a"), ("a # b", "a # b"), ("  + a", "\\+ a")],
)
def test_a_name_at_the_beginning_of_a_line_is_no_block(text: str, escaped: str) -> None:
    assert escape_markdown(text, starts_line=True) == escaped


def test_code_in_markdown_ends_where_it_should() -> None:
    assert make_code_span("a`b\nc") == "`a'b c`"


def test_hostile_text_adds_no_element_to_a_report(make_results: Any) -> None:
    """A refresh would lead to another page, and no policy in a page forbids it: so no text becomes a tag."""
    plain, hostile = (
        HTMLReport().render([make_results(f"{name}{place}", {f"s:{name}": [1.0, 0.0] * 20}) for place in "ab"])
        for name in ("name", HOSTILE)
    )
    assert plain.count("<meta") == hostile.count("<meta") == 4
    assert "http-equiv=refresh" not in re.sub(
        r"(?s)&lt;meta http-equiv=refresh|u003cmeta http-equiv=refresh", "", hostile
    )


@pytest.mark.parametrize("task", ["../../x", "s:../../x", "/../../../x", "a/../../../x", "x\0y", "link"])
def test_a_task_of_a_record_is_not_read_outside_the_run(task: str, scored: Path, tmp_path: Path) -> None:
    """Whatever its name, directly or through a link; the report says that its examples are missing."""
    run = tmp_path / "deep" / "run"
    (run / "samples").mkdir(parents=True)
    line = (scored / "samples").joinpath("sample-copa.jsonl")
    outside = line if line.is_file() else next((scored / "samples").iterdir())
    for place in (tmp_path / "x.jsonl", tmp_path / "deep" / "x.jsonl"):
        place.write_bytes(outside.read_bytes())
    (run / "samples" / "link.jsonl").symlink_to(outside)
    record = load_record(scored)
    (score,) = record.scores[:1]
    save_record(run, record.model_copy(update={"scores": (score.model_copy(update={"task": task}),), "samples": {}}))
    read = read_run(run)
    assert list(read.examples) == []
    assert task not in read.examples
    assert load_samples(run, [task]) == []
    assert any(task in notice.where for notice in read.notices)
    with pytest.raises(BenchError, match="is not in the folder"):
        save_samples(run, task, [])


def test_a_link_within_the_run_is_followed(tmp_path: Path) -> None:
    """A folder may be reached through a link of the user's, and hold links of its own."""
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "samples" / "a.jsonl").touch()
    (tmp_path / "run" / "samples" / "b.jsonl").symlink_to("a.jsonl")
    (tmp_path / "shortcut").symlink_to("run")
    assert samples_path(tmp_path / "shortcut", "b").is_file()
    assert resolve_inside(tmp_path / "run", RECORD_FILE) == tmp_path / "run" / RECORD_FILE


def test_a_file_of_the_system_itself_stays_whole() -> None:
    """It is the same on every machine, and a reader may look it up."""
    said = "this machine shows no energy counter (no /sys/class/powercap/intel-rapl:*)"
    assert shorten_paths(said) == said
    assert shorten_paths("/sys/../home/kim/a/b/c") == "…/b/c"
